"""Profiles, rank flows and comparisons: what they draw is what the arrays say, and what they cannot draw is refused."""

from __future__ import annotations

import dataclasses
import html
from itertools import pairwise

import numpy as np
import pytest
from hostile import assert_inert, cell_words, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from test_generation_figures import LAYERS, K, V, generation

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.arrays.metrics import DIVERGING, METRICS
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.figures.base.style import COLORS, DASHES
from lens_recipes.views.figures.compare.pairs import common_sites, describe_sites
from lens_recipes.views.figures.compare.panels import Panels
from lens_recipes.views.figures.layers.rank_flow import GREY
from lens_recipes.views.words import probability

PARTS = ("attn_out", "mlp_out", "resid_post")


def read(steps=(7, 3), **options):
    """A result of prompts that were only read: after the last token of each there is no next one; two targets."""
    one = generation(steps, **options)
    ends = np.flatnonzero(np.append(np.diff(one.tokens.prompt), 1))
    next_id, logprobs, ranks = (
        one.tokens.next_id.copy(),
        one.next_logprobs.copy(),
        one.next_ranks.copy(),
    )
    next_id[ends], logprobs[:, ends], ranks[:, ends] = -1, np.nan, -1
    tokens = dataclasses.replace(
        one.tokens, next_id=next_id, generated=np.zeros_like(one.tokens.generated)
    )
    rng = np.random.default_rng(options.get("seed", 0))
    shape = (*one.entropy.shape, 2)
    targets = {
        "target_ids": np.tile(np.array([3, 4], dtype=np.int32), (len(one), 1)),
        "target_logits": rng.normal(size=shape).astype(np.float32),
        "target_logprobs": np.log(rng.uniform(0.01, 0.4, size=shape)).astype(np.float32),
        "target_ranks": rng.integers(0, V, size=shape).astype(np.int32),
    }
    changes = {"tokens": tokens, "next_logprobs": logprobs, "next_ranks": ranks, **targets}
    return dataclasses.replace(one, **changes)


def only(result, sites):
    """A result with some of its sites."""
    arrays = {
        name: getattr(result, name)[sites] for name, axes in AXES.items() if axes[0] == "site"
    }
    return dataclasses.replace(result, sites=[result.sites[s] for s in sites], **arrays)


@pytest.fixture(scope="module")
def result():
    return read()


@pytest.fixture(scope="module")
def parts():
    return read(names=PARTS, heads=2, seed=1)


@pytest.fixture(scope="module")
def vectors(result):
    return dataclasses.replace(only(result, [0]), sites=[lr.Site(None, "vector")])


@pytest.fixture(scope="module")
def raw(result):
    return dataclasses.replace(
        result, provenance={**result.provenance, "arguments": {"apply_norm": False}}
    )


def along(result, component="resid_post"):
    return [s for s, site in enumerate(result.sites) if site.component == component]


def refused(words, view, *arguments, **options):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        view(*arguments, **options)
    assert all(word in str(error.value) for word in words), error.value


# -- layer_profile -----------------------------------------------------


