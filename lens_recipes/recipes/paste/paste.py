"""`paste()`: a short script for one model, to copy into a project that does not use this package.

The scripts are the jinja2 files in `scripts/`. What differs from model to model comes from
`source.py` and `functions.py`, and how a model is loaded from `loading.py`.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lens_recipes.models.load import SMOLLM2, checkpoint, skeleton
from lens_recipes.models.loading.checkpoint_kind import is_multimodal
from lens_recipes.models.loading.reading import refuse_code_of_tokenizer
from lens_recipes.models.weights.origin import versions
from lens_recipes.recipes.paste.expressions import joined_words, layers_expression
from lens_recipes.recipes.paste.functions import (
    attribution_code,
    bends_logits,
    to_logits_function,
    write_lines,
)
from lens_recipes.recipes.paste.images import image_code
from lens_recipes.recipes.paste.literals import Code, plain_words, printed
from lens_recipes.recipes.paste.loading import (
    HUB_ID_OF_SMOLLM2,
    Loading,
    import_block,
    loading_here,
    loading_on_server,
    loading_smollm2,
    loading_with_images,
)
from lens_recipes.recipes.paste.names import SCRIPTS
from lens_recipes.recipes.paste.source import ModelSource
from lens_recipes.recipes.paste.transport import chosen_lens, lens_code, refuse_missing_layers
from lens_recipes.recipes.paste.writes import BlockWrites
from lens_recipes.run.request.sites import pick_layers


def paste(
    recipe: str,
    model: str,
    *,
    remote: bool = False,
    layers: Any = None,
    lens: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
) -> str:
    """Write a short script with this model's own module paths, norm, softcap and scales.

    The script needs nnsight and torch, and not this package.

    Args:
        recipe: One of `first-lens`, `top-k`, `token-track`, `grid-heatmap`, `batch`,
            `components`, `attribution`, `generation`, `image-lens`, `steer`, `patch-map`,
            `remote`.
        model: A hub id, a checkpoint folder, or `"smollm2"`; the script names it in the same way.
            Only the config is read; no weights are loaded.
        remote: Whether the script runs on an NDIF server. The script of `remote` always does, as
            a job that outlives its process.
        layers: Which layers the script decodes: None for all, an int, a slice, a list; negative
            from the end. The last layer is always read for the proof, and `components` reads all
            of them for its sum; `steer` takes one, after which it changes the stream; `attribution`
            takes none.
        lens: For `first-lens`, the `.safetensors` file of a lens of this model, which the script
            then reads with.
        trust_remote_code: Whether Python code that comes with the checkpoint may run, here and in
            the script, which says so. Without it, a model that needs such code is refused.

    Returns:
        The source of the script. It proves itself when it runs: the last layer's lens must be the
        model's own logits, and what the blocks add must sum to the stream, or to the logit.

    Raises:
        ValueError: There is no such recipe or layer, a server is asked for a folder, or an
            attribution for some layers, or steering after several; or the recipe takes no lens, or
            the lens lacks a layer.
        LensError: The model or the lens cannot be read, the lens is of another model, or the blocks
            are no sums; the message says why.

    Example:
        >>> print(paste("first-lens", "Qwen/Qwen3-8B"))
    """
    if recipe not in SCRIPTS:
        accepted = ", ".join(map(repr, SCRIPTS))
        raise ValueError(f"recipe={recipe!r} is unknown; accepted are {accepted}.")
    if layers is not None and recipe == "attribution":
        raise ValueError("attribution is a sum over all layers: leave layers out.")
    name = os.fsdecode(model)
    is_remote = remote or recipe == "remote"
    if is_remote:
        _refuse_without_hub_id(name)
    folder = checkpoint(name)
    source = ModelSource(skeleton(folder, trust_remote_code=trust_remote_code))
    # The script will read the tokenizer too, and there transformers would ask.
    refuse_code_of_tokenizer(folder, {"trust_remote_code": trust_remote_code})
    chosen_layers = pick_layers(layers, source.anatomy)
    if layers is not None and recipe == "steer" and len(chosen_layers) != 1:
        raise ValueError(f"steer changes the stream after one layer; received {layers!r}.")
    with_lens = None
    if lens is not None:
        its_lens = chosen_lens(lens, recipe, source.model)
        if layers is None:
            chosen_layers = [*its_lens.layers, source.anatomy.last_layer]
            chosen_layers = [layer for layer in chosen_layers if layer in source.anatomy.layers]
        refuse_missing_layers(its_lens, chosen_layers, source.anatomy)
        with_lens = lens_code(its_lens, os.fsdecode(lens), source.anatomy)
    template = _environment().get_template(f"{recipe}.py.j2")
    loading = _loading(name, source, is_remote, trust_remote_code)
    images = None
    if recipe == "image-lens":
        images = image_code(source)
        loading = loading_with_images(name, remote=is_remote, trusts_code=trust_remote_code)
    text = template.render(
        source=source,
        writes=BlockWrites(source),
        loading=loading,
        images=images,
        lens=with_lens,
        family=plain_words(source.anatomy.family),
        version=plain_words(versions()["lens-recipes"]),
        layers=layers_expression(chosen_layers),
        last_layer=Code(source.anatomy.last_layer),
        all_layers=layers_expression(source.anatomy.layers),
        middle_layer=Code(chosen_layers[2 * len(chosen_layers) // 3]),
    )
    return text.strip() + "\n"


def _refuse_without_hub_id(name: str) -> None:
    """Raise ValueError if a server cannot find a model by this name."""
    if name == SMOLLM2:
        raise ValueError(
            f"a server finds a model by its hub id, and {name!r} is a file in a Python package: "
            f"pass {HUB_ID_OF_SMOLLM2!r}."
        )
    if os.path.isdir(name):  # of a name that is too long, too, this says no
        raise ValueError(
            f"a server finds a model by its hub id, and {name!r} is a folder here: pass the hub id."
        )


def _loading(name: str, source: ModelSource, is_remote: bool, trust_remote_code: bool) -> Loading:
    """Choose how the script loads the model of this name."""
    if is_remote:
        multimodal = is_multimodal(source.model._module.config, name)
        return loading_on_server(name, is_multimodal=multimodal, trusts_code=trust_remote_code)
    if name == SMOLLM2:
        return loading_smollm2()
    return loading_here(name, trusts_code=trust_remote_code)


@cache
def _environment() -> Environment:
    """Return the templates, with the functions that they call.

    They print `Code`, and what they have printed themselves: anything else is an error.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "scripts"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,  # what a macro returns is told apart from any other text
        finalize=printed,
    )
    environment.filters["indent"] = _indented
    environment.globals.update(
        attribution_code=attribution_code,
        bends_logits=bends_logits,
        import_block=import_block,
        joined_words=joined_words,
        to_logits_function=to_logits_function,
        write_lines=write_lines,
    )
    return environment


def _indented(code: str, width: int) -> Markup:
    """Return lines that templates have made, indented but for the first."""
    return printed(code).replace("\n", Markup("\n" + " " * width))
