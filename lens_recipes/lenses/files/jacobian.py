"""Files of Jacobian lenses: of the reference implementation, TransformerLens, Neuronpedia.

    {"J": {layer: [d_out, d_in]}, "n_prompts", "source_layers", "d_model"}
    {"jacobian_sum": {layer: [d_out, d_in]}, "n_done", …}     a fit that may not have ended

TransformerLens adds "metadata", Neuronpedia "provenance". R-lenses, which follow other backward
rules, have the same layout: what stands beside the file tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.lenses.files.checks import (
    MAX_LAYERS,
    check_numbers,
    check_shape,
    check_width,
    is_identity,
    plain_settings,
    read_count,
    read_flag,
    read_layer,
    read_text,
)
from lens_recipes.lenses.files.config_file import read_config
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.torch_save.pickled import StoredTensor
from lens_recipes.lenses.files.torch_save.torch_file import TorchFile, write_torch
from lens_recipes.lenses.record import LensRecord
from lens_recipes.lenses.solve.jacobian import FIRST_POSITION
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files import atomic_file

NOTES = ("metadata", "provenance")  # where TransformerLens and Neuronpedia say more

# Under which names a note says what our record has.
MODEL_NAMES = ("model_name", "model", "model_id")
REVISION_NAMES = ("model_revision", "revision")
TEXT_NAMES = ("corpus", "dataset", "fitting_dataset")
POSITION_NAMES = ("skip_first_positions", "skip_first")
BOS_NAMES = ("prepend_bos", "force_bos", "add_bos")

# How TransformerLens calls the estimators of the kinds that it has.
ESTIMATORS = {"jacobian": "jacobian_lens", "r": "relevance_lens"}

# How an R-lens is called by those who make one.
R_LENS_NAMES = ("rlens", "r-lens", "r_lens", "relevance_lens", "relevance", "relp", "lrp")

# Under which names a note or a config.json says what kind of lens it is.
KIND_NAMES = ("estimator", "kind", "lens", "lens_kind", "lens_type", "method", "type")

# -- reading -----------------------------------------------------------


def is_jacobian(values: Any) -> bool:
    """Return whether the values of a file of `torch.save` are a Jacobian lens."""
    return isinstance(values, dict) and ("J" in values or "jacobian_sum" in values)


def read_jacobian(file: IO[bytes], path: Path) -> LensContent:
    """Return the Jacobian lens, or the R-lens, in a file.

    Args:
        file: The open file.
        path: Where it is; a config.json beside it may say that it is an R-lens.

    Raises:
        ValueError: it is none, or not whole.
    """
    saved = TorchFile(file)
    values = saved.values
    if not is_jacobian(values):
        raise ValueError("it holds no Jacobians")
    notes = _notes(values)
    if "J" in values:
        stored, n_prompts, divisor = values["J"], values.get("n_prompts"), 1
    else:
        stored, n_prompts = values["jacobian_sum"], values.get("n_done")
        divisor = read_count(n_prompts, "n_done") or 0
        if divisor == 0:
            raise ValueError("it is a fit that has not read a prompt yet")
        notes.setdefault("is_unfinished_fit", True)
    stored_layers = _stored_layers(stored)
    _check_sources(values.get("source_layers"), stored_layers)
    width = _width(values.get("d_model"), stored_layers)
    transports = {}
    for layer, where in sorted(stored_layers.items()):
        transports[layer] = Affine(_read(saved, where, layer, width, divisor))
    n_layers = read_count(notes.pop("n_layers", None), "n_layers", MAX_LAYERS)
    target = _target_layer(notes, n_layers)
    transports, n_layers = _without_last(transports, n_layers, target)
    _check_target(target, n_layers, max(transports))
    record = LensRecord(
        model=read_text(_taken(notes, MODEL_NAMES), "the model's name"),
        revision=read_text(_taken(notes, REVISION_NAMES), "the model's revision"),
        n_layers=n_layers,
        starts_with_bos=read_flag(_taken(notes, BOS_NAMES), "whether texts begin with BOS"),
        first_position=_first_position(notes),
        target_layer=target,
        text=read_text(_taken(notes, TEXT_NAMES), "the corpus") or "",
        n_prompts=read_count(n_prompts, "n_prompts") or None,
        settings=notes,
    )
    return LensContent(_kind(notes, path), transports, record)


def _notes(values: dict[Any, Any]) -> dict[str, Any]:
    """Return the single values that a file notes, wherever in it they stand."""
    notes = plain_settings(values)
    for name in NOTES:
        notes.update(plain_settings(values.get(name)))
    for name in ("n_prompts", "n_done", "d_model"):
        notes.pop(name, None)
    return notes


def _taken(notes: dict[str, Any], names: tuple[str, ...]) -> Any:
    """Take the first of several names out of the notes; None where there is none of them."""
    for name in names:
        if name in notes:
            return notes.pop(name)
    return None


def _stored_layers(stored: Any) -> dict[int, StoredTensor]:
    """Return where the Jacobian of each layer is."""
    if not isinstance(stored, dict) or not stored:
        raise ValueError("it has no Jacobian of any layer")
    layers: dict[int, StoredTensor] = {}
    for key, value in stored.items():
        layer = read_layer(key)
        if layer < 0:
            raise ValueError(f"it has a Jacobian for the layer {layer}, expected is one from 0")
        if layer in layers:
            raise ValueError(f"it has two Jacobians for the layer {layer}")
        if not isinstance(value, StoredTensor):
            raise ValueError(f"the Jacobian of layer {layer} is no tensor")
        layers[layer] = value
    return layers


def _check_sources(source_layers: Any, stored_layers: Mapping[int, Any]) -> None:
    """Raise a ValueError if the file lists other layers than it has.

    The identity of the last layer may be there and not listed.
    """
    if source_layers is None:
        return
    if not isinstance(source_layers, list | tuple) or len(source_layers) > MAX_LAYERS:
        raise ValueError("its source_layers are no list of layers")
    listed = {read_layer(layer) for layer in source_layers}
    without_last = set(stored_layers) - {max(stored_layers)}
    if len(listed) != len(source_layers) or listed not in (set(stored_layers), without_last):
        raise ValueError("its source_layers are not the layers that it has Jacobians for")


def _width(d_model: Any, stored_layers: Mapping[int, StoredTensor]) -> int:
    """Return how wide the vectors are: as the file says, or as its first tensor is."""
    if d_model is not None:
        return check_width(d_model)
    shape = stored_layers[min(stored_layers)].shape
    return check_width(shape[0] if shape else None)


def _read(saved: TorchFile, where: StoredTensor, layer: int, width: int, divisor: int) -> Tensor:
    """Return a Jacobian."""
    name = f"the Jacobian of layer {layer}"
    check_shape(where.shape, (width, width), name)
    numbers = check_numbers(saved.read(where), name)
    if divisor == 1:
        return numbers
    saved.forget(where)
    return check_numbers(numbers.to(torch.float32) / divisor, name)


def _target_layer(notes: dict[str, Any], n_layers: int | None) -> int | None:
    """Return the layer that the lens maps to, or None where the file does not say."""
    target = notes.pop("target_layer", None)
    if target == -1 and type(target) is int:  # as Python counts: the last one
        return None if n_layers is None else n_layers - 1
    return read_count(target, "target_layer", MAX_LAYERS)


def _without_last(
    transports: dict[int, Affine], n_layers: int | None, target: int | None
) -> tuple[dict[int, Affine], int | None]:
    """Leave out the identity that some files have for the last layer, which tells its number.

    No fit gives an exact identity, so the highest layer is the last one if its Jacobian is that. A
    lens of identities alone is none that was fitted, and tells nothing.
    """
    highest = max(transports)
    is_known_last = highest == target or (n_layers is not None and highest == n_layers - 1)
    others = [transport for layer, transport in transports.items() if layer != highest]
    is_telling = any(not is_identity(transport) for transport in others)
    if others and is_identity(transports[highest]) and (is_known_last or is_telling):
        kept = {layer: each for layer, each in transports.items() if layer != highest}
        return kept, highest + 1
    return transports, n_layers


def _check_target(target: int | None, n_layers: int | None, highest: int) -> None:
    """Raise a ValueError if the lens maps to another layer than the last one."""
    if target is None:
        return
    if target <= highest or (n_layers is not None and target != n_layers - 1):
        raise ValueError(
            f"it maps to the stream after layer {target} (target_layer), and what a model's head "
            "reads is the stream after the last layer: fit it again with the last one as target"
        )


def _first_position(notes: dict[str, Any]) -> int:
    """Return which positions were never fitted."""
    stored = read_count(_taken(notes, POSITION_NAMES), "the first position")
    return FIRST_POSITION if stored is None else stored


def _kind(notes: dict[str, Any], path: Path) -> str:
    """Return the kind of a lens: "jacobian", unless the file or what is beside it says more."""
    if notes.get("estimator") in ("linear", "tuned"):  # as `write_jacobian` notes it
        return notes["estimator"]
    return "r" if _is_r_lens(notes, path) else "jacobian"


def _is_r_lens(notes: dict[str, Any], path: Path) -> bool:
    """Return whether a file, its folder, or a config.json beside it says that it is an R-lens."""
    if path.parent.name.lower() in R_LENS_NAMES:
        return True
    said = [notes.get(name) for name in KIND_NAMES]
    config = path.parent / "config.json"
    if config.is_file():
        try:
            beside = plain_settings(read_config(config))
        except (LensError, OSError, ValueError):
            beside = {}  # it is of something else
        said += [beside.get(name) for name in KIND_NAMES]
    return any(_names_r_lens(text) for text in said if isinstance(text, str))


def _names_r_lens(text: str) -> bool:
    """Return whether a short text is, or begins with, the name of R-lenses."""
    words = text.lower().split()
    return bool(words) and (words[0] in R_LENS_NAMES or words == ["r"])


# -- writing -----------------------------------------------------------


def write_jacobian(path: Path, content: LensContent, dtype: torch.dtype) -> None:
    """Write a lens as the reference implementation and TransformerLens read it.

    Args:
        path: The file.
        content: A lens without biases.
        dtype: Of the numbers; the reference writes float16.

    Raises:
        LensError: the lens has biases, or the file cannot be written.
        ValueError: a number is too large for the dtype.
    """
    jacobians = {}
    for layer, transport in sorted(content.transports.items()):
        if layer < 0:
            continue  # the format has no place for the stream before block 0
        jacobians[layer] = matrix_of(transport, layer).to("cpu", dtype).contiguous()
        if not bool(torch.isfinite(jacobians[layer]).all()):
            raise ValueError(
                f"the transport of layer {layer} has numbers that are too large for {dtype}: save "
                "it with dtype=torch.float32"
            )
    if not jacobians:
        raise LensError(
            "the lens has no transport of a stream after a block, and a file of Jacobians has no "
            'place for another one. Save it in our own format: lens.save("lens.safetensors").'
        )
    first = next(iter(jacobians.values()))
    record = content.record
    saved = {
        "J": jacobians,
        "n_prompts": record.n_prompts or 0,
        "source_layers": list(jacobians),
        "d_model": int(first.shape[1]),
        "metadata": _metadata(content),
    }
    with atomic_file(path) as scratch:
        write_torch(scratch, saved)


def matrix_of(transport: Affine, layer: int) -> Tensor:
    """Return the matrix of a transport that is nothing but a matrix, in float32 or wider.

    Raises:
        LensError: it has a bias.
    """
    weight, bias, is_residual = transport
    if bias is not None and bool(bias.any()):
        raise LensError(
            f"the transport of layer {layer} has a bias, and a file of Jacobians has no place for "
            "one: other tools would read another lens. Save it as format='tuned', or in our own "
            'format: lens.save("lens.safetensors").'
        )
    matrix = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if is_residual:
        matrix = matrix + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return matrix


def _metadata(content: LensContent) -> dict[str, Any]:
    """Return what TransformerLens notes, as far as it is known.

    The model stands under names of our own: TransformerLens refuses a lens whose "model_name" is
    another name of the same model than the one it was loaded by.
    """
    record = content.record
    noted = {
        "estimator": ESTIMATORS.get(content.kind, content.kind),
        "model": record.model,
        "revision": record.revision,
        "n_layers": record.n_layers,
        "corpus": record.text,
        "n_prompts": record.n_prompts,
        "target_layer": record.target_layer,
        "skip_first_positions": record.first_position,
        "prepend_bos": record.starts_with_bos,
    }
    return {name: value for name, value in noted.items() if value is not None}
