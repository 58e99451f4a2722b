"""Show a result in a notebook: its summary, and a table small enough to be kept in the file."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays, by_size
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import DIVERGING, METRICS
from lens_recipes.arrays.sites import UNORDERED, are_vectors, main_component, site_label
from lens_recipes.arrays.text import visible_token
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.figures.base.contrast import contrast_color, hexadecimal
from lens_recipes.views.figures.base.unreadable import GREY, GREY_INK
from lens_recipes.views.pages.html import template
from lens_recipes.views.summaries.attribution import attribution_summary
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.summaries.trust import cannot, unfitted_sentence, unreadable_sentence
from lens_recipes.views.words import (
    after_token,
    certificate_line,
    edited,
    minus,
    part_name,
    probability,
    signed,
    whole_text,
)

MAX_ROWS, MAX_COLUMNS, MAX_BARS = 12, 12, 10

UNKNOWN_COLOR = "#9a9a9a"  # below a cell whose probability is not a number


def lens_html(result: LensArrays) -> str:
    """Return the summary and a map of the first prompt: every n-th layer by its last tokens."""
    return fill_template(result, lens_summary(result), token_map=token_map(result))


def attribution_html(result: AttributionArrays) -> str:
    """Return the summary and the largest parts of the first prompt's first target as bars."""
    return fill_template(result, attribution_summary(result), chart=bar_chart(result[0]))


def fill_template(
    result: LensArrays | AttributionArrays,
    summary: str,
    *,
    token_map: TokenMap | None = None,
    chart: BarChart | None = None,
) -> str:
    """Return the HTML of a summary, a table and the certificate."""
    certificate = ""
    if result.certificate is not None and result.certificate.passed:
        certificate = certificate_line(result)
    return template("notebook.html.j2").render(
        mark=sentence(result.mark),
        edited=sentence(edited(result)),
        summary=escape_terminal(summary),
        certificate=sentence(certificate),
        lens=sentence(lens_line(result)),
        map=token_map,
        chart=chart,
    )


def sentence(text: str) -> str:
    """Return a text that stands outside of <code>: there Jupyter would take a $ for TeX."""
    return escape_terminal(text).replace("$", "⟨24⟩")


# -- a lens ------------------------------------------------------------


class Cell(NamedTuple):
    """A top token, and the colours of its background and its letters."""

    word: str
    hover: str
    background: str
    ink: str
    is_answer: bool


class MapRow(NamedTuple):
    """The cells of a site; `is_layer` says that its name is the number of a layer."""

    name: str
    is_layer: bool
    cells: list[Cell]


class TokenMap(NamedTuple):
    """The top tokens of some sites and tokens.

    `extent` says how many of how many are shown, `trust` which layers cannot be read, and
    `unfitted` which tokens stand where the lens was never fitted.
    """

    of_vectors: bool
    columns: list[str]
    rows: list[MapRow]
    extent: str
    trust: str
    unfitted: str


def token_map(result: LensArrays) -> TokenMap | None:
    """Return the map of the first prompt, or None where no token was read."""
    single = result[0]
    n_tokens = len(single.tokens)
    if n_tokens == 0:
        return None
    vectors = are_vectors(single.sites)
    tokens = range(n_tokens)[-MAX_COLUMNS:]
    if vectors:
        tokens = range(n_tokens)[:MAX_COLUMNS]
    main = main_component(single.sites)
    main_sites = [
        index for index, site in enumerate(single.sites) if main in (None, site.component)
    ]
    stride = math.ceil(len(main_sites) / MAX_ROWS)
    if main is None or main in UNORDERED:  # no order to leave every second one out of
        stride = 1
    shown_sites = main_sites[::-stride][:MAX_ROWS]  # the last first, as in the heatmap
    extent = [some_of(len(tokens), n_tokens, "vector" if vectors else "token")]
    if not vectors:
        row_name = "layer" if main == "resid_post" else "site"
        extent.insert(0, some_of(len(shown_sites), len(main_sites), row_name))
    if len(result) > 1:
        extent.append(f"prompt 0 of {len(result)}")
    rows = []
    for site in shown_sites:
        cells = [map_cell(single, site, token) for token in tokens]
        name = whole_text(site_label(single.sites[site])).replace("·", " ")
        rows.append(MapRow(name, single.sites[site].component == "resid_post", cells))
    columns = [visible_token(single.tokens.text[token]) for token in tokens]
    trust = unreadable_sentence(single, list(tokens))
    unfitted = unfitted_sentence(single, list(tokens))
    return TokenMap(vectors, columns, rows, ", ".join(extent), trust, unfitted)


