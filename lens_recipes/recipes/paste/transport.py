"""Write how a script reads a lens from its file, and takes the stream through it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from nnsight.intervention.envoy import Envoy

from lens_recipes.lenses.files.own import SUFFIX
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.load import load_lens
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.recipes.paste.literals import Code, literal

RECIPE = "first-lens"  # the one that takes a lens


class LensCode(NamedTuple):
    """What a script says of its lens.

    Attributes:
        name: What it is called.
        constant: The line that names its file.
        code: What reads the file, and the function `transported`.
        imports: What that imports, as lines.
        packages: What it needs beside nnsight and torch.
    """

    name: Code
    constant: Code
    code: Code
    imports: tuple[str, ...] = ("from safetensors.torch import load_file",)
    packages: tuple[str, ...] = ("safetensors",)


def chosen_lens(lens: str | os.PathLike[str], recipe: str, model: Envoy) -> Lens:
    """Return the lens that a script is to read with.

    Raises:
        ValueError: this recipe takes none, or the file is no `.safetensors`.
        LensError: it cannot be read, or does not belong to the model.
    """
    if recipe != RECIPE:
        raise ValueError(f"{recipe} takes no lens: {RECIPE} does. Leave lens out, or paste that.")
    name = os.fsdecode(lens)
    if not name.endswith(SUFFIX):
        raise ValueError(
            f"a script reads the lens of a {SUFFIX} file, and received {name!r}. Write one: "
            f'load_lens({name!r}).save("lens{SUFFIX}").'
        )
    return load_lens(name, model)


def refuse_missing_layers(lens: Lens, layers: Sequence[int], anatomy: Anatomy) -> None:
    """Raise ValueError if a layer was asked for that the lens lacks."""
    lacking = [layer for layer in layers if layer not in [*lens.layers, anatomy.last_layer]]
    if lacking:
        raise ValueError(
            f"the {lens.name} {lens.source!r} has no transport for layers {lacking}: name the "
            "layers that it has, layers=…"
        )


def lens_code(lens: Lens, path: str, anatomy: Anatomy) -> LensCode:
    """Write how a script reads this lens."""
    first = lens.transports[lens.layers[-1]]
    moved = "rows @ weights[layer].to(rows.device).T"
    result = "(rows + moved)" if first.is_residual else "moved"
    reads = [
        "numbers = load_file(LENS)  # numbers and text, never code",
        f"fitted = [layer for layer in LAYERS if layer != {anatomy.last_layer}]",
        'weights = {layer: numbers[f"transports.{layer}.weight"].float() for layer in fitted}',
    ]
    if first.bias is not None:
        reads.append(
            'biases = {layer: numbers[f"transports.{layer}.bias"].float() for layer in fitted}'
        )
        moved = f"{moved} + biases[layer].to(rows.device)"
    function = [
        "def transported(stream, layer):",
        '    """Return what the lens makes of a stream; the last one is read as it is."""',
        "    if layer not in weights:",
        "        return stream",
        "    rows = stream.float()",
        f"    moved = {moved}",
        f"    return {result}.to(stream.dtype)",
    ]
    return LensCode(
        name=Code(lens.name[0].upper() + lens.name[1:]),
        constant=Code(f"LENS = {literal(path)}  # fitted on this model"),
        code=Code("\n".join([*reads, "", "", *function])),
    )