def lines(figure):
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def bands(figure):
    """(low, high) of each."""
    edges = [trace for trace in figure.data if trace.mode == "lines"]
    assert [trace.fill for trace in edges] == [None, "tonexty"] * (len(edges) // 2)
    return [(edges[n].y, edges[n + 1].y) for n in range(0, len(edges), 2)]


@pytest.mark.parametrize("over", ["token", "prompt"])
@pytest.mark.parametrize("component", PARTS)
def test_a_profile_has_the_quartiles_of_the_arrays(parts, over, component):
    figure = lr.layer_profile(parts, over=over, component=component)
    rows = along(parts, component)
    assert len(lines(figure)) == len(bands(figure)) == 3
    arrays = (parts.entropy, parts.kl_to_final, -parts.next_logprobs)
    for array, line, band, title in zip(
        arrays, lines(figure), bands(figure), ("entropy", "KL", "loss"), strict=True
    ):
        numbers = array[rows].astype(float)
        if over == "prompt":
            numbers = np.stack(
                [np.nanmean(numbers[:, parts.tokens.prompt == p], axis=1) for p in (0, 1)], axis=1
            )
        low, middle, high = np.nanquantile(numbers, (0.25, 0.5, 0.75), axis=1)
        np.testing.assert_allclose(line.y, middle)
        np.testing.assert_allclose(band, (low, high))
        assert list(line.x) == list(range(LAYERS))
        axis = figure.layout["yaxis" + line.yaxis[1:]]
        assert title in axis.title.text
        assert "nats" in axis.title.text
        assert f"median {middle[2]:.4g} nats" in line.customdata[2]
        assert f"quartiles {low[2]:.4g} to {high[2]:.4g} nats" in line.customdata[2]
    said = [note.text for note in figure.layout.annotations]
    at_the_end = "; 0 at the end by construction" if component == "resid_post" else ""
    if over == "token":
        assert said == [
            "10 tokens",
            f"10 tokens{at_the_end}",
            "8 tokens (2 of 10 left out: no next token)",
        ]
        assert [line.customdata[0].split("<br>")[-1] for line in lines(figure)] == [
            "10 tokens",
            "10 tokens",
            "8 tokens",
        ]
    else:
        each = "2 prompts, each the mean of its tokens"
        assert said == [each, each + at_the_end, each]
    assert [axis.title.text for axis in figure.select_xaxes() if axis.title.text] == [
        "layer" if component == "resid_post" else f"layer ({component})"
    ]


@pytest.mark.parametrize(
    ("metric", "of", "numbers"),
    [
        ("prob", None, lambda r: np.exp(r.top_logprobs[..., 0])),
        ("prob", "final", lambda r: np.exp(r.final_logprobs)),
        ("logprob", " w4", lambda r: r.target_logprobs[..., 1]),
        ("rank", "next", lambda r: np.where(r.next_ranks < 0, np.nan, r.next_ranks)),
        ("rank", 3, lambda r: r.target_ranks[..., 0]),
        ("logit_diff", (4, 3), lambda r: r.target_logits[..., 1] - r.target_logits[..., 0]),
        ("loss", None, lambda r: -r.next_logprobs),
    ],
)
def test_a_profile_of_one_metric_is_that_of_values(result, metric, of, numbers):
    figure = lr.layer_profile(result, metric=metric, of=of)
    expected = np.nanquantile(numbers(result).astype(float), (0.25, 0.5, 0.75), axis=1)
    drawn = np.log10(expected + 1) if metric == "rank" else expected
    np.testing.assert_allclose([line.y for line in lines(figure)], drawn[1:2], rtol=1e-5)
    np.testing.assert_allclose(bands(figure), drawn[None, ::2], rtol=1e-5)
    axis = figure.layout.yaxis
    assert METRICS[metric].title in axis.title.text
    if metric == "rank":
        assert axis.range[0] > axis.range[1]
        assert list(axis.ticktext[:3]) == ["0", "1", "10"]
        assert "log scale" in axis.title.text
    if metric == "prob":
        assert axis.range[0] <= 0 < 1 <= axis.range[1]
    whose = {"final": "the model's answer", "next": "the next token", 3: "·w3", " w4": "·w4"}.get(
        of, ""
    )
    assert whose in figure.layout.title.text


def test_of_one_token_there_is_a_line_and_no_band(result):
    one = generation(steps=(1,))
    figure = lr.layer_profile(one)
    assert len(figure.data) == 3
    np.testing.assert_array_equal(figure.data[0].y, one.entropy[:, 0].astype(float))
    assert [note.text for note in figure.layout.annotations] == [
        "1 token, so no quartiles",
        "1 token, so no quartiles; 0 at the end by construction",
        "1 token, so no quartiles",
    ]
    assert "band" not in figure.layout.title.subtitle.text
    assert "quartiles" not in figure.data[0].customdata[0]
    assert f"{one.entropy[0, 0]:.4g} nats" in figure.data[0].customdata[0]


def test_a_panel_without_a_number_is_left_out_and_said(result):
    end = read(steps=(1,))
    figure = lr.layer_profile(end)
    assert len(figure.data) == 2
    assert "no next-token loss: only last tokens were read" in figure.layout.title.subtitle.text
    refused(["loss", "positions="], lr.layer_profile, end, metric="loss")
    mixed = lr.layer_profile(
        read(steps=(4, 1)), metric="loss", over="prompt"
    )  # the second prompt has no loss
    assert [note.text for note in mixed.layout.annotations] == [
        "1 prompt, each the mean of its tokens (1 of 2 left out: no next token), so no quartiles"
    ]
    assert len(mixed.data) == 1


def test_the_rank_of_a_prompt_is_the_geometric_mean_and_says_so(result):
    figure = lr.layer_profile(result, metric="rank", of="final", over="prompt")
    means = []
    for single in result:
        means.append(np.exp(np.log(single.final_ranks + 1.0).mean(axis=1)) - 1)
    expected = np.log10(np.median(means, axis=0) + 1)
    np.testing.assert_allclose(lines(figure)[0].y, expected, atol=1e-9)
    (note,) = [note.text for note in figure.layout.annotations]
    assert "each the geometric mean of rank + 1 of its tokens" in note
    assert note.endswith("0 at the end by construction")
    no_end = lr.layer_profile(only(result, [0, 3]), metric="rank", of="final")
    assert "by construction" not in no_end.layout.annotations[0].text
    other = lr.layer_profile(result, metric="rank", of=3)
    assert "by construction" not in other.layout.annotations[0].text


def test_position_0_is_left_out_where_others_were_read(result):
    tokens = dataclasses.replace(result.tokens, position=result.tokens.position - 10)
    begun = dataclasses.replace(result, tokens=tokens)
    later = tokens.position != 0
    assert 0 < later.sum() < len(later)
    figure = lr.layer_profile(begun, metric="kl")
    kl = result.kl_to_final.astype(float)
    np.testing.assert_allclose(lines(figure)[0].y, np.median(kl[:, later], axis=1), rtol=1e-6)
    assert "without position 0" in figure.layout.title.subtitle.text
    assert f"{later.sum()} tokens" in figure.layout.annotations[0].text
    whole = lr.layer_profile(begun, metric="kl", first_position=True)
    np.testing.assert_allclose(lines(whole)[0].y, np.median(kl, axis=1), rtol=1e-6)
    assert "position 0" not in whole.layout.title.subtitle.text
    alone = generation(steps=(1,))
    alone = dataclasses.replace(
        alone, tokens=dataclasses.replace(alone.tokens, position=np.zeros(1, dtype=np.int32))
    )
    assert lr.layer_profile(alone, metric="kl").layout.annotations[0].text.startswith("1 token")


def test_layers_that_were_not_read_are_not_drawn(result):
    some = only(result, [0, 3, 5])
    figure = lr.layer_profile(some, metric="kl")
    assert list(lines(figure)[0].x) == [0, 3, 5]
    assert "<b>layer 3</b>" in lines(figure)[0].customdata[1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.floats(0, 20), st.just(np.nan)), min_size=10, max_size=10),
        min_size=6,
        max_size=6,
    )
)
@pytest.mark.slow
def test_a_profile_never_counts_a_nan(rows):
    kl = np.array(rows, dtype=np.float32)
    one = dataclasses.replace(read(), kl_to_final=kl)
    there = ~np.isnan(kl)
    if not there.any():
        refused(["kl"], lr.layer_profile, one, metric="kl")
        return
    (line,) = lines(lr.layer_profile(one, metric="kl"))
    for n, row in enumerate(kl.astype(float)):
        expected = np.median(row[there[n]]) if there[n].any() else np.nan
        np.testing.assert_allclose(float(line.y[n]), expected)
        assert line.customdata[n].endswith(
            f"{there[n].sum()} token{'' if there[n].sum() == 1 else 's'}"
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "logit", "of": 3}, ["'logit'", "'entropy'", "'rank'"]),
        ({"metric": "perplexity"}, ["'perplexity'", "'loss'"]),
        ({"metric": "entropy", "of": 3}, ["whole distribution"]),
        ({"metric": "rank"}, ["needs `of`"]),
        ({"metric": "rank", "of": " Rome"}, ["' Rome'", "' w3'"]),
        ({"of": "next"}, ["of='next'", "metric="]),
        ({"over": "layer"}, ["over='layer'", "'token'", "'prompt'"]),
        ({"component": "attn_out"}, ["no 'attn_out'", "'resid_post'"]),
    ],
)
def test_a_profile_says_what_is_wrong(result, arguments, words):
    refused(words, lr.layer_profile, result, **arguments)


