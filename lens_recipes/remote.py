"""What travels to a server that does not have this package, and what travels back.

The functions of the first half run there, so they import only torch. Nothing that comes back is a pickle that could
run code: a job saves numbers, text and one tensor of bytes for each batch.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import nnsight
import numpy as np
import torch
import zstandard
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from ._anatomy import Anatomy
from .errors import RemoteLensError
from .tail import Step, anywhere

if TYPE_CHECKING:
    from .run import Arrays, Run
    from .schema import Schema

OWN = "lens-recipes: "  # begins what the functions below, and the recipes' blocks, raise there


# -- on the server -----------------------------------------------------


def packed(arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Arrays as one tensor of bytes: first of every number its first byte, then its second.

    Signs and exponents then lie side by side and compress well, which the bytes of whole floats do not.
    """
    layout, planes = [], []
    for name, array in arrays.items():
        flat = array.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)  # strides of 0, too
        layout.append([name, str(array.dtype).removeprefix("torch."), list(array.shape)])
        planes.append(flat.view(torch.uint8).reshape(len(flat), flat.element_size()).T.reshape(-1))
    return {"layout": layout, "bytes": torch.cat(planes)}


def facts(model: Any, blocks: str) -> dict[str, Any]:
    """What must be the same here and there."""
    module = model._module
    config = getattr(module, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    return {
        "layers": len(list(model.get(blocks)._module.children())),
        "vocabulary": getattr(text, "vocab_size", None),
        "width": getattr(text, "hidden_size", None),
        "revision": getattr(config, "_commit_hash", None),
    }


def check_there(model: Any, blocks: str, expected: dict[str, Any]) -> None:
    """Stop before anything is computed if the server holds another model: nnsight would not notice."""
    there = facts(model, blocks)
    wrong = [
        f"{name} {there[name]} there, {here} here"
        for name, here in expected.items()
        if None not in (here, there[name]) and here != there[name]
    ]
    if wrong:
        raise ValueError(
            f"lens-recipes: the server's model is not the one that is known here: {'; '.join(wrong)}. Load the "
            "revision that the server holds, load(hub_id, revision=…, remote=…), or ask those who run it for this one."
        )


def _all_batches(
    model: Any, block: Any, shared: dict[str, Any], batches: list[dict[str, Any]], marks: list[str]
) -> list[dict[str, Any]]:
    return [{"of": mark, **packed(block(model, shared, one))} for one, mark in zip(batches, marks, strict=True)]


# -- there and back ----------------------------------------------------


def tail_for(parts: Anatomy, remote: bool | str) -> list[Step]:
    """The way from the stream to the logits, there without the names of this machine's devices."""
    return anywhere(parts.tail) if remote else parts.tail


def send(run: Run[Any], which: range, backend: Backend) -> Any:
    """Some batches as one job, through a backend of nnsight's: one session, one trace for each batch."""
    nnsight.register("lens_recipes")
    model, block, shared, blocks = run.model, run.block, run.shared, run.anatomy.blocks
    expected, marks = facts(model, blocks), [run.marks[n] for n in which]
    batches = [run.batches[n] for n in which]
    found = None
    with model.session(backend=backend):
        check_there(model, blocks, expected)
        found = nnsight.save(_all_batches(model, block, shared, batches, marks))
    return found  # noqa: RET504 - a block does not return


class _Parcel(Backend):
    """In place of running a block: what would be sent."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        pull_env()
        self.blob = RequestModel.serialize(tracer, compress=True)


def parcel(run: Run[Any], which: range) -> bytes:
    """What is sent for some batches."""
    backend = _Parcel()
    send(run, which, backend)
    return backend.blob


def opened(blob: bytes, schemas: list[Schema], marks: list[str], most: int) -> list[Arrays]:
    """The arrays of a job's batches, out of what its server sent.

    Raises:
        RemoteLensError: it is no such result, or not of the shapes and types that were asked for.
    """
    try:
        if zstandard.frame_content_size(blob) > most:  # which is believed, whatever `max_output_size` is
            raise ValueError(f"it holds more than the {most} bytes that it can be")
        raw = zstandard.ZstdDecompressor().decompress(blob, max_output_size=most)
        with zipfile.ZipFile(io.BytesIO(raw)) as entries:  # which torch would inflate, however large they get
            if any(one.compress_type or one.file_size > most for one in entries.infolist()):
                raise ValueError("it is packed as no result is")
        found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)["found"]
        if [part["of"] for part in found] != marks:
            raise ValueError("it belongs to another one")
        return [unpacked(part, schema) for part, schema in zip(found, schemas, strict=True)]
    except RemoteLensError:
        raise
    except Exception as error:  # of zstd, torch, zip: what came is broken, whatever broke it
        raise RemoteLensError(
            f"what the server sent back is not a whole result of this run ({type(error).__name__}: {error}).",
            "Ask again: job.result() fetches it anew.",
            may_finish=True,
        ) from error


def unpacked(part: dict[str, Any], schema: Schema) -> Arrays:
    """Arrays out of what `packed` made, if they are as asked for."""
    flat = part["bytes"].numpy()
    layout = {name: np.broadcast_to(np.zeros((), dtype), shape) for name, dtype, shape in part["layout"]}
    schema.check(layout)
    if len(flat) != (size := sum(like.nbytes for like in layout.values())):
        raise ValueError(f"{len(flat)} bytes where {size} are expected")
    arrays, start = {}, 0
    for name, like in layout.items():
        planes = flat[start : start + like.nbytes].reshape(like.itemsize, like.size)
        arrays[name] = np.ascontiguousarray(planes.T).view(like.dtype).reshape(like.shape)
        start += like.nbytes
    return arrays


def model_key(model: Envoy) -> str:
    """By which a server finds a model; the hub, which knows how its id is really spelled, need not be there."""
    try:
        return str(model.to_model_key())
    except Exception:  # of the hub and of the network
        _ID_CACHE[model.repo_id] = model.repo_id
        return str(model.to_model_key())


def remote_env(model: Envoy) -> dict[str, Any]:
    """What a server is to apply to the model before a job, as an adapter."""
    return dict(model._remoteable_get_env())
