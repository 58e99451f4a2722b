"""Ask a model whether edits change what they say and nothing else, with a few tokens.

Each edited site has a row of its own, and the last row has none. The model runs as it is, then with
what is there written back, then with the third token of each row changed. What was written back
must change no number. A change must reach the last stream, and nothing outside its causal cone may
move: earlier tokens, earlier layers, and the row without an edit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.plan import BatchEdits
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import EditStep
from lens_recipes.trace.read_step import read

CHANGED_COLUMN = 2  # of a row


class SiteProof(NamedTuple):
    """What a model says of an edited site.

    Attributes:
        identity_error: How far streams move where what is there is written back, relative to the
            largest number of each; 0 where every bit stays.
        cone_error: The same for what lies outside the causal cone of a change; infinite where the
            change does not reach the last stream.
    """

    identity_error: float
    cone_error: float


class EditProbe(NamedTuple):
    """A few tokens for each of some edited sites.

    Attributes:
        inputs: Of the trace: a row for each site, and a last one.
        places: Of all its tokens, row by row.
        steps, n_slots: What is read, edits among it: the stream after each layer, in this order.
        n_before: How many of these streams come before each site, `[site]`.
        kept, changed: The edits, which write back what is there, or change it.
        head_operations: What the model does between its last block and its logits.
        codes: The number of each site, `[site]`.
    """

    inputs: dict[str, Any]
    places: TokenPlaces
    steps: Any
    n_slots: int
    n_before: list[int]
    kept: BatchEdits
    changed: BatchEdits
    head_operations: list[Operation]
    codes: list[float]


class EditProof(NamedTuple):
    """The worst of what a model says of several edited sites.

    Attributes:
        identity_error, cone_error: As of a `SiteProof`; −1 where nothing was asked.
        code: The number of the worst site; −1 for none.
    """

    identity_error: float
    cone_error: float
    code: float


NOT_ASKED = EditProof(-1.0, -1.0, -1.0)


def worst_of(proofs: dict[float, SiteProof]) -> EditProof:
    """Return the worst of what a model says of some sites, by their numbers; a NaN is worst."""
    if not proofs:
        return NOT_ASKED
    worst, largest = -1.0, -1.0
    for code, proof in proofs.items():
        error = max(proof, key=as_size)
        if as_size(error) > largest:
            worst, largest = code, as_size(error)
    return EditProof(
        max((proof.identity_error for proof in proofs.values()), key=as_size),
        max((proof.cone_error for proof in proofs.values()), key=as_size),
        worst,
    )


def as_size(error: float) -> float:
    """Return an error as what orders it: a NaN is larger than any number."""
    return float("inf") if error != error else error


def ask_model(model: Any, probe: EditProbe) -> dict[float, SiteProof]:
    """Run a model three times over a few tokens, and return what it says of each site."""
    plain = run_probe(model, probe, None)
    kept = run_probe(model, probe, probe.kept)
    changed = run_probe(model, probe, probe.changed)
    by_identity = moved(kept, plain)
    by_change = moved(changed, plain)
    proofs = {}
    for row, (code, n_before) in enumerate(zip(probe.codes, probe.n_before, strict=True)):
        identity_error = by_identity[:, [row, -1]].max()
        outside = [by_change[:n_before, row], by_change[:, row, :CHANGED_COLUMN], by_change[:, -1]]
        cone_error = torch.cat([part.flatten() for part in outside]).max()
        if by_change[-1, row, CHANGED_COLUMN] == 0:
            cone_error = torch.tensor(float("inf"))
        proofs[code] = SiteProof(float(identity_error), float(cone_error))
    return proofs


def run_probe(
    model: Any, probe: EditProbe, edits: BatchEdits | None
) -> Float[Tensor, "slot row column d_model"]:
    """Run a model over the tokens of a probe, and return the stream after each layer."""
    with torch.no_grad(), model.trace(**probe.inputs):
        streams = nnsight.save(read_streams(model, probe, edits))
    return streams  # noqa: RET504 - a traced block does not return


def read_streams(
    model: Any, probe: EditProbe, edits: BatchEdits | None
) -> Float[Tensor, "slot row column d_model"]:
    """Read the stream after each layer inside a trace, edited or not."""
    edit_pass = None
    if edits is not None:
        edit_pass = EditPass(model, edits, {}, probe.head_operations, None, LOGIT_BYTES)
    vectors: list[Any] = [None] * probe.n_slots
    for step in probe.steps:
        if isinstance(step, EditStep):
            if edit_pass is not None:
                edit_pass.follow(step)
        elif step.at is None:
            value = read(model, step, probe.places)
            for slot in step.slots:
                vectors[slot] = value  # at last as the model goes on with it
    streams = torch.stack([to_float32(vector).cpu() for vector in vectors])
    return streams.unflatten(1, (probe.places.n_rows, -1))


def moved(
    actual: Float[Tensor, "slot row column d_model"],
    expected: Float[Tensor, "slot row column d_model"],
) -> Float[Tensor, "slot row column"]:
    """Return how far each vector has moved, relative to its largest number."""
    is_equal = actual == expected  # equal infinities have no difference
    difference = torch.where(is_equal, 0.0, actual - expected).abs().amax(-1)
    return difference / expected.abs().amax(-1).clamp(min=1e-30)
