"""Folders of the package tuned-lens: config.json and params.pt.

Translator i reads `hidden_states[i]`: 0 is the embedding, so the stream after block l has
translator l + 1, and the stream after the last block none. In the layout before April 2023 the
translator of the embedding stands apart, and translator l is that of block l. A translator is
residual: h ↦ h + W h + b.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.lenses.files.checks import (
    MAX_LAYERS,
    check_numbers,
    check_shape,
    check_width,
    plain_settings,
    read_count,
    read_text,
)
from lens_recipes.lenses.files.config_file import read_config
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.torch_save.pickled import StoredTensor
from lens_recipes.lenses.files.torch_save.torch_file import TorchFile, write_torch
from lens_recipes.lenses.record import LensRecord
from lens_recipes.trace.transport import Affine
from lens_recipes.views.files import atomic_file, write_text
from lens_recipes.views.files.plain_file import open_plain_file

CONFIG, PARAMETERS = "config.json", "params.pt"
LENS_TYPE = "linear_tuned_lens"

CURRENT_NAME = re.compile(r"(\d{1,6})\.(weight|bias)")
LEGACY_NAME = re.compile(r"layer_translators?\.(\d{1,6})\.(weight|bias)")
LEGACY_EMBEDDING = re.compile(r"input_translators?\.(weight|bias)")

# What a file of the old layout holds beside its translators: copies of the model's own head.
OF_THE_MODEL = ("layer_norm.", "unembedding.")

# Settings of the old layout with which a translator is more than a matrix and a bias.
NOT_LINEAR = ("extra_layers", "mlp_hidden_sizes", "rank", "shared_mlp_hidden_sizes", "sublayers")

Parts = dict[str, StoredTensor]  # "weight" and perhaps "bias"

# -- reading -----------------------------------------------------------


def is_tuned_folder(path: Path) -> bool:
    """Return whether a folder has the two files of a tuned lens."""
    return (path / CONFIG).is_file() and (path / PARAMETERS).is_file()


def read_tuned(folder: Path) -> LensContent:
    """Return the tuned lens in a folder.

    Raises:
        LensError: a file is no plain file.
        OSError, ValueError: it holds none, or it is not whole.
    """
    config = read_config(folder / CONFIG)
    width = check_width(config.get("d_model"))
    n_layers = read_count(
        config.get("num_hidden_layers", config.get("num_layers")), "num_hidden_layers", MAX_LAYERS
    )
    _check_linear(config)
    with open_plain_file(folder / PARAMETERS) as file:
        saved = TorchFile(file)
        streams = _streams(saved.values)
        transports = {}
        for stream in sorted(streams):
            transports[stream] = _read_translator(saved, stream, streams[stream], width)
    if n_layers is not None and max(transports) >= n_layers - 1:
        raise ValueError(
            f"it has a translator for the stream after block {max(transports)} of {n_layers}, and "
            "the one after the last block needs none"
        )
    settings = plain_settings(config)
    known = ("base_model_name_or_path", "base_model_revision", "d_model", "num_hidden_layers")
    for name in (*known, "num_layers"):
        settings.pop(name, None)
    if "unemebd_hash" in settings:  # as older releases write it
        settings["unembed_hash"] = settings.pop("unemebd_hash")
    record = LensRecord(
        model=read_text(config.get("base_model_name_or_path"), "base_model_name_or_path"),
        revision=read_text(config.get("base_model_revision"), "base_model_revision"),
        n_layers=n_layers,
        settings=settings,
    )
    return LensContent("tuned", transports, record)


def _check_linear(config: dict[str, Any]) -> None:
    """Raise a ValueError if translators are more than a matrix and a bias."""
    lens_type = config.get("lens_type", LENS_TYPE)
    if lens_type != LENS_TYPE:
        raise ValueError(f"its lens_type is {str(lens_type)[:80]!r}, read is {LENS_TYPE!r}")
    for name in NOT_LINEAR:
        if config.get(name):
            raise ValueError(
                f"its config.json has {name}, so its translators are more than a matrix and a bias"
            )


def _streams(values: Any) -> dict[int, Parts]:
    """Return the parts of the translator of each stream."""
    if not isinstance(values, dict):
        raise ValueError("its params.pt holds no translators")
    streams: dict[int, Parts] = {}
    for name, value in values.items():
        stream, part = _stream_of(str(name)[:80])
        if part is None:
            continue
        parts = streams.setdefault(stream, {})
        if part in parts or not isinstance(value, StoredTensor):
            raise ValueError(f"its params.pt has {str(name)[:80]!r} twice, or as no tensor")
        parts[part] = value
    if not streams:
        raise ValueError("its params.pt holds no translators")
    return streams


def _stream_of(name: str) -> tuple[int, str | None]:
    """Return the stream and the part that a name stands for; no part for those of the head."""
    found = CURRENT_NAME.fullmatch(name)
    if found:
        return int(found[1]) - 1, found[2]
    if name.startswith(OF_THE_MODEL):
        return EMBEDDING, None
    # Translators were called probes, and adapters, before.
    singular = re.sub(r"(translator|probe|adapter)", "translator", name, count=1)
    found = LEGACY_NAME.fullmatch(singular)
    if found:
        return int(found[1]), found[2]
    found = LEGACY_EMBEDDING.fullmatch(singular)
    if found:
        return EMBEDDING, found[1]
    raise ValueError(f"its params.pt has {name!r}, which is no part of a linear translator")


def _read_translator(saved: TorchFile, stream: int, parts: Parts, width: int) -> Affine:
    """Return the transport of a stream."""
    if stream >= MAX_LAYERS or "weight" not in parts:
        raise ValueError(f"its translator of the stream after block {stream} has no weight")
    name = f"the weight of the translator of stream {stream}"
    check_shape(parts["weight"].shape, (width, width), name)
    weight = check_numbers(saved.read(parts["weight"]), name)
    bias = None
    if "bias" in parts:
        name = f"the bias of the translator of stream {stream}"
        check_shape(parts["bias"].shape, (width,), name)
        bias = check_numbers(saved.read(parts["bias"]), name)
    return Affine(weight, bias, is_residual=True)


# -- writing -----------------------------------------------------------


def write_tuned(folder: Path, content: LensContent, unembed_hash: str | None) -> None:
    """Write a lens as the package tuned-lens reads it.

    That package has a translator for every stream but the last. A stream without a transport gets
    one of zeros, which reads as the logit lens does.

    Args:
        folder: Made where it is not there.
        content: The lens.
        unembed_hash: What tuned-lens holds against the model, or None where it is not known.

    Raises:
        LensError: a file cannot be written.
        ValueError: the lens has more layers than its record says.
    """
    record = content.record
    n_layers = record.n_layers or max(content.transports) + 2
    if max(content.transports) >= n_layers - 1:
        raise ValueError(
            f"the lens has a transport for the stream after block {max(content.transports)} of "
            f"{n_layers}, and a tuned lens has none after the last block"
        )
    residuals = {stream: _residual(transport) for stream, transport in content.transports.items()}
    first = next(iter(residuals.values()))
    width = int(first.weight.shape[1])
    has_bias = any(each.bias is not None for each in residuals.values())
    parameters: dict[str, Tensor] = {}
    for stream in range(EMBEDDING, n_layers - 1):
        zeros = Affine(torch.zeros(width, width, dtype=first.weight.dtype), None, True)
        weight, bias, _ = residuals.get(stream, zeros)
        parameters[f"{stream + 1}.weight"] = weight.cpu().contiguous()
        if has_bias:
            filled = torch.zeros(width, dtype=weight.dtype) if bias is None else bias
            parameters[f"{stream + 1}.bias"] = filled.cpu().contiguous()
    config = {
        "base_model_name_or_path": record.model or "unknown",
        "d_model": width,
        "num_hidden_layers": n_layers,
        "bias": has_bias,
        "base_model_revision": record.revision,
        "unembed_hash": unembed_hash or record.settings.get("unembed_hash"),
        "lens_type": LENS_TYPE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / PARAMETERS) as scratch:
        write_torch(scratch, parameters)
    write_text(folder / CONFIG, json.dumps(config, indent=2))


def _residual(transport: Affine) -> Affine:
    """Return the same transport as a residual one, in a dtype that tuned-lens reads."""
    weight, bias, is_residual = transport
    weight = weight.detach()
    if not is_residual:
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        weight = weight - torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    if weight.dtype != torch.float16:
        weight = weight.to(torch.float32)
    if bias is not None:
        bias = bias.detach().to(weight.dtype)
    return Affine(weight, bias, True)
