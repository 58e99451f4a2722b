"""Put the part of plotly.js that our figures use into a page, packed; or all of it.

All of plotly.js is 4.8 MB, three quarters of which draw maps and solids. Its "cartesian" part, as
plotly's own authors build it, is 1.5 MB, and 0.7 MB packed. `docs/plotly_js.py` brings the files
of this folder.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib import resources
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lens_recipes.views.policy import script_hash

# What the part draws: https://github.com/plotly/plotly.js/blob/v4.1.1/lib/index-cartesian.js
TRACE_TYPES = frozenset(
    {
        "bar",
        "box",
        "contour",
        "heatmap",
        "histogram",
        "histogram2d",
        "histogram2dcontour",
        "image",
        "pie",
        "scatter",
        "scatterternary",
        "violin",
    }
)
BUNDLE = "plotly-cartesian.min.js.gz"


class PlotlyScripts(NamedTuple):
    """The scripts after which a page has plotly.js.

    html: The scripts, for the head of the page.
    hashes: How a policy names those that run.
    """

    html: str
    hashes: tuple[str, ...]


def plotly_script() -> str:
    """Return the text of plotly.js as far as our figures need it."""
    return gzip.decompress(_file(BUNDLE)).decode()


@cache
def packed_plotly() -> PlotlyScripts:
    """Return plotly.js, as far as our figures need it, with what unpacks it when the page opens."""
    packed = base64.b64encode(_file(BUNDLE)).decode()
    inflate = _file("pako_inflate.min.js").decode()
    unpack = _file("unpack.js").decode()
    html = (
        f'<script id="plotly-js" type="text/plain">{packed}</script>\n'
        f"<script>{inflate}</script>\n<script>{unpack}</script>"
    )
    return PlotlyScripts(html, tuple(map(script_hash, (inflate, unpack, plotly_script()))))


def plotly_for(figure: go.Figure) -> PlotlyScripts:
    """Return what a figure needs of plotly.js: all of it for a map, a solid or WebGL."""
    if _trace_types(figure) <= TRACE_TYPES:
        return packed_plotly()
    whole = get_plotlyjs()
    return PlotlyScripts(f"<script>{whole}</script>", (script_hash(whole),))


def _trace_types(figure: go.Figure) -> set[str]:
    """Return the kinds of what a figure and its frames draw."""
    found = {trace.type for trace in figure.data}
    for frame in figure.frames:
        found |= {trace.type for trace in frame.data or ()}
    return found


def _file(name: str) -> bytes:
    """Return a file of this folder."""
    return resources.files(__package__).joinpath(name).read_bytes()
