"""`paper()` and `caption()`: a figure as it stands in an article, and its words for the caption."""

from __future__ import annotations

import html
import math
import re

import plotly.graph_objects as go

from lens_recipes.views.figures.base.figure import Figure

TITLE_SCALE = 1.3  # how much larger the title of an axis is than its labels
LEGEND_ROOM = 45  # pixels above the picture for a legend and the names of panels
ANNOTATION_ROOM = 30  # pixels above the picture for the names of panels alone
LETTER_SHARE = 0.62  # of the size of its font, which a letter is wide
SMALLEST_PICTURE = 120  # pixels, besides the margins
PLAIN_ROOM = 15  # pixels above the picture where nothing stands there


def caption(figure: go.Figure) -> str:
    """Return the title of a figure, and the lines below it, as plain text for a caption.

    Example:
        >>> print(caption(heatmap(result)))
    """
    title = figure.layout.title
    lines = [title.text or "", *(title.subtitle.text or "").split("<br>")]
    plain = [html.unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in lines]
    sentences = [re.sub("[\u2068\u2069]", "", line) for line in plain if line]
    return ". ".join(sentences) + "." if sentences else ""


def paper(
    figure: go.Figure, *, width: int | None = None, font_size: float | None = None
) -> go.Figure:
    """Return a figure for an article: without its title, in a width and with letters of a size.

    The words of the title go to the caption: see `caption`.

    Args:
        figure: Any figure of this package; it stays as it is.
        width: In pixels, at the scale 1 of `save_png`; None for the figure's own. The height stays,
            and of the labels below the figure so many as have room.
        font_size: In pixels, of all letters; None for their own.

    Raises:
        ValueError: a width or a size that is not positive.

    Example:
        >>> figure = heatmap(result)
        >>> save_png(paper(figure, width=500, font_size=10), "figure.png", scale=4)
        >>> print(caption(figure))
    """
    for name, number in (("width", width), ("font_size", font_size)):
        if number is not None and not number > 0:
            raise ValueError(f"{name}={number!r} must be a positive number of pixels, or None.")
    drawn = Figure(figure)
    _remove_title(drawn)
    if font_size is not None:
        _set_font_size(drawn, font_size)
    if width is not None and drawn.layout.width:
        _set_width(drawn, width)
    return drawn


def _remove_title(figure: go.Figure) -> None:
    """Take the title away, and the room above the picture that was its own."""
    layout = figure.layout
    has_legend = layout.showlegend or any(trace.showlegend for trace in figure.data)
    is_above = layout.legend.orientation in ("h", "v") and layout.legend.yanchor == "bottom"
    room = PLAIN_ROOM
    if has_legend and is_above:
        room = LEGEND_ROOM
    elif any(annotation.yanchor == "bottom" for annotation in layout.annotations):
        room = ANNOTATION_ROOM
    saved = (layout.margin.t or room) - room
    layout.title = None
    if saved > 0:
        layout.margin.t = room
        if layout.height:
            layout.height -= saved


def _set_width(figure: go.Figure, width: int) -> None:
    """Give a figure another width: its margins stay, and what stands in them does."""
    layout = figure.layout
    margins = (layout.margin.l or 80) + (layout.margin.r or 80)
    before = layout.width - margins
    after = max(width - margins, SMALLEST_PICTURE)
    layout.width = after + margins
    for trace in figure.data:
        if "colorbar" in trace and (trace.colorbar.x or 0) > 1:  # a share of the picture's width
            trace.colorbar.x = 1 + (trace.colorbar.x - 1) * before / after
    for axis in figure.select_xaxes():
        first, last = axis.domain or (0, 1)
        _thin_labels(axis, after * (last - first), layout.font.size or 12)


def _thin_labels(axis: go.layout.XAxis, width: float, font_size: float) -> None:
    """Leave every n-th label of an axis, counted from the last, where not all have room."""
    if axis.tickvals is None or axis.tickangle not in (None, 0):
        return
    lines = [line for label in axis.ticktext for line in html.unescape(label).split("<br>")]
    letters = max((len(re.sub(r"<[^>]+>", "", line)) for line in lines), default=0)
    needed = len(axis.tickvals) * (letters + 1) * LETTER_SHARE * font_size
    step = math.ceil(needed / width)
    if step > 1:
        axis.tickvals = list(axis.tickvals)[::-1][::step][::-1]
        axis.ticktext = list(axis.ticktext)[::-1][::step][::-1]


def _set_font_size(figure: go.Figure, size: float) -> None:
    """Give all letters one size, the titles of axes a little larger one, and margins to match."""
    layout = figure.layout
    change = size / (layout.font.size or 12)
    for side in ("l", "r"):
        if layout.margin[side]:
            layout.margin[side] = math.ceil(layout.margin[side] * change)
    if layout.width:
        margins = (layout.margin.l or 0) + (layout.margin.r or 0)
        layout.width += round(margins * (1 - 1 / change))
    layout.font.size = size
    layout.legend.font.size = size
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        axis.tickfont.size = size
        axis.title.font.size = TITLE_SCALE * size
    for annotation in layout.annotations:
        annotation.font.size = size
    for trace in figure.data:
        if hasattr(trace, "textfont"):
            trace.textfont.size = size
        if "colorbar" in trace:
            trace.colorbar.tickfont.size = size
            trace.colorbar.title.font.size = size
