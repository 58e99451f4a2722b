"""What may be believed: `readable` says where the lens is better than a uniform guess."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from rich.console import Console
from test_report import browser  # noqa: F401

import lens_recipes as lr
from lens_recipes.views.figures.base.unreadable import GREY
from lens_recipes.views.summaries.trust import unreadable_sentence
from lens_recipes.views.tables.table import render

DATA = Path(__file__).parent / "data"
IDS = tiny.random_ids(2, 6, seed=3)
SUFFIXES = (".json", ".npz")


@pytest.fixture(scope="module")
def model():
    return tiny.shared("llama")


@pytest.fixture(scope="module")
def result(model):
    return lr.logit_lens(model, IDS)


@pytest.fixture(scope="module")
def expected(model):
    """Where KL(model ‖ lens) is at most KL(model ‖ uniform), by Hugging Face and torch alone."""
    module = model._module
    with torch.no_grad():
        output = module(IDS, output_hidden_states=True)
        early = [module.lm_head(module.model.norm(stream)) for stream in output.hidden_states[1:-1]]
    own = output.logits.double().log_softmax(-1)
    lens = torch.stack([*early, output.logits]).double().log_softmax(-1)
    to_lens = (own.exp() * (own - lens)).sum(-1)
    to_uniform = (own.exp() * (own + math.log(own.shape[-1]))).sum(-1)
    return (to_lens <= to_uniform).flatten(1).numpy()


def test_readable_is_what_is_better_than_a_uniform_guess(result, expected):
    assert result.readable.dtype == bool
    assert expected[-1].all()
    assert not expected.all()
    np.testing.assert_array_equal(result.readable, expected)


def test_it_is_known_without_the_last_layer_and_of_each_prompt(model, result, expected):
    alone = lr.logit_lens(model, IDS, layers=[0, 2])
    np.testing.assert_array_equal(alone.readable, expected[[0, 2]])
    np.testing.assert_array_equal(result[1].readable, expected[:, 6:])


def test_it_is_the_same_where_a_server_would_run_it(llama):
    here = lr.logit_lens(llama, "one two three four")
    sent = lr.logit_lens(llama, "one two three four", remote="local")
    assert not here.readable.all()
    np.testing.assert_array_equal(sent.readable, here.readable)


def test_a_generation_knows_it_at_each_step(model):
    said = lr.generate_lens(model, IDS[:1], max_new_tokens=4, include_prompt=True)
    written = [int(token) for token in said.tokens.id]
    again = lr.logit_lens(model, [written])
    assert said.readable.shape == (4, len(written))
    np.testing.assert_array_equal(said.readable, again.readable)


def test_a_lens_that_transfers_everywhere_is_readable_everywhere():
    """Blocks that add nothing leave a stream that every layer reads as the last one does."""
    module = tiny.llama()
    with torch.no_grad():
        for block in module.model.layers:
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
    assert lr.logit_lens(lr.load(module), IDS).readable.all()


def test_vectors_have_no_output_that_they_could_be_measured_by(model):
    vectors = lr.decode_vectors(model, torch.randn(3, 32, generator=torch.Generator()))
    assert vectors.readable.all()


def test_a_frame_says_it_in_each_row(result):
    frame = result.to_frame()
    top = frame[(frame["role"] == "top") & (frame["k"] == 0)]
    shown = top.pivot(index="layer", columns=["prompt", "position"], values="readable")
    np.testing.assert_array_equal(shown.to_numpy(), result.readable)


# -- files ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_keeps_it(tmp_path, result, suffix):
    result.save(tmp_path / f"a{suffix}")
    loaded = lr.LensResult.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(loaded.readable, result.readable)
    np.testing.assert_array_equal(loaded.model_entropy, result.model_entropy)


def test_the_json_says_it_for_other_programs(tmp_path, result):
    result.save(tmp_path / "a.json")
    stored = json.loads((tmp_path / "a.json").read_text())["arrays"]
    assert stored["readable"] == result.readable.tolist()


def test_a_file_that_claims_more_than_its_numbers_is_refused(tmp_path, result):
    path = tmp_path / "a.json"
    result.save(path)
    stored = json.loads(path.read_text())
    stored["arrays"]["readable"] = np.ones_like(result.readable).tolist()
    path.write_text(json.dumps(stored))
    with pytest.raises(lr.LensError, match="readable is not what follows from the other numbers"):
        lr.LensResult.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_an_earlier_version_is_read_by_its_last_layer(suffix):
    old = lr.LensResult.load(DATA / f"lens{suffix}")
    to_uniform = math.log(old.provenance["vocab_size"]) - old.entropy[-1]
    assert (old.kl_to_final[-1] < 1e-3).all()
    np.testing.assert_array_equal(old.readable, old.kl_to_final <= to_uniform + 1e-4)


def test_verify_holds_the_entropy_against_the_model(tmp_path, model, result):
    claimed = dataclasses.replace(result, model_entropy=result.model_entropy + 1)
    with pytest.raises(lr.LensError, match=r"model_entropy\[0\]"):
        claimed.verify(model)


# -- views ---------------------------------------------------------------------


def with_grey(result, where):
    """The result with exactly these cells `[site, token]` unreadable."""
    return dataclasses.replace(
        result,
        model_entropy=np.zeros_like(result.model_entropy),
        provenance=result.provenance | {"vocab_size": 1000},  # a uniform guess is 6.9 nats off
        kl_to_final=np.where(where, 7, 1e-5).astype(np.float32),
    )


@pytest.fixture(scope="module")
def checkered(llama):
    """One prompt, 4 layers; the first cells of some tokens are grey, of the last 0 and 1."""
    plain = lr.logit_lens(llama, "one two three", targets=[260], track=10)
    where = np.zeros(plain.entropy.shape, dtype=bool)
    where[0] = True
    where[1, ::2] = True
    where[1, -1] = True
    where[2, 1] = True
    return with_grey(plain, where)


def colored(trace):
    """Which cells of a heatmap have a number, and so a colour."""
    return ~np.isnan(np.asarray(trace.z, dtype=float))


def grey_of(figure):
    (trace,) = [trace for trace in figure.data if trace.name == "unreadable"]
    assert trace.colorscale[0][1] == trace.colorscale[1][1] == GREY
    return colored(trace)


@pytest.mark.parametrize("metric", ["prob", "rank", "entropy", "kl", "logit"])
def test_a_cell_of_the_map_is_coloured_if_and_only_if_it_is_readable(checkered, metric):
    figure = lr.heatmap(checkered, metric=metric, of=260 if metric in ("rank", "logit") else None)
    cells = next(trace for trace in figure.data if trace.name != "unreadable")
    np.testing.assert_array_equal(colored(cells)[:-1], checkered.readable)
    np.testing.assert_array_equal(grey_of(figure)[:-1], ~checkered.readable)
    assert not grey_of(figure)[-1].any()  # the model's own output
    assert "grey: after most tokens, layers 0–1 cannot be read" in figure.layout.title.subtitle.text
    everything = lr.heatmap(checkered, metric=metric, of=260 if metric in ("rank", "logit") else None, show_all=True)  # fmt: skip
    assert colored(everything.data[0]).all()
    assert "cannot be read" not in everything.layout.title.subtitle.text


def test_grey_cells_have_dimmed_words_and_no_outline(checkered):
    figure = lr.heatmap(checkered)
    (grey,) = [trace for trace in figure.data if trace.name == "unreadable"]
    others = [trace for trace in figure.data if trace.type == "heatmap" and trace is not grey]
    words = np.array(grey.text, dtype=object)[:-1]
    assert ((words != "") == ~checkered.readable).all()
    for trace in others:
        assert (np.array(trace.text, dtype=object)[:-1][~checkered.readable] == "").all()
    sure = dataclasses.replace(checkered, final_ranks=np.zeros_like(checkered.final_ranks))
    outline = next(trace for trace in lr.heatmap(sure).data if trace.type == "scatter")
    assert min(y for y in outline.y if y is not None) == 0.5  # above layer 0, which is grey


def test_the_map_of_the_top_tokens_is_grey_where_the_layer_is(checkered):
    figure = lr.top_tokens(checkered)
    np.testing.assert_array_equal(colored(figure.data[0]).all(0), checkered.readable[:, -1])
    np.testing.assert_array_equal(grey_of(figure).all(0), ~checkered.readable[:, -1])
    assert colored(lr.top_tokens(checkered, show_all=True).data[0]).all()


def test_a_comparison_is_grey_where_one_of_the_two_is(checkered, llama):
    other = with_grey(checkered, np.zeros_like(checkered.readable))
    figure = lr.compare(checkered, other)
    first, second, difference = (colored(trace) for trace in figure.data[:3])
    np.testing.assert_array_equal(first, checkered.readable)
    assert second.all()
    np.testing.assert_array_equal(difference, checkered.readable)
    assert "grey in A:" in figure.layout.title.subtitle.text
    assert all(
        colored(trace).all() for trace in lr.compare(checkered, other, show_all=True).data[:3]
    )


@pytest.mark.parametrize("view", [lr.trajectory, lr.rank_flow, lr.layer_profile])
def test_lines_stand_before_hatched_layers_where_most_tokens_cannot_be_read(checkered, view):
    def bands(figure):
        return [list(trace.x) for trace in figure.data if trace.type == "bar"]

    assert {tuple(layers) for layers in bands(view(checkered))} == {(0, 1)}
    assert bands(view(checkered, show_all=True)) == []
    assert bands(view(tiny.believed(checkered))) == []


def test_a_table_marks_and_dims_the_rows_that_cannot_be_read(checkered):
    lines = lr.table(checkered).splitlines()
    assert lines[1] == "layers 0–1 cannot be read with this lens (marked ?)"
    marks = {line.split()[0]: line.split()[1] == "?" for line in lines[3:7]}
    assert marks == {"0": True, "1": True, "2": False, "3": False}
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=120)
    render(checkered, console)
    rows = [line for line in console.file.getvalue().splitlines() if re.search(r"0\.\d{3}", line)]
    assert ["\x1b[2m" in row for row in rows[:4]] == [True, True, False, False]


def test_a_notebook_shows_grey_cells_and_says_which(checkered):
    html = checkered._repr_html_()
    backgrounds = re.findall(r"background: (#\w{6}); color: #\w{6}\" title", html)
    shown = np.array([background == GREY for background in backgrounds])
    np.testing.assert_array_equal(shown.reshape(4, -1)[::-1], ~checkered.readable)
    assert "Grey: after most tokens, layers 0–1 cannot be read with this lens." in html


def test_the_steps_of_a_generation_are_grey_where_they_cannot_be_read(llama):
    said = lr.generate_lens(llama, "one two", max_new_tokens=3)
    where = np.zeros(said.entropy.shape, dtype=bool)
    where[:2, 0] = True
    said = with_grey(said, where)
    figure = lr.generation_heatmap(said)
    np.testing.assert_array_equal(grey_of(figure), where)
    first = lr.generation_steps(said)
    grey = colored(first.data[-1])
    assert grey[2:4].all()  # the rows from above: layers 1 and 0
    assert not grey[:2].any()
    assert not (grey & colored(first.data[0])).any()


def test_an_answer_is_not_dated_where_the_lens_cannot_be_read(checkered):
    sure = dataclasses.replace(checkered, final_ranks=np.zeros_like(checkered.final_ranks))
    assert "first read at layer 2" in sure.summary()
    assert "top-1 from layer 0 on" in tiny.believed(sure).summary()


def test_the_summary_says_what_not_to_quote(checkered):
    doubt = "distrust: layers 0–1 cannot be read with this lens: it is worse than a uniform guess"
    assert doubt in checkered.summary()
    assert "cannot be read" not in tiny.believed(checkered).summary()


def test_the_sentence_names_layers_cells_or_sites(checkered, llama):
    one = np.zeros_like(checkered.readable)
    one[2, 1] = True
    assert unreadable_sentence(with_grey(checkered, one)) == (
        f"1 of {one.size} cells cannot be read with this lens"
    )
    parts = lr.logit_lens(llama, "one two three", components=["attn_out", "mlp_out"])
    where = np.zeros_like(parts.readable)
    where[:3] = True
    sentence = unreadable_sentence(with_grey(parts, where))
    assert sentence == "3 of 8 sites cannot be read with this lens"


COUNT_GREY = """async (source) => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    let grey = 0;
    for (let i = 0; i < data.length; i += 4) grey += data[i] === 217 && data[i + 1] === 217 && data[i + 2] === 217;
    return grey;
}"""


def test_the_pixels_of_a_png_are_grey_where_the_cells_are(checkered, browser, tmp_path):  # noqa: F811
    page = browser.new_page()
    counts = []
    for show_all in (False, True):
        lr.save_png(lr.heatmap(checkered, show_all=show_all), tmp_path / "map.png")
        content = base64.b64encode((tmp_path / "map.png").read_bytes()).decode()
        counts.append(page.evaluate(COUNT_GREY, f"data:image/png;base64,{content}"))
    page.close()
    cell = 24 * 74 * 4  # pixels at twice the size, of which words and gaps take some
    n_grey = int((~checkered.readable).sum())
    assert 0.5 * cell * n_grey < counts[0] < 3 * cell * n_grey
    assert counts[1] < 0.02 * counts[0]
