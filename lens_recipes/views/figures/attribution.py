"""An attribution as a plotly figure: numpy and strings in, `go.Figure` out; no model, nothing shown."""

from __future__ import annotations

import math

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.attribution import AttributionArrays, by_size, locate
from lens_recipes.arrays.metrics import DIVERGING
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.style import FONT, expect
from lens_recipes.views.groups import source_groups
from lens_recipes.views.words import after_token, part_name, prompt_end, signed

HURTS, HELPS = DIVERGING[0][1], DIVERGING[-1][1]

REST = "#9a9a9a"

ABSENT = "#d9d9d9"  # under the cells that there are none of: not the white of a zero

NUMBERS_SHOWN = 10  # in a map's cells

LABELS_SHOWN = 44  # along an axis of layers or heads


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def attribution_bars(
    result: AttributionArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    target: int = 0,
    top: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """The largest parts of one logit as bars, and all the others as one, so that the bars sum to the total.

    Embedding and bias are always there. `unit="layer"` stands in the order of the model, and so does
    `unit="component"` where no part is left out; otherwise the largest |value| comes first.

    Args:
        result: Any attribution.
        prompt: Which prompt.
        position: Which of its selected tokens, an index into them; −1 is the last.
        target: Which target, an index.
        top: Bars, besides embedding and bias. None: 20, and for `unit="layer"` all up to 100.
        title: Replaces the figure's own.

    Raises:
        ValueError: `top` below 1, or no such prompt, token or target.

    Example:
        >>> attribution_bars(result, target=1).show()
    """
    expect(AttributionArrays, result)
    if top is None:
        top = 100 if result.unit == "layer" else 20
    if top < 1:
        raise ValueError(f"top={top} must be at least 1.")
    one, t, k = locate(result, prompt, position, target)
    values = one.values[:, t, k]
    order = by_size(values)
    always = [p for p, part in enumerate(one.parts) if part.component in ("embed", "bias")]
    chosen = [p for p in order if p not in always][:top] + always
    rest = sorted(set(order) - set(chosen))
    if one.unit == "layer" or (one.unit == "component" and not rest):
        chosen.sort()
    else:
        chosen.sort(key=order.index)
    bars = [(part_name(one, one.parts[p], plotly_safe), float(values[p])) for p in chosen]
    if rest:
        bars.append((f"all the others ({len(rest)})", float(values[rest].sum())))
    names = [
        name if math.isfinite(value) else f"{name}: {value}" for name, value in bars
    ]  # no bar is drawn for it
    lengths = [value for _, value in bars]
    colors = [HELPS if value >= 0 else HURTS for value in lengths]
    finite = _finite(np.array(lengths))
    room = (
        0.12 * (np.nanmax(finite, initial=0) - np.nanmin(finite, initial=0)) + 1e-6
    )  # for the numbers at the ends
    figure = go.Figure(
        go.Bar(
            x=finite,
            y=list(range(len(bars))),
            orientation="h",
            marker={"color": [*colors[: len(chosen)], REST][: len(bars)]},
            text=[signed(value) for value in lengths],
            textposition="outside",
            cliponaxis=False,
            customdata=[f"<b>{name}</b><br>{signed(value)} logits" for name, value in bars],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    _dress(
        figure,
        one,
        t,
        k,
        title,
        "the largest parts" if rest else "all parts",
        width=860,
        height=190 + 23 * len(bars),
    )
    figure.update_xaxes(
        title_text=f"logits towards {_target(one, k)}",
        range=[np.nanmin(finite, initial=0) - room, np.nanmax(finite, initial=0) + room],
        zerolinecolor="#444444",
    )
    figure.update_yaxes(
        tickvals=list(range(len(bars))),
        ticktext=names,
        range=[len(bars) - 0.4, -0.6],
        automargin=True,
        showgrid=False,
    )
    return figure


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def head_grid(
    result: AttributionArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    target: int = 0,
    title: str | None = None,
) -> go.Figure:
    """Layers × heads, coloured by what each head adds to one logit; grey where a layer has no such head.

    Raises:
        ValueError: the unit is neither "head" nor "token", or no such prompt, token or target.
    """
    expect(AttributionArrays, result)
    layers, z = result.grid(prompt, position, target)
    one, t, k = locate(result, prompt, position, target)
    there = {(part.layer, part.head) for part in one.parts if part.head is not None}
    cells = [
        (row, head)
        for row, layer in enumerate(layers)
        for head in range(z.shape[1])
        if (layer, head) in there
    ]
    order = by_size(np.array([z[cell] for cell in cells]))
    hover = [
        [f"layer {layer} has no head {head}" for head in range(z.shape[1])] for layer in layers
    ]
    for number, (row, head) in enumerate((cells[i] for i in order), start=1):
        hover[row][head] = (
            f"<b>layer {layers[row]}, head {head}</b><br>{signed(z[row, head])} logits<br>"
            f"number {number} of {len(cells)} heads by size"
        )
    figure = go.Figure(_map(z, hover))
    note = f"all heads {signed(np.nansum(z))}"
    _dress(
        figure,
        one,
        t,
        k,
        title,
        "what each head adds",
        note,
        width=_width(z.shape[1]),
        height=_height(len(layers)),
    )
    _layer_axis(figure, layers)
    columns = range(0, z.shape[1], math.ceil(z.shape[1] / LABELS_SHOWN))
    figure.update_xaxes(
        title_text="head", tickvals=list(columns), ticktext=list(map(str, columns)), tickangle=0
    )
    return figure


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def source_map(
    result: AttributionArrays,
    *,
    prompt: int = 0,
    position: int = -1,
    target: int = 0,
    head: int | None = None,
    title: str | None = None,
) -> go.Figure:
    """Source tokens × layers, coloured by what the heads read there and added to one logit.

    `head` takes that head of every layer; None sums over all of them. What does not come from a token by way of
    attention (embedding, MLPs, biases) is not in the map: the subtitle says how much is.

    Raises:
        ValueError: the unit is not "token", or no such head, prompt, token or target.
    """
    expect(AttributionArrays, result)
    if result.unit != "token":
        raise ValueError(
            f'unit={result.unit!r} does not tell source tokens apart: run the recipe with unit="token".'
        )
    one, t, k = locate(result, prompt, position, target)
    heads = sorted(
        {part.head for part in one.parts if part.head is not None and part.source is not None}
    )
    if head is not None and head not in heads:
        raise ValueError(
            f"head={head} is not in this result: accepted are {', '.join(map(str, heads)) or 'none'}."
        )
    layers, z = source_groups(one, one.values[:, t, k], head)
    reads = z[~np.isnan(z).all(1)]
    z = z[
        :, : 1 + max([one.tokens.position[t], *np.flatnonzero((reads != 0).any(0))])
    ]  # not what comes after it
    texts = one.sources[0][: z.shape[1]]
    hover = [
        [
            f"<b>layer {layer}</b>, read from token {s}, {plotly_safe(text, 40)}<br>{signed(z[row, s])} logits"
            for s, text in enumerate(texts)
        ]
        for row, layer in enumerate(layers)
    ]
    figure = go.Figure(_map(z, hover))
    what = (
        f"what {'all heads' if head is None else f'head {head} of each layer'} read from each token"
    )
    note = f"in this map {signed(np.nansum(z))}"
    _dress(
        figure, one, t, k, title, what, note, width=_width(len(texts)), height=_height(len(layers))
    )
    _layer_axis(figure, layers)
    upright = len(texts) <= 24
    columns = range(0, len(texts), math.ceil(len(texts) / 150))
    names = [plotly_safe(texts[s]) for s in columns]
    figure.update_xaxes(
        title_text="token that is read from",
        tickvals=list(columns),
        ticktext=[
            f"{name}<br><sub>{s}</sub>" if upright else name
            for s, name in zip(columns, names, strict=True)
        ],
        tickangle=0 if upright else 90,
    )
    return figure


# -- what the figures share --------------------------------------------


def _map(z: np.ndarray, hover: list[list[str]]) -> go.Heatmap:
    """Cells on a scale that is the same to both sides of a white zero, the largest with their numbers."""
    finite = _finite(z)
    limit = _limit(finite)
    text = np.full(z.size, "", dtype=object)
    for cell in by_size(np.nan_to_num(finite, nan=0).reshape(-1))[:NUMBERS_SHOWN]:
        text[cell] = signed(z.reshape(-1)[cell]) if finite.reshape(-1)[cell] else ""
    return go.Heatmap(
        z=finite,
        x=list(range(z.shape[1])),
        y=list(range(z.shape[0])),
        text=text.reshape(z.shape).tolist(),
        texttemplate="%{text}",
        textfont={"size": 10},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        hoverongaps=True,
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        colorbar={"title": {"text": "logits", "side": "right"}, "tickformat": "~g"},
        xgap=1,
        ygap=1,
    )


def _dress(
    figure: go.Figure,
    one: AttributionArrays,
    t: int,
    k: int,
    title: str | None,
    what: str,
    note: str = "",
    **size: int,
) -> None:
    """Title, and below it where this is, what the total is, of which model, and whether that is certified."""
    target = _target(one, k)
    heading = title if title is not None else f"{target}: {what}"
    where = f"{_prompt(one)}, {after_token(one, t, plotly_safe)}"
    logit, capped = float(one.logit[t, k]), float(one.capped_logit[t, k])
    sums = [
        f"total {signed(one.total[t, k])} after layer {one.at_layer}",
        *([note] if note else []),
        f"logit {signed(logit)}",
    ]
    if signed(capped) != signed(logit):
        sums.append(f"{signed(capped)} after the softcap")
    proven = ", certified" if one.certificate is not None and one.certificate.passed else ""
    mark = f" <b>{escape_plotly(one.mark)}</b>" if one.mark else ""
    model = escape_plotly(str(one.provenance.get("model", "model")))
    subtitle = f"{where}<br>{'; '.join(sums)}<br>{model}{proven}{mark}"
    figure.update_layout(
        template="plotly_white",
        title={"text": heading, "subtitle": {"text": subtitle}, "x": 0.02, "xanchor": "left"},
        margin={"l": 60, "r": 20, "t": 130, "b": 70},
        font=FONT,
        **size,
    )


def _layer_axis(figure: go.Figure, layers: list[int]) -> None:
    rows = range(
        len(layers) - 1, -1, -math.ceil(len(layers) / LABELS_SHOWN)
    )  # the last is always named
    figure.update_yaxes(
        title_text="layer", tickvals=list(rows), ticktext=[str(layers[row]) for row in rows]
    )
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    figure.update_layout(plot_bgcolor=ABSENT)


def _width(columns: int) -> int:
    return min(max(720, 190 + 48 * columns), 2400)


def _height(rows: int) -> int:
    return 240 + (24 if rows <= LABELS_SHOWN else 14) * rows


def _prompt(one: AttributionArrays) -> str:
    return plotly_safe(prompt_end(one.prompts[0]), 60).replace("·", " ")


def _target(one: AttributionArrays, k: int) -> str:
    return one.target_name(0, k, show=plotly_safe)


def _finite(z: np.ndarray) -> np.ndarray:
    """NaN in place of infinities, which a scale cannot hold."""
    return np.where(np.isfinite(z), z, np.nan).astype(np.float64)


def _limit(finite: np.ndarray) -> float:
    """The largest |value|, to which a scale reaches on both sides; above 0."""
    return max(float(np.nanmax(np.abs(finite), initial=0)), 1e-6)
