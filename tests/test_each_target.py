"""`of="target"`: each prompt's own target, wherever a token can be named."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.arrays.metrics import logit_diff, metric_values

PROMPTS = ["The fox", "One two three", "A model reads"]
TARGETS = [[" the", 7], [8, " the"], [9, 10]]


@pytest.fixture(scope="module")
def result(llama):
    """Three prompts, each with its own two targets; all positions."""
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS)


@pytest.fixture(scope="module")
def untargeted(llama):
    return lr.logit_lens(llama, PROMPTS)


def own_target(result):
    """Ranks and log-probabilities of each prompt's first target, prompt by prompt, by its id."""
    ranks, logprobs = [], []
    for single in result:
        single_logprobs, single_ranks, _ = single.of(int(single.target_ids[0, 0]))
        ranks.append(single_ranks)
        logprobs.append(single_logprobs)
    return np.concatenate(ranks, axis=1), np.concatenate(logprobs, axis=1)


# -- the numbers -------------------------------------------------------


def test_it_is_each_prompts_own_first_target(result):
    ranks, logprobs = own_target(result)
    found_logprobs, found_ranks, name = result.of("target")
    np.testing.assert_array_equal(found_ranks, ranks)
    np.testing.assert_array_equal(found_logprobs, logprobs)
    assert name == "each prompt's target"
    assert result[0].of("target")[2] == "·the"


def test_prompts_with_one_target_name_it(llama):
    shared = lr.logit_lens(llama, PROMPTS, targets=" the")
    assert shared.of("target")[2] == shared.of(" the")[2] == "·the"


def test_it_settles_where_its_rank_stays_zero(result):
    """Rank 0 from some site on, for each prompt's own token: counted from the end, site by site."""
    ranks, _ = own_target(result)
    ranks = ranks.copy()
    ranks[2:, 0] = 0  # the first prompt's, after its first token: from site 2 on
    ranks[1, 0] = 4
    target_ranks = result.target_ranks.copy()
    target_ranks[..., 0] = ranks
    changed = dataclasses.replace(result, target_ranks=target_ranks)
    expected = []
    for column in ranks.T:
        site = len(column)
        while site > 0 and column[site - 1] == 0:
            site -= 1
        expected.append(site if site < len(column) else -1)
    assert changed.settled("target").tolist() == expected
    assert expected[0] == 2
    layers = [step.layer for step in lr.settled_layers(changed, of="target")]
    assert layers == [None if site < 0 else site for site in expected]


def test_settled_layers_name_each_prompts_target(result):
    texts = [step.text for step in lr.settled_layers(result, of="target")]
    expected = [result.text(result.target_ids[prompt, 0]) for prompt in result.tokens.prompt]
    assert texts == expected


def test_metrics_of_each_prompts_target(result):
    ranks, logprobs = own_target(result)
    np.testing.assert_array_equal(metric_values(result, "rank", "target")[0], ranks)
    np.testing.assert_array_equal(metric_values(result, "prob", "target")[0], np.exp(logprobs))
    values, label = metric_values(result[1], "rank", "target")
    np.testing.assert_array_equal(values, metric_values(result[1], "rank", 8)[0])
    assert label == metric_values(result[1], "rank", 8)[1]


def test_a_logit_difference_against_each_prompts_target(llama):
    result = lr.logit_lens(llama, PROMPTS, targets=[[7, " the"], [8, " the"], [9, " the"]])
    expected = result.target_logits[..., 0] - result.target_logits[..., 1]
    np.testing.assert_array_equal(logit_diff(result, "target", " the"), expected)
    values, label = metric_values(result[2], "logit_diff", ("target", " the"))
    np.testing.assert_array_equal(values, expected[:, result.tokens.prompt == 2])
    assert "target" not in label


def test_important_sites_of_each_prompts_target(result):
    for number in range(3):
        token_id = int(result.target_ids[number, 0])
        by_id = result.important("target_jump", 0.1, of=token_id, prompt=number)
        assert result.important("target_jump", 0.1, of="target", prompt=number) == by_id


# -- the figures -------------------------------------------------------


def test_every_figure_takes_it(result):
    single = result[1]
    first, second = (
        lr.heatmap(result, metric="rank", of=of, prompt=1).to_plotly_json()
        for of in ("target", int(single.target_ids[0, 0]))
    )
    assert json.dumps(first, default=str) == json.dumps(second, default=str)


