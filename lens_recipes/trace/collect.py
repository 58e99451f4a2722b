"""Read what a plan names from the running model, and check it against the model itself.

What blocks write must sum to the stream, and the stream must be what the model goes on with. Edits
are made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.attribution.freeze import one_head, to_float32
from lens_recipes.trace.batch import SentPlaces, TokenPlaces
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.checks import EditChecks
from lens_recipes.trace.kernels import kernels_for, on_cpu
from lens_recipes.trace.plan import EditStep, ReadStep, SiteRead
from lens_recipes.trace.read_step import read
from lens_recipes.trace.sum_check import SumCheck

Rows = Tensor | Callable[[slice], Tensor]  # [token, d_model], or what makes the rows of some tokens


def collect(
    model: Any,
    steps: Sequence[ReadStep | EditStep],
    places: TokenPlaces,
    n_slots: int,
    max_bytes: int,
    edits: EditPass | None = None,
) -> tuple[list[Any], dict[str, Float[Tensor, " token"]]]:
    """Read tensors of a running model, each at the tokens asked for.

    Args:
        model: The nnsight model, inside its trace.
        steps: What to read, in the order in which the model runs.
        places: Of the tokens.
        n_slots: How many vectors the steps fill.
        max_bytes: Bound on what the check of the heads holds at once.
        edits: Makes the edits that are among the steps.

    Returns:
        The vectors `[token, width]`, and the largest relative errors `[token]` of what was checked:
        "block", "total" and "head"; "link" `[link, token]`, how far each stream is from what
        the model goes on with; and what `EditChecks.errors` says of the edits, among it "edit", how
        far those of each token's prompt are from what was asked. Both sides of a check are read;
        nothing here is the difference of
        two streams.
    """
    vectors: list[Any] = [None] * n_slots
    check = SumCheck(model, max_bytes)
    edit_checks = None if edits is None else EditChecks(edits, max_bytes)
    link_errors: list[Tensor | None] = []
    sent_places = SentPlaces(places)
    for step in steps:
        if isinstance(step, EditStep):
            if edits is not None:
                make_edit(vectors, step, edits, places)
            if step.is_stream:
                check.begin_again()
            continue
        if step.at is not None:
            if edit_checks is not None:
                edit_checks.follow(step)
            continue
        value = read(model, step, sent_places)
        if step.role == "next":
            link_errors.append(follow_link(vectors, step, value))
            continue
        for slot in step.slots:
            add_to_slot(vectors, slot, value)
        check.follow(step, value)
    errors = errors_on_cpu(check.errors, link_errors, len(places.rows))
    if edit_checks is not None:
        errors |= edit_checks.errors(places.rows)
    return vectors, errors


def make_edit(vectors: list[Any], step: EditStep, edits: EditPass, places: TokenPlaces) -> None:
    """Make an edit, and add what it has changed at the tokens that are read to a vector."""
    difference = edits.follow(step)
    if not step.slots:
        return
    if difference is None:
        difference = torch.zeros(0)
    for slot in step.slots:
        add_to_slot(vectors, slot, edits.at_tokens(step, difference, places))


def add_to_slot(vectors: list[Any], slot: int, value: Tensor) -> None:
    """Add a value to a vector, which begins as the first value."""
    if vectors[slot] is None:
        vectors[slot] = value
    else:
        vectors[slot] = vectors[slot] + value.to(vectors[slot].device)


def follow_link(
    vectors: list[Any], step: ReadStep, taken: Tensor
) -> Float[Tensor, " token"] | None:
    """Go on with the stream that the model goes on with, and return how far it is from the block's.

    The error of each token is relative to the largest number of its stream. Where nothing stands
    between, the two are equal, number by number: None, if that may be asked here.
    """
    slot = step.slots[0]
    given = vectors[slot]
    if taken.device != given.device:
        taken = taken.to(given.device)
    expected = given if step.factor == 1 else given * step.factor
    # Nearly always, and one pass over both instead of six.
    if kernels_for(taken.device).asks_at_once and torch.equal(taken, expected):
        return None
    # Equal infinities have no difference.
    is_equal = taken == expected
    difference = torch.where(is_equal, 0.0, to_float32(taken) - to_float32(expected))
    size = to_float32(taken).abs().amax(-1).clamp(min=1e-30)
    if step.factor == 1:
        vectors[slot] = taken
    else:
        vectors[slot] = torch.where(is_equal, given, taken / step.factor)
    return difference.abs().amax(-1) / size


def errors_on_cpu(
    sum_errors: dict[str, Tensor], link_errors: list[Tensor | None], n_tokens: int
) -> dict[str, Tensor]:
    """Return the errors of the sums `[token]` and "link", those of all links `[link, token]`.

    All are brought to the processor together. A link that was equal, None, has an error of 0.
    """
    found: dict[Any, Tensor] = dict(sum_errors)
    for link, error in enumerate(link_errors):
        if error is not None:
            found[link] = error
    found = on_cpu(found)
    errors = {name: found[name] for name in sum_errors}
    if link_errors:
        shape = (len(link_errors), n_tokens)
        errors["link"] = torch.zeros(shape, dtype=torch.float32, device="cpu")
        for link, error in enumerate(link_errors):
            if error is not None:
                errors["link"][link] = found[link]
    return errors


def site_rows(model: Any, vectors: list[Any], reads: list[SiteRead]) -> list[Rows]:
    """Return the rows of each site.

    That is a vector, or what makes one head's share out of the vector of all heads.
    """
    rows: list[Rows] = []
    for site_read in reads:
        vector = vectors[site_read.slot]
        if site_read.head is None:
            rows.append(vector)
        else:
            columns = site_read.head.columns[0]
            rows.append(partial(one_head, model, columns, site_read.head.operations, vector))
    return rows
