"""What travels to a server that does not have this package, and what travels back.

A job is a session of nnsight's with one trace for each batch. What comes back is no pickle that
could run code: a job saves numbers, text and one tensor of bytes for each batch.
"""

from __future__ import annotations

import math
from typing import Any

import nnsight
import numpy as np
import zstandard
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from lens_recipes.caller import RUN_AGAIN, say
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.http.faults import shorten
from lens_recipes.run.remote.saved_values import load_saved
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import ArrayLayout, Schema
from lens_recipes.trace.pack import check_same_model, model_facts, run_batches
from lens_recipes.trace.travel import register_package

# -- to a server -------------------------------------------------------


def send_batches(run: RecipeRun[Any], which: range, backend: Backend) -> Any:
    """Send some batches of a run as one job through a backend of nnsight's; return its result."""
    register_package()
    model = run.model
    traced = run.traced
    plan = run.plan
    blocks = run.anatomy.blocks
    expected = model_facts(model, blocks)
    batches = [run.batches[number] for number in which]
    digests = [run.batch_digests[number] for number in which]
    # The name `found` travels: `_load_result` and the files of jobs know the result by it.
    found = None
    with model.session(backend=backend):
        check_same_model(model, blocks, expected)
        found = nnsight.save(run_batches(model, traced, plan, batches, digests))
    return found  # noqa: RET504 - a traced block does not return


class _SerializeOnly(Backend):
    """A backend that keeps what would be sent, and runs nothing."""

    blob = b""

    def __call__(self, tracer: Any) -> None:
        """Serialize the block as nnsight's own backend does."""
        pull_env()
        self.blob = RequestModel.serialize(tracer, compress=True)


def serialize_job(run: RecipeRun[Any], which: range) -> bytes:
    """Return what is sent for some batches of a run."""
    backend = _SerializeOnly()
    send_batches(run, which, backend)
    return backend.blob


def model_key(model: Envoy) -> str:
    """Return the key by which a server finds a model."""
    try:
        return str(model.to_model_key())
    except Exception:  # of the hub and of the network
        # nnsight asks the hub how the id is really spelled. Without a hub it stays as it was given.
        _ID_CACHE[model.repo_id] = model.repo_id
        return str(model.to_model_key())


def remote_env(model: Envoy) -> dict[str, Any]:
    """Return what a server is to apply to the model before a job, such as an adapter."""
    return dict(model._remoteable_get_env())


# -- back from a server ------------------------------------------------


def decode_result(
    blob: bytes, schemas: list[Schema], digests: list[str], max_bytes: int
) -> list[Arrays]:
    """Return the arrays of a job's batches, out of what its server sent.

    Args:
        blob: What came back.
        schemas: Types and shapes that were asked for, of each batch.
        digests: What tells each batch from any other.
        max_bytes: Most that the result can hold when it is unpacked.

    Raises:
        RemoteLensError: it is no result of these batches.
    """
    try:
        results = _load_result(blob, max_bytes)
        if [result["of"] for result in results] != digests:
            raise ValueError("it belongs to another one")
        return [
            unpack_arrays(result, schema) for result, schema in zip(results, schemas, strict=True)
        ]
    except Exception as error:  # of zstd, torch, zip: what came is broken, whatever broke it
        raise RemoteLensError(
            "what the server sent back is not a whole result of this run "
            f"({type(error).__name__}: {shorten(str(error))}).",
            say(python="Ask again: job.result() fetches it anew.", shell=RUN_AGAIN),
            may_finish=True,
        ) from error


def _load_result(blob: bytes, max_bytes: int) -> Any:
    """Load what a job saved. It runs no code, and takes no more memory than was asked for."""
    # The frame says how large it is, and is believed, whatever `max_output_size` is.
    if zstandard.frame_content_size(blob) > max_bytes:
        raise ValueError(f"it holds more than the {max_bytes} bytes that it can be")
    archive = zstandard.ZstdDecompressor().decompress(blob, max_output_size=max_bytes)
    return load_saved(archive, max_bytes)["found"]


def unpack_arrays(packed: dict[str, Any], schema: Schema) -> Arrays:
    """Return the arrays that `pack_arrays` packed.

    Raises:
        ValueError: they are not of the types and shapes that were asked for.
    """
    layout = {}
    for array_name, dtype, shape in packed["layout"]:
        layout[array_name] = ArrayLayout(dtype, tuple(shape))
    schema.check_layout(layout)
    packed_bytes = packed["bytes"].numpy()
    arrays = {}
    start = 0
    for array_name, (dtype, shape) in layout.items():
        n_numbers = math.prod(shape)
        stop = start + n_numbers * np.dtype(dtype).itemsize
        planes = packed_bytes[start:stop].reshape(np.dtype(dtype).itemsize, n_numbers)
        by_number = np.ascontiguousarray(planes.T)
        arrays[array_name] = by_number.view(dtype).reshape(shape)
        start = stop
    if len(packed_bytes) != start:
        raise ValueError(f"{len(packed_bytes)} bytes where {start} are expected")
    return arrays