def test_a_profile_is_over_each_prompts_target(result):
    _, logprobs = own_target(result)
    figure = lr.layer_profile(result, metric="prob", of="target", first_position=True)
    medians = np.median(np.exp(logprobs.astype(np.float64)), axis=1)
    line = next(trace for trace in figure.data if trace.mode == "lines+markers")
    np.testing.assert_allclose(line.y, medians, rtol=1e-6)
    assert "each prompt's target" in figure.layout.title.text


def test_a_trajectory_follows_each_prompts_target(result):
    figure = lr.trajectory(result, of="target", metric="prob")
    _, logprobs = own_target(result)
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        last = np.flatnonzero(result.tokens.prompt == number)[-1]
        np.testing.assert_allclose(line.y, np.exp(logprobs[:, last]), rtol=1e-5)
    twice = lr.trajectory(result[0], of=["target", " the"])
    assert len([trace for trace in twice.data if trace.type == "scatter"]) == 1


def test_a_comparison_subtracts_each_prompts_target(llama):
    result = lr.logit_lens(llama, ["The fox", "One two"], targets=[[8], [9]], positions=[0])
    options = {"align": "position", "metric": "logprob", "of": "target", "show_all": True}
    figure = lr.compare(result, result, prompt_b=1, **options)
    first, second = result.target_logprobs[:, 0, 0], result.target_logprobs[:, 1, 0]
    panels = [trace for trace in figure.data if trace.type == "heatmap" and trace.xaxis == "x3"]
    shown = [np.array(panel.z, dtype=float)[:, 0] for panel in panels]
    assert any(np.allclose(values, first - second, rtol=1e-5) for values in shown)
    assert "each prompt's target" in figure.layout.title.text


# -- errors ------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda result: result.of("target"),
        lambda result: result.settled("target"),
        lambda result: lr.settled_layers(result, of="target"),
        lambda result: result.important("target_jump", of="target"),
        lambda result: lr.heatmap(result, metric="rank", of="target"),
        lambda result: lr.layer_profile(result, metric="rank", of="target"),
        lambda result: lr.trajectory(result, of="target"),
        lambda result: lr.compare(result, result, metric="rank", of="target"),
    ],
)
def test_without_targets_it_says_to_pass_some(untargeted, ask):
    with pytest.raises(ValueError, match=r"this result has none: pass targets= to the recipe"):
        ask(untargeted)


def test_an_unknown_token_is_told_of_it(result):
    with pytest.raises(ValueError, match=r'"next", "final", "target" \(each prompt\'s own\)'):
        result.of(" Oslo")
    with pytest.raises(ValueError, match=r'"next", "final", "target", the targets'):
        lr.trajectory(result, of=" Oslo")


def test_a_target_with_that_text_is_named_by_its_id(result):
    """The word means each prompt's first target, also where another target's text is "target"."""
    renamed = dataclasses.replace(result[2], texts=result.texts | {10: "target"})
    assert renamed.of("target")[2] == renamed.of(9)[2]
    np.testing.assert_array_equal(renamed.of(10)[0], renamed.target_logprobs[..., 1])


# -- the shell ---------------------------------------------------------


def test_show_takes_it(cli, result, tmp_path, monkeypatch):
    from lens_recipes.views.figures import export

    drawn = []
    monkeypatch.setattr(export, "save_png", lambda figure, path: drawn.append(figure))
    path = tmp_path / "result.npz"
    result.save(path)
    png = tmp_path / "x.png"
    options = ("--png", png, "--metric", "rank", "--of", "target", "--prompt", "1")
    status, _, errors = cli()("show", *map(str, (path, *options)))
    assert status == 0, errors
    assert "rank of" in drawn[0].layout.title.text
    expected = lr.heatmap(result, metric="rank", of=8, prompt=1)
    np.testing.assert_array_equal(drawn[0].data[0].z, expected.data[0].z)


def test_the_lens_command_takes_it_with_a_target(cli, llama, tmp_path):
    page = tmp_path / "lens.html"
    run = cli(llama)
    options = ("--html", page, "--metric", "rank", "--of", "target")
    status, _, errors = run("logit-lens", "The fox", *map(str, options), "--target", " the")
    assert status == 0, errors
    status, _, errors = run("logit-lens", "The fox", *map(str, options))
    assert status == 2
    assert "add --target" in errors