def map_cell(single: LensArrays, site: int, token: int) -> Cell:
    """Return the cell of one site and token."""
    token_ids, logprobs = single.top_ids[site, token], single.top_logprobs[site, token]
    hover = []
    for token_id, logprob in zip(token_ids[:3], logprobs[:3], strict=True):
        hover.append(f"{visible_token(single.text(token_id), 20)} {probability(logprob)}")
    background = probability_color(float(np.exp(logprobs[0])))
    ink = contrast_color(background)
    is_readable = bool(single.readable[site, token])
    if not is_readable:
        background, ink = GREY, GREY_INK
        hover.append(cannot(single))
    return Cell(
        word=visible_token(single.text(token_ids[0])),
        hover=", ".join(hover),
        background=background,
        ink=ink,
        is_answer=is_readable and bool(single.final_ranks[site, token] == 0),
    )


def some_of(shown: int, count: int, name: str) -> str:
    """Say how many things are shown: "10 of 30 layers", "3 layers"."""
    if shown < count:
        return f"{shown} of {count} {name}s"
    return f"1 {name}" if shown == 1 else f"{shown} {name}s"


def probability_color(probability: float) -> str:
    """Return the colour of a probability as "#rrggbb"."""
    from plotly.colors import sample_colorscale

    if not math.isfinite(probability):
        return UNKNOWN_COLOR
    scale = METRICS["prob"].colors
    (rgb,) = sample_colorscale(scale, [min(probability, 1)], colortype="tuple")
    return hexadecimal(rgb)


# -- an attribution ----------------------------------------------------


class Bar(NamedTuple):
    """A part: its value in logits, and the length of its bar as a share of the longest one."""

    name: str
    value: str
    helps: bool
    length: float
    color: str


class BarChart(NamedTuple):
    """The largest parts, the sum of the others, and the total of one target after one token."""

    bars: list[Bar]
    target: str
    place: str
    n_targets: int


@np.errstate(invalid="ignore")  # ∞ − ∞ is shown as what it is
def bar_chart(single: AttributionArrays) -> BarChart | None:
    """Return the parts of the first target after the last token, or None where there are none."""
    token = len(single.tokens) - 1
    n_targets = single.target_ids.shape[1]
    if token < 0 or n_targets == 0:
        return None
    values = single.values[:, token, 0]
    order = by_size(values)
    largest, others = order[:MAX_BARS], order[MAX_BARS:]
    longest = float(np.max(np.abs(values), where=np.isfinite(values), initial=1e-6))
    bars = []
    for part in largest:
        bars.append(value_bar(part_name(single, single.parts[part]), float(values[part]), longest))
    if others:
        others_name = f"all the others ({len(others)})"
        bars.append(value_bar(others_name, float(values[others].sum()), math.inf))
    bars.append(value_bar("total", float(single.total[token, 0]), math.inf))
    return BarChart(bars, single.target_name(), after_token(single, token), n_targets)


def value_bar(name: str, value: float, longest: float) -> Bar:
    """Return a bar, of length 0 where the value is not finite or `longest` is infinite."""
    length = 0.0
    if math.isfinite(value):
        length = abs(value) / longest
    helps = value > 0
    _, color = DIVERGING[-1] if helps else DIVERGING[0]
    return Bar(name, minus(signed(value)), helps, length, str(color))
