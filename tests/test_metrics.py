"""The pair (metric, of) means the same in every figure, and so do its colours."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import plotly.colors
import pytest
import test_generation_figures
import tiny
from hostile import cell_words
from test_notebook import contrast

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.arrays.metrics import METRICS, measured_metrics, metric_values
from lens_recipes.arrays.metrics.entry import Limits, Metric
from lens_recipes.cli.logit_lens.command import Metric as ShellMetric
from lens_recipes.views.figures.base.color import color_axis, colorscale
from lens_recipes.views.figures.base.contrast import hexadecimal, luminance

PROMPTS = ["some words to begin with", "and others"]


@pytest.fixture(scope="module")
def result(llama):
    result = lr.logit_lens(llama, PROMPTS, targets=[[260, 261], [262, 260]], track="top1")
    return tiny.believed(result)


def test_a_tracked_token_has_its_numbers_where_it_was_tracked(result):
    one = result[0]
    token = next(int(i) for i in one.tracked_ids.ravel() if i >= 0 and i not in one.target_ids)
    there = (one.tracked_ids == token).any(1)
    numbers, name = metric_values(one, "logprob", token)
    assert lr.LensResult.text(one, token).strip() in name.replace("·", " ")
    for t in range(len(one.tokens)):
        if there[t]:
            column = one.tracked_ids[t].tolist().index(token)
            np.testing.assert_array_equal(numbers[:, t], one.tracked_logprobs[:, t, column])
        else:
            assert np.isnan(numbers[:, t]).all()
    np.testing.assert_allclose(metric_values(one, "prob", token)[0], np.exp(numbers))
    np.testing.assert_allclose(metric_values(one, "logit", token)[0], numbers + one.logsumexp)
    with pytest.raises(
        ValueError, match=r"tracked token.* no ranks\. Pass targets="
    ):  # they were never counted
        metric_values(one, "rank", token)
    with pytest.raises(ValueError, match=r"tracked token.* no ranks\. Pass targets="):
        lr.trajectory(one, of=token, metric="rank", position=int(np.flatnonzero(there)[0]))
    where = int(np.flatnonzero(there)[0])
    line = lr.trajectory(one, of=token, position=where).data[0]
    np.testing.assert_allclose(line.y, np.exp(numbers[:, where]), rtol=1e-6)
    with pytest.raises(ValueError, match="unknown"):
        lr.trajectory(one, of=token, position=int(np.flatnonzero(~there)[0]))


def test_a_text_of_several_tracked_tokens_is_refused(result):
    one = result[0]
    a, b = [int(i) for i in np.unique(one.tracked_ids) if i >= 0 and i not in one.target_ids][:2]
    same = dataclasses.replace(one, texts={**one.texts, a: "twin", b: "twin"})
    with pytest.raises(ValueError, match=f"several tokens: pass one of the ids {a}, {b}"):
        metric_values(same, "prob", "twin")


def test_the_numbers_of_each_metric(result):
    one = result[0]
    np.testing.assert_array_equal(metric_values(one, "loss")[0], -one.next_logprobs)
    np.testing.assert_array_equal(metric_values(one, "logprob")[0], one.top_logprobs[..., 0])
    np.testing.assert_allclose(metric_values(one, "logit_diff")[0], lr.logit_diff(one, 260, 261))
    np.testing.assert_allclose(
        metric_values(one, "logit_diff", (261, 260))[0], -lr.logit_diff(one, 260, 261)
    )
    np.testing.assert_allclose(
        metric_values(one, "logit", 261)[0], one.target_logits[..., 1], atol=1e-4
    )


@pytest.mark.parametrize(
    ("metric", "of", "words"),
    [
        ("loss", 260, "next token"),
        ("prob", [260, 261], "one token here"),
        ("rank", (260,), "one token here"),
        ("logit_diff", 260, "two targets"),
        ("logit_diff", (260, 261, 262), "two targets"),
        ("logit_diff", "ab", "two targets"),
        ("kl", "next", "leave `of` out"),
        ("logit", None, "needs `of`"),
        ("size", None, "accepted are 'prob'"),
    ],
)
def test_a_pair_that_means_nothing_is_refused(result, metric, of, words):
    with pytest.raises(ValueError, match=words):
        metric_values(result[0], metric, of)


# -- the table ---------------------------------------------------------


def test_what_is_measured_is_an_array_of_a_result_for_each_site_and_token(result):
    assert [metric.name for metric in measured_metrics()] == ["entropy", "kl"]
    for metric in measured_metrics():
        assert AXES[metric.array] == ("site", "token")
        values, name = metric_values(result[0], metric.name)
        np.testing.assert_array_equal(values, getattr(result[0], metric.array))
        assert name == metric.label
        assert metric.heading


def test_a_metric_that_is_computed_is_one_more_entry(result, monkeypatch):
    """Its numbers, its colours and its figure need nothing else."""
    margin = Metric(
        name="margin",
        title="margin",
        unit="nats",
        about="all",
        source=lambda result: result.top_logprobs[..., 0] - result.top_logprobs[..., 1],
        better="high",
        scale="Viridis",
        limits=lambda vocab: Limits(low=0.0),
    )
    monkeypatch.setitem(METRICS, "margin", margin)
    one = result[0]
    expected = one.top_logprobs[..., 0] - one.top_logprobs[..., 1]
    values, name = metric_values(one, "margin")
    np.testing.assert_array_equal(values, expected)
    assert name == "margin (nats)"
    np.testing.assert_array_equal(lr.heatmap(one, metric="margin").data[0].z[:-1], expected)
    with pytest.raises(ValueError, match="leave `of` out"):
        metric_values(one, "margin", "next")


def test_vectors_have_no_run_to_compare_with(result):
    vectors = dataclasses.replace(result, sites=[lr.Site(None, "vector")])
    assert all(metric.fits(result) for metric in METRICS.values())
    unfit = [metric.name for metric in METRICS.values() if not metric.fits(vectors)]
    assert unfit == ["kl", "loss"]


def test_the_shell_offers_the_metrics_that_say_so():
    assert list(ShellMetric) == [metric.name for metric in METRICS.values() if metric.in_shell]


@pytest.mark.parametrize("metric", METRICS.values(), ids=list(METRICS))
def test_a_metric_says_how_it_is_written_and_called(metric):
    assert METRICS[metric.name] is metric
    assert metric.label == metric.title + (f" ({metric.unit})" if metric.unit else "")
    assert metric.axis_title.startswith(metric.title)
    assert metric.format_value(1234.0) == ("1,234" if metric.name == "rank" else "1234")


# -- colours -----------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_diverging_scale_is_for_a_metric_with_a_middle_and_no_other(metric):
    sequential, diverging = "Magma", "RdBu_r"
    right, wrong = (diverging, sequential) if METRICS[metric].two_sided else (sequential, diverging)
    assert colorscale(metric, right) == plotly.colors.get_colorscale(right)
    with pytest.raises(ValueError, match="scale, and metric="):
        colorscale(metric, wrong)
    with pytest.raises(ValueError, match="not the name of a plotly colour scale"):
        colorscale(metric, "no such")
    if not METRICS[metric].two_sided:
        assert METRICS[metric].colors.removesuffix("_r") in ("Viridis", "Cividis")  # for all eyes


@pytest.mark.parametrize("metric", ["prob", "logit_diff"])
@pytest.mark.parametrize(
    "colors", ["IceFire", "twilight_r", "HSV", "Phase", "mrybm", "bluered", ["red", "blue"], 3, ""]
)
def test_a_scale_without_two_ends_and_what_is_no_name_are_refused(metric, colors):
    if (metric, colors) != ("logit_diff", "bluered"):
        with pytest.raises(ValueError, match=f"colors={re.escape(repr(colors))} is "):
            colorscale(metric, colors)


BEST = {"prob": 1.0, "logprob": 0.0, "rank": 0.0, "entropy": 0.0, "kl": 0.0, "loss": 0.0}


def brightness(metric, numbers):
    axis = color_axis(metric, np.array([numbers]), 1000)
    part = (axis.values - axis.limits["zmin"]) / (axis.limits["zmax"] - axis.limits["zmin"])
    shades = plotly.colors.sample_colorscale(
        colorscale(metric), part[0].tolist(), colortype="tuple"
    )
    return [luminance(hexadecimal(shade)) for shade in shades]


@pytest.mark.parametrize("metric", BEST)
def test_bright_is_better_or_more_certain(metric):
    worse = {"prob": 0.1, "logprob": -5.0}.get(metric, 5.0)
    worst = {"prob": 0.0, "logprob": -6.9, "rank": 999.0}.get(metric, 6.9)
    best, middle, dark = brightness(metric, [BEST[metric], worse, worst])
    assert best > 0.6 > middle > dark
    assert dark < 0.05


# -- words in cells ----------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "colors"), [("prob", None), ("entropy", None), ("rank", "Greys"), ("logit", None)]
)
def test_the_words_in_the_cells_have_one_size_and_can_be_read(result, metric, colors):
    one = result[0]
    texts = {i: "<|im_start|>" if i % 2 else "שלום" for i in one.texts}  # long as they are escaped
    numbers = np.linspace(0, 1, one.entropy.size).reshape(one.entropy.shape).astype(np.float32)
    ranks = np.round(numbers * 500).astype(np.int32)
    changes = {"entropy": numbers * 6, "final_ranks": ranks, "logsumexp": numbers * 9}
    tops = np.log(np.maximum(numbers, 1e-6))[..., None].repeat(one.top_ids.shape[-1], -1)
    one = dataclasses.replace(one, texts=texts, top_logprobs=tops, **changes)
    figure = lr.heatmap(
        one, metric=metric, of="final" if metric in ("rank", "logit") else None, colors=colors
    )
    white, black = (trace for trace in figure.data if trace.type == "heatmap")
    assert (white.textfont.size, black.textfont.size) == (11, 11)
    assert (white.textfont.color, black.textfont.color) == ("#ffffff", "#000000")
    assert (black.hoverinfo, black.showscale) == ("skip", False)
    z = np.clip(
        (np.asarray(white.z) - white.zmin) / (white.zmax - white.zmin), 0, 1
    )  # float32 may leave it
    assert all(word for row in cell_words(figure) for word in row)
    for ink, trace in (("#ffffff", white), ("#000000", black)):
        cells = [
            z[row][column] for row, column in np.argwhere(np.array(trace.text, dtype=object) != "")
        ]
        scale = [[at, color] for at, color in white.colorscale]
        shades = plotly.colors.sample_colorscale(scale, cells, colortype="tuple")
        assert cells
        assert all(contrast(hexadecimal(shade), ink) > 4.4 for shade in shades)


def test_the_words_of_a_comparison_and_of_steps_are_as_large():
    one = test_generation_figures.generation(steps=(5,))
    for figure in (lr.compare(one, one), lr.generation_steps(one), lr.generation_heatmap(one)):
        sizes = [
            trace.textfont.size
            for trace in figure.data
            if trace.type == "heatmap" and trace.texttemplate
        ]
        assert sizes == [11] * len(sizes)
        assert len(sizes) in (2, 3, 4)
    frame = lr.generation_steps(one).frames[0]
    types = [trace.type for trace in frame.data]
    assert types == ["heatmap", "scatter", "scatter", "scatter", "heatmap", "heatmap"]
    assert list(frame.traces) == list(range(len(types)))


@pytest.mark.parametrize("metric", METRICS)
def test_the_range_of_colours_holds_every_number(metric):
    rng = np.random.default_rng(0)
    z = {
        "prob": rng.random((5, 6)),
        "rank": rng.integers(0, 1000, (5, 6)),
        "logprob": -rng.random((5, 6)) * 6,
    }
    numbers = np.asarray(z.get(metric, rng.normal(size=(5, 6)) * 3), dtype=np.float64)
    if metric in ("entropy", "kl", "loss"):
        numbers = np.abs(numbers)
    numbers[0, 0] = np.nan
    axis = color_axis(metric, numbers, 1000)
    assert np.isnan(axis.values[0, 0])
    rest = axis.values[~np.isnan(axis.values)]
    assert (axis.limits["zmin"] <= rest).all()
    assert (rest <= axis.limits["zmax"]).all()
    if METRICS[metric].two_sided:
        assert axis.limits["zmin"] == -axis.limits["zmax"]
    if metric == "rank":
        np.testing.assert_allclose(rest, -np.log10(numbers[~np.isnan(numbers)] + 1))
        assert axis.bar["ticktext"][:3] == ["0", "1", "10"]


def test_infinities_take_the_end_of_the_scale():
    z = np.array([[0.0, -np.inf], [np.inf, -3.0]])
    axis = color_axis("logprob", z, 100)
    assert axis.values[0, 1] == axis.limits["zmin"] == pytest.approx(-math.log(100))
    assert color_axis("kl", np.array([[1.0, np.inf]]), 100).values[0, 1] == 1.0
    assert color_axis("logit", np.full((2, 2), np.nan), 100).limits == {}


# -- the heatmap -------------------------------------------------------


def framed(figure):
    """Cells (row, column) inside the frames of a figure."""
    line = next(trace for trace in figure.data if trace.type == "scatter")
    xs, ys = [x for x in line.x if x is not None], [y for y in line.y if y is not None]
    cells = set()
    for i in range(0, len(xs), 5):
        column, first, last = xs[i] + 0.5, min(ys[i : i + 5]) + 0.5, max(ys[i : i + 5]) - 0.5
        cells |= {(row, int(column)) for row in range(round(first), round(last) + 1)}
    return cells


@pytest.mark.parametrize("stride", [1, 2])
def test_framed_are_the_cells_that_already_say_what_the_model_answers(stride):
    result = test_generation_figures.generation(steps=(12,))
    figure = lr.heatmap(result, stride=stride)
    layers = [int(name) for name in figure.layout.yaxis.ticktext[:-1]]
    expected = {
        (row, t)
        for row, layer in enumerate(layers)
        for t in range(12)
        if result.final_ranks[layer, t] == 0
    }
    assert framed(figure) == expected
    assert len(expected) > 12


def test_the_row_above_is_the_models_own_output(result):
    one = result[0]
    prob = lr.heatmap(result).data[0]
    np.testing.assert_allclose(prob.z[-1], np.exp(one.model_logprobs), rtol=1e-6)
    assert one.output_site == len(one.sites) - 1
    early = lr.heatmap(dataclasses.replace(one, kl_to_final=one.kl_to_final + 1), metric="entropy")
    assert np.isnan(early.data[0].z[-1]).all()  # the last layer was not read
    assert "not known" in early.data[0].customdata[-1][0]


def test_a_wide_heatmap_has_labels_and_no_words(monkeypatch):
    monkeypatch.setattr(test_generation_figures, "LAYERS", 80)
    for tokens, words, window in (
        (24, True, 24),
        (60, True, 60),
        (61, False, 61),
        (120, False, 120),
        (121, False, 60),
        (900, False, 60),
    ):
        figure = lr.heatmap(test_generation_figures.generation(steps=(tokens,)))
        trace, axis = figure.data[0], figure.layout.xaxis
        assert (trace.text is not None) == words
        room = figure.layout.width - figure.layout.margin.l - 130
        # Pixels for each column: ten letters of a word, six of many, or a turned label.
        assert room / window >= (74 if tokens <= 24 else 50 if words else 12)
        assert len(axis.ticktext) == tokens
        low, high = axis.range
        assert window <= high - low < window + 0.2
        assert tokens - 0.5 <= high < tokens
        assert bool(axis.rangeslider.visible) == (window < tokens)
        assert len(trace.z) <= 42
        assert sum(len(text) for row in trace.customdata for text in row) < 5_000_000


def test_several_positions_have_a_dash_each(result):
    figure = lr.trajectory(result, of=260, position=[0, -1, 3])
    assert [line.line.dash for line in figure.data] == [
        "solid",
        "dash",
        "dot",
        "dashdot",
        "longdash",
        "longdashdot",
    ]
    for line, (prompt, token) in zip(
        figure.data, [(p, t) for p in (0, 1) for t in (0, -1, 3)], strict=True
    ):
        column = result[prompt].target_ids[0].tolist().index(260)
        np.testing.assert_allclose(
            line.y, np.exp(result[prompt].target_logprobs[:, token, column]), rtol=1e-6
        )
    same = lr.trajectory(result[0], position=[-1, len(result[0].tokens) - 1])
    assert len(same.data) == 2  # one position, two targets
    with pytest.raises(ValueError, match="names 7 tokens"):
        lr.trajectory(result, position=range(7))
    with pytest.raises(ValueError, match="2 prompts of 4 positions each"):
        lr.trajectory(result, prompts=[0, 1], position=range(4))
    with pytest.raises(ValueError, match="entropy"):
        lr.trajectory(result, metric="entropy")


# -- a result of another kind ------------------------------------------


@pytest.fixture(scope="module")
def who(llama):
    return lr.attribution(llama, "some words", 260)


@pytest.mark.parametrize(
    "view",
    [
        lr.heatmap, lr.trajectory, lr.top_tokens, lr.rank_flow, lr.layer_profile, lambda r: lr.compare(r, r),
        lr.generation_heatmap, lr.generation_steps,
    ],
)  # fmt: skip
def test_a_figure_of_a_lens_says_which_figures_an_attribution_has(who, view):
    with pytest.raises(
        TypeError,
        match="received Attribution, expected LensResult: the figures of Attribution are attribution_bars",
    ):
        view(who)


@pytest.mark.parametrize("view", [lr.attribution_bars, lr.head_grid, lr.source_map])
def test_a_figure_of_an_attribution_says_which_figures_a_lens_has(result, view):
    with pytest.raises(
        TypeError,
        match="received LensResult, expected Attribution: the figures of LensResult are heatmap",
    ):
        view(result)
    with pytest.raises(TypeError, match=r"received dict, expected Attribution\.$"):
        view({})
