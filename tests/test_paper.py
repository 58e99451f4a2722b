"""A figure for an article: its width, its letters, and its title as a caption."""

from __future__ import annotations

import pytest
import tiny

import lens_recipes as lr


@pytest.fixture(scope="module")
def result(llama):
    return lr.logit_lens(llama, "one <two> three", targets=[260])


@pytest.mark.parametrize("view", [lr.heatmap, lr.trajectory, lr.layer_profile, lr.rank_flow])
def test_width_and_letters_are_as_asked_for_and_the_title_is_gone(result, view):
    figure = view(result)
    drawn = lr.paper(figure, width=432, font_size=9)
    assert drawn.layout.width == 432
    assert drawn.layout.font.size == 9
    assert {axis.tickfont.size for axis in drawn.select_xaxes()} == {9}
    words = [trace.textfont.size for trace in drawn.data if trace.texttemplate or trace.text]
    assert set(words) <= {9}
    assert drawn.layout.title.text is None
    assert drawn.layout.height < figure.layout.height
    inner = figure.layout.height - figure.layout.margin.t
    assert drawn.layout.height - drawn.layout.margin.t == inner  # the picture is as high
    assert figure.layout.title.text is not None  # the figure itself stays as it was


def test_the_caption_is_the_title_as_plain_text(result):
    text = lr.caption(lr.heatmap(result))
    assert text.startswith("Logit lens: probability of the top token. “one <two> three”.")
    assert "certified" in text
    assert "cannot be read with this lens" in text
    assert "<b>" not in text
    believed = lr.caption(lr.heatmap(tiny.believed(result)))
    assert "cannot be read" not in believed
    assert lr.caption(lr.paper(lr.heatmap(result))) == ""


@pytest.mark.parametrize("wrong", [{"width": 0}, {"font_size": -1}])
def test_a_size_that_is_none_is_refused(result, wrong):
    with pytest.raises(ValueError, match="must be a positive number of pixels"):
        lr.paper(lr.heatmap(result), **wrong)