@pytest.mark.parametrize("view", [lr.layer_profile, lr.rank_flow])
def test_heads_vectors_and_the_embedding_have_no_layers_to_follow(parts, vectors, view):
    refused(["heads of different layers", "'mlp_out'"], view, parts, component="head_out")
    refused(["vectors have no layers"], view, vectors)
    embed = dataclasses.replace(only(parts, [0]), sites=[lr.Site(0, "embed")])
    refused(["one site"], view, embed)
    two = only(parts, [s for s in range(len(parts.sites)) if parts.sites[s].component in PARTS[:2]])
    refused(["component= one of 'attn_out', 'mlp_out'"], view, two)


# -- rank_flow ---------------------------------------------------------


def flows(figure):
    """The grey places, and those of each coloured line, best first: sets of (layer, rank)."""
    grey, *colored = figure.data
    assert grey.line.color == GREY
    return [
        {(x, y) for x, y in zip(t.x, t.y, strict=True) if y is not None}
        for t in (grey, *colored[::-1])
    ]


@pytest.mark.parametrize(
    ("prompt", "position", "k"), [(0, -1, None), (0, 2, 2), (1, 0, 1), (-1, -3, 3)]
)
def test_a_flows_lines_are_the_top_ids(parts, prompt, position, k):
    one = parts[prompt]
    figure = lr.rank_flow(parts, prompt=prompt, position=position, k=k)
    ids = one.top_ids[along(one), position, :k]
    grey, *colored = flows(figure)
    assert len(colored) == (k or K)
    for n, token in enumerate(ids[-1]):
        assert colored[n] == {
            (layer, rank) for layer, rank in zip(*np.nonzero(ids == token), strict=True)
        }
    assert grey == {
        (layer, rank) for layer, rank in zip(*np.nonzero(~np.isin(ids, ids[-1])), strict=True)
    }
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert (
        f"after token {one.tokens.position[position]}, {visible_token(one.tokens.text[position])}"
        in (figure.layout.title.subtitle.text)
    )


