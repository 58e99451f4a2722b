"""`lens_quality_figure()`: how far lenses can be believed, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from lens_recipes.arrays.text import escape_plotly
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.views.figures.base.color import faint
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import (
    HOVER_TEMPLATE,
    LEGEND,
    panels_layout,
    title_layout,
)
from lens_recipes.views.figures.compare.alignment_panel import AXIS, alignment_traces
from lens_recipes.views.figures.compare.lens_lines import (
    Line,
    Measured,
    lens_lines,
    logit_lines,
    measured_lens,
    name_all,
)
from lens_recipes.views.words import prompt_end

PANEL_HEIGHT = 230  # pixels
PANEL_GAP = 34  # pixels
LEGEND_HEIGHT = 30  # pixels below the title
TICKS = 16  # layers with a label, at most
NAME_LETTERS = 60


def lens_quality_figure(
    *lenses: Any, names: Sequence[str] | None = None, title: str | None = None
) -> go.Figure:
    """Draw how far lenses can be believed at each layer: KL to the output, and top-1 agreement.

    Each lens has a line, and so has the logit lens on the same held-out tokens. A band spans two
    fits of a lens on halves of its text: how far a refit would move it. The axis of KL is
    logarithmic. Where `lens_alignment` was measured, a third panel has it in its interval, and
    its control as a dotted line.

    Args:
        lenses: What was measured: lenses, what `lens_quality` returns, or results that were read
            with such lenses.
        names: What to call them. None for the kind of each.
        title: Replaces the figure's own.

    Raises:
        TypeError: none of these.
        ValueError: a lens that was not measured, none at all, or not a name for each.

    Example:
        >>> lens = load_lens("lens.safetensors")
        >>> lens_quality_figure(lens, load_lens("other.safetensors"), names=["A", "B"]).show()
    """
    measured = name_all([measured_lens(lens) for lens in lenses], names)
    lines = [*logit_lines(measured), *lens_lines(measured)]
    has_alignment = any(line.alignment is not None for line in lines)
    n_panels = 3 if has_alignment else 2
    height = n_panels * PANEL_HEIGHT + (n_panels - 1) * PANEL_GAP
    figure = make_subplots(
        n_panels, 1, figure=Figure(), shared_xaxes=True, vertical_spacing=PANEL_GAP / height
    )
    for line in lines:
        figure.add_traces(_kl_traces(line), rows=1, cols=1)
        figure.add_trace(_agreement_trace(line), row=2, col=1)
        if has_alignment:
            figure.add_traces(alignment_traces(line), rows=3, cols=1)
    if title is None:
        title = "How well lenses transfer"
        if len(measured) == 1:
            title = f"How well the {escape_plotly(measured[0].name)} transfers"
    else:
        title = escape_plotly(title)
    title_texts = title_layout(title, "<br>".join(_subtitle(measured)))
    figure.update_layout(
        panels_layout(title_texts, height, LEGEND_HEIGHT),
        legend=LEGEND,
    )
    figure.update_yaxes(row=1, col=1, **_kl_axis(lines))
    figure.update_yaxes(
        row=2,
        col=1,
        title_text="top-1 as the model",
        title_standoff=8,
        tickformat=".0%",
        range=[-0.02, 1.02],
    )
    figure.update_xaxes(**_layer_axis(lines))
    if has_alignment:
        figure.update_yaxes(row=3, col=1, **AXIS)
    figure.update_xaxes(title_text="layer", row=n_panels, col=1)
    return figure


# -- traces and axes ---------------------------------------------------


def _kl_traces(line: Line) -> list[go.Scatter]:
    """Return the line of KL, above the band between the lowest and the highest refit."""
    drawn = _scatter(line, _on_logarithmic_axis(line.kl), showlegend=True)
    if len(line.refit_kl) < 2:
        return [drawn]
    lowest, highest = line.refit_kl.min(axis=0), line.refit_kl.max(axis=0)
    edge = {
        "x": line.layers,
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": line.name,
    }
    lower_edge = go.Scatter(y=_on_logarithmic_axis(lowest), **edge)
    upper_edge = go.Scatter(
        y=_on_logarithmic_axis(highest), fill="tonexty", fillcolor=faint(line.look["color"]), **edge
    )
    return [lower_edge, upper_edge, drawn]


def _agreement_trace(line: Line) -> go.Scatter:
    """Return the line of top-1 agreement."""
    return _scatter(line, line.agreement, showlegend=False)


def _scatter(line: Line, values: NDArray[np.float64], *, showlegend: bool) -> go.Scatter:
    """Return a line with a point for each layer, which says all that is known there."""
    return go.Scatter(
        x=line.layers,
        y=values,
        name=escape_plotly(prompt_end(line.name, NAME_LETTERS)),
        legendgroup=line.name,
        showlegend=showlegend,
        mode="lines+markers",
        line=line.look,
        marker=line.marker,
        cliponaxis=False,
        customdata=_hover(line),
        hovertemplate=HOVER_TEMPLATE,
    )


def _on_logarithmic_axis(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values for a logarithmic axis; 0 and an infinity have no place on it: NaN, a gap."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)


def _hover(line: Line) -> list[str]:
    """Return what the point of each layer says."""
    hover = []
    name = escape_plotly(prompt_end(line.name, NAME_LETTERS))
    for row, layer in enumerate(line.layers):
        place = "the embedding" if layer == EMBEDDING else f"layer {layer}"
        text = (
            f"<b>{place}</b>, {name}<br>KL to the output {line.kl[row]:.3g} nats"
            f"<br>top-1 as the model {line.agreement[row]:.1%}"
        )
        if len(line.refit_kl) > 0:
            refits = ", ".join(f"{kl:.3g}" for kl in line.refit_kl[:, row])
            text += f"<br>KL of fits on halves of the text {refits}"
        hover.append(text)
    return hover


def _kl_axis(lines: list[Line]) -> dict[str, Any]:
    """Return the axis of KL, as long as all numbers need, with labels at 1, 2 and 5 of a decade."""
    numbers = np.concatenate([np.append(line.kl, line.refit_kl) for line in lines])
    positive = numbers[(numbers > 0) & np.isfinite(numbers)]
    low, high = 0.1, 10.0
    if positive.size > 0:
        low, high = float(positive.min()), float(positive.max())
    ticks = []
    for decade in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        ticks += [float(f"{digit}e{decade}") for digit in (1, 2, 5)]
    return {
        "type": "log",
        "range": [math.log10(low) - 0.05, math.log10(high) + 0.05],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title_text": "KL to the output (nats)",
        "title_standoff": 8,
    }


def _layer_axis(lines: list[Line]) -> dict[str, Any]:
    """Return the axis of layers, on which the embedding is called by its name."""
    all_layers: set[int] = set()
    for line in lines:
        all_layers.update(line.layers)
    layers = sorted(all_layers)
    step = 1 + (layers[-1] - layers[0]) // TICKS
    shown = [layer for layer in layers if layer == EMBEDDING or layer % step == 0]
    if EMBEDDING in shown and step > 1 and 0 in shown:
        shown.remove(0)  # its label would stand upon that of the embedding
    labels = ["embed" if layer == EMBEDDING else str(layer) for layer in shown]
    return {
        "tickvals": shown,
        "ticktext": labels,
        "range": [layers[0] - 0.5, layers[-1] + 0.5],
        "zeroline": False,
    }


# -- words -------------------------------------------------------------


def _subtitle(measured: Sequence[Measured]) -> list[str]:
    """Return on what the lenses were measured, and what a band is."""
    texts = dict.fromkeys(quality.measured_on for _, quality in measured)
    lines = [f"mean over {escape_plotly('; '.join(texts))}"]
    if any(len(quality.refit_kl) > 1 for _, quality in measured):
        lines.append("band: fits on halves of the text")
    pushed = dict.fromkeys(
        quality.alignment.measured_on for _, quality in measured if quality.alignment is not None
    )
    if pushed:
        lines.append(
            f"alignment: cosine of what the lens announces with what the model does, "
            f"{'; '.join(pushed)}; dotted: with random pushes"
        )
    return lines
