"""How all figures look: font, colours, titles, frames round cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import escape_plotly

FONT = {"family": "Inter, Helvetica, Arial, sans-serif", "size": 12}

# Okabe & Ito, "Color Universal Design" (2008): told apart by the colour-blind; the yellow last, it is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star")

# Below the title, above the cells.
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}

BORDER = 0.04  # round the cells, in columns, so that no outline is cut

NAMES = {LensArrays: "LensResult", AttributionArrays: "Attribution"}
FIGURES = {
    LensArrays: "heatmap, trajectory, top_tokens, rank_flow, layer_profile and compare",
    AttributionArrays: "attribution_bars, head_grid and source_map",
}


def expect(kind: type, *results: Any) -> None:
    """Refuse a result of another kind than a figure is of.

    Raises:
        TypeError: one is; the message says which figures it has.
    """
    for result in results:
        if not isinstance(result, kind):
            received = type(result).__name__
            fitting = next(
                (names for sort, names in FIGURES.items() if isinstance(result, sort)), None
            )
            todo = f": the figures of {received} are {fitting}" if fitting else ""
            raise TypeError(f"received {received}, expected {NAMES[kind]}{todo}.")


def heading(result: LensArrays, text: str, *notes: str) -> dict[str, Any]:
    """A figure's title: the text, and below it where the numbers come from."""
    return {
        "text": text,
        "subtitle": {"text": provenance_line(result, *notes)},
        "x": 0.02,
        "xanchor": "left",
    }


def provenance_line(result: LensArrays, *notes: str) -> str:
    """The model, whether it is certified, notes, and what must be said."""
    model = escape_plotly(str(result.provenance.get("model", "model")))
    proven = (
        ", certified"
        if result.certificate is not None and result.certificate.passed and result.normed
        else ""
    )
    said = "".join(f", {note}" for note in notes if note)
    return model + proven + said + (f" <b>{escape_plotly(result.mark)}</b>" if result.mark else "")


def outline(
    cells: Iterable[tuple[float, float, float]], name: str, width: float = 2
) -> list[dict[str, Any]]:
    """A frame round each run of cells (column, first row, last row) as two traces: black in white, so that it is seen
    on every colour."""
    x: list[float | None] = [None]  # of no point at all plotly would drop the legend
    y: list[float | None] = [None]
    for column, first, last in cells:
        x += [*(column + side for side in (-0.5, 0.5, 0.5, -0.5, -0.5)), None]
        y += [*(first - 0.5, first - 0.5, last + 0.5, last + 0.5, first - 0.5), None]
    look = {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "skip",
        "name": name,
        "legendgroup": name,
        "x": x,
        "y": y,
    }
    return [
        look | {"line": {"color": "white", "width": width + 3}, "showlegend": False},
        look | {"line": {"color": "black", "width": width}, "showlegend": True},
    ]