def test_a_line_joins_successive_layers_and_has_a_gap_elsewhere():
    ids = np.array([[1, 2], [2, 3], [3, 2], [1, 3], [4, 1], [1, 5]])
    one = generation(steps=(1,))
    one = dataclasses.replace(
        one, top_ids=ids[:, None].astype(np.int32), top_logprobs=one.top_logprobs[..., :2]
    )
    grey, five, one_ = lr.rank_flow(one).data
    assert (list(one_.x), list(one_.y)) == ([0, 1, 2, 3, 4, 5], [0, None, None, 0, 1, 0])
    assert (list(five.x), list(five.y)) == ([5], [1])
    assert list(zip(grey.x, grey.y, strict=True)) == [
        *[(0, 1), (1, 0), (2, 1), (None, None)],  # 2
        *[(1, 1), (2, 0), (3, 1), (None, None)],  # 3
        *[(4, 0), (None, None)],  # 4
    ]
    assert not any(trace.connectgaps for trace in (grey, five, one_))
    some = lr.rank_flow(only(one, [0, 3, 5])).data  # layers that were not read are no gap
    assert (list(some[-1].x), list(some[-1].y)) == ([0, 3, 5], [0, 0, 0])


def test_a_flow_is_coloured_dashed_and_named_as_the_last_layer_has_it(result):
    one, figure = result[0], lr.rank_flow(result)
    lines = figure.data[:0:-1]
    assert [line.line.color for line in lines] == list(COLORS[:K])
    assert [line.line.dash for line in lines] == list(DASHES[:K])
    ends = [note for note in figure.layout.annotations if note.x == LAYERS - 1 and note.y >= 0]
    for rank, note in enumerate(ends):
        word, p = (
            visible_token(one.text(one.top_ids[-1, -1, rank])),
            probability(one.top_logprobs[-1, -1, rank]),
        )
        assert (note.text, note.y) == (f"{word}  {p}", rank)
    assert len(ends) == K
    for trace in figure.data:
        for layer, rank, said in zip(trace.x, trace.y, trace.customdata, strict=True):
            if rank is not None:
                word = visible_token(one.text(one.top_ids[layer, -1, rank]))
                p = probability(one.top_logprobs[layer, -1, rank])
                assert said.split("<br>")[:3] == [
                    f"<b>{word}</b>",
                    f"layer {layer}, rank {rank}",
                    f"probability {p}",
                ]


def test_above_a_flow_stands_each_new_top_token(result):
    one, figure = result[0], lr.rank_flow(result)
    top = one.top_ids[:, -1, 0].tolist()
    expected = [
        (n, visible_token(one.text(i))) for n, i in enumerate(top) if n == 0 or top[n - 1] != i
    ]
    above = [note for note in figure.layout.annotations if note.y < 0]
    assert [(note.x, note.text) for note in above] == expected
    assert {note.textangle for note in above} == {0}  # there is room


@pytest.mark.parametrize("n_layers", [30, 80, 200])
def test_the_names_above_a_flow_have_room(monkeypatch, n_layers):
    monkeypatch.setattr("test_generation_figures.LAYERS", n_layers)
    figure = lr.rank_flow(generation(steps=(2,)))
    assert figure.layout.width <= 1600
    plot = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    left, right = figure.layout.xaxis.range
    above = [note for note in figure.layout.annotations if note.y < 0]
    places = [(note.x - left) / (right - left) * plot for note in above]
    assert min(np.diff(places)) >= 14 - 1e-6
    assert len(above) > 5
    assert {note.textangle for note in above} == ({-45} if n_layers == 30 else {-90})


@pytest.mark.parametrize("n_layers", [6, 30, 80])
@pytest.mark.parametrize("letter", ["w", "電"])
def test_no_name_of_a_flow_reaches_into_the_title_or_beyond_the_edge(monkeypatch, n_layers, letter):
    monkeypatch.setattr("test_generation_figures.LAYERS", n_layers)
    result = generation(steps=(2,))
    result.texts.update({token_id: letter * 8 + str(token_id) for token_id in result.texts})
    layout = lr.rank_flow(result).layout
    for note in layout.annotations:
        letters = sum(12 if char == "電" else 6 for char in note.text)  # pixels, at least
        if note.y >= 0:
            assert letters + note.xshift < layout.margin.r
            continue
        height = {0: 12, -45: 0.7 * letters, -90: letters}[note.textangle]
        n_lines = layout.title.subtitle.text.count("<br>") + 1
        assert layout.margin.t - height > 38 + 17 * n_lines


