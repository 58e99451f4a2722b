"""The heatmap and the table say what the arrays say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
from hostile import cell_words

import lens_recipes as lr
from lens_recipes.views.words import probability


@pytest.fixture(scope="module")
def paris(smollm2):
    prompts = ["The capital of France is", "Hello"]
    return tiny.believed(lr.logit_lens(smollm2, prompts, targets=[" Paris", " London"]))


def test_the_metrics_are_the_results_own_numbers(paris):
    one = paris[0]
    prob = lr.heatmap(paris).data[0]
    np.testing.assert_allclose(prob.z[:-1], np.exp(one.top_logprobs[..., 0]))
    np.testing.assert_allclose(prob.z[-1], np.exp(one.model_logprobs))
    assert (prob.zmin, prob.zmax) == (0, 1)
    assert cell_words(lr.heatmap(paris))[29][4] == "·Paris"
    rank = lr.heatmap(paris, metric="rank", of=" Paris").data[0]
    np.testing.assert_allclose(rank.z[:-1], -np.log10(one.target_ranks[..., 0] + 1))
    np.testing.assert_array_equal(
        rank.z[-1], rank.z[-2]
    )  # what the last layer says is what the model says
    entropy = lr.heatmap(paris, metric="entropy").data[0]
    assert entropy.zmax == pytest.approx(math.log(49152))
    kl = lr.heatmap(paris, metric="kl").data[0]
    assert kl.zmin == 0
    np.testing.assert_allclose(kl.z[:-1], one.kl_to_final)
    logit = lr.heatmap(paris, metric="logit", of=" Paris").data[0]
    np.testing.assert_allclose(logit.z[:-1], one.target_logits[..., 0], atol=1e-4)
    following = lr.heatmap(paris, metric="prob", of="next").data[0]
    np.testing.assert_allclose(following.z[:-1], np.exp(one.next_logprobs))
    loss = lr.heatmap(paris, metric="loss").data[0]
    np.testing.assert_allclose(loss.z[:-1], -one.next_logprobs)
    ahead = lr.heatmap(paris, metric="logit_diff", of=(" Paris", " London")).data[0]
    np.testing.assert_allclose(ahead.z[:-1], lr.logit_diff(one, " Paris", " London"))
    assert ahead.zmin == -ahead.zmax
    same = lr.heatmap(paris, metric="rank", of=int(one.target_ids[0, 1])).data[0]
    np.testing.assert_allclose(same.z[:-1], -np.log10(one.target_ranks[..., 1] + 1))


def test_hover_tells_the_whole_cell(paris):
    cell = lr.heatmap(paris).data[0].customdata[29][4]
    for part in (
        "layer 29",
        "position 4",
        "input ·is",
        "the prompt ends here",
        "1. ·Paris  0.77",
        "entropy",
        "KL",
    ):
        assert part in cell


@pytest.mark.parametrize(("stride", "n"), [(None, 4), (1, 4), (3, 4), (2, 5), (10, 4)])
def test_rows_keep_true_layer_numbers_and_the_last(stride, n):
    model = lr.load(tiny.llama(num_hidden_layers=n))
    figure = lr.heatmap(lr.logit_lens(model, tiny.random_ids(batch=1, length=3)), stride=stride)
    layers = list(range(n - 1, -1, -(stride or 1)))[::-1]
    assert list(figure.layout.yaxis.ticktext) == [*map(str, layers), "output"]
    assert len(figure.data[0].z) == len(layers) + 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "probability"}, ["'probability'", "'prob'"]),
        ({"metric": "rank"}, ["needs `of`", '"final"']),
        ({"metric": "rank", "of": " Rome"}, ["' Rome'", "' Paris'", "targets="]),
        ({"metric": "entropy", "of": " Paris"}, ["whole distribution"]),
        ({"stride": 0}, ["stride=0"]),
    ],
)
def test_a_wrong_argument_says_what_is_accepted(paris, arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        lr.heatmap(paris, **arguments)
    assert all(word in str(error.value) for word in words)


def test_an_unwritable_page_is_an_error_and_leaves_nothing(paris, tmp_path):
    with pytest.raises(lr.LensError, match="cannot write"):
        lr.write_html(lr.heatmap(paris), tmp_path / "no" / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_every_layer_and_fits_the_width(paris):
    text = lr.table(paris)
    rows = [line for line in text.splitlines() if line.strip()[:2].strip().isdigit()]
    assert len(rows) == 2 * 30
    assert "·Paris 0.77" in text
    assert "certified" in text
    narrow = lr.table(paris[0], width=60)
    grid = [line for line in narrow.splitlines() if line.strip()[:2].strip().isdigit()]
    assert len(grid) == 30
    assert all(len(line) <= 60 for line in grid)
    with pytest.raises(ValueError, match="position=9"):
        lr.table(paris[0], position=9)


def test_the_summary_names_answer_layer_and_ranks(paris):
    text = paris.summary()
    assert "answers ' Paris'" in text
    assert "top-1 from layer 29" in text
    assert "target ' Paris'" in text
    assert "distrust" not in text  # of two prompts of which nothing is grey


def test_probabilities_are_never_cut_to_nothing():
    assert [probability(math.log(p)) for p in (0.7725, 0.999999, 1.2e-4)] == [
        "0.772",
        "1.000",
        "1.2e-04",
    ]


def test_settled_is_about_the_token_that_was_asked_for(paris):
    one = paris[0]
    assert one.sites[one.settled()[-1]].layer == 29
    np.testing.assert_array_equal(one.settled(" Paris")[-1:], one.settled()[-1:])
    assert one.settled(" London")[-1] == -1
    with pytest.raises(ValueError, match="' Paris', ' London'"):
        one.settled(" Rome")


def test_a_raw_result_says_so_before_the_numbers(smollm2):
    text = lr.table(lr.logit_lens(smollm2, "Hi", apply_norm=False))
    assert text.startswith("RAW STREAM")
    assert "the wiring, not the numbers above, is certified" in text
