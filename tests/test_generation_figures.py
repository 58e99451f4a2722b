"""The figures of a generation say what its arrays say, and no text on its pages acts as anything but text."""

from __future__ import annotations

import dataclasses
import html
import re

import numpy as np
import pytest
from hostile import HOSTILE, assert_inert, cell_words, hostile_texts

import lens_recipes as lr
from lens_recipes.arrays.axes import Response, Tokens
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.lens import AXES
from lens_recipes.arrays.text import escape_page_text, visible_token
from lens_recipes.views.figures.generation.rows import IMPORTANCE_WORDS
from lens_recipes.views.figures.generation.steps import StepViews
from lens_recipes.views.pages.html import page
from lens_recipes.views.words import probability

V, K, LAYERS = 40, 3, 6


def generation(steps=(7, 3), names=("resid_post",), heads=0, read=0, sharp=6.0, seed=0, **changes):
    """What `generate_lens` gives, from random distributions: after `read` tokens of a prompt, so many steps.

    Each layer is nearer to the last one's distribution; every third token written is not its first
    choice.
    """
    rng = np.random.default_rng(seed)
    sites = [lr.Site(layer, name) for layer in range(LAYERS) for name in names]
    sites += [lr.Site(layer, "head_out", head) for layer in range(LAYERS) for head in range(heads)]
    sites.sort(key=lambda site: site.layer)
    prompt = np.concatenate([np.full(read + n, p) for p, n in enumerate(steps)]).astype(np.int32)
    n = len(prompt)
    model = rng.normal(scale=sharp, size=(n, V))
    far = np.array(
        [1 - site.layer / (LAYERS - 1) if site.component == "resid_post" else 1 for site in sites]
    )
    logits = model + far[:, None, None] * rng.normal(scale=2 * sharp, size=(len(sites), n, V))
    lse = np.log(np.exp(logits).sum(-1))
    logprobs = logits - lse[..., None]
    own = model - np.log(np.exp(model).sum(-1, keepdims=True))
    order = np.argsort(-logprobs, axis=-1)
    ranks = np.argsort(order, axis=-1)
    final, spots = own.argmax(-1), np.arange(n)
    position = np.concatenate([np.arange(read + k) + 10 for k in steps])
    generated = np.concatenate([np.arange(read + k) >= read for k in steps])
    chosen = np.where(spots % 3 == 2, np.argsort(-own, axis=-1)[:, 2], final)
    said = np.where(generated, own[spots, chosen], np.nan)
    texts = {i: f" w{i}" for i in range(V)}
    ids = np.roll(chosen, 1)
    result = lr.LensResult(
        sites=sites,
        tokens=Tokens(
            prompt=prompt, position=position.astype(np.int32), id=ids.astype(np.int32), next_id=chosen.astype(np.int32),
            generated=generated, text=[texts[i] for i in ids], next_logprob=said.astype(np.float32),
            sampler_logprob=(said / 2).astype(np.float32),
        ),
        prompts=[f"prompt {p}" for p in range(len(steps))],
        top_ids=order[..., :K],
        top_logprobs=np.take_along_axis(logprobs, order[..., :K], -1),
        entropy=-(np.exp(logprobs) * logprobs).sum(-1),
        kl_to_final=(np.exp(own) * (own - logprobs)).sum(-1),
        logsumexp=lse,
        next_logprobs=logprobs[:, spots, chosen],
        next_ranks=ranks[:, spots, chosen],
        final_ids=final,
        model_logprobs=own[spots, final],
        model_entropy=np.full(n, np.nan),  # nothing is grey
        final_logprobs=logprobs[:, spots, final],
        final_ranks=ranks[:, spots, final],
        target_ids=np.zeros((len(steps), 0)),
        target_logits=np.zeros((len(sites), n, 0)),
        target_logprobs=np.zeros((len(sites), n, 0)),
        target_ranks=np.zeros((len(sites), n, 0)),
        tracked_ids=np.zeros((n, 0)),
        tracked_logprobs=np.zeros((len(sites), n, 0)),
        texts=texts,
        certificate=Certificate(1e-5, 20.0, 1e-7, 1.0, n, "float32"),
        provenance={"model": "tiny", "vocab_size": V, "recipe": "generate_lens", "arguments": {}},
        responses=[Response(f"response {p}", "eos") for p in range(len(steps))],
    )  # fmt: skip
    whole = ("_ids", "_ranks")
    typed = {
        name: getattr(result, name).astype(np.int32 if name.endswith(whole) else np.float32)
        for name in AXES
    }
    return dataclasses.replace(result, **typed | changes)


