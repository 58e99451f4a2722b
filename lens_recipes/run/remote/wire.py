"""What travels to a server that does not have this package, and what travels back.

The functions of the first half run there, so they import only torch. Nothing that comes back is a pickle that could
run code: a job saves numbers, text and one tensor of bytes for each batch.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

import nnsight
import numpy as np
import torch
import zstandard
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from lens_recipes.errors import RemoteLensError
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import Schema
from lens_recipes.trace.pack import check_same_model, model_facts, run_batches


def send_batches(run: RecipeRun[Any], which: range, backend: Backend) -> Any:
    """Some batches as one job, through a backend of nnsight's: one session, one trace for each batch."""
    nnsight.register("lens_recipes")
    model, block, shared, blocks = run.model, run.traced, run.plan, run.anatomy.blocks
    expected, marks = model_facts(model, blocks), [run.batch_digests[n] for n in which]
    batches = [run.batches[n] for n in which]
    found = None
    with model.session(backend=backend):
        check_same_model(model, blocks, expected)
        found = nnsight.save(run_batches(model, block, shared, batches, marks))
    return found


class _SerializeOnly(Backend):
    """In place of running a block: what would be sent."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        pull_env()
        self.blob = RequestModel.serialize(tracer, compress=True)


def serialize_job(run: RecipeRun[Any], which: range) -> bytes:
    """What is sent for some batches."""
    backend = _SerializeOnly()
    send_batches(run, which, backend)
    return backend.blob


def decode_result(blob: bytes, schemas: list[Schema], marks: list[str], most: int) -> list[Arrays]:
    """The arrays of a job's batches, out of what its server sent.

    Raises:
        RemoteLensError: it is no such result, or not of the shapes and types that were asked for.
    """
    try:
        if (
            zstandard.frame_content_size(blob) > most
        ):  # which is believed, whatever `max_output_size` is
            raise ValueError(f"it holds more than the {most} bytes that it can be")
        raw = zstandard.ZstdDecompressor().decompress(blob, max_output_size=most)
        with zipfile.ZipFile(
            io.BytesIO(raw)
        ) as entries:  # which torch would inflate, however large they get
            if any(one.compress_type or one.file_size > most for one in entries.infolist()):
                raise ValueError("it is packed as no result is")
        found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)["found"]
        if [part["of"] for part in found] != marks:
            raise ValueError("it belongs to another one")
        return [unpack_arrays(part, schema) for part, schema in zip(found, schemas, strict=True)]
    except RemoteLensError:
        raise
    except Exception as error:  # of zstd, torch, zip: what came is broken, whatever broke it
        raise RemoteLensError(
            f"what the server sent back is not a whole result of this run ({type(error).__name__}: {error}).",
            "Ask again: job.result() fetches it anew.",
            may_finish=True,
        ) from error


def unpack_arrays(part: dict[str, Any], schema: Schema) -> Arrays:
    """Arrays out of what `packed` made, if they are as asked for."""
    flat = part["bytes"].numpy()
    layout = {
        name: np.broadcast_to(np.zeros((), dtype), shape) for name, dtype, shape in part["layout"]
    }
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
