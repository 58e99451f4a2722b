"""A result or an attribution as a long-form pandas table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Part, Site
from lens_recipes.arrays.certificate import is_certified
from lens_recipes.arrays.edits.dose import DoseArrays
from lens_recipes.arrays.edits.patch_map import PatchMapArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import measured_metrics
from lens_recipes.errors import LensError
from lens_recipes.views.words import shown_edits

# Columns of the tokens that only a generation has.
GENERATION_COLUMNS = ("generated", "next_logprob", "sampler_logprob")


def to_frame(result: LensArrays) -> Any:
    """Return a lens result as a table. See `LensResult.to_frame`."""
    pandas = import_pandas()
    frames = [
        pandas.DataFrame(_lens_columns(result, predicted)) for predicted in _predicted(result)
    ]
    return pandas.concat(frames, ignore_index=True)


def attribution_frame(result: AttributionArrays) -> Any:
    """Return an attribution as a table. See `Attribution.to_frame`."""
    pandas = import_pandas()
    tokens = result.tokens
    part_indices, token_indices, target_indices = _attribution_rows(result)
    prompts = tokens.prompt[token_indices]
    target_ids = result.target_ids[prompts, target_indices]
    against_ids = result.against_ids[prompts, target_indices]
    parts = [result.parts[index] for index in part_indices]
    source_texts = [
        _source_text(result, prompt, part.source)
        for prompt, part in zip(prompts, parts, strict=True)
    ]
    part_columns = _columns_of(parts, Part._fields)
    for column in ("layer", "head", "source"):  # whole numbers, also where some are missing
        part_columns[column] = pandas.array(part_columns[column], dtype="Int64")
    return pandas.DataFrame(
        {
            "certified": is_certified(result),
            **part_columns,
            "source_text": source_texts,
            "prompt": prompts,
            "position": tokens.position[token_indices],
            "input": [tokens.text[index] for index in token_indices],
            "target": [result.text(target_id) for target_id in target_ids],
            "target_id": target_ids,
            "against": [_against_text(result, against_id) for against_id in against_ids],
            "value": result.values[part_indices, token_indices, target_indices],
            **_lens_of(result),
        }
    )


def patch_frame(result: PatchMapArrays) -> Any:
    """Return a patch map as a table. See `PatchMap.to_frame`."""
    pandas = import_pandas()
    pairs, rows, columns = np.nonzero(np.isfinite(result.values))
    return pandas.DataFrame(
        {
            "pair": np.array(result.pairs)[pairs],
            "unit": result.unit,
            "direction": result.direction,
            "method": result.method,
            "layer": np.array(result.layers)[rows],
            "column": [result.columns[column] for column in columns],
            "column_text": [result.column_text(int(column)) for column in columns],
            "metric": result.metric,
            "value": result.values[pairs, rows, columns],
            "clean": result.clean[pairs],
            "corrupt": result.corrupt[pairs],
            "recovery": result.recoveries[pairs, rows, columns],
            "is_causal": result.is_causal[rows, columns],
        }
    )


def _columns_of(rows: Sequence[Site | Part], names: Iterable[str]) -> dict[str, Any]:
    """Return fields of sites or parts as columns."""
    columns = {}
    for column in names:
        columns[column] = [getattr(row, column) for row in rows]
    return columns


def import_pandas() -> Any:
    """Import pandas.

    Raises:
        LensError: it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise LensError("to_frame() needs pandas: pip install 'lens-recipes[frames]'") from error
    return pandas


# -- rows of a lens result ---------------------------------------------


class Predicted(NamedTuple):
    """The token that each site has in one role, after each token.

    Attributes:
        role: "top", "next", "final", "target" or "tracked".
        k: Which of several tokens of this role.
        ids: The tokens, `[site, token]`; −1 where there is none.
        logprobs: Their log-probabilities, `[site, token]`.
        ranks: Their ranks, `[site, token]`; −1 where they are not known.
    """

    role: str
    k: int
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    ranks: NDArray[np.integer[Any]]


def _predicted(result: LensArrays) -> Iterator[Predicted]:
    """Yield the predicted tokens of a result, role after role."""
    shape = result.entropy.shape
    for k in range(result.top_ids.shape[-1]):
        ranks = np.full(shape, k)
        yield Predicted("top", k, result.top_ids[..., k], result.top_logprobs[..., k], ranks)
    next_ids = np.broadcast_to(result.tokens.next_id, shape)
    yield Predicted("next", 0, next_ids, result.next_logprobs, result.next_ranks)
    final_ids = np.broadcast_to(result.final_ids, shape)
    yield Predicted("final", 0, final_ids, result.final_logprobs, result.final_ranks)
    for k in range(result.target_ids.shape[-1]):
        target_ids = np.broadcast_to(result.target_ids[result.tokens.prompt, k], shape)
        logprobs = result.target_logprobs[..., k]
        yield Predicted("target", k, target_ids, logprobs, result.target_ranks[..., k])
    for k in range(result.tracked_ids.shape[-1]):
        tracked_ids = np.broadcast_to(result.tracked_ids[:, k], shape)
        no_ranks = np.full(shape, -1)
        yield Predicted("tracked", k, tracked_ids, result.tracked_logprobs[..., k], no_ranks)