@pytest.fixture(scope="module")
def result():
    return generation()


@pytest.fixture(scope="module")
def parts():
    """Several components, and in the prompt's own tokens too."""
    return generation(names=("attn_out", "mlp_out", "resid_post"), heads=2, read=2)


@pytest.fixture(scope="module")
def hostile():
    result = hostile_texts(generation(steps=(8,), sharp=1.0))
    return dataclasses.replace(result, responses=[Response("".join(HOSTILE), "<u>end")])


def scatters(figure, markers):
    """The lines or the marks of a figure, without a mark that only the legend has."""
    return [
        trace
        for trace in figure.data
        if trace.type == "scatter"
        and (trace.mode == "markers") == markers
        and list(trace.x) != [None]
    ]


def outlined(figure):
    """(column, row) of the cells that a figure outlines, twice: black in white."""
    twice = []
    for lines in scatters(figure, markers=False):
        x, y = ([v for v in values if v is not None] for values in (lines.x, lines.y))
        twice.append([(x[i] + 0.5, y[i] + 0.5) for i in range(0, len(x), 5)])
    assert twice == [twice[0]] * 2 if twice else True
    return twice[0] if twice else []


def words(row):
    """What is written in some cells, as it is read."""
    return [html.unescape(word).strip("\u2068\u2069") for word in row]


# -- layers × written tokens ------------------------------------------


@pytest.mark.parametrize("prompt", [0, 1, -1])
def test_columns_are_the_written_tokens_and_cells_what_each_layer_would_have_written(parts, prompt):
    one = parts[prompt]
    figure = lr.generation_heatmap(parts, prompt=prompt)
    cells, here = figure.data[0], one.tokens.generated
    rows = [s for s, site in enumerate(one.sites) if site.component == "resid_post"]
    np.testing.assert_allclose(cells.z, np.exp(one.top_logprobs[rows][:, here, 0]), rtol=1e-6)
    assert [words(row) for row in cell_words(figure)] == [
        [visible_token(one.text(i), 10) for i in one.top_ids[s, here, 0]] for s in rows
    ]
    labels = [html.unescape(label.split("<br>")[0]) for label in figure.layout.xaxis.ticktext]
    assert labels == [visible_token(one.text(i)) for i in one.tokens.next_id[here]]
    assert list(figure.layout.yaxis.ticktext) == [str(layer) for layer in range(LAYERS)]
    assert "written token" in figure.layout.xaxis.title.text
    assert f"prompt {prompt % 2}" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(
    ("metric", "of", "numbers"),
    [
        ("rank", "next", lambda r: -np.log10(r.next_ranks + 1)),
        ("rank", "final", lambda r: -np.log10(r.final_ranks + 1)),
        ("entropy", None, lambda r: r.entropy),
        ("kl", None, lambda r: r.kl_to_final),
        ("logit", "final", lambda r: r.final_logprobs + r.logsumexp),
        ("prob", "next", lambda r: np.exp(r.next_logprobs)),
    ],
)
def test_every_metric_is_the_results_own(result, metric, of, numbers):
    cells = lr.generation_heatmap(result, metric=metric, of=of).data[0]
    np.testing.assert_allclose(cells.z, numbers(result[0]), rtol=1e-5)


@pytest.mark.parametrize("component", [None, "attn_out"])
def test_the_outlined_cells_are_the_settled_layers(parts, component):
    one = parts[0]
    figure = lr.generation_heatmap(parts, component=component)
    settled = lr.settled_layers(one, component=component)
    expected = [
        (column, step.layer) for column, step in enumerate(settled) if step.layer is not None
    ]
    assert expected or component
    assert outlined(figure) == expected


