"""What people see of lenses: the name in every view, what a lens is worth, and two lenses beside each other."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hostile import FIELD
from test_lens_argument import random_lens

import lens_recipes as lr
from lens_recipes.arrays.metrics.seen import seen_by
from lens_recipes.arrays.used_lens import EMBEDDING, LensQuality, UsedLens, streams_in_words
from lens_recipes.lenses.lens import LensRecord
from lens_recipes.results import load_result
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.summaries.transfer import lens_line

PROMPTS = ["some words to begin with", "and others"]
TARGETS = [[260, 261], [262, 263]]


def quality(model, *, worse=(), refit=None):
    """Numbers that no two layers share; at some layers the lens is worse than none."""
    layers = [EMBEDDING, *lr.anatomy(model).layers[:-1]]
    logit_kl = [9.0 - 0.5 * row for row in range(len(layers))]
    kl = [
        each + 1 if layer in worse else each / 3
        for layer, each in zip(layers, logit_kl, strict=True)
    ]
    shares = [0.1 * (row + 1) for row in range(len(layers))]
    return LensQuality(
        layers, kl, shares, logit_kl, [share / 2 for share in shares], refit or [], 256, "some text"
    )


@pytest.fixture(scope="module")
def lens(llama):
    return dataclasses.replace(
        random_lens(llama), quality=quality(llama), source="lens.safetensors"
    )


@pytest.fixture(scope="module")
def logit(llama):
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS, top_k=4)


@pytest.fixture(scope="module")
def linear(llama, lens):
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS, top_k=4, lens=lens)


@pytest.fixture(scope="module")
def jacobian(llama):
    lens = random_lens(llama, kind="jacobian", seed=1)
    lens = dataclasses.replace(lens, record=LensRecord(first_position=3))
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS, top_k=4, lens=lens)


def used(result, **changes):
    """The same result, of a lens that says something else of itself."""
    stored = {**result.lens.to_json(), **changes}
    return dataclasses.replace(result, provenance={**result.provenance, "lens": stored})


# -- the name ----------------------------------------------------------


def text_of(draw):
    return lambda result, path: lr.caption(draw(result)) + draw(result).to_json()


def written(write):
    def view(result, path):
        write(result, path / "page.html")
        return (path / "page.html").read_text(encoding="utf-8")

    return view


VIEWS = {
    "repr": lambda result, path: repr(result),
    "str": lambda result, path: str(result),
    "table of one": lambda result, path: lr.table(result, prompt=0),
    "markdown": lambda result, path: lr.table(result, format="markdown", prompt=0),
    "summary": lambda result, path: result.summary(),
    "notebook": lambda result, path: result._repr_html_(),
    "heatmap": text_of(lr.heatmap),
    "prompts": text_of(lambda result: lr.heatmap(result, kind="prompts")),
    "trajectory": text_of(lr.trajectory),
    "top_tokens": text_of(lr.top_tokens),
    "rank_flow": text_of(lr.rank_flow),
    "layer_profile": text_of(lr.layer_profile),
    "compare": text_of(lambda result: lr.compare(result, result)),
    "report": written(lr.report),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_names_the_lens(name, logit, linear, jacobian, tmp_path):
    of_logit, of_linear, of_jacobian = (
        VIEWS[name](each, tmp_path) for each in (logit, linear, jacobian)
    )
    assert "linear lens" in of_linear or "Linear lens" in of_linear
    assert "Jacobian lens" in of_jacobian
    for word in ("inear lens", "acobian lens"):
        assert word not in of_logit
    # Nothing takes it for the logit lens: that is named only where the two are measured together.
    elsewhere = of_linear.replace("better than the logit lens", "")
    elsewhere = re.sub(r"KL +logit lens +top-1 +logit lens", "", elsewhere)
    assert not re.search("logit lens", elsewhere, re.IGNORECASE)


def test_every_view_of_a_generation_names_the_lens(llama, lens, tmp_path):
    result = lr.generate_lens(llama, "some words", max_new_tokens=3, targets=260, lens=lens)
    plain = lr.generate_lens(llama, "some words", max_new_tokens=3, targets=260)
    views = {
        "str": lambda result, path: str(result),
        "summary": lambda result, path: result.summary(),
        "heatmap": text_of(lr.generation_heatmap),
        "steps": text_of(lr.generation_steps),
        "page": written(lr.write_generation),
    }
    for name, view in views.items():
        assert "linear lens" in view(result, tmp_path), name
        assert "linear lens" not in view(plain, tmp_path), name
    position = int(result.tokens.position[-1])
    labels = lr.generation_heatmap(used(result, first_position=position)).layout.xaxis.ticktext
    assert [label.startswith("†") for label in labels] == [True, True, False]


@pytest.mark.parametrize("unit", ["component", "head", "token"])
def test_every_view_of_an_attribution_names_the_lens(llama, lens, unit, tmp_path):
    draw = {"component": lr.attribution_bars, "head": lr.head_grid, "token": lr.source_map}[unit]
    layer = lr.anatomy(llama).layers[1]
    options = {"unit": unit, "against": "mean", "at_layer": layer}
    result = lr.attribution(llama, "some words", [260], lens=lens, **options)
    plain = lr.attribution(llama, "some words", [260], **options)
    views = {
        "repr": lambda result, path: repr(result),
        "str": lambda result, path: str(result),
        "summary": lambda result, path: result.summary(),
        "markdown": lambda result, path: lr.table(result, format="markdown"),
        "notebook": lambda result, path: result._repr_html_(),
        "figure": text_of(draw),
    }
    for name, view in views.items():
        assert "linear lens" in view(result, tmp_path), name
        assert "linear lens" not in view(plain, tmp_path), name
    measured = lens.quality.kl[lens.quality.layers.index(layer)]
    assert f"mean KL to the output {measured:.2g} nats at layer {layer}" in result.summary()


def test_programs_get_the_source_and_the_digest(linear, jacobian, lens, tmp_path):
    fields = ("lens", "lens_source", "lens_digest")
    expected = ["linear", "lens.safetensors", lens.digest]
    for row in json.loads(lr.table(linear, format="json")):
        assert [row[name] for name in fields] == expected
    header, *rows = [line.split("\t") for line in lr.table(linear, format="tsv").split("\n")]
    assert header[-4:] == [*fields, "edits"]
    assert [row[-4:-1] for row in rows] == [expected] * len(rows)
    frame = linear.to_frame()
    assert [set(frame[name]) for name in fields] == [{each} for each in expected]
    frame = jacobian.to_frame()
    assert (frame["fitted"] == (frame["position"] >= 3)).all()
    lr.report(linear, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert lens.digest in page
    assert "lens.safetensors" in page


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_keeps_the_lens(linear, suffix, tmp_path):
    linear.save(tmp_path / f"result{suffix}")
    again = load_result(tmp_path / f"result{suffix}")
    assert again.lens == linear.lens
    assert again.lens.quality.kl == linear.lens.quality.kl


def test_a_file_that_says_anything_of_its_lens_acts_nowhere(linear, tmp_path):
    stored = linear.lens.to_json()
    stored |= {"source": FIELD.replace("\ud800", ""), "digest": FIELD.replace("\ud800", "")}
    stored["quality"]["text"] = stored["source"]
    result = used(linear, **stored)
    result.save(tmp_path / "result.json")
    result = load_result(tmp_path / "result.json")
    pages = [
        result._repr_html_(),
        lr.heatmap(result).to_json(),
        lr.compare(result, linear).to_json(),
    ]
    lr.report(result, tmp_path / "page.html", beside=linear)
    pages.append((tmp_path / "page.html").read_text(encoding="utf-8"))
    pages.append(lr.lens_quality_figure(result, linear).to_json())
    for page in pages:
        for tag in ("<script>window", "<img src=https", "<link rel"):
            assert tag not in page
    assert max(map(len, lr.table(result, width=80, prompt=0).splitlines())) <= 80
    for text in (str(result), result.summary(), lr.table(result, beside=linear)):
        assert text == escape_terminal(text)


# -- what it is worth --------------------------------------------------


def test_the_line_below_the_certificate_is_about_the_layers_that_were_read(llama, lens):
    layers = lr.anatomy(llama).layers
    read = lr.logit_lens(llama, "some words", layers=list(layers[1:]), lens=lens)
    there = lens.quality.at(layers[1:-1])
    line = lens_line(read)
    assert line.startswith(f"linear lens (lens.safetensors, {lens.digest[:8]}…): measured on 256 ")
    assert f"mean KL to the output {there.kl[0]:.2g} nats at layer {layers[1]}" in line
    assert f"better than the logit lens at all {len(there.layers)} layers" in line
    text = str(read)
    assert text.index("certified") < text.index(line)  # what it means is no part of the proof
    assert lens_line(lr.logit_lens(llama, "some words")) == ""


def test_layers_where_the_lens_is_no_better_than_none_are_distrusted(llama, lens):
    layers = lr.anatomy(llama).layers
    worse = dataclasses.replace(lens, quality=quality(llama, worse=(EMBEDDING, layers[1])))
    result = lr.logit_lens(llama, "some words", lens=worse)
    doubts = [line for line in result.summary().splitlines() if "no nearer" in line]
    assert len(doubts) == 1
    assert doubts[0].startswith(f"distrust: at layer {layers[1]} the linear")
    n_inner = len(layers) - 1
    assert f"better than the logit lens at {n_inner - 1} of {n_inner} layers" in result.summary()
    with_embedding = lr.logit_lens(
        llama, "some words", components=("embed", "resid_post"), lens=worse
    )
    assert f"at the embedding and layer {layers[1]}" in with_embedding.summary()
    others = lr.logit_lens(llama, "some words", layers=[layers[0], layers[-1]], lens=worse)
    assert "no nearer" not in others.summary()  # of what was not read nothing is said


def test_the_stream_before_a_block_is_the_one_after_the_block_before(llama, lens):
    layers = lr.anatomy(llama).layers
    worse = dataclasses.replace(lens, quality=quality(llama, worse=(layers[0],)))
    options = {"components": ("resid_pre",), "lens": worse}
    before_second = lr.logit_lens(llama, "some words", layers=[layers[1]], **options)
    assert f"at layer {layers[0]} the linear lens is measured" in before_second.summary()
    before_first = lr.logit_lens(llama, "some words", layers=[layers[0]], **options)
    assert "no nearer" not in before_first.summary()


def test_of_vectors_it_is_the_layer_that_they_are_read_as(llama, lens):
    vectors = np.ones((1, lr.anatomy(llama).d_model), dtype=np.float32)
    layer = lens.quality.layers[2]
    result = lr.decode_vectors(llama, vectors, lens=lens, layer=layer)
    there = lens.quality.at([layer])
    assert f"mean KL to the output {there.kl[0]:.2g} nats at layer {layer}" in lens_line(result)
    assert lens_line(result) in str(result)
    worse = dataclasses.replace(lens, quality=quality(llama, worse=(layer,)))
    result = lr.decode_vectors(llama, vectors, lens=worse, layer=layer)
    assert f"at layer {layer} the linear lens is measured to be no nearer" in result.summary()


def test_the_last_layer_needs_no_lens(llama, lens):
    last = lr.logit_lens(llama, "some words", layers=[lr.anatomy(llama).layers[-1]], lens=lens)
    assert "the last layer is read as it is" in lens_line(last)
    unmeasured = dataclasses.replace(lens, quality=lens.quality.at(lens.layers[:1]))
    read = lr.logit_lens(llama, "some words", layers=[lens.layers[2]], lens=unmeasured)
    assert "not measured at what was read" in lens_line(read)
    assert f"at layer {lens.layers[2]} the linear lens was not measured" in read.summary()


def test_a_lens_that_was_not_measured_is_distrusted(jacobian, logit):
    text = jacobian.summary()
    assert "was not measured on this model: run lens_quality(lens, model, texts)" in text
    assert "disposes the model to say" in text
    assert "not what its next token is" in text
    assert "disposes" not in logit.summary()
    assert "measured" not in logit.summary()


def test_positions_that_were_never_fitted_are_marked(jacobian, linear):
    assert (jacobian.fitted == (jacobian.tokens.position >= 3)).all()
    assert linear.fitted.all()
    one = jacobian[0]
    n_tokens = len(one.tokens)
    labels = lr.heatmap(jacobian).layout.xaxis.ticktext
    assert [label.startswith("†") for label in labels] == [True] * 3 + [False] * (n_tokens - 3)
    assert not any("†" in label for label in lr.heatmap(linear).layout.xaxis.ticktext)
    sentence = (
        f"3 of {n_tokens} tokens stand before position 3, where this Jacobian lens was never fitted"
    )
    assert f"† {sentence}" in lr.caption(lr.heatmap(jacobian))
    assert f"distrust: {sentence}" in one.summary()
    (hover,) = [
        trace.customdata for trace in lr.heatmap(jacobian).data if trace.customdata is not None
    ]
    assert all(
        ("never fitted" in text) == (t < 3) for row in hover[:-1] for t, text in enumerate(row)
    )
    assert "never fitted" in lr.table(jacobian, prompt=0, position=1)
    assert "never fitted" not in lr.table(jacobian, prompt=0, position=3)
    assert "never fitted" not in lr.caption(lr.top_tokens(jacobian, position=4))


def test_a_refit_that_moves_the_lens_is_distrusted(llama):
    measured = quality(llama)
    steady = [list(measured.kl), [each * 1.1 for each in measured.kl]]
    assert not dataclasses.replace(measured, refit_kl=steady).moves.any()
    moved = [list(measured.kl), list(measured.kl)]
    moved[1][1] *= 1.5
    quality_of_halves = dataclasses.replace(measured, refit_kl=moved)
    assert np.flatnonzero(quality_of_halves.moves).tolist() == [1]
    assert f"at {streams_in_words([measured.layers[1]])} two fits" in quality_of_halves.summary()
    tiny = dataclasses.replace(measured, kl=[0.01] * 4, refit_kl=[[0.01] * 4, [0.02] * 4])
    assert not tiny.moves.any()  # by less than one would look at


def test_the_table_of_a_measurement_has_its_numbers(llama):
    measured = quality(llama, worse=(1,), refit=[[1.0] * 4, [2.0] * 4])
    measured = dataclasses.replace(measured, **{name: getattr(measured, name)[:4] for name in ("layers", "kl", "agreement", "logit_kl", "logit_agreement")})  # fmt: skip
    rows = str(measured).splitlines()[1:-1]
    assert [row.split()[0] for row in rows] == ["embed", "0", "1", "2"]
    assert [float(row.split()[1]) for row in rows] == pytest.approx(measured.kl, abs=1e-3)
    assert [row.endswith("worse") for row in rows] == (~measured.is_better).tolist()
    assert "256 tokens of some text" in str(measured)


def test_at_keeps_the_numbers_of_each_layer(llama):
    measured = quality(llama, refit=[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    measured = dataclasses.replace(measured, **{name: getattr(measured, name)[:4] for name in ("layers", "kl", "agreement", "logit_kl", "logit_agreement")})  # fmt: skip
    there = measured.at([2, 77, EMBEDDING])
    assert there.layers == [2, EMBEDDING]
    assert there.kl == [measured.kl[3], measured.kl[0]]
    assert there.refit_kl == [[4.0, 1.0], [8.0, 5.0]]


def test_a_lens_of_a_later_version_is_read():
    stored = UsedLens("tuned", "a", "b").to_json() | {"later": 1}
    assert UsedLens.from_json(stored) == UsedLens("tuned", "a", "b")


# -- the figure of what it is worth ------------------------------------


def test_the_figure_has_a_line_for_each_lens_and_one_for_the_logit_lens(llama, lens, linear):
    refit = [[kl * 0.9 for kl in lens.quality.kl], [kl * 1.2 for kl in lens.quality.kl]]
    other = dataclasses.replace(lens.quality, refit_kl=refit, kl=[0.0, *lens.quality.kl[1:]])
    figure = lr.lens_quality_figure(lens, other, names=["one", "two"])
    named = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in named] == ["logit lens"] * 2 + ["one"] * 2 + ["two"] * 2
    np.testing.assert_allclose(named[0].y, lens.quality.logit_kl)
    np.testing.assert_allclose(named[1].y, lens.quality.logit_agreement)
    np.testing.assert_allclose(named[2].y, lens.quality.kl)
    np.testing.assert_allclose(named[3].y, lens.quality.agreement)
    assert np.isnan(named[4].y[0])
    np.testing.assert_allclose(named[4].y[1:], other.kl[1:])
    assert [trace.x for trace in named] == [tuple(lens.quality.layers)] * 6
    low, high = [trace.y for trace in figure.data if not trace.name]
    np.testing.assert_allclose([low, high], refit)
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis2.type != "log"
    lowest, highest = 10 ** np.array(figure.layout.yaxis.range)
    numbers = np.array([lens.quality.kl, lens.quality.logit_kl])
    assert lowest < numbers.min()
    assert numbers.max() < highest
    # A result is drawn by the lens that it was read with.
    of_result, of_lens = (lr.lens_quality_figure(each).to_json() for each in (linear, lens))
    assert of_result == of_lens
    assert "the linear lens transfers" in lr.caption(lr.lens_quality_figure(linear))


def test_the_logit_lens_on_another_text_has_a_line_of_its_own(llama, lens):
    elsewhere = dataclasses.replace(lens.quality, logit_kl=[kl + 1 for kl in lens.quality.logit_kl])
    figure = lr.lens_quality_figure(lens, dataclasses.replace(lens, quality=elsewhere))
    shown = [trace.name for trace in figure.data if trace.showlegend]
    assert shown == ["logit lens", "logit lens 2", "linear lens 1", "linear lens 2"]


def test_the_figure_refuses_what_was_not_measured(llama, lens, logit, jacobian):
    for wrong, words in (
        ((), "nothing to draw"),
        ((logit,), "the logit lens was not fitted"),
        ((jacobian,), "this Jacobian lens was not measured: run lens_quality"),
        ((dataclasses.replace(lens, quality=None),), "this linear lens was not measured"),
    ):
        with pytest.raises(ValueError, match=words):
            lr.lens_quality_figure(*wrong)
    with pytest.raises(TypeError, match="received str, expected a lens"):
        lr.lens_quality_figure("lens.safetensors")
    with pytest.raises(ValueError, match="must be 2 different texts"):
        lr.lens_quality_figure(lens, lens, names=["A", "A"])


# -- two lenses --------------------------------------------------------


def shifted(result, by):
    """What a lens says that has at each layer what this one has `by` layers later."""
    last = len(result.sites) - 1
    later = [min(site + by, last) for site in range(len(result.sites))]
    arrays = {}
    for name in ("top_ids", "top_logprobs", "entropy", "kl_to_final", "final_ranks", "next_ranks", "target_ranks", "target_logprobs"):  # fmt: skip
        arrays[name] = getattr(result, name)[later]
    return used(dataclasses.replace(result, **arrays), kind="linear", digest="f" * 16)


@pytest.mark.parametrize("top", [1, 3, 50])
def test_a_lens_that_is_some_layers_ahead_sees_each_token_so_much_earlier(logit, top):
    first_layer = logit.sites[0].layer
    for by in (1, 2):
        rows = lr.seen_earlier(shifted(logit, by), logit, top=top, prompt=0, position=2)
        assert rows
        for row in rows:
            if row.second.layer is None:
                continue
            assert row.first.layer == max(first_layer, row.second.layer - by)
            assert row.layers_earlier == min(by, row.second.layer - first_layer)
        backwards = lr.seen_earlier(logit, shifted(logit, by), top=top, prompt=0, position=2)
        assert {row.token_id: row.layers_earlier for row in backwards} == {
            row.token_id: None if row.layers_earlier is None else -row.layers_earlier
            for row in rows
        }


def test_where_a_token_is_first_seen_is_what_the_arrays_say(logit, linear):
    layers = [site.layer for site in logit.sites]
    for position in range(len(logit[1].tokens)):
        rows = lr.seen_earlier(logit, linear, prompt=1, position=position)
        assert int(logit[1].final_ids[position]) in {row.token_id for row in rows}
        for row in rows:
            for one, place in ((logit[1], row.first), (linear[1], row.second)):
                hits = [
                    layer
                    for site, layer in enumerate(layers)
                    if one.top_ids[site, position, 0] == row.token_id
                    and one.readable[site, position]
                ]
                assert place.layer == (hits[0] if hits else None)


def test_a_layer_that_cannot_be_read_sees_nothing_and_dates_nothing(logit):
    one = logit[0]
    answer = int(one.final_ids[-1])
    top_ids = one.top_ids.copy()
    top_ids[:, -1, 0] = answer
    kl = np.zeros_like(one.kl_to_final)
    sees = dataclasses.replace(one, top_ids=top_ids, kl_to_final=kl)
    kl = kl.copy()
    kl[:2, -1] = np.inf
    blind = dataclasses.replace(one, top_ids=top_ids, kl_to_final=kl)
    seen = {row.token_id: row for row in lr.seen_earlier(blind, sees)}
    layers = [site.layer for site in one.sites]
    assert seen[answer].first == lr.SeenAt(layers[2], is_dated=False)
    assert seen[answer].second == lr.SeenAt(layers[0], is_dated=True)
    assert f"layer {layers[2]} or earlier" in str(seen[answer])


def test_the_tokens_are_ranked_by_how_far_the_lenses_are_apart(logit):
    rows = lr.seen_earlier(shifted(logit, 2), logit, position=1)
    distances = [row.layers_earlier for row in rows]
    known = [abs(each) for each in distances if each is not None]
    assert known == sorted(known, reverse=True)
    assert distances == [each for each in distances if each is not None] + [None] * distances.count(
        None
    )


def test_what_cannot_be_compared_is_refused(llama, logit):
    other = lr.logit_lens(llama, ["quite other words to begin", "and others"], targets=TARGETS)
    with pytest.raises(ValueError, match="read after different tokens"):
        lr.seen_earlier(logit, other)
    with pytest.raises(ValueError, match="top=0 must be a whole number"):
        lr.seen_earlier(logit, logit, top=0)
    layers = lr.anatomy(llama).layers
    low, high = (lr.logit_lens(llama, PROMPTS, layers=[layer]) for layer in (layers[0], layers[-1]))
    with pytest.raises(ValueError, match="no layer in common"):
        lr.seen_earlier(low, high)


def test_a_comparison_of_two_lenses_names_them(logit, linear, jacobian):
    figure = lr.compare(logit, linear, metric="kl")
    assert "logit lens and linear lens: " in figure.layout.title.text
    names = [annotation.text for annotation in figure.layout.annotations]
    assert any("logit lens − linear lens" in name for name in names)
    one, other = logit[0], linear[0]
    same = int((one.top_ids[..., 0] == other.top_ids[..., 0]).sum())
    assert f"same top-1 in {same} of {one.readable.size} cells" in lr.caption(figure)
    assert lr.compare(linear, linear).layout.title.text.startswith("A and B: ")
    again = used(linear, source="other.safetensors", digest="0" * 16)
    title = lr.compare(linear, again).layout.title.text
    assert "lens.safetensors" in title
    assert "other.safetensors" in title
    assert "† Jacobian lens: 3 of" in lr.caption(lr.compare(linear, jacobian))
    figure = lr.compare(linear, jacobian)
    assert not any("†" in label for label in figure.layout.xaxis.ticktext)
    assert [label.startswith("†") for label in figure.layout.xaxis2.ticktext].count(True) == 3


def table_rows(text):
    """The lines of the grid, without the table of who sees what earlier."""
    lines = text.split("\n\n")[0].splitlines()
    return [line for line in lines if re.match(r"\s*\d+  ", line)]


def test_the_table_has_each_lens_beside_the_other(logit, linear):
    text = lr.table(logit, beside=linear, prompt=0)
    rows = table_rows(text)
    assert len(rows) == len(logit.sites)
    for site, row in enumerate(rows):
        layer, *cells = re.split(r"\s{2,}", row.strip())
        assert int(layer) == logit.sites[site].layer
        expected = []
        for one in (logit[0], linear[0]):
            ranks = [f"{rank:,}" for rank in one.target_ranks[site, -1]]
            expected += [f"{one.kl_to_final[site, -1]:.2f}", *ranks]
            probability = float(np.exp(one.top_logprobs[site, -1, 0]))
            top = cells[len(expected) - 3]
            assert float(top.split()[1]) == pytest.approx(probability, rel=0.05)
            assert top.endswith("?") == (not one.readable[site, -1])
            expected.insert(len(expected) - 3, top)
        assert cells == expected
    assert text.count("certified: ") == 1 + (logit.certificate != linear.certificate)
    assert "linear lens (lens.safetensors" in text


def test_the_tokens_that_a_lens_sees_earlier_stand_below(logit, linear, jacobian):
    results = [logit[0], linear[0], jacobian[0]]
    text = lr.table(logit, beside=[linear, jacobian], prompt=0)
    rows = [row for row in seen_by(results) if row.distance != 0]
    assert "top-1 first at layer  logit lens  linear lens  Jacobian lens" in text
    table = text.split("top-1 first at layer")[1].splitlines()[1:]
    for row, line in zip(rows[:6], table, strict=False):
        assert line.split()[-1] in (str(row.places[-1].layer), "never", "?")
    markdown = lr.table(logit, beside=[linear, jacobian], prompt=0, format="markdown")
    assert markdown.count("| --- |") >= 1
    assert "| top-1 first at layer | logit lens |" in markdown


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_table_of_two_lenses_fits(logit, linear, width):
    text = lr.table(logit, beside=linear, prompt=0, width=width)
    assert max(map(len, text.splitlines())) <= width


def test_a_table_refuses_what_cannot_stand_beside(llama, logit, linear):
    attribution = lr.attribution(llama, "some words", [260], against="mean")
    vectors = lr.decode_vectors(llama, np.ones((1, lr.anatomy(llama).d_model), dtype=np.float32))
    other_targets = lr.logit_lens(llama, PROMPTS, targets=[[1, 2], [3, 4]])
    for result, options, words in (
        (logit, {"beside": attribution}, "takes lens results of the same prompts"),
        (logit, {"beside": other_targets}, "the same targets"),
        (logit, {"beside": linear, "format": "tsv"}, "goes with text and markdown"),
        (logit, {"beside": vectors}, "vectors have none"),
        (attribution, {"beside": logit}, "an attribution stands alone"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            lr.table(result, **options)
