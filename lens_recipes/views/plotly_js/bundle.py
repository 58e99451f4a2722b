"""Put the part of plotly.js that our figures use into a page, packed; or all of it.

All of plotly.js is 4.8 MB, three quarters of which draw maps and solids. Its "cartesian" part, as
plotly's own authors build it, is 1.5 MB, and 0.7 MB packed. `docs/plotly_js.py` brings the files
of this folder.

A figure is written in the words of the plotly.js that plotly.py brings. Where that is of another
major release than the part here, as 3.0.1 of plotly.py 6.1.1 is, all of plotly.py's own is taken.
"""

from __future__ import annotations

import base64
import gzip
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs, get_plotlyjs_version

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
BUNDLE_RELEASE = "4.1.1"

# Parts of a layout that it does not draw, whether or not there is a trace in them.
OTHER_SUBPLOTS = re.compile(r"(geo|map|mapbox|polar|scene|smith)\d*")


class PlotlyScripts(NamedTuple):
    """The scripts after which a page has plotly.js.

    Attributes:
        html: The scripts, for the head of the page.
        hashes: How a policy names those that run.
    """

    html: str
    hashes: tuple[str, ...]


def is_of_this_plotly() -> bool:
    """Return whether the part here is of the major release of plotly.js that plotly.py brings."""
    return _major(BUNDLE_RELEASE) == _major(get_plotlyjs_version())


def _major(release: str) -> str:
    """Return the first number of a release."""
    return release.partition(".")[0]


def plotly_script() -> str:
    """Return the text of plotly.js as far as our figures need it."""
    if not is_of_this_plotly():
        return get_plotlyjs()
    return gzip.decompress(_file(BUNDLE)).decode()


@cache
def packed_plotly() -> PlotlyScripts:
    """Return plotly.js, as far as our figures need it, with what unpacks it when the page opens."""
    if is_of_this_plotly():
        content = _file(BUNDLE)
    else:
        content = gzip.compress(plotly_script().encode(), mtime=0)
    packed = base64.b64encode(content).decode()
    inflate = _file("pako_inflate.min.js").decode()
    unpack = _file("unpack.js").decode()
    html = (
        f'<script id="plotly-js" type="text/plain">{packed}</script>\n'
        f"<script>{inflate}</script>\n<script>{unpack}</script>"
    )
    return PlotlyScripts(html, tuple(map(script_hash, (inflate, unpack, plotly_script()))))


def plotly_for(figure: go.Figure) -> PlotlyScripts:
    """Return what a figure needs of plotly.js: all of it for a map, a solid or WebGL."""
    if _trace_types(figure) <= TRACE_TYPES and not _has_other_subplots(figure):
        return packed_plotly()
    whole = get_plotlyjs()
    return PlotlyScripts(f"<script>{whole}</script>", (script_hash(whole),))


def _has_other_subplots(figure: go.Figure) -> bool:
    """Return whether a figure has a map, a globe, a scene or a circle, perhaps an empty one."""
    names = set(figure.layout.to_plotly_json())
    for frame in figure.frames:
        names |= set(frame.to_plotly_json().get("layout") or ())
    return any(OTHER_SUBPLOTS.fullmatch(name) for name in names)


def _trace_types(figure: go.Figure) -> set[str]:
    """Return the kinds of what a figure and its frames draw."""
    found = {trace.type for trace in figure.data}
    for frame in figure.frames:
        found |= {trace.type for trace in frame.data or ()}
    return found


def _file(name: str) -> bytes:
    """Return a file of this folder."""
    return resources.files(__package__).joinpath(name).read_bytes()