def test_where_the_settled_layer_is_not_shown_the_next_one_is_outlined(result):
    figure = lr.generation_heatmap(result, stride=2)
    assert list(figure.layout.yaxis.ticktext) == ["1", "3", "5"]
    layers = [step.layer for step in lr.settled_layers(result[0])]
    assert len(set(layers)) > 2
    assert outlined(figure) == [(column, layer // 2) for column, layer in enumerate(layers)]
    last = lr.generation_heatmap(result, sites=[0, 1, -1])
    assert outlined(last) == [(column, min(layer, 2)) for column, layer in enumerate(layers)]


def test_what_never_settles_is_not_outlined(result):
    never = dataclasses.replace(result, final_ranks=np.maximum(result.final_ranks, 1))
    assert scatters(lr.generation_heatmap(never), markers=False) == []


def test_written_tokens_that_are_not_the_first_choice_are_marked(result):
    one = result[0]
    (marks,) = scatters(lr.generation_heatmap(result), markers=True)
    other = np.flatnonzero(one.tokens.next_id != one.final_ids).tolist()
    assert list(marks.x) == other == [2, 5]
    assert "not the model's first choice" in marks.name
    assert visible_token(one.text(one.final_ids[2])) in marks.customdata[0]
    greedy = dataclasses.replace(
        result, tokens=dataclasses.replace(result.tokens, next_id=result.final_ids)
    )
    assert scatters(lr.generation_heatmap(greedy), markers=True) == []


def test_the_hover_tells_how_the_token_was_written(result):
    one, cells = result[0], lr.generation_heatmap(result).data[0]
    settled = lr.settled_layers(one)
    for t in (1, 2):
        said = cells.customdata[4][t].split("<br>")
        model, sampler = (
            probability(p[t]) for p in (one.tokens.next_logprob, one.tokens.sampler_logprob)
        )
        assert said[:2] == [
            f"<b>layer 4</b>, position {one.tokens.position[t]}",
            f"input {visible_token(one.tokens.text[t])}",
        ]
        assert f"written {visible_token(one.text(one.tokens.next_id[t]))}" in said
        assert f"p: model {model}, sampler {sampler}" in said
        rank, p = one.next_ranks[4, t], probability(one.next_logprobs[4, t])
        assert f"the written token here: rank {rank}, p {p}" in said
        answer = visible_token(one.text(one.final_ids[t]))
        assert f"{answer} is top-1 from layer {settled[t].layer} to the end" in said
        first = f"not the model's first choice, {answer} ({probability(one.model_logprobs[t])})"
        assert (first if t == 2 else "the model's first choice") in said


def test_long_generations_keep_their_labels_legible():
    figure = lr.generation_heatmap(generation(steps=(700,)))
    assert figure.layout.width <= 1600  # a window, and below it an overview of all
    low, high = figure.layout.xaxis.range
    assert (high - low) * 15 <= figure.layout.width
    assert 699 < high < 700
    assert figure.layout.xaxis.rangeslider.visible
    assert figure.data[0].text is None
    assert len(figure.data[0].z[0]) == 700


# -- steps -------------------------------------------------------------


def shown(frame):
    """The labels of a frame's rows, and what is in them: [row][column]."""
    cells = frame.data[0]
    return (
        list(frame.layout.yaxis.ticktext),
        np.asarray(cells.z),
        cell_words(frame),
        cells.customdata,
    )


def test_each_frame_is_one_step_with_all_layers(result):
    one, figure = result[0], lr.generation_steps(result)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == len(one.tokens)
    for n, frame in enumerate(figure.frames):
        labels, z, text, hover = shown(frame)
        assert labels == [str(layer) for layer in reversed(range(LAYERS))]
        np.testing.assert_allclose(z, np.exp(one.top_logprobs[::-1, n]), rtol=1e-6)
        assert [words(row) for row in text] == [
            [visible_token(one.text(i), 10) for i in row] for row in one.top_ids[::-1, n]
        ]
        assert probability(one.top_logprobs[-1, n, 1]) in hover[0][1]
        hits = [tuple(cell) for cell in np.argwhere(one.top_ids[::-1, n] == one.tokens.next_id[n])]
        assert [(row, column) for column, row in outlined(frame)] == hits
        assert f"Step {n + 1} of {len(one.tokens)}" in frame.layout.title.text
        mark = figure.layout.sliders[0].steps[n]
        assert list(mark.args[0]) == [frame.name]
        assert mark.label == f"{n + 1} {visible_token(one.text(one.tokens.next_id[n]))}"
    np.testing.assert_array_equal(figure.data[0].z, figure.frames[0].data[0].z)
    assert (figure.data[0].zmin, figure.data[0].zmax, figure.layout.yaxis.range[0]) == (
        0,
        1,
        LAYERS - 0.5,
    )


def test_the_context_of_a_step_is_all_that_was_written_before(result):
    frames = lr.generation_steps(result).frames
    before = "".join(result.text(i) for i in result[0].tokens.next_id[:3])
    assert f"prompt 0{before}" in frames[3].layout.title.subtitle.text


@pytest.mark.parametrize(
    ("metric", "threshold"), [(None, None), ("kl_drop", 2.0), ("prob", 0.9), ("target_jump", 1)]
)
def test_important_layers_are_those_that_important_finds(result, metric, threshold):
    one = result[0]
    figure = lr.generation_steps(result, which="important", metric=metric, threshold=threshold)
    assert len(figure.frames) == len(one.tokens)
    most = 0
    for n, frame in enumerate(figure.frames):
        labels, z, *_ = shown(frame)
        found = one.important(metric or "kl_drop", threshold, position=n)[::-1]
        words = IMPORTANCE_WORDS[metric or "kl_drop"]
        numbers = [
            words.number_format.format(words.sign * item.value).replace("-", "−") for item in found
        ]
        assert labels == [
            f"{item.where}  ({number})" for item, number in zip(found, numbers, strict=True)
        ]
        if found:
            np.testing.assert_allclose(
                z, np.exp(one.top_logprobs[[item.site for item in found], n]), rtol=1e-6
            )
        assert frame.layout.annotations[0].visible == (not found)
        most = max(most, len(found))
    assert figure.layout.yaxis.range[0] == max(most, 6) - 0.5
    assert most


def test_a_step_where_nothing_stands_out_says_so(result):
    frames = lr.generation_steps(result, which="important", metric="kl_drop", threshold=1000).frames
    assert all(frame.layout.annotations[0].visible for frame in frames)
    assert (
        frames[0].layout.annotations[0].text
        == "No layer brings the KL to final down by 1000 nats here."
    )
    assert np.isnan(frames[0].data[0].z).all()


def test_components_stand_side_by_side(parts):
    one, figure = parts[0], lr.generation_steps(parts)
    labels, z, *_ = shown(figure.frames[1])
    assert labels == [str(layer) for layer in reversed(range(LAYERS))]
    assert [label for label in figure.layout.xaxis.ticktext if "<br>" in label] == [
        f"2<br>{name}" for name in ("attn_out", "mlp_out", "resid_post")
    ]
    token = np.flatnonzero(one.tokens.generated)[1]
    for panel, name in enumerate(("attn_out", "mlp_out", "resid_post")):
        sites = [s for s, site in enumerate(one.sites) if site.component == name][::-1]
        block = z[:, panel * (K + 1) : panel * (K + 1) + K]
        np.testing.assert_allclose(block, np.exp(one.top_logprobs[sites, token]), rtol=1e-6)
        assert figure.data[0].x[panel * (K + 1)] == pytest.approx(
            figure.layout.xaxis.tickvals[panel * K] - 0.5
        )
    assert np.isnan(z[:, [K, 2 * K + 1]]).all()


@pytest.mark.parametrize("which", ["all", "important"])
def test_heads_are_rows_where_they_are_named_or_alone(parts, which):
    alone = generation(names=(), heads=2)
    for figure in (
        lr.generation_steps(parts, which=which, component="head_out"),
        lr.generation_steps(alone, which=which),
    ):
        labels = [label for frame in figure.frames for label in frame.layout.yaxis.ticktext]
        assert labels
        assert all(".head_out." in label for label in labels)
        assert figure.layout.yaxis.title.text.startswith("head")
    assert lr.generation_heatmap(alone).data[0].z.shape == (2 * LAYERS, 7)


def test_one_component_alone_has_the_layers_that_matter(parts):
    frames = lr.generation_steps(parts, which="important", component="mlp_out").frames
    whole = lr.generation_steps(parts, which="important").frames
    for frame, beside in zip(frames, whole, strict=True):
        assert frame.layout.yaxis.ticktext == beside.layout.yaxis.ticktext
        assert len(frame.data[0].z[0]) == K


def test_the_embedding_is_a_row_of_the_stream(result):
    sites = [lr.Site(0, "embed"), *result.sites[1:]]
    embedded = dataclasses.replace(result, sites=sites)
    assert list(lr.generation_steps(embedded).frames[0].layout.yaxis.ticktext)[-1] == "embed"
    assert (
        "embed"
        not in lr.generation_steps(embedded, component="resid_post").frames[0].layout.yaxis.ticktext
    )


def test_many_steps_stay_small():
    long = generation(steps=(200,))
    per_cell = len(lr.generation_steps(long).to_json()) / (200 * LAYERS * K)
    assert per_cell < 250  # bytes, with all that a frame has


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"which": "every"}, ["which='every'", "'all'", "'important'"]),
        ({"metric": "prob"}, ["metric='prob'", 'which="important"']),
        ({"threshold": 0.0}, ["threshold=0.0", 'which="important"']),
        ({"which": "important", "metric": "kl"}, ["metric='kl'", "'kl_drop'"]),
        ({"which": "important", "threshold": "x"}, ["threshold='x'"]),
        ({"component": "mlp_out"}, ["component='mlp_out'", "'resid_post'"]),
    ],
)
def test_a_wrong_argument_says_what_is_accepted(result, arguments, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        lr.generation_steps(result, **arguments)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "view",
    [lr.generation_heatmap, lr.generation_steps, lambda r: lr.write_generation(r, "no.html")],
)
def test_a_result_without_generated_tokens_is_refused(result, view, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = dataclasses.replace(result.tokens, generated=np.zeros_like(result.tokens.generated))
    with pytest.raises(ValueError, match=r"no generated token.*generate_lens\(\).*heatmap\(\)"):
        view(dataclasses.replace(result, tokens=tokens))
    assert list(tmp_path.iterdir()) == []


def test_a_heatmap_refuses_what_the_other_heatmap_refuses(result):
    with pytest.raises(ValueError, match="needs `of`"):
        lr.generation_heatmap(result, metric="rank")
    with pytest.raises(ValueError, match="component='mlp_out'"):
        lr.generation_heatmap(result, component="mlp_out")


# -- pages -------------------------------------------------------------


def outside_scripts(text):
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def addresses(text):
    return re.findall(
        r"""\b(?:src|href)\s*=\s*["']?([^"'\s>]+)""", outside_scripts(text)
    ) + re.findall(r'<script[^>]*\bsrc="([^"]+)"', text)


def test_one_file_holds_all_of_it(result, tmp_path):
    path = tmp_path / "a.html"
    lr.write_generation(result, path, prompt=1)
    text = path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    assert text.count('id="plotly-js"') == 1
    assert addresses(text) == []
    assert "default-src 'none'" in text
    assert text.count("Plotly.newPlot(") - text.split("<body>")[0].count("Plotly.newPlot(") == 3
    assert "Plotly.animate(" not in text.split("<body>")[1]  # nothing moves before it is touched
    read = html.unescape(outside_scripts(text))
    for said in (
        "prompt 1",
        "response 1",
        "eos (the model ended its text), after 3 tokens",
        str(result.certificate),
    ):
        assert said in read


def test_a_folder_has_a_page_for_each_step(result, tmp_path):
    path = tmp_path / "steps"
    lr.write_generation(result, path)
    names = sorted(file.name for file in path.iterdir())
    steps = [f"step-{n:04d}.html" for n in range(1, 8)]
    assert names == ["index.html", "plotly.min.js", *steps]
    index = (path / "index.html").read_text()
    assert [a for a in addresses(index) if a.startswith("step")] == steps
    for name in ("index.html", *steps):
        text = (path / name).read_text()
        assert set(addresses(text)) <= set(names)
        assert len(text) < 100_000
        assert text.count("Plotly.newPlot(") == (1 if name == "index.html" else 2)
    assert addresses((path / steps[0]).read_text()).count("step-0002.html") == 1
    lr.write_generation(result, path, prompt=1)  # a shorter one: no page of the longer one is left
    assert sorted(file.name for file in path.iterdir()) == [
        "index.html",
        "plotly.min.js",
        *steps[:3],
    ]


def test_a_folder_keeps_what_is_not_ours_and_has_no_index_unless_all_is_there(
    result, tmp_path, monkeypatch
):
    (tmp_path / "step-notes.html").write_text("mine")
    lr.write_generation(result, tmp_path)
    assert (tmp_path / "step-notes.html").read_text() == "mine"

    def fails(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(StepViews, "step", fails)
    with pytest.raises(KeyboardInterrupt):
        lr.write_generation(result, tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(result, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("no/a.html", "no/steps", "file"):
        with pytest.raises(lr.LensError, match="cannot write"):
            lr.write_generation(result, tmp_path / path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "mine")]


def test_a_page_says_what_is_not_certified(result, tmp_path):
    wrong = dataclasses.replace(result.certificate, max_logit_error=3.0)
    lr.write_generation(dataclasses.replace(result, certificate=wrong), tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text().count("NOT CERTIFIED") >= 3
    bare = dataclasses.replace(result, certificate=None, responses=[])
    lr.write_generation(bare, tmp_path / "b.html")
    text = html.unescape((tmp_path / "b.html").read_text())
    assert "".join(result.text(i) for i in result[0].tokens.next_id) in text


@pytest.mark.parametrize(
    "view",
    [
        lr.generation_heatmap,
        lr.generation_steps,
        lambda r: lr.generation_steps(r, which="important", metric="prob", threshold=0),
    ],
)
def test_no_token_acts_in_a_figure(hostile, view):
    assert_inert(view(hostile))


@pytest.mark.parametrize("name", ["a.html", "folder"])
def test_no_token_acts_on_a_page(hostile, tmp_path, name):
    lr.write_generation(hostile, tmp_path / name)
    files = (
        [tmp_path / name]
        if name == "a.html"
        else [f for f in (tmp_path / name).iterdir() if f.suffix == ".html"]
    )
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not {"\x00", "\u202e"} & set(text)
        body = outside_scripts(text)
        tags = set(re.findall(r"<\s*([!/]?\w+)", body.split("</style>")[1]))
        plain = {"head", "body", "html", "h1", "h2", "div", "dl", "dt", "dd", "pre", "nav", "a"}
        assert {tag.strip("/") for tag in tags} <= plain
        opened = re.findall(r"<script[^>]*>", text.split("</head>")[1])
        assert len(opened) == text.split("</head>")[1].count("</script>")
    whole = (tmp_path / name if name == "a.html" else tmp_path / name / "index.html").read_text(
        encoding="utf-8"
    )
    shown = re.findall(r"<pre[^>]*>(.*?)</pre>", whole, re.DOTALL)
    assert shown[0] == shown[1] == escape_page_text("".join(HOSTILE))


def test_a_title_is_text():
    whole = page("<b>$x$</b>", [], inline=False)
    assert "<b>" not in whole
    assert whole.count("&lt;b&gt;&#36;x&#36;&lt;/b&gt;") == 2
