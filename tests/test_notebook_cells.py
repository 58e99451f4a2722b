"""What stands at the end of a notebook's cell: figures that outlive `nbconvert`, texts, sentences."""

from __future__ import annotations

import html
import json
import math
import pickle

import plotly.io
import pytest
import tiny
from hostile import HOSTILE
from IPython.core import displaypub
from IPython.core.interactiveshell import InteractiveShell
from IPython.lib import pretty
from test_attribution_views import attribution
from test_generation_figures import generation

import lens_recipes as lr
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.views.figures.base.figure import HTML, PLOTLY_DATA


@pytest.fixture
def shown(monkeypatch):
    """What is displayed in a notebook, each in its forms, while plotly has chosen by itself."""
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    bundles = []

    class Publisher(displaypub.DisplayPublisher):
        def publish(self, data, *args, **kwargs):
            bundles.append(data)

    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", Publisher(shell=shell))
    yield bundles
    InteractiveShell.clear_instance()


def every_figure():
    written = generation(read=2)
    yield lr.attribution_bars(attribution("head"))
    yield lr.head_grid(attribution("head"))
    yield lr.source_map(attribution("token"))
    yield lr.layer_profile(written)
    yield lr.rank_flow(written)
    yield lr.trajectory(written)
    yield lr.top_tokens(lr.LensResult.load("tests/data/lens.npz"))
    yield lr.compare(written, written)
    yield lr.generation_steps(written)
    yield lr.heatmap(written)
    yield lr.generation_heatmap(written)


def test_every_figure_is_kept_as_html_without_a_copy_of_plotly(shown):
    for number, figure in enumerate(every_figure(), start=1):
        figure._ipython_display_()
        assert len(shown) == number
        assert set(shown[-1]) == {PLOTLY_DATA, HTML}
        html = shown[-1][HTML]
        assert "Plotly.newPlot" in html
        assert "cdn.plot.ly" in html
        assert len(html) < 1_000_000  # plotly.js has 4.5 MB
        assert shown[-1][PLOTLY_DATA]["data"] == figure._repr_mimebundle_()[PLOTLY_DATA]["data"]


def test_show_keeps_the_html_too_unless_a_renderer_is_chosen(shown, monkeypatch):
    figure = lr.attribution_bars(attribution("head"))
    figure.show()
    assert HTML in shown[-1]
    figure.show("plotly_mimetype")
    assert set(shown[-1]) == {PLOTLY_DATA}
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    figure.show()
    assert set(shown[-1]) == {PLOTLY_DATA}


# -- texts -------------------------------------------------------------


def at_the_end_of_a_cell(value):
    return pretty.pretty(value)


@pytest.mark.parametrize("form", ["text", "markdown", "tsv"])
def test_a_table_is_a_string_and_is_shown_as_text(form):
    result = attribution("head")
    table = lr.table(result, format=form)
    assert isinstance(table, str)
    assert table == str(table) == "".join(table)
    assert at_the_end_of_a_cell(table) == table
    assert json.loads(json.dumps(table)) == table
    assert pickle.loads(pickle.dumps(table)) == table


def test_a_text_has_no_effect_in_the_page_of_a_notebook():
    result = attribution("head", [HOSTILE])
    for text in (lr.table(result), result.summary()):
        assert at_the_end_of_a_cell(text) == text
        page = text._repr_html_()
        assert page.count("<") == page.count(">") == 2
        assert html.unescape(page.split(">", 1)[1].rsplit("<", 1)[0]) == text


def test_facts_are_shown_as_sentences_and_stay_what_they_are():
    certificate = Certificate(1e-6, 20.0, 1e-8, 1.0, 5, "float32")
    assert at_the_end_of_a_cell(certificate) == str(certificate)
    assert repr(certificate).startswith("Certificate(max_logit_error=1e-06")
    site = lr.Important(3, lr.Site(3), 0.51234)
    assert at_the_end_of_a_cell([site, site._replace(where=lr.Site(4, "mlp_out"))]) == (
        "[layer 3: 0.512, 4.mlp_out: 0.512]"
    )
    assert site == (3, lr.Site(3), 0.51234)
    settled = lr.Settled(0, " Paris", 29, 29, 2.4826)
    assert str(settled) == at_the_end_of_a_cell(settled)
    assert str(settled) == "·Paris: top-1 from layer 29 on, there 2.48 nats ahead"
    assert "nan" not in str(settled._replace(margin=math.nan))
    assert "no layer" in str(lr.Settled(0, "\n", -1, None, math.nan))
    assert repr(settled).startswith("Settled(token=0, text=' Paris'")
    found = lr.anatomy(tiny.shared("gpt2"))
    assert at_the_end_of_a_cell(found) == str(found)
