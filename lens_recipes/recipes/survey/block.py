"""Run one block of items, and reduce what the lens says to the numbers of a survey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.certificate import (
    KEPT_IF_NOT_STRICT,
    Certificate,
    joined_certificate,
)
from lens_recipes.arrays.survey.merge import joined_arrays
from lens_recipes.errors import LensError
from lens_recipes.recipes.logit_lens import logit_lens
from lens_recipes.recipes.survey.prepare import Controls, PreparedItem
from lens_recipes.results import LensResult
from lens_recipes.run.request.encodings import EncodedPrompt, as_recorded

Arrays = dict[str, NDArray[Any]]
WITH_IMAGES = 16  # items with images that are run together: their pixels are in memory at once


class BlockResult(NamedTuple):
    """What the items of one block said.

    Attributes:
        sites: What the site axis is.
        arrays: As of `SurveyArrays`, the items of the block.
        texts: id → text, of what the arrays name.
        certificate: Of the run.
        provenance: Of the run.
    """

    sites: list[Site]
    arrays: Arrays
    texts: dict[int, str]
    certificate: Certificate | None
    provenance: dict[str, Any]


class Columns(NamedTuple):
    """Which of the tokens that a lens follows are whose, `[item][column]`."""

    ids: list[list[int]]
    target: NDArray[np.bool_]
    against: NDArray[np.bool_]
    shuffled: NDArray[np.bool_]
    random: NDArray[np.bool_]

    def of(self, part: slice) -> Columns:
        """Return those of some of the items."""
        return Columns(
            self.ids[part],
            self.target[part],
            self.against[part],
            self.shuffled[part],
            self.random[part],
        )


def run_block(
    model: Any, items: Sequence[PreparedItem], beside: Sequence[Controls], **options: Any
) -> BlockResult:
    """Run the lens on the items of a block, each at its own position.

    Args:
        model: What `load()` returns.
        items: Of the block.
        beside: The controls of each.
        **options: Of `logit_lens`.

    Raises:
        LensError: as `logit_lens` does.
    """
    columns = columns_of(items, beside)
    if not any(prepared.item.images for prepared in items):
        return run_items(model, items, columns, options)
    at_once = WITH_IMAGES
    if len(items) % at_once == 1:  # an edit may take something from another prompt
        at_once += 1
    results = []
    for start in range(0, len(items), at_once):
        part = slice(start, start + at_once)
        results.append(run_items(model, items[part], columns.of(part), options))
    texts: dict[int, str] = {}
    for result in results:
        texts.update(result.texts)
    certificates = [each.certificate for each in results if each.certificate is not None]
    seconds = sum(float(result.provenance.get("seconds", 0.0)) for result in results)
    return BlockResult(
        results[0].sites,
        joined_arrays([result.arrays for result in results]),
        texts,
        joined_certificate(certificates),
        results[0].provenance | {"seconds": round(seconds, 3)},
    )


def run_items(
    model: Any, items: Sequence[PreparedItem], columns: Columns, options: dict[str, Any]
) -> BlockResult:
    """Run the lens on some items of a block together."""
    try:
        result = logit_lens(model, **lens_arguments(items, columns), **options)
    except LensError as error:
        if not str(error).endswith(KEPT_IF_NOT_STRICT):
            raise
        words = str(error).removesuffix(KEPT_IF_NOT_STRICT)  # a survey has no such argument
        raise LensError(
            f"{words} These are items {items[0].item.number} to {items[-1].item.number}."
        ) from None
    return BlockResult(
        result.sites,
        block_arrays(result, items, columns),
        result.texts,
        result.certificate,
        result.provenance,
    )


def lens_arguments(items: Sequence[PreparedItem], columns: Columns) -> dict[str, Any]:
    """Return what `logit_lens` is asked of the items of a block."""
    prompts = [EncodedPrompt(prepared.token_ids, prepared.inputs or {}) for prepared in items]
    images = None
    if any(prepared.item.images for prepared in items):
        images = [list(prepared.item.images) for prepared in items]
    return {
        "prompts": as_recorded(prompts),
        "images": images,
        "positions": [[prepared.position] for prepared in items],
        "targets": columns.ids,
        "track": None,
        "top_k": 1,
    }


def columns_of(items: Sequence[PreparedItem], controls: Sequence[Controls]) -> Columns:
    """Return the tokens that are followed, as many for each item: its answer's first pads."""
    rows: list[list[int]] = []
    kinds: list[list[str]] = []
    for prepared, control in zip(items, controls, strict=True):
        parts = {
            "target": prepared.target_ids,
            "against": prepared.against_ids,
            "shuffled": control.shuffled,
            "random": control.random,
        }
        rows.append([token for part in parts.values() for token in part])
        kinds.append([name for name, part in parts.items() for _ in part])
    width = max(map(len, rows))
    followed = [[*row, *[row[0]] * (width - len(row))] for row in rows]
    names = np.array([[*kind, *[""] * (width - len(kind))] for kind in kinds])
    masks = [np.asarray(names == name) for name in ("target", "against", "shuffled", "random")]
    return Columns(followed, *masks)


def block_arrays(result: LensResult, items: Sequence[PreparedItem], columns: Columns) -> Arrays:
    """Return the arrays of a block: each token of the result is one item."""
    ranks = result.target_ranks.swapaxes(0, 1)  # [item, site, column]
    logprobs = result.target_logprobs.swapaxes(0, 1)
    arrays: Arrays = {
        "number": np.array([prepared.item.number for prepared in items], dtype=np.int64),
        "target_ids": padded([prepared.target_ids for prepared in items]),
        "against_ids": padded([prepared.against_ids for prepared in items]),
        "answer_ids": result.final_ids.astype(np.int32),
        "position": np.array([prepared.position for prepared in items], dtype=np.int32),
        "ranks": best_rank(ranks, columns.target),
        "logprobs": summed_logprob(logprobs, columns.target),
        "against_logprobs": summed_logprob(logprobs, columns.against),
        "entropy": result.entropy.T.astype(np.float32),
        "kl_to_final": result.kl_to_final.T.astype(np.float32),
        "top_ids": result.top_ids[..., 0].T.astype(np.int32),
    }
    for control in ("shuffled", "random"):
        mask = getattr(columns, control)
        arrays[f"{control}_ranks"] = best_rank(ranks, mask)
        arrays[f"{control}_logprobs"] = summed_logprob(logprobs, mask)
    return arrays


def best_rank(ranks: NDArray[np.int32], mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the best rank of some columns, `[item, site]`; −1 where an item has none of them."""
    worst = np.iinfo(np.int32).max
    best = np.where(mask[:, None], ranks, worst).min(-1)
    best[~np.any(mask, -1)] = -1
    return best.astype(np.int32)


def summed_logprob(logprobs: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the log of the summed probability of some columns; NaN where an item has none."""
    chosen = np.where(mask[:, None], logprobs.astype(np.float64), -np.inf)
    with np.errstate(divide="ignore"):
        total = np.asarray(np.logaddexp.reduce(chosen, axis=-1))
    total[~np.any(mask, -1)] = np.nan
    return total.astype(np.float32)


def padded(rows: list[list[int]]) -> NDArray[np.int32]:
    """Return lists of ids as an array; −1 pads."""
    width = max(map(len, rows), default=0)
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], dtype=np.int32).reshape(
        len(rows), width
    )
