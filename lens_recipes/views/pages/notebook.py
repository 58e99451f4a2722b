"""How a result shows itself in a notebook: its summary, and a table small enough to be kept in the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import DIVERGING, METRICS
from lens_recipes.arrays.sites import UNORDERED, are_vectors, main_component, site_label
from lens_recipes.arrays.text import escape_terminal, visible_token
from lens_recipes.views.figures.base.color import contrast_color, hexadecimal
from lens_recipes.views.pages.html import template
from lens_recipes.views.summaries.attribution import attribution_summary
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.words import after_token, part_name, probability, signed

ROWS, COLUMNS, BARS = 12, 12, 10  # at most

BAR = 160  # pixels, the longest

UNKNOWN = "#9a9a9a"  # under a cell whose probability is not a number


def lens_html(result: LensArrays) -> str:
    """Summary, and every n-th layer × the last tokens of the first prompt, coloured by the top token's probability."""
    return _filled(result, lens_summary(result), map=_map(result), bars=None)


def attribution_html(result: AttributionArrays) -> str:
    """Summary, and the largest parts of the first prompt's first target as bars to both sides."""
    return _filled(result, attribution_summary(result), map=None, bars=_bars(result[0]))


def _filled(result: LensArrays | AttributionArrays, summary: str, **tables: Any) -> str:
    certificate = result.certificate
    return template("notebook.html.j2").render(
        mark=result.mark,
        summary=escape_terminal(summary),
        proof=str(certificate) if certificate is not None and certificate.passed else "",
        **tables,
    )


# -- a lens ------------------------------------------------------------


def _map(result: LensArrays) -> dict[str, Any] | None:
    one = result[0]
    vectors = are_vectors(one.sites)
    every = range(len(one.tokens))
    tokens = every[:COLUMNS] if vectors else every[-COLUMNS:]
    if not tokens:
        return None
    main = main_component(one.sites)
    sites = [s for s, site in enumerate(one.sites) if main in (None, site.component)]
    stride = (
        1 if main is None or main in UNORDERED else math.ceil(len(sites) / ROWS)
    )  # those follow no order
    kept = sites[::-stride][:ROWS]  # the last first, as in the heatmap
    shown = _some(len(tokens), len(every), "vector" if vectors else "token")
    if not vectors:
        shown = (
            f"{_some(len(kept), len(sites), 'layer' if main == 'resid_post' else 'site')}, {shown}"
        )
    if len(result) > 1:
        shown += f", prompt 0 of {len(result)}"
    meant = (
        "the token that a vector says most"
        if vectors
        else "the top token to come after the one above it"
    )
    also = "" if vectors else "; bold is what the model answers"
    return {
        "corner": "vector" if vectors else "after",
        "columns": [visible_token(one.tokens.text[t]) for t in tokens],
        "rows": [
            {"name": site_label(one.sites[s]), "cells": [_cell(one, s, t) for t in tokens]}
            for s in kept
        ],
        "caption": f"{shown}. A cell is {meant}, the brighter the more probable{also}.",
    }


def _cell(one: LensArrays, s: int, t: int) -> dict[str, Any]:
    tops = zip(one.top_ids[s, t, :3], one.top_logprobs[s, t], strict=False)
    ground = _viridis(float(np.exp(one.top_logprobs[s, t, 0])))
    return {
        "word": visible_token(one.text(one.top_ids[s, t, 0])),
        "hover": ", ".join(f"{visible_token(one.text(i), 20)} {probability(p)}" for i, p in tops),
        "ground": ground,
        "ink": contrast_color(ground),
        "answer": one.final_ranks[s, t] == 0,
    }


def _some(n: int, all_of: int, name: str) -> str:
    return f"{n} of {all_of} {name}s" if n < all_of else f"{n} {name}{'' if n == 1 else 's'}"


def _viridis(p: float) -> str:
    from plotly.colors import sample_colorscale

    if not math.isfinite(p):
        return UNKNOWN
    (rgb,) = sample_colorscale(METRICS["prob"].colors, [min(p, 1)], colortype="tuple")
    return hexadecimal(rgb)


# -- an attribution ----------------------------------------------------


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def _bars(one: AttributionArrays) -> dict[str, Any] | None:
    token, n_targets = len(one.tokens) - 1, one.target_ids.shape[1]
    if token < 0 or not n_targets:
        return None
    values = one.values[:, token, 0]
    order = by_size(values)
    largest, rest = order[:BARS], order[BARS:]
    longest = float(np.max(np.abs(values), where=np.isfinite(values), initial=1e-6))
    rows = [_bar(part_name(one, one.parts[p]), float(values[p]), longest) for p in largest]
    if rest:
        rows.append(_bar(f"all the others ({len(rest)})", float(values[rest].sum()), math.inf))
    rows.append(_bar("total", float(one.total[token, 0]), math.inf))
    return {
        "rows": rows,
        "width": BAR,
        "target": one.target_name(),
        "where": after_token(one, token),
        "more": f"; target 0 of {n_targets}" if n_targets > 1 else "",
    }


def _bar(name: str, value: float, longest: float) -> dict[str, Any]:
    """One row of the table, with no bar where the value is no length, or `longest` is infinite."""
    return {
        "name": name,
        "value": signed(value),
        "side": "left"
        if value > 0
        else "right",  # on which it is aligned: what helps grows to the right
        "width": round(BAR * abs(value) / longest) if math.isfinite(value) else 0,
        "color": DIVERGING[-1 if value > 0 else 0][1],
    }
