"""`fit_lens()`: fit the transports of a lens on text, in steps that can be stopped at any moment.

texts ─► rows ─► halves ─► batches ─► sums, where the model is ─► transports ─► their worth
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.solve.solution import HALVES, ROWS, Solution, Transports
from lens_recipes.models.weights.memory import memory_errors_in_words
from lens_recipes.recipes.lenses.costs import seconds_of_fit, stand_ins
from lens_recipes.recipes.lenses.prepare import QUALITY_TOKENS, Fit, prepare_fit
from lens_recipes.recipes.lenses.quality import measure, tokens_to_read
from lens_recipes.recipes.lenses.state import FitState
from lens_recipes.recipes.lenses.text.rows import RowSets, keys_of, split_rows
from lens_recipes.recipes.lenses.writing import written_rows
from lens_recipes.run.progress import progress
from lens_recipes.run.registry import RECIPES, RegisteredRecipe
from lens_recipes.run.request.request import Request
from lens_recipes.run.run import Arrays, RecipeRun

NARROW = "Fit fewer layers (layers=…), or fewer tokens"


class HalfBatch(NamedTuple):
    """A batch, and the half of the text that it is of."""

    half: str
    batch: Any


def fit_lens(
    model: Envoy,
    texts: Any = None,
    *,
    kind: str = "linear",
    layers: Any = None,
    tokens: int | None = None,
    path: str | os.PathLike[str] | None = None,
    column: str | None = None,
    shard: tuple[int, int] | None = None,
    seed: int = 0,
    quality_tokens: int = QUALITY_TOKENS,
    remote: bool | str | None = None,
    **settings: Any,
) -> Lens:
    """Fit a lens: for each layer the map from its stream to the stream that the model ends with.

    A linear lens needs forward passes only. One row of text in sixteen is held out, and measures
    how well the lens transfers (`lens.quality`).

    Args:
        model: What `load()` returns.
        texts: Strings or lists of token ids; rows of a data set; the path of a text file, or of one
            with JSON in each line; or None for text that the model itself writes, from nothing and
            at temperature 1, which takes about twice as long as the fit. Each row of at most 128
            tokens is read by itself, once.
        kind: "linear": least squares, from forward passes alone. "tuned": trained from the linear
            lens to say what the model says. "jacobian": the mean Jacobian, from as many backward
            passes a row as the stream is wide. Only "linear" runs on a server.
        layers: None for all but the last, and the stream before block 0; or numbers of blocks in
            the forms that all recipes take. A list may also name "embed".
        tokens: Read at least so many, if there are so many; None for 20,000, and for a Jacobian
            lens 12,800, a hundred rows. A linear lens needs about twenty times the width of the
            model.
        path: A file that holds what was added up, so that the fit can be stopped (Ctrl-C, or by
            force) and goes on when it is called again with the same arguments. At the end it holds
            the lens. A fit that is finished there is not made again.
        column: Which entry of a data set's rows is its text; None for "text", or the only one.
        shard: (i, n) for the i-th of n parts of the text, from 1, to be merged with the others by
            `Lens.merge`. Of the model's own text each part is of this many tokens. A small part may
            have no row that is held out, and then no quality.
        seed: Of the model's own text, and of whatever a kind draws.
        quality_tokens: How many held-out tokens measure the lens; 0 for none.
        remote: None as the model was loaded, True or an address for an NDIF server, False for here.
        **settings: Further settings of a kind: of "tuned" `steps` and `tokens_per_step`.

    Returns:
        A `Lens`, with its quality and its sums.

    Raises:
        ValueError: an argument that does not fit the model or the texts.
        LensError: a model that cannot be read or cannot write; a path that holds another fit.
        KeyboardInterrupt: at Ctrl-C, after what was added up was saved, with how to go on.

    Example:
        >>> lens = fit_lens(load("smollm2"), path="smollm2.linear.safetensors")
        >>> print(lens.quality.kl)
    """
    fit = prepare_fit(
        model,
        texts,
        kind=kind,
        layers=layers,
        tokens=tokens,
        path=path,
        column=column,
        shard=shard,
        seed=seed,
        quality_tokens=quality_tokens,
        remote=remote,
        **settings,
    )
    with memory_errors_in_words(NARROW):
        return carry_out(fit)


def carry_out(fit: Fit) -> Lens:
    """Go on with a fit from where its file says that it is, and return the lens.

    Raises:
        LensError, KeyboardInterrupt: as `fit_lens`.
    """
    state = FitState(fit.path, fit.identity)
    if state.lens is not None:
        return state.lens
    try:
        rows = split_rows(fit.rows or written_rows(fit, state), is_whole=fit.is_whole)
        refuse_empty(fit, rows)
        add_up(fit, rows, state)
        lens = finished_lens(fit, rows, state)
        state.finish(lens)
    except KeyboardInterrupt:
        raise interrupted(state) from None
    return lens


def refuse_empty(fit: Fit, rows: RowSets) -> None:
    """Raise LensError if no row is left to fit on."""
    if not rows.fitted:
        raise LensError(
            f"none of the {len(rows.held_out)} rows of this part of the text is fitted on: they "
            "measure the lens. " + say(python="Pass more text.", shell="Give more text.")
        )


def interrupted(state: FitState) -> KeyboardInterrupt:
    """Save what there is, and return what says how to go on."""
    if state.path is None:
        return KeyboardInterrupt(
            "the fit was interrupted, and nothing was kept of it. "
            + say(python="With path= it goes on from there.", shell="")
        )
    state.save()
    kept = f"{str(state.path)!r} holds {state.progress}"
    return KeyboardInterrupt(
        f"the fit was interrupted; {kept}. "
        + say(
            python="Call fit_lens again with the same arguments to go on.",
            shell="Run the command again to go on.",
        )
    )


def add_up(fit: Fit, rows: RowSets, state: FitState) -> None:
    """Add up the batches of both halves, after those that have been added up before."""
    batches = all_batches(fit, rows)
    waiting = batches[state.n_done :]
    sizes = [fit.estimator.n_tokens(batch) for _, batch in waiting]
    shown: AbstractContextManager[Iterable[Any]] = progress(waiting, "fit_lens", sizes)
    if fit.request.remote not in (False, "local"):
        shown = nullcontext(waiting)  # each job shows how far it is
    with shown as parts:
        for half, batch in parts:
            sums = fit.estimator.sums_of(batch)
            refuse_infinite(sums)
            state.add({f"{half}.{name}": value for name, value in sums.items()})
    if fit.estimator.trains:
        state.save()


def all_batches(fit: Fit, rows: RowSets) -> list[HalfBatch]:
    """Return the batches of both halves."""
    batches = []
    for half, of_half in zip(HALVES, (rows.a, rows.b), strict=True):
        batches += [HalfBatch(half, batch) for batch in fit.estimator.batches(of_half)]
    return batches


def refuse_infinite(sums: dict[str, torch.Tensor]) -> None:
    """Raise LensError where a stream was not finite."""
    for value in sums.values():
        if value.is_floating_point() and not bool(torch.isfinite(value.sum())):
            raise LensError(
                "a stream of this model is not finite (NaN or ∞) somewhere in the text, so nothing "
                "can be fitted on it. Half precision is the usual cause: load the model with "
                'dtype="float32".'
            )


def finished_lens(fit: Fit, rows: RowSets, state: FitState) -> Lens:
    """Return the lens of all sums, with what it is worth.

    Raises:
        LensError: there is too little text.
    """
    solution = fit.estimator.solution(state.sums, rows)
    for layer, transport in solution.transports.items():
        if not bool(torch.isfinite(transport.weight.sum())):
            raise LensError(
                f"there is too little text to fit layer {layer}: {len(rows.fitted)} rows. Fit on "
                "more."
            )
    record = replace(
        fit.record,
        n_prompts=len(rows.fitted),
        n_tokens=sum(len(row.ids) for row in rows.fitted),
        settings={**fit.record.settings, **solution.settings},
    )
    return Lens(
        kind=fit.estimator.kind,
        transports=solution.transports,
        record=record,
        quality=measured_quality(fit, rows, solution),
        source="fitted here" if state.path is None else str(state.path),
        location="" if state.path is None else str(state.path.absolute()),
        sums={**state.sums, ROWS: keys_of(rows.fitted)},
    )


def measured_quality(fit: Fit, rows: RowSets, solution: Solution) -> LensQuality | None:
    """Return what the lens is worth on the rows that were held out; None where there are none.

    On a server the fits on halves are not measured: their transports would travel there, too.
    """
    first = fit.estimator.first_position
    long_enough = [row for row in rows.held_out if len(row.ids) > max(1, first)]
    if not long_enough or fit.n_measured == 0:
        return None
    lenses: list[Transports] = [solution.transports]
    if fit.request.remote in (False, "local"):
        lenses += solution.halves
    return measure(
        fit.request.model,
        fit.task.layers,
        lenses,
        tokens_to_read(long_enough, first, fit.n_measured),
        f"{fit.record.text}, held out",
        remote=fit.request.remote,
    )


# -- as one run --------------------------------------------------------


def prepare_run_of_fit(*args: Any, **kwargs: Any) -> RecipeRun[Lens]:
    """Return all forward passes of a fit as one run, for `estimate` and `submit`.

    Text that the model is to write is not written for it: random tokens stand in.
    """
    return run_of_fit(prepare_fit(*args, **kwargs))


def run_of_fit(fit: Fit) -> RecipeRun[Lens]:
    """Return all forward passes of a fit as one run."""
    rows = split_rows(stand_ins(fit) if fit.writes else fit.rows, is_whole=fit.is_whole)
    refuse_empty(fit, rows)
    batches = all_batches(fit, rows)
    run = fit.estimator.run([batch for _, batch in batches])
    run.finish = partial(finish, fit, rows, [half for half, _ in batches])
    run.seconds_here = partial(seconds_of_fit, fit, rows, [batch for _, batch in batches])
    run.as_sent = partial(as_sent, fit)
    run.runs_remotely = fit.estimator.runs_remotely
    run.arguments = {**fit.identity, "texts": [row.ids.tolist() for row in fit.rows]}
    return run


def finish(
    fit: Fit, rows: RowSets, halves: list[str], run: RecipeRun[Lens], batches: list[Arrays]
) -> Lens:
    """Return the lens of a run that was sent as a whole."""
    if fit.writes:
        raise LensError("the model has not written the text of this fit: call fit_lens.")
    state = FitState(fit.path, fit.identity)
    for half, arrays in zip(halves, batches, strict=True):
        state.add({f"{half}.{name}": torch.from_numpy(value) for name, value in arrays.items()})
    lens = finished_lens(fit, rows, state)
    state.finish(lens)
    return lens


def as_sent(fit: Fit) -> RecipeRun[Lens]:
    """Return the run of a fit as it would be sent to a server."""
    request = Request(fit.request.model, remote="local")
    task = replace(fit.task, request=request)
    return run_of_fit(fit._replace(task=task, estimator=type(fit.estimator)(task)))


fit_lens.prepare = prepare_run_of_fit  # type: ignore[attr-defined]
RECIPES["fit_lens"] = RegisteredRecipe(prepare_run_of_fit, NARROW, "Fit fewer --layers or --tokens")
