"""What `--lens` names: the logit lens, a file, a hub id, or the model's own lens, fitted once."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import typer

OWN = "linear"  # asks for the lens that is fitted on the model's own text and kept
OWN_TOKENS = 12_000  # about twenty times as many as SmolLM2 is wide, written in a minute


def only_lens(sources: list[str] | None) -> str | None:
    """Return the one lens of a command that reads with one.

    Raises:
        typer.BadParameter: there are several.
    """
    if not sources:
        return None
    if len(sources) > 1:
        raise typer.BadParameter(
            "this command reads with one lens: give it once. logit-lens shows several side by "
            "side.",
            param_hint="--lens",
        )
    return sources[0]


def named_lens(source: str | None, model: Any) -> Any:
    """Return what the recipes take for the value of `--lens`.

    Args:
        source: As it was given.
        model: The model that it is for.

    Raises:
        LensError: the model's own lens cannot be fitted or kept.
    """
    if source != OWN or Path(OWN).exists():
        return source
    return own_lens(model)


def own_lens(model: Any) -> Any:
    """Return the linear lens of a model, fitted on its own text where it is not kept yet.

    Raises:
        LensError: it cannot be fitted or kept.
    """
    from lens_recipes import fit_lens, load_lens
    from lens_recipes.models.loading.kept_folder import refuse_foreign
    from lens_recipes.recipes.lenses.text.samples import refuse_elsewhere

    path = place_of_own_lens(model)
    if path.exists():
        return load_lens(path, model)
    refuse_elsewhere(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_foreign(path.parent)
    print(
        f"fitting a linear lens on {OWN_TOKENS:,} tokens that the model writes itself; it is "
        f"kept as {path.name}",
        file=sys.stderr,
    )
    fit = path.with_name(f"fit-{path.name}")  # goes on after Ctrl-C
    fit_lens(model, tokens=OWN_TOKENS, path=fit).save(path)  # without its sums
    fit.unlink()
    return load_lens(path, model)


def place_of_own_lens(model: Any) -> Path:
    """Return where the model's own lens is kept, or will be: beside the models in the cache.

    The digest of the unembedding tells models of one name apart.
    """
    import platformdirs

    from lens_recipes.lenses.belongs import model_record

    record = model_record(model)
    name = re.sub(r"[^\w.-]+", "--", record.model or "model")
    digest = record.unembedding or record.revision or "unknown"
    cache = Path(platformdirs.user_cache_dir("lens-recipes")) / "lenses"
    return cache / f"{name}-{digest}-linear-{OWN_TOKENS}.safetensors"
