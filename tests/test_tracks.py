"""Views of several components and of tokens along the layers: the numbers are those of the arrays."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tiny

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.arrays.metrics import logit_diff
from lens_recipes.arrays.sites import (
    Important,
    components,
    layer_series,
    previous_sites,
    selected_sites,
)
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.figures.base.style import COLORS, DASHES
from lens_recipes.views.figures.layers.top_tokens import top_tokens
from lens_recipes.views.figures.layers.trajectory import trajectory
from lens_recipes.views.words import probability

PROMPTS = ["The capital of France is", "One two", "A model reads the prompt"]
ORDER = ["resid_pre", "attn_out", "head_out", "resid_mid", "mlp_out", "resid_post"]
V = tiny.STRING_VOCAB


@pytest.fixture(scope="module")
def plain(llama):
    """resid_post only: 4 layers, 3 prompts, two targets for each prompt."""
    return tiny.believed(lr.logit_lens(llama, PROMPTS, targets=[[" the", 7], [7, " the"], [8, 9]]))


@pytest.fixture(scope="module")
def mixed(plain):
    """The same with other components, whose numbers come from random distributions."""
    return with_sites(plain, block_sites(4))


def block_sites(n_layers, names=ORDER, heads=2):
    found = [lr.Site(0, "embed")]
    for layer in range(n_layers):
        for name in names:
            numbers = range(heads) if name == "head_out" else [None]
            found += [lr.Site(layer, name, head) for head in numbers]
    return found


def with_sites(plain, sites, seed=0):
    """A result with these sites: resid_post as it was, the others a random distribution each."""
    generator = np.random.default_rng(seed)
    n_tokens, k = plain.top_ids.shape[1:]
    spots = np.arange(n_tokens)
    arrays = {name: [] for name, axes in AXES.items() if axes[0] == "site"}
    texts = dict(plain.texts)
    for site in sites:
        if site in plain.sites:
            for name, rows in arrays.items():
                rows.append(getattr(plain, name)[plain.sites.index(site)])
            continue
        logits = generator.normal(scale=4, size=(n_tokens, V)).astype(np.float32)
        total = np.log(np.exp(logits.astype(np.float64)).sum(-1)).astype(np.float32)
        logprobs = logits - total[:, None]
        ids = np.argsort(-logprobs, axis=-1)[:, :k].astype(np.int32)
        ranks = np.argsort(np.argsort(-logprobs, axis=-1), axis=-1).astype(np.int32)
        targets = plain.target_ids[plain.tokens.prompt]
        follows = plain.tokens.next_id >= 0
        texts |= {int(i): texts.get(int(i), f"<b>${i}") for i in np.unique(ids)}
        values = {
            "top_ids": ids,
            "top_logprobs": np.take_along_axis(logprobs, ids, -1),
            "entropy": -(np.exp(logprobs) * logprobs).sum(-1),
            "kl_to_final": generator.uniform(0, 5, n_tokens).astype(np.float32),
            "logsumexp": total,
            "next_logprobs": np.where(
                follows, logprobs[spots, plain.tokens.next_id], np.float32("nan")
            ),
            "next_ranks": np.where(follows, ranks[spots, plain.tokens.next_id], -1),
            "final_logprobs": logprobs[spots, plain.final_ids],
            "final_ranks": ranks[spots, plain.final_ids],
            "target_logits": np.take_along_axis(logits, targets, -1),
            "target_logprobs": np.take_along_axis(logprobs, targets, -1),
            "target_ranks": np.take_along_axis(ranks, targets, -1),
            "tracked_logprobs": np.take_along_axis(logprobs, np.maximum(plain.tracked_ids, 0), -1),
        }
        for name, rows in arrays.items():
            rows.append(values[name])
    stacked = {
        name: np.stack(rows).astype(getattr(plain, name).dtype) for name, rows in arrays.items()
    }
    return dataclasses.replace(plain, sites=list(sites), texts=texts, **stacked)


@pytest.fixture(scope="module")
def vectors(plain):
    """What `decode_vectors` gives: one site, names in place of tokens, no model's answer."""
    one = with_sites(plain, [lr.Site(None, "vector")])[0]
    n = len(one.tokens)
    none, nan = np.full(n, -1, dtype=np.int32), np.full((1, n), np.nan, dtype=np.float32)
    names = [f"feature {t}" for t in range(n - 2)] + ["<b>x</b>", "$a$"]
    tokens = dataclasses.replace(one.tokens, id=none, next_id=none, text=names)
    return dataclasses.replace(
        one, tokens=tokens, prompts=["vectors"], kl_to_final=nan, final_ids=none, final_logprobs=nan, next_logprobs=nan,
        final_ranks=none[None], next_ranks=none[None], model_logprobs=nan[0], model_entropy=nan[0], certificate=None,
    )  # fmt: skip


