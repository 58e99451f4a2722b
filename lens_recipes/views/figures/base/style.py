"""The look that all figures share: font, colours, titles; and which figures a result has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.certificate import verdict
from lens_recipes.arrays.edits.words import EDITS_NAMED, edit_in_words
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.survey.arrays import SurveyArrays
from lens_recipes.arrays.text import escape_plotly
from lens_recipes.views.summaries.trust import UNFITTED_MARK, unfitted_sentence
from lens_recipes.views.words import lens_beside, shown_edits

FONT = {"family": "Inter, Helvetica, Arial, sans-serif", "size": 12}

# Okabe & Ito, "Color Universal Design" (2008): colour-blind people can tell them apart. The yellow
# comes last, because it is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")

# The legend stands below the title and above the cells.
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}

# A hover shows the text of its cell or point, without the name of the trace beside it.
HOVER_TEMPLATE = "%{customdata}<extra></extra>"

MARGIN_BELOW = 60  # pixels below panels
TITLE_BASELINE = 38  # pixels from the upper edge
SUBTITLE_LINE = 17  # pixels of each line below a title
EDIT_LETTERS = 82  # of the name of an edit, in a line of its own

# Around a text that may be written from right to left, so that the rest of the line stays in order.
BIDI_START, BIDI_END = "\u2068", "\u2069"

RESULT_NAMES = {LensArrays: "LensResult", AttributionArrays: "Attribution", SurveyArrays: "Survey"}
FIGURE_NAMES = {
    LensArrays: "heatmap, trajectory, top_tokens, rank_flow, layer_profile and compare, and of a "
    "prompt with images image_heatmap and object_map",
    AttributionArrays: "attribution_bars, head_grid and source_map",
    SurveyArrays: "accuracy_curve, emergence_curve, rank_curve, depth_histogram and survey_heatmap",
}


def panels_layout(title_texts: dict[str, Any], panels_height: int, space: int) -> dict[str, Any]:
    """Return the layout of panels that stand one below the other, with a title above them.

    Args:
        title_texts: The title, without its place.
        panels_height: Pixels of all panels.
        space: Pixels between the title and the first panel.
    """
    margin_above = title_height(title_texts) + space
    height = panels_height + margin_above + MARGIN_BELOW
    return {
        "template": "plotly_white",
        "title": at_the_top(title_texts, height),
        "width": 980,
        "height": height,
        "margin": {"l": 80, "r": 30, "t": margin_above, "b": MARGIN_BELOW},
        "font": FONT,
        "hoverlabel": {"align": "left"},
    }


def check_result_kind(expected: type, *results: Any) -> None:
    """Check that every result is of the kind that a figure draws.

    Raises:
        TypeError: one is of another kind; the message names the figures that this kind has.
        ValueError: one is a part of a survey without any item.
    """
    for result in results:
        if isinstance(result, SurveyArrays):
            result.check_has_items()
        if isinstance(result, expected):
            continue
        received = type(result).__name__
        message = f"received {received}, expected {RESULT_NAMES[expected]}"
        for kind, figure_names in FIGURE_NAMES.items():
            if isinstance(result, kind):
                message += f": the figures of {received} are {figure_names}"
        raise TypeError(f"{message}.")


def figure_title(
    result: LensArrays,
    text: str,
    *notes: str,
    prompt: str = "",
    warning: str = "",
    tokens: Sequence[int] | None = None,
    has_marks: bool = False,
    height: int | None = None,
) -> dict[str, Any]:
    """Return a figure's title, with lines below it that say where the numbers come from.

    Args:
        result: The result that is drawn.
        text: The title.
        notes: More for the line of the model and its certificate; empty ones are left out.
        prompt: What the figure is about, a line of its own; empty for none.
        warning: What cannot be believed, a line of its own; empty for none.
        tokens: Indices of the tokens that the figure shows; None for all.
        has_marks: Whether the figure marks tokens at whose position the lens was never fitted.
        height: As for `title_layout`.
    """
    lines = [provenance_line(result, *notes), *edited_lines(result)]
    if prompt:
        lines.insert(0, quoted(prompt))
    if warning:
        lines.append(f"<b>{escape_plotly(warning)}</b>")
    unfitted = unfitted_sentence(result, tokens)
    if unfitted:
        lines.append(f"<b>{UNFITTED_MARK} {unfitted}</b>" if has_marks else f"<b>{unfitted}</b>")
    return title_layout(text, "<br>".join(lines), height)


def quoted(text: str) -> str:
    """Return a text in quotation marks for plotly; it turns nothing round that stands beside it."""
    return f"“{BIDI_START}{escape_plotly(text)}{BIDI_END}”"


def title_height(title: dict[str, Any]) -> int:
    """Return how many pixels a title needs that stands at a fixed distance from the upper edge."""
    n_lines = title["subtitle"]["text"].count("<br>") + 1
    return TITLE_BASELINE + SUBTITLE_LINE * n_lines


def title_layout(text: str, subtitle: str, height: int | None = None) -> dict[str, Any]:
    """Return plotly's layout of a title and the smaller lines below it.

    `height` is the height of the figure in pixels. With it, the title stands at a fixed distance
    from the upper edge; without it, plotly centres the title in the upper margin.
    """
    layout = {"text": text, "subtitle": {"text": subtitle}, "x": 0.02, "xanchor": "left"}
    if height is not None:
        return at_the_top(layout, height)
    return layout


def at_the_top(title: dict[str, Any], height: int) -> dict[str, Any]:
    """Return a title that stands at a fixed distance from the upper edge of so high a figure."""
    return title | {"y": 1 - TITLE_BASELINE / height, "yanchor": "bottom"}


def edited_lines(result: LensArrays | AttributionArrays) -> list[str]:
    """Return the lines below a title that say what was edited; none for a plain run.

    Each of the first edits has a line, which also fits above a narrow map.
    """
    edits = shown_edits(result)
    lines = [f"edited: {edit_in_words(edit, EDIT_LETTERS)}" for edit in edits[:EDITS_NAMED]]
    left_out = len(edits) - EDITS_NAMED
    if left_out > 0:
        lines.append(f"edited: and {left_out} more")
    return [f"<b>{BIDI_START}{escape_plotly(line)}{BIDI_END}</b>" for line in lines]


def edited_height(result: LensArrays | AttributionArrays) -> int:
    """Return how many pixels those lines take."""
    return SUBTITLE_LINE * len(edited_lines(result))


def provenance_line(result: LensArrays | AttributionArrays, *notes: str) -> str:
    """Return the model, the lens unless it is the logit lens, the certificate's verdict, the notes.

    The result's warning comes last.
    """
    model = str(result.provenance.get("model", "model"))
    parts = [escape_plotly(model) + lens_beside(result)]
    proof = verdict(result)
    if proof != "not certified":  # the mark says that
        parts.append(proof)
    parts.extend(filter(None, notes))
    line = ", ".join(parts)
    if result.mark:
        line += f" <b>{escape_plotly(result.mark)}</b>"
    return line