def test_names_above_a_flow_that_are_short_stand_level_and_far_enough_apart(monkeypatch):
    monkeypatch.setattr("test_generation_figures.LAYERS", 30)
    result = generation(steps=(2,))
    result.texts.update({token_id: "ab"[token_id % 2] for token_id in result.texts})
    notes = [note for note in lr.rank_flow(result).layout.annotations if note.y < 0]
    assert {note.textangle for note in notes} == {0}
    assert len(notes) > 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": 0}, ["k=0", "1 to 3", "top_k="]),
        ({"k": 4}, ["k=4", "1 to 3", "top_k="]),
        ({"k": 2.0}, ["k=2.0"]),
        ({"k": True}, ["k=True"]),
        ({"position": 7}, ["position=7", "7 positions"]),
        ({"component": "attn_out"}, ["no 'attn_out'"]),
    ],
)
def test_a_flow_says_what_is_wrong(result, arguments, words):
    refused(words, lr.rank_flow, result, **arguments)


def test_a_flow_has_no_more_lines_than_colours(monkeypatch):
    monkeypatch.setattr("test_generation_figures.K", 12)
    wide = generation(steps=(2,))
    assert len(lr.rank_flow(wide).data) == 1 + len(COLORS)
    refused(["k=9", "1 to 8", "colours"], lr.rank_flow, wide, k=9)


# -- compare -----------------------------------------------------------


def like(result, seed, **options):
    """Another model's result on the same tokens."""
    other = read(seed=seed, **options)
    return dataclasses.replace(other, tokens=dataclasses.replace(result.tokens))


@pytest.fixture(scope="module")
def other(result):
    return like(result, 9)


@pytest.mark.parametrize("prompt", [0, 1, -1])
@pytest.mark.parametrize(
    ("metric", "of", "numbers"),
    [
        ("prob", None, lambda r: np.exp(r.top_logprobs[..., 0])),
        ("logprob", "final", lambda r: r.final_logprobs),
        ("entropy", None, lambda r: r.entropy),
        ("kl", None, lambda r: r.kl_to_final),
        ("loss", None, lambda r: -r.next_logprobs),
        ("logit", " w3", lambda r: r.target_logprobs[..., 0] + r.logsumexp),
        ("logit_diff", (3, 4), lambda r: r.target_logits[..., 0] - r.target_logits[..., 1]),
    ],
)
def test_a_comparison_shows_both_and_subtracts_them(result, other, metric, of, numbers, prompt):
    figure = lr.compare(result, other, metric=metric, of=of, prompt=prompt)
    a, b = (numbers(r[prompt]).astype(float) for r in (result, other))
    left, right, minus = figure.data[:3]
    np.testing.assert_allclose(left.z, a, rtol=1e-6)
    np.testing.assert_allclose(right.z, b, rtol=1e-6)
    np.testing.assert_allclose(minus.z, a - b, rtol=1e-5, atol=1e-6)
    assert (left.zmin, left.zmax, left.colorscale) == (right.zmin, right.zmax, right.colorscale)
    assert (left.zmin, left.zmax) == (None, None) or left.zmin < left.zmax
    assert minus.zmax == -minus.zmin == pytest.approx(np.nanmax(np.abs(a - b)))
    scale = tuple((at, color) for at, color in DIVERGING)
    assert (left.colorscale == scale) == (metric == "logit_diff")
    lower_is_better = metric in ("entropy", "kl", "loss")
    blue = DIVERGING[-1][1]
    assert minus.colorscale[0 if lower_is_better else -1][1] == blue
    assert [at for at, _ in minus.colorscale] == [at for at, _ in scale]
    assert {color for _, color in minus.colorscale} == {color for _, color in scale}
    which = "lower" if lower_is_better else "higher"
    assert minus.colorbar.title.text.endswith(f"<br>blue: {which} in A")
    assert left.showscale is False
    assert METRICS[metric].label in minus.colorbar.title.text
    assert "A − B" in minus.colorbar.title.text
    heads = [note.text for note in figure.layout.annotations]
    assert heads == ["<b>A</b>", "<b>B</b>", "<b>A − B</b>"]