# -- sites -------------------------------------------------------------


def test_sites_are_written_as_a_person_would():
    sites = [
        lr.Site(3),
        lr.Site(0, "embed"),
        lr.Site(None, "vector"),
        lr.Site(3, "attn_out"),
        lr.Site(3, "head_out", 2),
    ]
    assert [str(site) for site in sites] == ["3", "embed", "vector", "3.attn_out", "3.head_out.2"]


def test_components_come_in_the_order_of_a_block_even_if_layer_0_lacks_one():
    sites = [
        lr.Site(0, "mlp_out"),
        lr.Site(0),
        lr.Site(1, "attn_out"),
        lr.Site(1, "mlp_out"),
        lr.Site(1),
    ]
    assert components(sites) == ["attn_out", "mlp_out", "resid_post"]
    assert layer_series(sites) == [1, 4]
    assert layer_series(sites, "mlp_out") == [0, 3]
    assert previous_sites(sites) == [-1, -1, -1, -1, 1]
    assert previous_sites([sites[0], sites[2], sites[3]]) == [
        -1,
        -1,
        0,
    ]  # without a stream, each along its own
    stream = [
        lr.Site(0, "embed"),
        lr.Site(0, "attn_out"),
        lr.Site(0, "resid_mid"),
        lr.Site(0),
        lr.Site(1, "resid_mid"),
    ]
    assert previous_sites(stream) == [-1, -1, 0, 2, 3]


def test_settled_is_about_one_components_sites(plain, mixed):
    posts = [s for s, site in enumerate(mixed.sites) if site.component == "resid_post"]
    before = plain.settled()
    np.testing.assert_array_equal(
        mixed.settled(), np.where(before < 0, -1, np.array(posts)[before])
    )
    ranks = mixed.final_ranks.copy()
    mids = [s for s, site in enumerate(mixed.sites) if site.component == "resid_mid"]
    ranks[mids, 0], ranks[mids, 1] = [0, 3, 0, 0], [0, 0, 0, 1]
    settled = dataclasses.replace(mixed, final_ranks=ranks).settled(component="resid_mid")
    assert settled[:2].tolist() == [mids[2], -1]


def test_settled_takes_the_only_component_and_asks_which_of_several(plain):
    only = with_sites(plain, [lr.Site(layer, "attn_out") for layer in range(3)])
    ranks = np.zeros_like(only.final_ranks)
    ranks[0] = 1
    assert (dataclasses.replace(only, final_ranks=ranks).settled() == 1).all()
    two = with_sites(plain, [lr.Site(0, "attn_out"), lr.Site(0, "mlp_out")])
    with pytest.raises(ValueError, match="component= one of 'attn_out', 'mlp_out'"):
        two.settled()
    assert two.settled(component="mlp_out").shape == (len(two.tokens),)
    with pytest.raises(ValueError, match="no 'resid_mid'"):
        two.settled(component="resid_mid")
    with pytest.raises(ValueError, match="heads of different layers"):
        with_sites(plain, [lr.Site(0, "head_out", 0), lr.Site(1, "head_out", 0)]).settled()


def test_the_summary_reads_along_the_stream_and_names_what_else_says_the_answer(plain, mixed):
    text = mixed.summary()
    lines = [line for line in plain.summary().splitlines() if line.startswith("prompt")]
    assert [line for line in text.splitlines() if line.startswith("prompt")] == lines
    assert "also top-1 at none of the 25 other sites" in text
    ranks = mixed.final_ranks.copy()
    ranks[mixed.sites.index(lr.Site(2, "head_out", 1))] = 0
    assert (
        "also top-1 at 2.head_out.1 (p" in dataclasses.replace(mixed, final_ranks=ranks).summary()
    )
    assert "read alone" in text
    parts = with_sites(plain, [lr.Site(1, "attn_out"), lr.Site(1, "mlp_out")]).summary()
    assert "best rank" in parts
    assert "halfway" not in parts


