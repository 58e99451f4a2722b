"""The part of plotly.js that travels in pages: whole, the one plotly.py is of, and small."""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from playwright.sync_api import sync_playwright
from plotly.basedatatypes import BaseTraceType
from plotly.offline import get_plotlyjs, get_plotlyjs_version
from test_report import QUIET

import lens_recipes as lr
from lens_recipes.views.plotly_js import bundle
from lens_recipes.views.plotly_js.bundle import (
    BUNDLE_RELEASE,
    TRACE_TYPES,
    is_of_this_plotly,
    packed_plotly,
    plotly_script,
)
from lens_recipes.views.policy import script_hash


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Write a figure offline and open it; at the end nothing may have gone wrong in it."""
    page, wrong = browser.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def open_(figure):
        lr.write_html(figure, tmp_path / "figure.html", offline=True)
        page.goto((tmp_path / "figure.html").as_uri())
        return page

    yield open_
    page.close()
    assert wrong == []


def test_it_is_of_the_release_that_plotly_brings():
    """Or, where that is of another major release, all of that one is taken."""
    if not is_of_this_plotly():
        assert plotly_script() == get_plotlyjs()
        return
    assert get_plotlyjs_version() == BUNDLE_RELEASE
    assert plotly_script()[:200].splitlines()[1].split() == [
        *("*", "plotly.js", "(cartesian", "-", "minified)"),
        f"v{BUNDLE_RELEASE}",
    ]


def test_where_plotly_brings_another_major_release_all_of_that_is_taken(monkeypatch, opened):
    monkeypatch.setattr(bundle, "get_plotlyjs_version", lambda: "3.0.1")
    assert plotly_script() == get_plotlyjs()
    packed_plotly.cache_clear()
    try:
        page = opened(go.Figure(go.Bar(y=[1, 2])))
        assert "scatter3d" in page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)")
    finally:
        packed_plotly.cache_clear()


def test_each_file_keeps_its_licence():
    licences = resources.files("lens_recipes.views.plotly_js").joinpath("LICENSES").read_text()
    for holder in ("Plotly Technologies", "Vitaly Puzrin", "Mark Adler"):
        assert holder in licences
    assert "Licensed under the MIT license" in plotly_script()[:300]


def test_it_draws_the_kinds_that_are_said_to_be_in_it(opened):
    page = opened(go.Figure(go.Bar(y=[1, 2])))
    assert set(page.evaluate("Object.keys(Plotly.PlotSchema.get().traces)")) == TRACE_TYPES
    assert page.evaluate("document.getElementById('plotly-js')") is None  # no second copy is kept


def test_what_it_cannot_draw_is_drawn_by_all_of_plotly(tmp_path):
    solid = go.Surface(z=np.eye(3))
    later = go.Figure(go.Bar(y=[1]), frames=[go.Frame(data=[solid])])
    empty = go.Figure(go.Bar(y=[1]), layout={"geo2": {"showland": True}})
    for figure in (go.Figure(solid), later, empty):
        lr.write_html(figure, tmp_path / "figure.html", offline=True)
        page = (tmp_path / "figure.html").read_text(encoding="utf-8")
        assert f"<script>{get_plotlyjs()}</script>" in page
        assert f"{script_hash(get_plotlyjs())}" in page


def test_pages_are_small(tmp_path):
    lr.write_html(go.Figure(go.Bar(y=[1, 2])), tmp_path / "figure.html", offline=True)
    assert (tmp_path / "figure.html").stat().st_size < 800_000
    assert len(packed_plotly().html) < 700_000


def test_every_kind_of_trace_that_our_figures_make_is_in_it():
    """Each `go.Kind(` in the sources of the views."""
    views = Path(lr.__file__).parent / "views"
    kinds = set()
    for path in views.rglob("*.py"):
        kinds |= set(re.findall(r"\bgo\.([A-Z]\w*)\(", path.read_text(encoding="utf-8")))
    traces = {kind for kind in kinds if issubclass(getattr(go, kind), BaseTraceType)}
    assert "Heatmap" in traces
    assert {kind.lower() for kind in traces} <= TRACE_TYPES