def _lens_columns(result: LensArrays, predicted: Predicted) -> dict[str, Any]:
    """Return the columns of the rows of one role: one row per site and token that has it."""
    tokens = result.tokens
    site_indices, token_indices = np.nonzero(predicted.ids >= 0)
    sites = [result.sites[index] for index in site_indices]
    token_ids = predicted.ids[site_indices, token_indices]
    logprobs = predicted.logprobs[site_indices, token_indices]
    columns = {
        "certified": is_certified(result),
        **_columns_of(sites, Site._fields),
        "prompt": tokens.prompt[token_indices],
        "position": tokens.position[token_indices],
        "input": [tokens.text[index] for index in token_indices],
    }
    if tokens.next_logprob is not None:
        for name in GENERATION_COLUMNS:
            column = getattr(tokens, name)
            if column is not None:
                columns[name] = column[token_indices]
    for metric in measured_metrics():
        columns[metric.array] = getattr(result, metric.array)[site_indices, token_indices]
    columns["readable"] = result.readable[site_indices, token_indices]
    return columns | {
        "role": predicted.role,
        "k": predicted.k,
        "id": token_ids,
        "text": [result.text(token_id) for token_id in token_ids],
        "logprob": logprobs,
        "prob": np.exp(logprobs),
        "rank": predicted.ranks[site_indices, token_indices],
        "fitted": result.fitted[token_indices],
        **_lens_of(result),
    }


def _lens_of(result: LensArrays | AttributionArrays) -> dict[str, str]:
    """Return the columns that say with which lens a result was read, and what was edited."""
    lens = result.lens
    return {
        "lens": lens.kind,
        "lens_source": lens.source,
        "lens_digest": lens.digest,
        "edits": "; ".join(map(str, shown_edits(result))),
    }


# -- rows of an attribution --------------------------------------------


def _attribution_rows(result: AttributionArrays) -> NDArray[np.intp]:
    """Return which part, token and target each row is about, `[3, row]`, as indices.

    A part of a source that a shorter prompt does not have is left out.
    """
    rows = np.indices(result.values.shape).reshape(3, -1)
    if not result.sources:
        return rows
    part_indices, token_indices, _ = rows
    lengths = np.array([len(texts) for texts in result.sources])
    sources = np.array([-1 if part.source is None else part.source for part in result.parts])
    exists = sources[part_indices] < lengths[result.tokens.prompt[token_indices]]
    return rows[:, exists]


def _source_text(result: AttributionArrays, prompt: int, source: int | None) -> str | None:
    """Return the text of the token that a head read from; None where it read from none."""
    if source is None or not result.sources:
        return None
    return result.sources[prompt][source]


def _against_text(result: AttributionArrays, against_id: int) -> str:
    """Return what was subtracted: the text of a token, or words."""
    if against_id < 0:
        return result.against
    return result.text(against_id)


def dose_frame(dose: DoseArrays) -> Any:
    """Return a dose as a table. See `Dose.to_frame`."""
    pandas = import_pandas()
    runs = [("edit", dose.logprobs[:, None], dose.kl[:, None])]
    for control, name in enumerate(dose.controls):
        logprobs = dose.control_logprobs[:, control : control + 1]
        runs.append((name, logprobs, dose.control_kl[:, control : control + 1]))
    rows = []
    for name, logprobs, kl in runs:
        for scale_index, scale in enumerate(dose.scales):
            for prompt, prompt_text in enumerate(dose.prompts):
                row = {"scale": scale, "run": name, "prompt": prompt, "prompt_text": prompt_text}
                row["kl"] = kl[scale_index, 0, prompt]
                for target, token in enumerate(dose.target_ids[prompt]):
                    row_of_target = {
                        "target_id": token,
                        "target": dose.texts.get(token, f"#{token}"),
                        "base_logprob": dose.base_logprobs[prompt, target],
                        "logprob": logprobs[scale_index, 0, prompt, target],
                    }
                    rows.append(row | row_of_target)
                if not dose.target_ids[prompt]:
                    rows.append(row)
    return pandas.DataFrame(rows)