# -- logit_diff --------------------------------------------------------


def test_logit_diff_is_the_difference_of_the_logits_and_of_the_logprobs(mixed):
    pair = dataclasses.replace(mixed[0])
    got = logit_diff(pair, " the", 7)
    np.testing.assert_array_equal(got, pair.target_logits[..., 0] - pair.target_logits[..., 1])
    np.testing.assert_allclose(
        got, pair.target_logprobs[..., 0] - pair.target_logprobs[..., 1], atol=1e-4
    )
    np.testing.assert_array_equal(logit_diff(pair, 7, " the"), -got)
    assert got.shape == (len(mixed.sites), len(pair.tokens))


def test_logit_diff_finds_each_prompts_own_column(llama):
    both = lr.logit_lens(llama, PROMPTS[:2], targets=[[" the", 7], [7, " the"]])
    got = logit_diff(both, " the", 7)
    for p, (a, b) in enumerate([(0, 1), (1, 0)]):
        here = both.tokens.prompt == p
        logits = both.target_logits[:, here]
        np.testing.assert_array_equal(got[:, here], logits[..., a] - logits[..., b])


def test_logit_diff_says_what_the_targets_are(plain, llama):
    with pytest.raises(
        ValueError, match=r"' the' is not a target of the prompt 'A·model.*\(8\).*\(9\)"
    ):
        logit_diff(plain, " the", 7)
    with pytest.raises(ValueError, match=r"targets are none\. Pass targets="):
        logit_diff(lr.logit_lens(llama, "One"), 7, 8)


# -- important ---------------------------------------------------------


def by_hand(result, numbers, threshold, rise):
    """(site, value) where the number, or its rise since the stream's site before, reaches a threshold."""
    found, last = [], {}
    for s, site in enumerate(result.sites):
        value = float(numbers[s])
        if rise:
            if site.component not in ("embed", "resid_pre", "resid_mid", "resid_post"):
                continue
            before = last.get("stream")
            last["stream"] = value
            if before is None:
                continue
            value -= before
        if value >= threshold:
            found.append((s, value))
    return found


@pytest.mark.parametrize("prompt", [0, 2])
def test_importants_numbers_are_those_of_numpy(plain, mixed, prompt):
    for result in (plain, mixed):
        one = result[prompt]
        final, target = (
            one.final_logprobs[:, -1].astype(float),
            one.target_logprobs[:, -1, 0].astype(float),
        )
        cases = [
            (("prob", 0.02), {}, np.exp(one.top_logprobs[:, -1, 0].astype(float)), False),
            (("prob", 0.001), {"of": "final"}, np.exp(final), False),
            (("kl_drop", 0.0), {}, -one.kl_to_final[:, -1].astype(float), True),
            (("target_jump", 0.1), {}, target, True),
            (("target_jump", -0.5), {"of": "final"}, final, True),
        ]
        for arguments, options, numbers, rise in cases:
            got = result.important(*arguments, prompt=prompt, **options)
            expected = by_hand(one, numbers, arguments[1], rise)
            assert [item.site for item in got] == [s for s, _ in expected]
            np.testing.assert_allclose(
                [item.value for item in got], [value for _, value in expected]
            )
            assert all(one.sites[item.site] == item.where for item in got)
    assert result.important("prob", 0.0) == result.important(
        "prob", 0
    )  # every site has some probability
    assert len(result.important("prob", 0.0)) == len(result.sites)


def test_a_threshold_is_reached_at_the_threshold(plain):
    kl = np.full_like(plain.kl_to_final, 3.0)
    kl[2:] = 2.5  # falls by 0.5 nats at site 2
    result = dataclasses.replace(plain, kl_to_final=kl)
    assert result.important("kl_drop") == [Important(2, lr.Site(2), 0.5)]
    assert result.important("kl_drop", np.nextafter(0.5, 1)) == []
    top = np.full_like(plain.top_logprobs, math.log(0.25))
    top[1, ..., 0] = 0.0
    result = dataclasses.replace(plain, top_logprobs=top)
    assert result.important("prob", 1) == [Important(1, lr.Site(1), 1.0)]


