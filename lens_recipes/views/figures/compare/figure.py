"""`compare()`: two results beside each other in the same colours, and their difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import DIVERGING, METRICS, vocab_size
from lens_recipes.arrays.sites import components
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.figures.base.cells import cell_words
from lens_recipes.views.figures.base.color import color_axis
from lens_recipes.views.figures.base.contrast import split_words_by_contrast
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.grid import row_label_margin
from lens_recipes.views.figures.base.style import (
    FONT,
    HOVER_TEMPLATE,
    check_result_kind,
    title_layout,
)
from lens_recipes.views.figures.base.token_axis import token_names, token_ticks
from lens_recipes.views.figures.base.unreadable import GREY
from lens_recipes.views.figures.base.view import View
from lens_recipes.views.figures.compare.pairs import (
    LABEL_WIDTH,
    Array,
    Comparison,
    Side,
    pair_results,
)
from lens_recipes.views.figures.compare.panels import COLOR_BAR_WIDTH, NAME_HEIGHT, Panels
from lens_recipes.views.figures.compare.words import difference_title, hover_texts, source_lines
from lens_recipes.views.words import have_different_edits, lens_names


def compare(
    a: LensArrays,
    b: LensArrays,
    *,
    metric: str = "prob",
    of: Any = None,
    prompt: int = 0,
    prompt_b: int | None = None,
    align: str = "token",
    stride: int | None = None,
    component: str | None = None,
    colors: str | None = None,
    names: tuple[str, str] | None = None,
    title: str | None = None,
    show_all: bool = False,
) -> go.Figure:
    """Draw layers × tokens of two results in the same colours, and A − B.

    The two may come from two models, from two prompts, or from two ways to read. The rows are the
    sites that both have; the subtitle names those that only one has. Grey cells have no number, or
    cannot be read with this lens (`result.readable`). Ranks are subtracted as
    log10(rank + 1), so that 0 and 9 are as far apart as 99 and 999. The difference is blue where A
    is better: a higher probability or logit, a lower rank, entropy, KL or loss.

    Args:
        a, b: Any lens results with layers; the same one twice to compare two of its prompts.
        metric, of: As for `heatmap`; None is the top-1 of each result, whichever token that is.
        prompt: Which prompt, of both.
        prompt_b: Another prompt for `b`.
        align: "token": both must have read the same tokens at the same positions. "position":
            any tokens at the same positions.
        stride: Show every n-th layer, counted from the last. None: about 40 rows.
        component: None for all that both have, or only the rows of this one.
        colors: Another of plotly's colour scales for A and B, as for `heatmap`.
        names: What to call the two. None for "A" and "B", for their lenses where these differ, or
            for "base" and "edited: …" where their edits do.
        title: Replaces the figure's own.
        show_all: Give what cannot be read its colour, too.

    Raises:
        ValueError: tokens or positions that differ, no site in common, no token at which both have
            a number, or as for `heatmap`.

    Example:
        >>> compare(base, tuned, metric="kl", names=("base", "tuned")).show()
        >>> compare(logit_lens(model, prompt), logit_lens(model, prompt, lens=lens)).show()
        >>> compare(result, result, prompt_b=1, align="position", metric="rank", of="final").show()
    """
    check_result_kind(LensArrays, a, b)
    if prompt_b is None:
        prompt_b = prompt
    singles = (a[prompt], b[prompt_b])
    if names is None:
        names = _default_names(singles)
    view = View(
        metric=metric,
        of=of,
        stride=stride,
        component=component,
        colors=colors,
        title=title,
        show_all=show_all,
    )
    comparison = pair_results(singles, names, view, align)
    rows = view.choose_rows(comparison.sites).drawn
    panels = _arrange_panels(comparison, rows)
    figure = Figure(_traces(comparison, rows, panels, view))
    _set_layout(figure, comparison, rows, panels, view)
    _set_axes(figure, comparison, rows, panels)
    return figure


def _default_names(singles: tuple[LensArrays, LensArrays]) -> tuple[str, str]:
    """Return the names of two lenses or edits, or "A" and "B" where both are the same."""
    first, second = (single.lens for single in singles)
    same_edits = not have_different_edits(singles)
    if same_edits and (first.kind, first.digest) == (second.kind, second.digest):
        return "A", "B"
    first_name, second_name = lens_names(singles)
    if same_edits:
        return first_name, second_name
    shown = [shortened(name) for name in (first_name, second_name)]
    if shown[0] == shown[1]:
        return "edited (A)", "edited (B)"
    return shown[0], shown[1]


def shortened(name: str) -> str:
    """Return the beginning of a name, as far as a panel has room for it."""
    return name if len(name) <= LABEL_WIDTH else f"{name[: LABEL_WIDTH - 1].rstrip()}…"


def _arrange_panels(comparison: Comparison, rows: list[int]) -> Panels:
    """Place three panels for these rows."""
    first_texts, second_texts = (side.single.tokens.text for side in comparison.sides)
    return Panels.arrange(comparison.n_tokens, len(rows), first_texts != second_texts)


# -- traces ------------------------------------------------------------


def _traces(
    comparison: Comparison, rows: list[int], panels: Panels, view: View
) -> list[dict[str, Any]]:
    """Return the cells of the three panels, and the black words of the first two."""
    vocab = max(vocab_size(side.single) for side in comparison.sides)
    both_values = np.stack([side.colored_values for side in comparison.sides])
    axis = color_axis(view.metric, both_values, vocab)
    scale = {"colorscale": view.colorscale(), **axis.limits}
    bar_title = {"text": escape_plotly(comparison.value_label), "side": "right"}
    color_bar = {"title": bar_title, **axis.bar, **panels.color_bar(0, 1)}
    cells = {
        "type": "heatmap",
        "customdata": hover_texts(comparison, rows),
        "hovertemplate": HOVER_TEMPLATE,
        "hoverongaps": True,
        "xgap": 1,
        "ygap": 1,
    }
    first = cells | scale | {"z": axis.values[0, rows], "showscale": False} | _axis_names(0)
    second = cells | scale | {"z": axis.values[1, rows], "colorbar": color_bar} | _axis_names(1)
    difference = cells | _difference_cells(comparison, rows, panels) | _axis_names(2)
    if not panels.have_words:
        return [first, second, difference]
    worded_first = split_words_by_contrast(first | {"text": _words(comparison.first, rows)})
    worded_second = split_words_by_contrast(second | {"text": _words(comparison.second, rows)})
    return [
        worded_first.cells,
        worded_second.cells,
        difference,
        worded_first.black_words,
        worded_second.black_words,
    ]


def _axis_names(number: int) -> dict[str, str]:
    """Return the names of the axes of a panel, numbered from 0, as plotly counts them."""
    return {"xaxis": f"x{number + 1}", "yaxis": f"y{number + 1}"}


def _difference_cells(comparison: Comparison, rows: list[int], panels: Panels) -> dict[str, Any]:
    """Return the colours of the difference, the same to both sides of a white zero.

    Blue is where the first side is better: higher, or lower where a metric is good if it is low.
    """
    difference = comparison.colored_difference
    limit = _largest_difference(difference)
    title = {"text": difference_title(comparison), "side": "right"}
    return {
        "z": np.clip(difference, -limit, limit)[rows],
        "colorscale": _difference_scale(comparison.metric),
        "zmin": -limit,
        "zmax": limit,
        "colorbar": {"title": title, **panels.color_bar(2, 2)},
    }


def _difference_scale(metric: str) -> list[list[Any]]:
    """Return the colours from the lowest difference to the highest."""
    if METRICS[metric].better != "low":
        return DIVERGING
    colors = [color for _, color in reversed(DIVERGING)]
    fractions = [fraction for fraction, _ in DIVERGING]
    return [list(point) for point in zip(fractions, colors, strict=True)]


def _largest_difference(difference: Array) -> float:
    """Return the largest finite |difference|, or 1 where all are 0: a scale must not be empty."""
    finite = difference[np.isfinite(difference)]
    return float(np.abs(finite).max(initial=0)) or 1.0


def _words(side: Side, rows: list[int]) -> list[list[str]]:
    """Return the top-1 tokens that are written in one side's cells."""
    return cell_words(
        side.single, [side.single.top_ids[side.site_indices[row], :, 0] for row in rows]
    )


