"""Make a `PatchMap` of what the batches gave."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.edits.patch_map import (
    LeftOut,
    PatchProof,
    Verified,
    layer_of_metric,
)
from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.tokens.vocabulary import prompt_text, token_text
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.recipes.patching.batches import EVERYTHING, NOTHING, Prepared
from lens_recipes.recipes.patching.cells import CellMap
from lens_recipes.recipes.patching.pairs import Answers, TokenPairs
from lens_recipes.results import PatchMap
from lens_recipes.run.batches import HALF_PRECISION_TOLERANCE, TOLERANCE
from lens_recipes.run.run import Arrays, RecipeRun


class MapRequest(NamedTuple):
    """What a map is of.

    Attributes:
        unit, metric, direction, method: As `patch_map` takes them.
        cells: The cells.
        clean, corrupt: Ids `[pair][position]`.
        answers: Of each pair.
        keep_all: Whether pairs stay whatever the model prefers.
        strict: Whether a proof that failed is an error.
    """

    unit: str
    metric: str
    direction: str
    method: str
    cells: CellMap
    clean: list[list[int]]
    corrupt: list[list[int]]
    answers: Answers
    keep_all: bool
    strict: bool

    @property
    def is_noise(self) -> bool:
        """Tell whether the clean prompts are those that are patched."""
        return self.direction == "noise"


class Gathered(NamedTuple):
    """What the batches gave, by pair and cell.

    Attributes:
        source, base: Of the unpatched runs, `[pair, number]`.
        cells: Of each cell, `[pair, cell, number]`; NaN where a pair has no such cell.
        nothing, everything: Of the rows that prove the map, `[pair, number]`.
        predicted: What an approximation says of the metric, `[pair, cell]`.
        site_error: The largest of all rows.
    """

    source: NDArray[np.float32]
    base: NDArray[np.float32]
    cells: NDArray[np.float32]
    nothing: NDArray[np.float32]
    everything: NDArray[np.float32]
    predicted: NDArray[np.float32]
    site_error: float


def gather(prepared: Prepared, arrays: list[Arrays], n_pairs: int, n_cells: int) -> Gathered:
    """Return what the batches gave, by pair and cell."""

    def empty(*shape: int) -> NDArray[np.float32]:
        return np.full(shape, np.nan, dtype=np.float32)

    n_numbers = arrays[0]["source"].shape[1]
    source, base = empty(n_pairs, n_numbers), empty(n_pairs, n_numbers)
    cells, predicted = empty(n_pairs, n_cells, n_numbers), empty(n_pairs, n_cells)
    nothing, everything = empty(n_pairs, n_numbers), empty(n_pairs, n_numbers)
    site_error = 0.0
    for batch, rows, found in zip(prepared.batches, prepared.rows, arrays, strict=True):
        group = prepared.groups[batch.group]
        source[group], base[group] = found["source"], found["base"]
        site_error = max(site_error, float(found["error"].max(initial=0)))
        for index, row in enumerate(rows):
            numbers = found["rows"][index]
            if row.cell == NOTHING:
                nothing[row.pair] = numbers
            elif row.cell == EVERYTHING:
                everything[row.pair] = numbers
            else:
                cells[row.pair, row.cell] = numbers
                if "predicted" in found:
                    predicted[row.pair, row.cell] = found["predicted"][index]
    return Gathered(source, base, cells, nothing, everything, predicted, site_error)


def metric_of(numbers: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """Return a metric of what was read of each run, `[…, number]`."""
    if metric == "logit_diff":
        return numbers[..., 0] - numbers[..., 1]
    if layer_of_metric(metric) is not None:
        return numbers[..., 4] - numbers[..., 5]
    if metric == "rank":
        return numbers[..., 3]
    return np.exp(numbers[..., 2]) if metric == "prob" else numbers[..., 2]


def finish(
    asked: MapRequest, prepared: Prepared, run: RecipeRun[PatchMap], arrays: list[Arrays]
) -> PatchMap:
    """Make the map.

    Raises:
        LensError: no pair is left, or the proof failed and the map is strict.
    """
    verified = None
    if len(arrays) > len(prepared.batches):
        verified = verified_of(arrays.pop())
    n_pairs, n_cells = len(asked.clean), len(asked.cells.cells)
    found = gather(prepared, arrays, n_pairs, n_cells)
    clean, corrupt = found.source, found.base
    if asked.is_noise:
        clean, corrupt = corrupt, clean
    left_out = [] if asked.keep_all else pairs_left_out(clean, corrupt, asked, run)
    numbers = {item.pair for item in left_out}
    kept = [pair for pair in range(n_pairs) if pair not in numbers]
    if not kept:
        raise LensError(nothing_left(left_out))
    proof = None
    if asked.method == "exact":
        proof = proof_of(found, asked)
        if asked.strict:
            check_proof(proof, found, run)
    is_approximate = asked.method == "gradient"
    diffs = metric_of(found.cells, "logit_diff")
    values = metric_of(found.cells, asked.metric)
    if is_approximate:
        values = found.predicted
        diffs = values if asked.metric == "logit_diff" else np.full_like(values, np.nan)
    tokenizer = run.request.tokenizer
    return PatchMap(
        unit=asked.unit,
        metric=asked.metric,
        direction=asked.direction,
        method=asked.method,
        layers=asked.cells.layers,
        columns=asked.cells.columns,
        column_tokens=column_tokens(asked, kept, tokenizer),
        values=on_grid(values[kept], asked.cells),
        logit_diffs=on_grid(diffs[kept], asked.cells),
        clean=metric_of(clean[kept], asked.metric),
        corrupt=metric_of(corrupt[kept], asked.metric),
        clean_diffs=metric_of(clean[kept], "logit_diff"),
        corrupt_diffs=metric_of(corrupt[kept], "logit_diff"),
        is_causal=causal_cells(asked, kept, run.anatomy.last_layer),
        pairs=kept,
        left_out=left_out,
        clean_prompts=[prompt_text(tokenizer, asked.clean[pair]) for pair in kept],
        corrupt_prompts=[prompt_text(tokenizer, asked.corrupt[pair]) for pair in kept],
        targets=[token_text(tokenizer, asked.answers.target[pair]) for pair in kept],
        againsts=[token_text(tokenizer, asked.answers.against[pair]) for pair in kept],
        proof=proof,
        verified=verified,
        provenance=run.provenance(),
    )


def on_grid(values: NDArray[np.float32], cells: CellMap) -> NDArray[np.float32]:
    """Return numbers `[pair, cell]` as `[pair, row, column]`; NaN where there is no cell."""
    shape = (len(values), len(cells.layers), len(cells.columns))
    grid = np.full(shape, np.nan, dtype=np.float32)
    for number, cell in enumerate(cells.cells):
        grid[:, cell.row, cell.column] = values[:, number]
    return grid


def verified_of(arrays: Arrays) -> Verified:
    """Return which cells of an approximation were run exactly."""
    exact, approximate = arrays["exact"], arrays["approximate"]
    correlation = float("nan")
    if len(exact) > 2 and exact.std() > 0 and approximate.std() > 0:
        correlation = float(np.corrcoef(exact, approximate)[0, 1])
    cells = [(int(row), int(column)) for row, column in arrays["cells"]]
    return Verified(cells, exact.tolist(), approximate.tolist(), correlation)


# -- pairs -------------------------------------------------------------


def pairs_left_out(
    clean: NDArray[np.float32],
    corrupt: NDArray[np.float32],
    asked: MapRequest,
    run: RecipeRun[PatchMap],
) -> list[LeftOut]:
    """Return the pairs in which the model does not prefer the answers as it should."""
    tokenizer = run.request.tokenizer
    left_out = []
    for pair in range(len(clean)):
        target = token_text(tokenizer, asked.answers.target[pair])
        against = token_text(tokenizer, asked.answers.against[pair])
        clean_diff = float(metric_of(clean[pair], "logit_diff"))
        corrupt_diff = float(metric_of(corrupt[pair], "logit_diff"))
        if not clean_diff > 0:
            reason = (
                f"in the clean run the model does not prefer {target!r} to {against!r} "
                f"(logit difference {clean_diff:+.2f})"
            )
            left_out.append(LeftOut(pair, reason))
        elif not corrupt_diff < 0:
            reason = (
                f"in the corrupt run the model does not prefer {against!r} to {target!r} "
                f"(logit difference {corrupt_diff:+.2f})"
            )
            left_out.append(LeftOut(pair, reason))
    return left_out


def nothing_left(left_out: list[LeftOut]) -> str:
    """Return the message that no pair is left."""
    reasons = [f"pair {item.pair}: {item.reason}" for item in left_out[:3]]
    more = len(left_out) - len(reasons)
    if more:
        reasons.append(f"and {more} more")
    return (
        f"no pair is left to be patched. {'; '.join(reasons)}. Choose prompts of which the model "
        "knows both answers"
        + say(python=", or keep_all=True to patch them all the same.", shell=".")
    )


def column_tokens(asked: MapRequest, kept: list[int], tokenizer: Any) -> list[tuple[str, str]]:
    """Return the clean and corrupt text of each column; empty texts where pairs differ."""
    texts = []
    for column in asked.cells.column_tokens:
        found = set()
        for pair in kept:
            clean = "".join(
                token_text(tokenizer, asked.clean[pair][one]) for one, _ in column[pair]
            )
            corrupt = "".join(
                token_text(tokenizer, asked.corrupt[pair][other]) for _, other in column[pair]
            )
            found.add((clean, corrupt))
        texts.append(found.pop() if len(found) == 1 else ("", ""))
    return texts


# -- cells that can do nothing -----------------------------------------

BEFORE_ATTENTION = ("resid_pre",)


def causal_cells(asked: MapRequest, kept: list[int], last_layer: int) -> NDArray[np.bool_]:
    """Return which cells can do anything in some pair, `[row, column]`.

    Nothing reads the stream of an earlier position after the last attention; and before the first
    token in which two prompts differ, both runs are the same.
    """
    shape = (len(asked.cells.layers), len(asked.cells.columns))
    is_causal = np.zeros(shape, dtype=bool)
    lens_layer = layer_of_metric(asked.metric)
    if lens_layer is not None:
        last_layer = lens_layer  # whatever comes after it is not read
    for cell in asked.cells.cells:
        site = asked.cells.planned[cell.site].site
        assert site.layer is not None  # of a cell
        if site.layer > last_layer:
            continue
        is_last = site.layer == last_layer and site.component not in BEFORE_ATTENTION
        for pair in kept:
            if can_matter(cell.tokens[pair], asked, pair, is_last):
                is_causal[cell.row, cell.column] = True
                break
    return is_causal


def can_matter(tokens: TokenPairs, asked: MapRequest, pair: int, is_last: bool) -> bool:
    """Tell whether a cell of a pair can change anything.

    Args:
        tokens: Which it patches, as (clean, corrupt).
        asked: The map.
        pair: The pair.
        is_last: Whether only the last position of the site is read after it.
    """
    clean, corrupt = asked.clean[pair], asked.corrupt[pair]
    base_length = len(clean) if asked.is_noise else len(corrupt)
    n_common = 0
    for one, other in zip(clean, corrupt, strict=False):
        if one != other:
            break
        n_common += 1
    for one, other in tokens:
        base = one if asked.is_noise else other
        is_read = not is_last or base == base_length - 1
        is_same = one == other and one < n_common
        if is_read and not is_same:
            return True
    return False


# -- proof -------------------------------------------------------------


def proof_of(found: Gathered, asked: MapRequest) -> PatchProof:
    """Return what the map's own rows prove."""
    nothing = np.abs(found.nothing[:, :2] - found.base[:, :2])
    source, base = metric_of(found.source, "logit_diff"), metric_of(found.base, "logit_diff")
    everything = metric_of(found.everything, "logit_diff")
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = np.abs((everything - source) / (source - base))
    is_there = np.isfinite(missing)
    return PatchProof(
        site_error=found.site_error,
        nothing_error=float(np.nanmax(nothing)) if np.isfinite(nothing).any() else float("nan"),
        everything_error=float(missing[is_there].max()) if is_there.any() else float("nan"),
    )


def check_proof(proof: PatchProof, found: Gathered, run: RecipeRun[PatchMap]) -> None:
    """Raise LensError if patched cells do not hold what was asked, or nothing changes something."""
    is_half = run.provenance()["dtype"] in ("bfloat16", "float16")
    tolerance = HALF_PRECISION_TOLERANCE if is_half else TOLERANCE
    scale = float(np.nanmax(np.abs(found.base[:, :2]), initial=1.0))
    problem = ""
    if not proof.site_error <= tolerance:
        problem = (
            "a patched cell holds something else than was asked (relative error "
            f"{proof.site_error:.1e})"
        )
    elif not proof.nothing_error <= tolerance * scale:
        problem = (
            "a run that is patched with its own vectors is another run (logits differ by "
            f"{proof.nothing_error:.1e})"
        )
    if problem:
        cause = cause_in_quantisation(run.request.model)
        because = f" Likely cause: {cause}." if cause else ""
        raise LensError(
            f"this map proves wrong: {problem}.{because} "
            + say(python="strict=False keeps it.", shell="")
        )