def test_the_first_site_of_a_component_has_no_step_and_the_last_is_not_special(mixed):
    streams = [
        s for s, site in enumerate(mixed.sites) if site.component.startswith(("resid", "embed"))
    ]
    steps = [item.site for item in mixed.important("kl_drop", -1e9)]
    assert steps == streams[1:]
    assert mixed.important("prob", 0.0)[-1].site == len(mixed.sites) - 1


def test_target_jump_is_about_the_first_target_or_the_answer(plain, llama):
    one = plain[1]
    assert one.important("target_jump", -99.0) == one.important("target_jump", -99.0, of=7)
    bare = lr.logit_lens(llama, "One two")
    assert bare.important("target_jump", -99.0) == bare.important("target_jump", -99.0, of="final")
    assert plain.important("target_jump", -99.0, prompt=1) == one.important("target_jump", -99.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "kl"}, ["'kl'", "'kl_drop'"]),
        ({"threshold": math.nan}, ["finite", "nan"]),
        ({"threshold": "0.5"}, ["finite", "'0.5'"]),
        ({"threshold": True}, ["finite", "True"]),
        ({"metric": "kl_drop", "threshold": math.inf}, ["finite"]),
        ({"threshold": 50}, ["from 0 to 1"]),
        ({"metric": "kl_drop", "of": "final"}, ["leave `of` out"]),
        ({"of": " Rome"}, ["' Rome'", "' the'"]),
        ({"of": "next"}, ["the prompt ends there"]),
        ({"position": 99}, ["position=99", "10 positions"]),
    ],
)
def test_important_says_what_is_wrong(plain, arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        plain.important(**arguments)
    assert all(word in str(error.value) for word in words)


# -- choosing rows -----------------------------------------------------


def test_rows_are_chosen_by_index_by_importance_and_by_component(mixed):
    found = mixed.important("kl_drop", 0.0)
    assert selected_sites(mixed.sites, found) == [item.site for item in found]
    assert selected_sites(mixed.sites, [5, -1, 5, np.int64(0)]) == [0, 5, len(mixed.sites) - 1]
    only = selected_sites(mixed.sites, None, "attn_out")
    assert [mixed.sites[s] for s in only] == [lr.Site(layer, "attn_out") for layer in range(4)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sites": []}, ["no site to show", "threshold"]),
        ({"sites": [99]}, ["site 99", "0 to 28"]),
        ({"sites": "resid_post"}, ["list of indices"]),
        ({"sites": ["3"]}, ["'3'"]),
        ({"sites": [Important(0, lr.Site(3), 1.0)]}, ["not a site of this result"]),
        ({"component": "mixer_out"}, ["'mixer_out'", "'attn_out'"]),
        ({"component": "attn_out", "sites": [0]}, ["no site to show"]),
    ],
)
@pytest.mark.parametrize("view", [lr.table, lr.heatmap])
def test_a_row_that_is_not_there_is_an_error(mixed, view, arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        view(mixed, **arguments)
    assert all(word in str(error.value) for word in words)


# -- heatmap -----------------------------------------------------------


def test_the_heatmap_shows_the_sites_that_were_named(mixed):
    one = mixed[0]
    rows = [0, 3, 7]
    figure = lr.heatmap(mixed, sites=rows)
    np.testing.assert_allclose(figure.data[0].z[:-1], np.exp(one.top_logprobs[rows][..., 0]))
    assert list(figure.layout.yaxis.ticktext) == ["embed", "0.head_out.0", "0", "output"]
    assert f"3 of {len(mixed.sites)} sites" in figure.layout.title.subtitle.text
    drop = lr.heatmap(mixed, component="attn_out", metric="kl")
    attn = selected_sites(mixed.sites, component="attn_out")
    np.testing.assert_allclose(drop.data[0].z[:-1], one.kl_to_final[attn])
    assert drop.data[0].zmax == pytest.approx(one.kl_to_final[attn].max())
    assert "<b>0.attn_out</b>" in drop.data[0].customdata[0][0]


def test_a_stride_keeps_all_components_of_a_layer(mixed):
    names = lr.heatmap(mixed, stride=3).layout.yaxis.ticktext
    expected = [str(site) for site in mixed.sites if site.layer in (0, 3)]
    assert list(names) == [*expected, "output"]


def test_one_components_views_are_those_of_a_result_of_it_alone(plain, mixed):
    for metric, of in [("prob", None), ("rank", "final"), ("kl", None)]:
        before, after = (
            lr.heatmap(r, metric=metric, of=of, component="resid_post") for r in (plain, mixed)
        )
        assert before.data[0].to_json() == after.data[0].to_json()
        assert before.to_json() == lr.heatmap(plain, metric=metric, of=of).to_json()
        assert before.to_json() == lr.heatmap(plain, metric=metric, of=of, sites=range(4)).to_json()
    for options in ({}, {"show_top": 2, "position": 0}, {"width": 60}):
        assert lr.table(mixed, component="resid_post", **options) == lr.table(plain, **options)
        assert lr.table(plain, sites=range(4), **options) == lr.table(plain, **options)


# -- the table of several components -----------------------------------


def test_side_by_side_every_site_is_there_with_its_probability(mixed):
    one = mixed[0]
    text = lr.table(one, show_top=3)
    beside = text.split("\n\n")[0]
    assert beside.splitlines()[1].split() == [
        "layer",
        *[name for name in ORDER if name != "head_out"],
    ]
    for s in range(len(one.sites)):
        word, p = (
            visible_token(one.text(one.top_ids[s, -1, 0])),
            probability(one.top_logprobs[s, -1, 0]),
        )
        rows = [line for line in text.splitlines() if word in line and p in line]
        assert rows, one.sites[s]
        if one.sites[s].component == "head_out":
            assert any(line.startswith(str(one.sites[s])) for line in rows)
    assert str(one) == lr.table(one, show_top=1)
    # layer 2: three predictions and two targets, one below the other
    lines = beside.splitlines()
    start = next(n for n, line in enumerate(lines) if line.split()[:1] == ["2"])
    at = lines[1].index("mlp_out")
    mlp = one.sites.index(lr.Site(2, "mlp_out"))
    for k in range(3):
        cell = lines[start + k][at:].split("  ")[0]
        assert cell.startswith(visible_token(one.text(one.top_ids[mlp, -1, k])))
    assert [
        f"rank {rank}" in lines[start + 3 + j] for j, rank in enumerate(one.target_ranks[mlp, -1])
    ] == [True] * 2


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_width_is_kept_and_no_component_is_lost(mixed, width):
    text = lr.table(mixed[0], show_top=1, width=width)
    heads = next(n for n, line in enumerate(text.splitlines()) if "top 1" in line)
    lines = text.splitlines()[1:heads]
    assert all(len(line) <= width for line in lines)
    assert all(name in text for name in ORDER if name != "head_out")
    assert not any(
        "…" in line.split()[-1] for line in lines if line.split()
    )  # a number is never cut
    for s, site in enumerate(mixed.sites):
        if site.component not in ("embed", "head_out"):
            p = probability(mixed[0].top_logprobs[s, -1, 0])
            assert any(line.split()[:1] == [str(site.layer)] and p in line for line in lines), site


def test_the_table_shows_only_the_sites_that_were_named(mixed):
    one = mixed[0]
    sites = [one.sites.index(lr.Site(1, "attn_out")), one.sites.index(lr.Site(3))]
    text = lr.table(one, sites=sites, show_top=1)
    assert "attn_out" in text
    assert "mlp_out" not in text
    assert [line.split()[0] for line in text.splitlines()[2:] if line.split()[0].isdigit()] == [
        "1",
        "3",
    ]


# -- vectors -----------------------------------------------------------


def test_vectors_have_a_row_each_and_no_answer(vectors):
    text = lr.table(vectors, show_top=2)
    rows = text.splitlines()[1:]
    assert len(rows) == len(vectors.tokens)
    for t, name in enumerate(vectors.tokens.text):
        assert name in rows[t]
        assert probability(vectors.top_logprobs[0, t, 0]) in rows[t]
    assert "KL" not in text
    assert "nan" not in text
    assert str(vectors) == lr.table(vectors)
    summary = vectors.summary()
    assert "vector 'feature 3': " in summary
    assert "nan" not in summary
    assert "the model answers" not in summary


def test_vectors_in_other_views(vectors):
    figure = lr.heatmap(vectors)
    assert list(figure.layout.yaxis.ticktext) == ["vector"]
    assert figure.layout.xaxis.ticktext[-2] == "&lt;b&gt;x&lt;/b&gt;"
    assert "nan" not in figure.data[0].customdata[0][0]
    assert (vectors.settled() == -1).all()
    assert len(vectors.important("prob", 0.0)) == 1
    for metric in ("kl_drop", "target_jump"):
        with pytest.raises(ValueError, match='use metric="prob"'):
            vectors.important(metric)
    with pytest.raises(ValueError, match="no answer of a model"):
        vectors.important("prob", of="final")
    for draw in (trajectory, top_tokens):
        with pytest.raises(ValueError, match="vectors have no layers"):
            draw(vectors)
    frame = vectors.to_frame()
    assert frame["layer"].isna().all()
    assert set(frame["role"]) == {"top", "target", "tracked"}
    assert (frame["id"] >= 0).all()


# -- trajectory --------------------------------------------------------


def test_a_trajectory_holds_each_prompts_own_numbers(mixed):
    posts = selected_sites(mixed.sites, component="resid_post")
    for metric in ("prob", "logprob", "logit", "rank"):
        figure = trajectory(mixed, metric=metric, position=0)
        assert len(figure.data) == 6  # two targets for each of three prompts
        for n, line in enumerate(figure.data):
            one, j = mixed[n // 2], n % 2
            expected = {
                "prob": np.exp(one.target_logprobs[posts, 0, j].astype(float)),
                "logprob": one.target_logprobs[posts, 0, j],
                "logit": one.target_logits[posts, 0, j],
                "rank": np.log10(one.target_ranks[posts, 0, j] + 1),
            }[metric]
            np.testing.assert_allclose(line.y, expected, rtol=1e-5, atol=1e-5)
            assert list(line.x) == [0, 1, 2, 3]
            assert line.mode == "lines+markers"
    assert trajectory(mixed, component="mlp_out").layout.xaxis.title.text == "layer (mlp_out)"


def test_colours_are_tokens_and_dashes_are_prompts(plain):
    lines = trajectory(plain).data
    tokens = [int(i) for i in plain.target_ids.ravel()]  # the, 7 | 7, the | 8, 9
    colors = {}
    for token, line in zip(tokens, lines, strict=True):
        assert colors.setdefault(token, line.line.color) == line.line.color
    assert len(set(colors.values())) == 4
    assert set(colors.values()) <= set(COLORS)
    assert [line.line.dash for line in lines] == [dash for dash in DASHES[:3] for _ in range(2)]


def test_the_rank_axis_is_logarithmic_and_reversed(plain):
    axis = trajectory(plain, metric="rank").layout.yaxis
    assert axis.range[0] > axis.range[1]
    assert axis.range[0] >= math.log10(V)
    assert list(axis.ticktext[:3]) == ["0", "1", "10"]
    np.testing.assert_allclose(axis.tickvals[:3], np.log10([1, 2, 11]))


def test_probabilities_that_span_decades_have_a_logarithmic_axis(plain):
    likely, unlikely = (
        dataclasses.replace(plain, target_logprobs=np.full_like(plain.target_logprobs, logprob))
        for logprob in (math.log(0.5), math.log(1e-4))
    )
    linear = trajectory(likely).layout.yaxis
    assert linear.type is None
    assert linear.range[0] <= 0
    assert linear.range[1] >= 1
    axis = trajectory(unlikely).layout.yaxis
    assert axis.type == "log"
    assert axis.range[0] < -4 < 0 < axis.range[1]


def test_what_is_drawn_can_be_chosen(plain):
    final = trajectory(plain, of="final", prompts=[2, 0], metric="logprob")
    assert [line.name.split()[0] for line in final.data] == ["answer"] * 2
    for line, prompt in zip(final.data, (2, 0), strict=True):
        np.testing.assert_allclose(line.y, plain[prompt].final_logprobs[:, -1])
    seven = trajectory(plain, of=7)  # two of the prompts have it
    assert [line.legendgroup for line in seven.data] == ["line 0", "line 1"]
    both = trajectory(plain, of=["final", 7], prompts=0)
    assert len(both.data) == 2


def test_a_logit_difference_is_drawn_for_each_prompts_own_pair(plain):
    figure = trajectory(plain, metric="logit_diff")
    for prompt, line in enumerate(figure.data):
        logits = plain[prompt].target_logits[:, -1]
        np.testing.assert_allclose(line.y, logits[:, 0] - logits[:, 1], atol=1e-6)
    turned = trajectory(plain, metric="logit_diff", of=[" the", 7], prompts=1)
    logits = plain[1].target_logits[:, -1]
    np.testing.assert_allclose(turned.data[0].y, logits[:, 1] - logits[:, 0], atol=1e-6)


def test_hover_and_legend_tell_layer_token_prompt_and_value(plain):
    figure = trajectory(plain, metric="rank")
    hover = figure.data[0].customdata[2]
    rank = plain[0].target_ranks[2, -1, 0]
    for part in ("·the", "layer 2", "The capital of France is", f"rank {rank:,}", "after token"):
        assert part in hover
    assert figure.data[2].legendgrouptitle.text == "<b>One two</b>"


def test_texts_are_inert_in_figures(plain):
    texts = {**plain.texts, int(plain.target_ids[0, 0]): "<b>$x$", 7: "<i>"}
    tokens = dataclasses.replace(plain.tokens, text=["<script>$"] * len(plain.tokens))
    evil = dataclasses.replace(plain, texts=texts, tokens=tokens, prompts=["<b>$bold$</b>"] * 3)
    for figure in (trajectory(evil), trajectory(evil, metric="logit_diff"), top_tokens(evil)):
        page = figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script>" not in page
        assert "<b>$" not in page
        assert "$" not in page.replace("&#36;", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metric": "entropy"}, ["'entropy'", "'logit_diff'"]),
        ({"of": " Rome"}, ["' Rome'", "' the'"]),
        ({"of": [7, 3.5]}, ["3.5"]),
        ({"of": "next"}, ["the prompt ends there"]),
        ({"prompts": 3}, ["0 to 2"]),
        ({"prompts": []}, ["0 prompts"]),
        ({"position": 9}, ["position=9"]),
        ({"component": "attn_out"}, ["no 'attn_out'", "'resid_post'"]),
        ({"metric": "logit_diff", "of": 7}, ["(a, b)"]),
        ({"metric": "logit_diff", "of": (7, 8)}, ["8 is not a target"]),
    ],
)
def test_trajectory_says_what_is_wrong(plain, arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        trajectory(plain, **arguments)
    assert all(word in str(error.value) for word in words)


def test_more_than_can_be_told_apart_is_cut_and_said_or_refused(llama):
    many = lr.logit_lens(llama, [[i, i + 1] for i in range(1, 10)], targets=[1])
    figure = trajectory(many)
    assert len(figure.data) == len(DASHES)
    assert "first 6 of 9 prompts" in figure.layout.title.subtitle.text
    with pytest.raises(ValueError, match="names 9 prompts"):
        trajectory(many, prompts=range(9))
    with pytest.raises(ValueError, match="9 tokens"):
        trajectory(lr.logit_lens(llama, [1], targets=list(range(1, 10))))


# -- top tokens --------------------------------------------------------


def test_top_tokens_are_the_last_layers_in_its_order(llama):
    result = tiny.believed(lr.logit_lens(llama, PROMPTS[:2], track=12, top_k=10))
    figure = top_tokens(result, 0, prompt=1)
    one = result[1]
    assert figure.data[0].z.shape == (10, 4)
    np.testing.assert_allclose(
        figure.data[0].z[:, -1], one.top_logprobs[-1, 0] / math.log(10), rtol=1e-5
    )
    for row, token in zip(figure.data[0].z, one.top_ids[-1, 0], strict=True):
        column = one.tracked_ids[0].tolist().index(token)
        np.testing.assert_allclose(
            row * math.log(10), one.tracked_logprobs[:, 0, column], rtol=1e-5
        )
    assert "track=" not in figure.layout.title.subtitle.text
    assert figure.layout.yaxis.autorange == "reversed"


def test_top_tokens_say_how_to_get_ten(llama):
    few = lr.logit_lens(llama, "One two")
    assert "track=10" in top_tokens(few).layout.title.subtitle.text
    with pytest.raises(ValueError, match=r"track=None.*track=10"):
        top_tokens(lr.logit_lens(llama, "One two", track=None))


def test_top_tokens_follow_one_component_and_name_its_last_layer(mixed):
    figure = top_tokens(mixed, component="mlp_out")
    along, one = selected_sites(mixed.sites, component="mlp_out"), mixed[0]
    tracked = one.tracked_ids[-1] >= 0
    expected = np.sort(one.tracked_logprobs[along[-1], -1, tracked])[::-1][:10] / math.log(10)
    np.testing.assert_allclose(figure.data[0].z[:, -1], expected, rtol=1e-5)
    assert figure.layout.xaxis.title.text == "layer (mlp_out)"
    two = with_sites(
        mixed, [site for site in mixed.sites if site.component in ("attn_out", "mlp_out")]
    )
    with pytest.raises(ValueError, match="component= one of 'attn_out', 'mlp_out'"):
        top_tokens(two)


def test_top_tokens_of_few_layers_name_the_last_of_them_and_have_room(llama):
    figure = top_tokens(lr.logit_lens(llama, "One two", layers=[0, 2], track=1))
    title = figure.layout.title
    assert title.text == "The tracked tokens that layer 2 ranks highest, through the layers"
    assert "<br>only tokens that were tracked" in title.subtitle.text
    assert max(map(len, title.subtitle.text.split("<br>"))) < 110  # letters in 760 pixels
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert height > 200  # pixels: the title of the colour bar is 160 long


# -- tokens that look the same, and tokens without a number ------------


@pytest.fixture(scope="module")
def twins(plain):
    """Targets 260 and 7 of the first prompt have the same text, and so has 8 of the third."""
    return dataclasses.replace(
        plain, texts={**plain.texts, int(plain.target_ids[0, 0]): "twin", 7: "twin", 8: "twin"}
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda r: r.of("twin"),
        lambda r: r.settled("twin"),
        lambda r: r[0].of("twin"),
        lambda r: lr.heatmap(r, metric="rank", of="twin"),
        lambda r: trajectory(r, of="twin", prompts=0),
        lambda r: logit_diff(r[0], "twin", 7),
    ],
)
def test_a_text_of_two_targets_is_refused(twins, ask):
    first = int(twins.target_ids[0, 0])
    ids = ", ".join(map(str, sorted([first, 7])))
    with pytest.raises(
        ValueError, match=f"'twin' is the text of several tokens: pass one of the ids {ids}"
    ):
        ask(twins)


def test_tokens_that_look_the_same_have_their_ids_in_titles_and_legends(twins):
    first = int(twins.target_ids[0, 0])
    assert [line.name for line in trajectory(twins, prompts=0).data] == [
        f"twin ({first})",
        "twin (7)",
    ]
    assert {"twin (8)", visible_token(twins.text(9))} <= {
        line.name for line in trajectory(twins).data
    }
    assert "of twin (7)" in lr.heatmap(twins, metric="rank", of=7).layout.title.text
    assert f"twin ({first}) − twin (7)" in lr.heatmap(twins, metric="logit_diff").layout.title.text
    assert twins[2].of(8)[2] == "twin"  # no other one there
    same = dataclasses.replace(twins, texts=dict.fromkeys(twins.texts, "twin"))
    one = same[0]
    ends = [note.text for note in lr.rank_flow(same).layout.annotations if "twin (" in note.text]
    assert len(ends) == one.top_ids.shape[-1]
    rows = top_tokens(same).layout.yaxis.ticktext
    assert len(rows) == 1 or len(set(rows)) == len(rows)


def test_a_token_is_not_compared_with_itself(plain):
    for pair in [(7, 7), (" the", int(plain.target_ids[0, 0]))]:
        with pytest.raises(ValueError, match="are the same token"):
            logit_diff(plain[0], *pair)


@pytest.mark.filterwarnings("error")
def test_between_infinite_logits_there_is_no_difference(plain):
    never = dataclasses.replace(plain, target_logits=plain.target_logits - np.inf)
    assert np.isnan(logit_diff(never[0], 7, " the")).all()


def test_where_a_token_has_no_number_it_is_not_drawn(plain):
    (line,) = trajectory(plain, of="next", position=[0, -1], prompts=0).data
    np.testing.assert_allclose(line.y, np.exp(plain[0].next_logprobs[:, 0]), rtol=1e-6)
    logprobs = plain.target_logprobs.copy()
    logprobs[:, plain.tokens.prompt == 0, 0] = np.nan
    broken = dataclasses.replace(plain, target_logprobs=logprobs)
    assert len(trajectory(broken, prompts=0).data) == 1
    with pytest.raises(ValueError, match="its log-probability is NaN at every site"):
        trajectory(broken, of=" the", prompts=0)
    with pytest.raises(ValueError, match="its log-probability is NaN at every site"):
        trajectory(dataclasses.replace(plain, target_logprobs=logprobs * np.nan))