# -- layout ------------------------------------------------------------


def _set_layout(
    figure: go.Figure, comparison: Comparison, rows: list[int], panels: Panels, view: View
) -> None:
    """Set the size of the figure, its margins and its title."""
    first, second = comparison.sides
    title = view.title_or(
        f"{first.label} and {second.label}: {escape_plotly(comparison.value_label)}"
    )
    lines = source_lines(comparison, rows, view.component)
    margin_left = row_label_margin(_row_labels(comparison, rows))
    margin_above = 58 + 17 * len(lines) + NAME_HEIGHT
    height = margin_above + panels.height + panels.room_below
    figure.update_layout(
        template="plotly_white",
        title=title_layout(title, "<br>".join(lines), height),
        width=margin_left + panels.width + COLOR_BAR_WIDTH,
        height=height,
        margin={
            "l": margin_left,
            "r": COLOR_BAR_WIDTH,
            "t": margin_above,
            "b": panels.room_below,
        },
        font=FONT,
        plot_bgcolor=GREY,
        hoverlabel={"align": "left"},
    )


def _set_axes(figure: go.Figure, comparison: Comparison, rows: list[int], panels: Panels) -> None:
    """Set the axes of each panel, and write its name above it."""
    row_labels = _row_labels(comparison, rows)
    row_title = "layer" if components(comparison.sites) == ["resid_post"] else "site"
    positions = comparison.first.single.tokens.position.tolist()
    names = [comparison.first.label, comparison.second.label, comparison.difference_label]
    for number, (name, columns) in enumerate(zip(names, _columns(comparison), strict=True)):
        token_axis = token_ticks(columns, positions, "input token", panels.panel_width)
        figure.update_layout(panels.axes(number, token_axis, row_labels, row_title))
        figure.add_annotation(panels.name_annotation(number, name))
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)


def _row_labels(comparison: Comparison, rows: list[int]) -> list[str]:
    """Return what each row is called, from the lowest row up."""
    sites = comparison.sites
    return [escape_plotly(sites[row]) for row in rows]


def _columns(comparison: Comparison) -> list[list[tuple[str, ...]]]:
    """Return the texts of the columns of each panel; the third shows both where they differ."""
    first_texts, second_texts = (side.single.tokens.text for side in comparison.sides)
    pairs = zip(first_texts, second_texts, strict=True)
    first_names, second_names = (token_names(side.single) for side in comparison.sides)
    return [
        [(name,) for name in first_names],
        [(name,) for name in second_names],
        [tuple(dict.fromkeys(pair)) for pair in pairs],
    ]