def test_ranks_are_subtracted_as_logarithms_and_the_scale_says_what_that_means(result, other):
    figure = lr.compare(result, other, metric="rank", of=4, names=("small", "large"))
    a, b = (r[0].target_ranks[..., 1].astype(float) for r in (result, other))
    np.testing.assert_allclose(figure.data[0].z, -np.log10(a + 1))
    np.testing.assert_allclose(figure.data[2].z, np.log10(a + 1) - np.log10(b + 1), atol=1e-12)
    title = figure.data[2].colorbar.title.text
    assert "log10(rank + 1): small − large" in title
    assert title.split("<br>")[1] == "blue: small has it nearer the top"
    assert figure.data[2].colorscale[0][1] == DIVERGING[-1][1]  # of what is below 0
    cell = tuple(np.argwhere(figure.data[2].z < 0)[0])
    assert (a < b)[cell]
    said = figure.data[2].customdata[cell[0]][cell[1]]
    assert f"small: {a[cell]:.0f}, top-1" in said
    assert f"large: {b[cell]:.0f}, top-1" in said
    assert "in log10(rank + 1)" in said
    assert list(figure.data[1].colorbar.ticktext[:2]) == ["0", "1"]


@pytest.mark.parametrize("n_tokens", [4, 40])
def test_a_colour_bar_is_as_high_as_the_panels_that_it_belongs_to(n_tokens):
    panels = Panels.arrange(n_tokens, 30, two_texts=False)
    for first, last in ((0, 1), (2, 2)):
        bar = panels.color_bar(first, last)
        top, bottom = panels.domain(first).top, panels.domain(last).bottom
        assert bar["len"] == pytest.approx((top - bottom) * panels.height)
        assert bar["y"] == pytest.approx((top + bottom) / 2)


def test_the_hover_of_all_three_panels_tells_both_numbers(result, other):
    figure = lr.compare(result, other, names=("old", "new"))
    one, two = result[0], other[0]
    p, q = np.exp(one.top_logprobs[4, 2, 0]), np.exp(two.top_logprobs[4, 2, 0])
    said = figure.data[0].customdata[4][2].split("<br>")
    assert said[:3] == [
        f"<b>layer 4</b>, position {one.tokens.position[2]}",
        f"input {visible_token(one.tokens.text[2])}",
        "probability of the top token",
    ]
    assert (
        said[3] == f"old: {p:.4g}, top-1 {visible_token(one.text(one.top_ids[4, 2, 0]))}  {p:.3f}"
    )
    assert (
        said[4] == f"new: {q:.4g}, top-1 {visible_token(two.text(two.top_ids[4, 2, 0]))}  {q:.3f}"
    )
    assert said[5] == f"old − new: {p - q:+.4g}".replace("-", "−")
    assert figure.data[0].customdata == figure.data[1].customdata == figure.data[2].customdata


def test_the_words_in_the_cells_are_each_ones_top_token(result, other):
    figure = lr.compare(result, other)
    for n, one in enumerate((result[0], other[0])):
        assert cell_words(figure, n) == [
            [visible_token(one.text(i)) for i in row] for row in one.top_ids[..., 0]
        ]
    assert figure.data[2].text is None
    wide = read(steps=(25,))
    assert all(
        trace.text is None and trace.texttemplate is None for trace in lr.compare(wide, wide).data
    )


def test_equal_results_differ_by_nothing(result):
    figure = lr.compare(result, result, metric="kl")
    assert not np.asarray(figure.data[2].z).any()
    assert figure.data[2].zmin < 0 < figure.data[2].zmax


def test_what_has_no_number_has_no_difference(result, other):
    z = np.asarray(lr.compare(result, other, metric="loss").data[2].z)
    assert np.isnan(z[:, -1]).all()
    assert not np.isnan(z[:, :-1]).any()
    assert "A: none" in lr.compare(result, other, metric="loss").data[2].customdata[0][-1]
    never = dataclasses.replace(
        result, final_logprobs=np.where(result.final_ranks > 0, -np.inf, result.final_logprobs)
    )
    figure = lr.compare(never, other, metric="logprob", of="final")
    assert np.isfinite(figure.data[2].z).all()  # an infinity takes the end of the scale
    end = read(steps=(1,))
    refused(["loss", "both have a number"], lr.compare, end, end, metric="loss")


def test_two_prompts_of_one_result_by_position(result):
    pair = read(steps=(4, 4))
    figure = lr.compare(pair, pair, prompt_b=1, align="position", metric="kl")
    np.testing.assert_allclose(
        figure.data[2].z, pair[0].kl_to_final - pair[1].kl_to_final, rtol=1e-5
    )
    labels = [figure.layout[f"xaxis{n}"].ticktext for n in ("", 2, 3)]
    for t, (a, b) in enumerate(zip(pair[0].tokens.text, pair[1].tokens.text, strict=True)):
        assert labels[0][t].split("<br>")[0] == visible_token(a)
        assert labels[1][t].split("<br>")[0] == visible_token(b)
        assert labels[2][t].split("<br>")[:-1] == (
            [visible_token(a)] if a == b else [visible_token(a), visible_token(b)]
        )
        assert (
            f"input {' | '.join(dict.fromkeys([visible_token(a), visible_token(b)]))}<br>"
            in figure.data[0].customdata[0][t]
        )
    for text in ("“\u2068prompt 0\u2069”", "“\u2068prompt 1\u2069”"):
        assert text in figure.layout.title.subtitle.text


