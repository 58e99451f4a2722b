"""`paste()`: a short script for one model that needs this package no more, to copy into another project.

The scripts are the jinja2 files of `scripts/`; what they must say of a model comes from `model_source`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lens_recipes.models.load import checkpoint, is_multimodal, skeleton
from lens_recipes.recipes.paste.names import RECIPES
from lens_recipes.recipes.paste.source import ModelSource, listed
from lens_recipes.run.provenance import shown_name, versions
from lens_recipes.run.request.selection import pick_indices


def paste(recipe: str, model: str, *, remote: bool = False, layers: Any = None) -> str:
    """A short script with this model's own module paths, norm, softcap and scales, for nnsight and torch alone.

    Args:
        recipe: One of `first-lens`, `top-k`, `token-track`, `grid-heatmap`, `batch`, `components`, `attribution`,
            `generation`, `remote`.
        model: A hub id, a checkpoint folder, or `"smollm2"`. Only its config is read; no weights are loaded.
        remote: The script runs on an NDIF server. That of `remote` always does, as a job that outlives its process.
        layers: Which layers the script decodes: None for all, an int, a slice, a list; negative from the end. The
            last layer is always read for the proof, and for `components` all are; `attribution` takes none.

    Returns:
        Its source. It proves itself when it runs: the last layer's lens must be the model's own logits, and what the
        blocks add must sum to the stream, or to the logit.

    Raises:
        ValueError: there is no such recipe or layer, a server is to find a folder, or an attribution of some layers.
        LensError: the model cannot be read, or its blocks are no sums, and why.

    Example:
        >>> print(paste("first-lens", "Qwen/Qwen3-8B"))
    """
    if recipe not in RECIPES:
        raise ValueError(
            f"recipe={recipe!r} is unknown; accepted are {', '.join(map(repr, RECIPES))}."
        )
    if layers is not None and recipe == "attribution":
        raise ValueError("attribution is a sum over all layers: leave layers out.")
    place, remote = checkpoint(model), remote or recipe == "remote"
    if Path(place).is_dir():
        if remote:
            raise ValueError(
                f"a server finds a model by its hub id, and {model!r} is a folder here: pass the hub id."
            )
        place = str(Path(place).resolve())  # a script may be run from anywhere
    source = ModelSource(skeleton(place))
    chosen = pick_indices(layers, source.parts.n_layers, "layers", "this model")
    text = (
        _scripts()
        .get_template(f"{recipe}.py.j2")
        .render(
            m=source,
            name=shown_name(place),
            quoted=json.dumps(place),
            task="image-text-to-text"
            if remote and is_multimodal(source.config, place)
            else "text-generation",
            remote=remote,
            here=".cpu()" if remote else "",
            layers=listed(sorted(chosen)),
            version=versions()["lens-recipes"],
        )
    )
    return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"


@cache
def _scripts() -> Environment:
    loader = PackageLoader(__package__, "scripts")
    return Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
