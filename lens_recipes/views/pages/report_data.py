"""Turn a lens result into the data that the script of a report reads."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plotly.colors import get_colorscale

from lens_recipes.arrays.lens import AXES, LensArrays
from lens_recipes.arrays.metrics import (
    DIVERGING,
    METRICS,
    fixed_range,
    metric_values,
    vocab_size,
)
from lens_recipes.arrays.sites import (
    UNORDERED,
    are_vectors,
    components,
    layer_series,
    main_component,
    site_label,
)
from lens_recipes.arrays.text import legible_line, visible_token
from lens_recipes.views.figures.base.color import rank_bar
from lens_recipes.views.figures.base.contrast import contrast_colors_along
from lens_recipes.views.figures.base.style import COLORS, DASHES, MARKERS
from lens_recipes.views.pages.report_fields import (
    PackedArray,
    PageData,
    PageDifference,
    PageLens,
    PageMetric,
    PagePrompt,
    PageSite,
    PageTokens,
)
from lens_recipes.views.pages.report_images import page_images
from lens_recipes.views.words import lens_names, patch_name, prompt_end, whole_text

TOKEN_WIDTH = 40  # characters

PROMPT_WIDTH = 80  # characters

# The arrays of a result that are on the page as they are. From them the script computes the metrics
# of a token, which would take an array for each token.
ARRAYS = (
    "top_logprobs",
    "logsumexp",
    "next_logprobs",
    "next_ranks",
    "final_logprobs",
    "final_ranks",
    "model_logprobs",
    "target_logprobs",
    "target_ranks",
)


def page_data(results: Sequence[LensArrays], prompts: list[int]) -> PageData:
    """Return what a page of some prompts needs, without the tracked tokens.

    Args:
        results: Of the same tokens and sites, one for each lens.
        prompts: Those on the page.
    """
    result = results[0]
    page_ids = ids_on_page(results, prompts)
    shown_components = [component for component in components(result.sites) if component != "embed"]
    shown_components = shown_components or ["embed"]
    main = main_component(result.sites) or first_ordered(shown_components)
    has_order = main not in (*UNORDERED, "embed")
    return PageData(
        sites=page_sites(result),
        components=[whole_text(component) for component in shown_components],
        main=whole_text(main),
        along=layer_series(result.sites, main) if has_order else [],
        line_axis="layer" if main == "resid_post" else f"layer ({whole_text(main)})",
        answers=not are_vectors(result.sites),
        output_site=result.output_site,
        prompts=page_prompts(result, prompts, page_ids),
        tokens=page_tokens(result, prompts, page_ids),
        ids=page_ids,
        texts=[visible_token(text_of(results, token_id), TOKEN_WIDTH) for token_id in page_ids],
        metrics=page_metrics(result),
        rank_ticks=rank_bar(vocab_size(result)),
        colors=COLORS,
        dashes=DASHES,
        markers=MARKERS,
        difference=PageDifference(DIVERGING, contrast_colors_along(DIVERGING)),
        lenses=[
            PageLens(legible_line(name), page_arrays(one, prompts, page_ids))
            for name, one in zip(lens_names(results), results, strict=True)
        ],
    )


def add_tracked_tokens(
    data: PageData, results: Sequence[LensArrays], prompts: list[int], room: int
) -> int:
    """Add the tracked tokens that have room, of each position the most likely ones.

    Args:
        data: The data of the page, to which the arrays are added.
        results: One for each lens.
        prompts: Those on the page.
        room: In bytes.

    Returns:
        How many tracked tokens a position lacks on the page, of the lens that lacks most.
    """
    most_lacking = 0
    for lens, result in zip(data.lenses, results, strict=True):
        n_added = _add_tracked(lens, data.ids, result, prompts, room // len(results))
        most_lacking = max(most_lacking, result.tracked_ids.shape[1] - n_added)
    return most_lacking


def _add_tracked(
    lens: PageLens, page_ids: list[int], result: LensArrays, prompts: list[int], room: int
) -> int:
    """Add the tracked tokens of one lens, and return how many of each position."""
    tokens = tokens_of(result, prompts)
    tracked_ids, logprobs = result.tracked_ids[tokens], result.tracked_logprobs[:, tokens]
    column_bytes = (len(result.sites) + 1) * max(1, len(tokens)) * 16 / 3  # in base64
    n_tracked = tracked_ids.shape[1]
    n_added = min(n_tracked, int(room / column_bytes))
    if n_added < n_tracked:
        highest = np.nan_to_num(logprobs.max(axis=0), nan=-np.inf)
        order = np.argsort(-highest, axis=-1)[:, :n_added]
        tracked_ids = np.take_along_axis(tracked_ids, order, axis=1)
        logprobs = np.take_along_axis(logprobs, order[None], axis=2)
    lens.arrays["tracked"] = pack(indices_of(tracked_ids, page_ids))
    lens.arrays["tracked_logprobs"] = pack(logprobs)
    return n_added


def token_bytes(result: LensArrays) -> int:
    """Return the most bytes that one token needs at all sites in base64, without tracked tokens."""
    top_k, n_targets = result.top_ids.shape[-1], result.target_ids.shape[-1]
    n_arrays = 6 + len(cell_metrics(result))  # [site, token], of 4 bytes each
    numbers = len(result.sites) * (8 * top_k + 8 * n_targets + 4 * n_arrays)
    return math.ceil(numbers * 4 / 3)


def text_of(results: Sequence[LensArrays], token_id: int) -> str:
    """Return the text of an id in the first result that knows it."""
    for result in results:
        if token_id in result.texts:
            return result.texts[token_id]
    return results[0].text(token_id)


# -- the parts ---------------------------------------------------------


def first_ordered(names: list[str]) -> str:
    """Return the first component whose layers follow each other, else the first one."""
    for component in names:
        if component not in UNORDERED:
            return component
    return names[0]


def page_sites(result: LensArrays) -> list[PageSite]:
    """Return the sites of a result."""
    sites = []
    for site in result.sites:
        label, place = whole_text(str(site)), whole_text(site_label(site)).replace("·", " ")
        sites.append(PageSite(label, place, site.layer, whole_text(site.component)))
    return sites


def page_prompts(result: LensArrays, prompts: list[int], page_ids: list[int]) -> list[PagePrompt]:
    """Return the prompts, each with its tokens and targets."""
    rows = []
    stop = 0
    for prompt in prompts:
        start = stop
        stop = start + int((result.tokens.prompt == prompt).sum())
        targets = indices_of(result.target_ids[prompt], page_ids).tolist()
        text = prompt_end(result.prompts[prompt], PROMPT_WIDTH)
        rows.append(PagePrompt(text, start, stop, targets, page_images(result[prompt], start)))
    return rows


def page_tokens(result: LensArrays, prompts: list[int], page_ids: list[int]) -> PageTokens:
    """Return the tokens of some prompts, prompt after prompt."""
    tokens = tokens_of(result, prompts)
    return PageTokens(
        text=[page_token(result, token) for token in tokens],
        position=result.tokens.position[tokens].tolist(),
        next=indices_of(result.tokens.next_id[tokens], page_ids).tolist(),
        generated=result.tokens.generated[tokens].tolist(),
    )


def page_token(result: LensArrays, token: int) -> str:
    """Return the name of a token: its text, or of a patch its row and column."""
    name = patch_name(result.tokens, token)
    return name or visible_token(result.tokens.text[token], TOKEN_WIDTH)


def page_metrics(result: LensArrays) -> dict[str, PageMetric]:
    """Return the metrics that the result has; vectors have neither an output nor a next token."""
    page = {}
    for metric_name, metric in METRICS.items():
        if not metric.fits(result):
            continue
        colors = metric.colors
        if isinstance(colors, str):
            colors = get_colorscale(colors)
        page[metric_name] = PageMetric(
            label=metric.label,
            about=metric.about,
            colors=colors,
            inks=contrast_colors_along(colors),
            range=fixed_range(metric_name, vocab_size(result)),
            logarithmic=metric.logarithmic,
            two_sided=metric.two_sided,
            low_is_better=metric.better == "low",
        )
    return page


def cell_metrics(result: LensArrays) -> list[str]:
    """Return the metrics that need no token: each cell has one number of them."""
    about_cells = [metric for metric in METRICS.values() if metric.about in ("all", "next")]
    return [metric.name for metric in about_cells if metric.fits(result)]


def page_arrays(
    result: LensArrays, prompts: list[int], page_ids: list[int]
) -> dict[str, PackedArray]:
    """Return the numbers of some prompts, tracked tokens left out."""
    tokens = tokens_of(result, prompts)
    arrays = {}
    for array_name in ARRAYS:
        token_axis = AXES[array_name].index("token")
        arrays[array_name] = pack(getattr(result, array_name).take(tokens, token_axis))
    arrays["readable"] = pack(result.readable[:, tokens].astype(np.int32))
    arrays["fitted"] = pack(result.fitted[tokens].astype(np.int32))
    for metric_name in cell_metrics(result):
        values, _ = metric_values(result, metric_name)
        arrays[metric_name] = pack(values[:, tokens])
    arrays["top"] = pack(indices_of(result.top_ids[:, tokens], page_ids))
    arrays["final"] = pack(indices_of(result.final_ids[tokens], page_ids))
    return arrays


# -- numbers -----------------------------------------------------------


def tokens_of(result: LensArrays, prompts: list[int]) -> NDArray[np.intp]:
    """Return the indices of the tokens of some prompts, prompt after prompt."""
    return np.concatenate([np.flatnonzero(result.tokens.prompt == prompt) for prompt in prompts])


def ids_on_page(results: Sequence[LensArrays], prompts: list[int]) -> list[int]:
    """Return the ids of all tokens that the page of some prompts names, ascending."""
    tokens = tokens_of(results[0], prompts)
    arrays = []
    for result in results:
        arrays += [
            result.top_ids[:, tokens],
            result.final_ids[tokens],
            result.tokens.next_id[tokens],
            result.target_ids[prompts],
            result.tracked_ids[tokens],
        ]
    token_ids = np.unique(np.concatenate([array.ravel() for array in arrays]))
    return token_ids[token_ids >= 0].tolist()


def indices_of(ids: NDArray[np.int32], ids_of_page: list[int]) -> NDArray[np.int32]:
    """Return ids as indices into the ascending ids of the page, −1 for none."""
    return np.where(ids < 0, -1, np.searchsorted(ids_of_page, ids)).astype(np.int32)


def pack(array: NDArray[Any]) -> PackedArray:
    """Pack an array in no more bytes than its numbers need."""
    if array.dtype.kind == "f":
        kind = "f4"
    elif array.size and array.min() >= 0 and array.max() < 2**16:
        kind = "u2"
    else:
        kind = "i4"
    numbers = np.ascontiguousarray(array, dtype=f"<{kind}")
    return PackedArray(kind, list(array.shape), base64.b64encode(numbers.tobytes()).decode())