def test_tokens_that_do_not_go_together_are_refused_with_the_first_difference(result):
    pair = read(steps=(4, 4))
    texts = ["same", *pair.tokens.text[1:4], "same", *pair.tokens.text[5:]]
    pair = dataclasses.replace(pair, tokens=dataclasses.replace(pair.tokens, text=texts))
    first = next(t for t in range(4) if texts[t] != texts[4 + t])
    words = [
        f"number {first} of",
        repr(texts[first]),
        repr(texts[4 + first]),
        f"position {10 + first}",
        '"position"',
    ]
    refused(words, lr.compare, pair, pair, prompt_b=1)
    moved = dataclasses.replace(
        result, tokens=dataclasses.replace(result.tokens, position=result.tokens.position + 1)
    )
    for align in ("token", "position"):
        words = ["number 0 of", "position 10", "position 11", "positions="]
        refused(words, lr.compare, result, moved, align=align)
        longer = read(steps=(8,), seed=0)
        prefix = dataclasses.replace(
            longer, tokens=dataclasses.replace(longer.tokens, text=[*result[0].tokens.text, "x"])
        )
        refused(
            ["number 7 of", "A has no more", "'x' at position 17"],
            lr.compare,
            result,
            prefix,
            align=align,
        )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        lr.compare(result, moved)
    assert 'align="position"' not in str(error.value)  # it would not help


def test_the_rows_are_the_sites_that_both_have(parts):
    one = only(parts, [s for s in range(len(parts.sites)) if parts.sites[s].layer in (0, 2, 3)])
    two = only(
        parts,
        [
            s
            for s, site in enumerate(parts.sites)
            if site.component != "attn_out" and site.layer != 0
        ][::-1],
    )
    figure = lr.compare(one, two, metric="entropy", names=("one", "two"))
    both = [site for site in one.sites if site in two.sites]
    assert list(figure.layout.yaxis.ticktext) == [str(site) for site in both]
    for result, cells in ((one, figure.data[0]), (two, figure.data[1])):
        np.testing.assert_allclose(
            cells.z, [result[0].entropy[result.sites.index(site)] for site in both]
        )
    subtitle = figure.layout.title.subtitle.text
    assert "only in one, not drawn: attn_out 0, 2–3; head_out 0; mlp_out 0; layer 0" in subtitle
    assert "only in two, not drawn: head_out 1, 4–5; mlp_out 1, 4–5; layers 1, 4–5" in subtitle
    alone = lr.compare(one, two, metric="entropy", component="resid_post")
    assert list(alone.layout.yaxis.ticktext) == ["2", "3"]
    assert "only in A, not drawn: layer 0<br>" in alone.layout.title.subtitle.text
    refused(
        ["component='attn_out'", "A has", "two has"],
        lr.compare,
        one,
        two,
        component="attn_out",
        names=("A", "two"),
    )


def test_sites_in_words():
    sites = [
        lr.Site(0, "embed"),
        *(lr.Site(n) for n in (0, 1, 2, 5, 7, 8)),
        lr.Site(3, "head_out", 1),
    ]
    assert describe_sites(sites) == "embed; head_out 3; layers 0–2, 5, 7–8"
    assert describe_sites([lr.Site(4)]) == "layer 4"


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 11), min_size=1), st.sets(st.integers(0, 11), min_size=1))
def test_common_sites_are_the_intersection_in_order(result, one, two):
    pair = tuple(
        dataclasses.replace(result, sites=[lr.Site(layer) for layer in sorted(layers)])
        for layers in (one, two)
    )
    if one & two:
        assert common_sites(pair, ("A", "B"), None) == [
            lr.Site(layer) for layer in sorted(one & two)
        ]
    else:
        refused(
            ["no site that both have", f"A has {describe_sites(pair[0].sites)}", "layers="],
            common_sites,
            pair,
            ("A", "B"),
            None,
        )


def test_a_stride_leaves_rows_out_and_not_colours(result, other):
    whole, some = (
        lr.compare(result, other, metric="kl"),
        lr.compare(result, other, metric="kl", stride=2),
    )
    assert list(some.layout.yaxis.ticktext) == ["1", "3", "5"]
    assert "3 of 6 common sites" in some.layout.title.subtitle.text
    np.testing.assert_array_equal(some.data[2].z, np.asarray(whole.data[2].z)[1::2])
    for a, b in zip(whole.data, some.data, strict=True):
        assert (a.zmin, a.zmax) == (b.zmin, b.zmax)


@pytest.mark.parametrize(
    ("n", "beside"), [(1, True), (7, True), (8, False), (30, True), (60, False), (300, False)]
)
def test_panels_stand_beside_each_other_unless_too_wide(n, beside):
    wide = read(steps=(n,))
    layout = lr.compare(wide, wide, metric="kl").layout
    domains = [(layout[f"xaxis{k}"].domain, layout[f"yaxis{k}"].domain) for k in ("", 2, 3)]
    for (x, y), (next_x, next_y) in pairwise(domains):
        assert x[1] < next_x[0] if beside else y[0] > next_y[1]
    assert domains[0][0][0] == pytest.approx(0)
    assert max(v for domain in domains for axis in domain for v in axis) == pytest.approx(1)
    assert (layout.yaxis3.showticklabels is False) == beside
    assert layout.width < 2000 if beside else layout.width <= 7800


def test_a_mark_is_said_of_the_one_that_has_it(result, raw):
    wrong = dataclasses.replace(result.certificate, max_logit_error=3.0)
    for a, b, found in [
        (result, raw, ["A: tiny, certified", "B: tiny <b>RAW STREAM"]),
        (raw, result, ["A: tiny <b>RAW STREAM", "B: tiny, certified"]),
        (
            dataclasses.replace(result, certificate=wrong),
            result,
            ["A: tiny <b>NOT CERTIFIED</b>", "B: tiny, certified"],
        ),
        (
            result,
            dataclasses.replace(result, certificate=None),
            ["A: tiny, certified", "B: tiny, no certificate"],
        ),
    ]:
        lines = lr.compare(a, b).layout.title.subtitle.text.split("<br>")
        said = [line for line in lines if not line.startswith("“")]
        assert [line.startswith(start) for line, start in zip(said, found, strict=True)] == [
            True,
            True,
        ]
    for view in (lr.layer_profile, lr.rank_flow):
        assert "RAW STREAM" in view(raw).layout.title.subtitle.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "probability"}, ["'probability'", "'prob'"]),
        ({"metric": "rank"}, ["needs `of`"]),
        ({"of": " Rome"}, ["' Rome'", "' w3'"]),
        ({"align": "text"}, ["align='text'", "'token'", "'position'"]),
        ({"stride": 0}, ["stride=0"]),
        ({"colors": "RdBu"}, ["'RdBu'", "no middle"]),
        ({"component": "mlp_out"}, ["component='mlp_out'", "layers 0–5"]),
        ({"names": ("A", "A")}, ["names=('A', 'A')", "two different"]),
        ({"names": "AB"}, ["names='AB'", "two different"]),
        ({"names": ("A", "")}, ["two different"]),
    ],
)
def test_a_comparison_says_what_is_wrong(result, other, arguments, words):
    refused(words, lr.compare, result, other, **arguments)


def test_vectors_are_not_compared(result, vectors):
    refused(["vectors have no layers"], lr.compare, vectors, vectors)
    refused(["vectors have no layers"], lr.compare, result, vectors)


# -- texts -------------------------------------------------------------

NAMES = ("<b>$a$</b>", "%{y}&lt;")


@pytest.mark.parametrize("steps", [(24,), (30,)])
@pytest.mark.parametrize(
    "view",
    [
        lr.layer_profile,
        lambda r: lr.layer_profile(r, metric="rank", of=3),
        lr.rank_flow,
        lambda r: lr.rank_flow(r, position=0),
        lambda r: lr.compare(r, r, names=NAMES),
        lambda r: lr.compare(r, r, metric="rank", of=3, names=NAMES),
        lambda r: lr.compare(r, r, metric="logit_diff"),
        lambda r: lr.compare(r, moved(r), align="position", names=NAMES),
    ],
)
def test_no_text_acts_in_a_figure(view, steps):
    assert_inert(view(hostile_texts(read(steps=steps, sharp=1.0))))


def moved(result):
    """The same with other tokens and another prompt."""
    tokens = dataclasses.replace(result.tokens, text=[*result.tokens.text[1:], "<i>"])
    return dataclasses.replace(
        result, tokens=tokens, prompts=[f"$x$<p>{p}" for p in result.prompts]
    )


@pytest.mark.parametrize(
    "view", [lr.layer_profile, lr.rank_flow, lambda r, **o: lr.compare(r, r, **o)]
)
def test_a_title_of_ones_own_stands_in_place_of_ours(result, view):
    assert view(result, title="Mine").layout.title.text == "Mine"
    assert html.unescape(view(result).layout.title.text) != "Mine"
