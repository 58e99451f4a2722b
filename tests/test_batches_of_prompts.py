"""Views of many prompts: each number is counted here by hand from the arrays."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from markdown_it import MarkdownIt
from rich.cells import cell_len

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.caller import in_a_shell
from lens_recipes.views.figures import export
from lens_recipes.views.words import probability

PROMPTS = ["The capital of France is", "One two", "A model reads the prompt", "The fox", "Hello"]
LAYERS = 6
V = 100  # tokens of the vocabulary
LN_V = np.log(V)


def made(ranks, *, unreadable=(), targets=True, llama=None, prompts=PROMPTS):
    """A result of one token for each prompt, of these target ranks `[prompt][layer]`.

    `unreadable` are places (prompt, layer) whose KL is above that of a uniform guess.
    """
    n = len(ranks)
    plain = lr.logit_lens(llama, prompts[:n], targets=[[10 + i] for i in range(n)], positions=-1)
    sites = [lr.Site(layer) for layer in range(LAYERS)]
    copies = np.arange(LAYERS) % len(plain.sites)
    arrays = {
        name: getattr(plain, name)[copies].copy()
        for name, axes in AXES.items()
        if axes[0] == "site"
    }
    arrays["target_ranks"] = np.array(ranks, dtype=np.int32).T[..., None]
    kl = np.full((LAYERS, n), 1.0, dtype=np.float32)
    kl[-1] = 0
    for prompt, layer in unreadable:
        kl[layer, prompt] = LN_V + 1
    arrays["kl_to_final"] = kl
    final_ids = plain.target_ids[:, 0].copy()
    right = [ranks_of_prompt[-1] == 0 for ranks_of_prompt in ranks]
    final_ids[~np.array(right)] = 60
    arrays["final_ranks"] = np.where(right, arrays["target_ranks"][..., 0], 3).astype(np.int32)
    arrays["final_ranks"][-1] = 0
    result = dataclasses.replace(
        plain,
        sites=sites,
        final_ids=final_ids,
        model_entropy=np.zeros(n, dtype=np.float32),
        texts=plain.texts | {60: " other"} | {10 + i: f" right{i}" for i in range(n)},
        provenance=plain.provenance | {"vocab_size": V},
        **arrays,
    )
    if targets:
        return result
    return dataclasses.replace(
        result,
        target_ids=result.target_ids[:, :0],
        **{
            name: getattr(result, name)[..., :0]
            for name in ("target_ranks", "target_logits", "target_logprobs")
        },
    )


RANKS = [
    [9, 0, 4, 0, 0, 0],  # top-1 from layer 3
    [9, 9, 9, 9, 9, 0],  # from the last layer
    [0, 0, 0, 0, 0, 7],  # never: not at the end
    [5, 5, 0, 0, 0, 0],  # from layer 2, of which 0 to 3 cannot be read: first read at 4
    [5, 5, 5, 0, 0, 0],  # from layer 3, before which nothing can be read: first read at 3
]
UNREADABLE = [*((3, layer) for layer in range(4)), *((4, layer) for layer in range(3))]
STARTS = [3, 5, -1, 4, 3]
DATED = [True, True, True, False, False]


@pytest.fixture(scope="module")
def batch(llama):
    return made(RANKS, unreadable=UNREADABLE, llama=llama)


@pytest.fixture(scope="module")
def untargeted(llama):
    return made(RANKS, unreadable=UNREADABLE, targets=False, llama=llama)


@pytest.fixture(scope="module")
def real(smollm2):
    """Facts of SmolLM2, each with its own answer: most are right."""
    facts = {"France": " Paris", "Italy": " Rome", "Egypt": " Cairo", "Japan": " Tokyo"}
    prompts = [f"The capital of {country} is" for country in facts]
    return lr.logit_lens(smollm2, prompts, targets=[[city] for city in facts.values()])


# -- outcomes ----------------------------------------------------------


def test_an_outcome_is_dated_only_where_the_lens_can_be_read(batch):
    rows = batch.outcomes()
    assert [row.site for row in rows] == STARTS
    assert [row.layer for row in rows] == [None if site < 0 else site for site in STARTS]
    assert [row.is_dated for row in rows] == DATED
    assert [row.right for row in rows] == [True, True, False, True, True]
    assert [row.rank for row in rows] == [ranks[-1] for ranks in RANKS]
    assert [row.followed_id for row in rows] == batch.target_ids[:, 0].tolist()


def test_top_1_only_where_the_lens_cannot_be_read_is_no_date(llama):
    unreadable = [(0, layer) for layer in range(6)]
    (row, _) = made([[0] * 6] * 2, unreadable=unreadable, llama=llama).outcomes()
    assert (row.site, row.layer, row.is_dated) == (-1, None, False)


def test_outcomes_follow_the_answer_where_there_are_no_targets(untargeted):
    rows = untargeted.outcomes()
    assert [row.followed_id for row in rows] == untargeted.final_ids.tolist()
    assert all(row.right and row.rank == 0 for row in rows)


def test_outcomes_of_a_batch_are_those_of_its_prompts_alone(real):
    for position in (-1, 0):
        together = real.outcomes(position=position)
        for number, row in enumerate(together):
            (alone,) = real[number].outcomes(position=position)
            token = int(np.flatnonzero(real.tokens.prompt == number)[position])
            assert row == alone._replace(prompt=number, token=token)


def test_outcomes_are_the_arrays_numbers(real):
    rows = real.outcomes()
    last = [np.flatnonzero(real.tokens.prompt == number)[-1] for number in range(len(real))]
    assert [row.rank for row in rows] == real.target_ranks[-1, last, 0].tolist()
    np.testing.assert_array_equal(
        [row.logprob for row in rows], real.target_logprobs[-1, last, 0].astype(float)
    )
    assert [row.answer for row in rows] == [real.text(i) for i in real.final_ids[last]]
    assert (
        [row.right for row in rows] == [row.rank == 0 for row in rows] == [True, True, False, True]
    )
    by_text = real[0].outcomes(" Paris")
    assert by_text == real[0].outcomes()


# -- the table ---------------------------------------------------------


def cells_of(text):
    """The rows of a text's table by heading, split where two blanks stand."""
    lines = text.splitlines()
    head = re.split(r"\s{2,}", lines[0].strip())
    rows = [line for line in lines[1:] if re.match(r"\s*\d+ ", line) and " right (" not in line]
    return head, [re.split(r"\s{2,}", row.strip()) for row in rows]


def test_many_prompts_are_one_table_with_a_row_for_each(batch):
    head, rows = cells_of(str(batch))
    assert head == [
        *("#", "prompt", "target", "rank", "p"),
        *("rank where first readable", "top-1 from layer", "answer", "p"),
    ]
    starts = ["3", "5", "never", "4 ?", "3 ?"]
    for number, row in enumerate(rows):
        target_p = probability(batch.target_logprobs[-1, number, 0])
        expected = [str(number), PROMPTS[number], f"·right{number}", str(RANKS[number][-1])]
        unreadable = np.flatnonzero(~batch.readable[:, number])
        start = unreadable[-1] + 1 if len(unreadable) else 0
        first = f"{RANKS[number][start]} at {start}"
        answer = ["right"]
        if number == 2:
            answer = ["·other", probability(batch.model_logprobs[number])]
        assert row == [*expected, target_p, first, starts[number], *answer]
    text = str(batch)
    assert "4 of 5 right (80%)" in text
    assert "?: first read there, the layers before cannot be read with this lens" in text
    assert "top 1" not in text


def test_without_targets_the_answers_have_a_row_each(untargeted):
    head, rows = cells_of(str(untargeted))
    assert head == ["#", "prompt", "answer", "p", "rank where first readable", "top-1 from layer"]
    assert "first readable" not in str(tiny.believed(untargeted))  # nothing is known of that
    assert [row[2] for row in rows] == ["·right0", "·right1", "·other", "·right3", "·right4"]
    numbers = [probability(logprob) for logprob in untargeted.model_logprobs]
    assert [row[3] for row in rows] == numbers
    assert " right (" not in str(untargeted)


def test_markdown_has_the_same_rows(batch):
    rendered = MarkdownIt("commonmark").enable("table").render(lr.table(batch, format="markdown"))
    body = rendered.split("<tbody>")[1].split("</tbody>")[0]
    rows = [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in body.split("</tr>")[:-1]
    ]
    _, expected = cells_of(str(batch))
    assert [[cell for cell in row if cell] for row in rows] == expected
    assert "4 of 5 right (80%)" in rendered


def test_rows_beyond_forty_are_counted(llama):
    many = made([RANKS[0]] * 50, llama=llama, prompts=["The fox"] * 50)
    text = lr.table(many)
    assert len(cells_of(text)[1]) == 40
    assert "… and 10 more prompts: max_prompts=50 shows all" in text
    assert "50 of 50 right" in text
    whole = lr.table(many, max_prompts=50)
    assert len(cells_of(whole)[1]) == 50
    assert "more prompts" not in whole
    assert len(lr.table(many, format="tsv").splitlines()) == 1 + 50 * LAYERS
    with pytest.raises(ValueError, match="max_prompts=0 must be"):
        lr.table(many, max_prompts=0)


def test_named_prompts_are_shown_layer_by_layer(batch):
    assert lr.table(batch, prompt=2) == lr.table(batch[2])
    several = lr.table(batch, prompt=[0, 3, 1, 4])
    assert several.count("after token") == 4
    assert several.index("The fox") < several.index("One two")
    assert lr.table(batch, prompt=range(3)).count("after token") == 3
    with pytest.raises(ValueError, match="out of range"):
        lr.table(batch, prompt=[0, 5])
    with pytest.raises(ValueError, match="names no prompt"):
        lr.table(batch, prompt=[])


def test_an_argument_about_layers_asks_for_them(batch):
    for options in (
        {"show_top": 2},
        {"stride": 2},
        {"sites": [0, -1]},
        {"component": "resid_post"},
    ):
        text = lr.table(batch, **options)
        assert text.count("after token") == 3
        assert "… and 2 more prompts: prompt=3 is the next" in text
    assert lr.table(batch, stride=2, max_prompts=5).count("after token") == 5


def test_a_token_before_the_end_of_its_prompt_is_named(real):
    assert "after token" not in lr.table(real)
    assert lr.table(real, position=1).count("after token 1, ·capital") == 4


def test_further_targets_have_their_ranks(llama):
    result = lr.logit_lens(llama, PROMPTS[:2], targets=[[7, 8], [9, 10]], positions=-1)
    for number, line in enumerate(lr.table(result).splitlines()[1:3]):
        ranks = result.target_ranks[-1, number]
        other = lr.table(result).splitlines()[0].index("target 2, rank")
        assert line[other:].split("  ")[0].endswith(f" {ranks[1]}")


def test_where_the_last_layer_was_not_read_the_table_says_of_which_layer_the_ranks_are(smollm2):
    result = lr.logit_lens(
        smollm2, PROMPTS[:2], targets=[[" Paris"], [" three"]], layers=[3, 20], positions=-1
    )
    assert "rank and p are those of layer 20, the last read" in str(result)


@pytest.mark.parametrize("width", [40, 47, 60, 80, 120])
def test_no_line_is_wider_and_what_has_no_room_is_named(real, width):
    text = lr.table(real, width=width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    for row in real.outcomes():
        assert f"·{row.followed.strip()}" in text
    has_p = all(probability(row.logprob) in text for row in real.outcomes())
    assert has_p == ("no room for" not in text or ", p" not in text.split("no room for")[1])


def test_other_results_keep_their_views(llama, batch):
    parts = lr.logit_lens(llama, PROMPTS[:2], components=["attn_out", "mlp_out"])
    assert str(parts).count("after token") == 2
    heads = lr.logit_lens(llama, PROMPTS[:2], components="head_out")
    assert str(heads).count("after token") == 2
    written = lr.generate_lens(llama, PROMPTS[:2], max_new_tokens=2, do_sample=False)
    assert lr.table(written).count("after token") == 2
    assert "#" not in str(batch[0]).splitlines()[0]


# -- the summary -------------------------------------------------------


def test_the_summary_counts_and_gives_quartiles(batch):
    text = batch.summary()
    assert "4 of 5 (80%) right" in text
    low, middle, high = np.percentile([3, 5, 4, 3], [25, 50, 75])
    assert f"top-1 from layer {middle:.3g} on" in text
    assert f"median of 4 prompts; quartiles {low:.3g}–{high:.3g}), never in 1" in text
    assert "in 2 of the 4 it was first read there" in text
    assert "prompt 2 ' other'" in text
    assert "prompt 0" not in text


def test_the_summary_has_the_quartiles_of_ranks_where_most_prompts_can_be_read(llama):
    ranks = [[90, 50, 40, 30, 20, 0], [80, 60, 30, 20, 10, 0], [70, 70, 20, 10, 0, 0]] * 2
    names = ["The fox"] * 6
    unreadable = [(prompt, layer) for prompt in range(5) for layer in range(2)]
    result = made(ranks, unreadable=unreadable, llama=llama, prompts=names)
    (line,) = [line for line in result.summary().splitlines() if line.startswith("rank of")]
    for layer in range(2, 6):
        low, middle, high = np.percentile([row[layer] for row in ranks], [25, 50, 75])
        assert f"{middle:,.0f} ({low:,.0f}–{high:,.0f}) at layer {layer}" in line
    assert "at layer 0" not in line
    assert "at layer 1" not in line


def test_without_targets_it_is_about_the_answers(untargeted):
    text = untargeted.summary()
    assert "5 different answers" in text
    assert "the answer is top-1 from layer" in text
    assert "right" not in text.split("distrust")[0]


def test_a_few_prompts_keep_their_lines(batch, real):
    assert real.summary().count("the model answers") == 0
    single = dataclasses.replace(real[0])
    assert single.summary().count("the model answers") == 1


# -- the shell ---------------------------------------------------------


def lines_of(out):
    """What a console printed, without the blanks with which it fills lines, and without doubts."""
    lines = [line.rstrip() for line in out.splitlines()]
    return [line for line in lines if not line.startswith("distrust:")]


def test_the_shell_prints_the_same_table(cli, llama, batch, tmp_path):
    run = cli(llama)
    path = str(tmp_path / "batch.npz")
    batch.save(path)
    loaded = lr.LensResult.load(path)
    status, out, _ = run("show", path)
    assert status == 0
    with in_a_shell({}):
        expected, of_two = lr.table(loaded), lr.table(loaded, max_prompts=2)
    assert lines_of(out) == expected.splitlines()
    _, out, _ = run("show", path, "--max-prompts", "2")
    assert lines_of(out) == of_two.splitlines()
    status, out, _ = run("logit-lens", *PROMPTS[:3], "--target", " the", "--positions", "-1")
    direct = lr.logit_lens(llama, PROMPTS[:3], targets=" the", positions=-1, top_k=5)
    assert cells_of(out)[1] == cells_of(lr.table(direct))[1]
    status, out, _ = run("logit-lens", "The fox", "--show-top", "3")
    assert "top 3" in out


# -- the map -----------------------------------------------------------


def cells_of_map(figure):
    """The cells of a map of prompts, `[prompt, layer]`."""
    return np.array(figure.data[0].z, dtype=float)


def test_the_map_has_the_ranks_of_each_prompts_target(batch):
    figure = lr.heatmap(batch, kind="prompts")
    expected = -np.log10(np.array(RANKS) + 1.0)
    for prompt, layer in UNREADABLE:
        expected[prompt, layer] = np.nan
    np.testing.assert_allclose(cells_of_map(figure), expected, rtol=1e-6)
    assert list(figure.layout.xaxis.ticktext) == [str(layer) for layer in range(5, -1, -1)]
    targets = [f"{end} → ·right{n}" for n, end in enumerate(PROMPTS)]
    assert list(figure.layout.yaxis.ticktext) == targets
    answers = ["right", "right", "<b>·other</b>", "right", "right"]
    assert list(figure.layout.yaxis2.ticktext) == answers
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first is uppermost


def test_cells_that_cannot_be_read_are_grey_and_say_what_they_hold(batch):
    figure = lr.heatmap(batch, kind="prompts")
    assert figure.layout.plot_bgcolor == "#d9d9d9"
    assert figure.data[0].hoverongaps
    hover = np.array(figure.data[0].customdata)
    for prompt in range(5):
        for layer in range(LAYERS):
            words = hover[prompt, layer]
            assert f"<b>layer {layer}</b>, prompt {prompt}" in words
            assert f"rank of ·right{prompt}: {RANKS[prompt][layer]}" in words
            is_grey = (prompt, layer) in UNREADABLE
            assert (
                ("cannot be read" in words) == is_grey == np.isnan(figure.data[0].z[prompt][layer])
            )
    note = f"grey: {len(UNREADABLE)} of 30 cells cannot be read with this lens"
    assert note in figure.layout.title.subtitle.text
    coloured = lr.heatmap(batch, kind="prompts", show_all=True)
    np.testing.assert_allclose(cells_of_map(coloured), -np.log10(np.array(RANKS) + 1.0), rtol=1e-6)
    readable = dataclasses.replace(batch, kl_to_final=np.zeros_like(batch.kl_to_final))
    assert "grey" not in lr.heatmap(readable, kind="prompts").layout.title.subtitle.text


def test_frames_surround_the_readable_cells_whose_top_1_is_the_target(batch):
    figure = lr.heatmap(batch, kind="prompts")
    _, frame, _ = (trace for trace in figure.data if trace.name == "top-1 is the target")
    boxes = set()
    for start in range(0, len(frame.x), 6):
        xs, ys = frame.x[start : start + 5], frame.y[start : start + 5]
        boxes.add((min(ys) + 0.5, min(xs) + 0.5, max(xs) - 0.5))
    expected = {(0, 1, 1), (0, 3, 5), (1, 5, 5), (2, 0, 4), (3, 4, 5), (4, 3, 5)}
    assert boxes == expected


def test_without_targets_the_map_is_about_the_answers(untargeted):
    figure = lr.heatmap(untargeted, kind="prompts")
    shown = cells_of_map(figure)
    expected = -np.log10(untargeted.final_ranks.T + 1.0)
    np.testing.assert_allclose(shown[~np.isnan(shown)], expected[~np.isnan(shown)], rtol=1e-6)
    assert list(figure.layout.yaxis.ticktext) == PROMPTS
    assert "the model's answer" in figure.layout.title.text


@pytest.mark.parametrize("position", [-1, 0, 2])
@pytest.mark.parametrize(("metric", "of"), [("prob", None), ("entropy", None), ("prob", "final")])
def test_the_map_has_each_prompts_own_numbers(real, position, metric, of):
    figure = lr.heatmap(real, kind="prompts", metric=metric, of=of, position=position)
    shown = cells_of_map(figure)
    for number, single in enumerate(real):
        token = range(len(single.tokens))[position]
        whose = of or ("target" if metric == "prob" else None)
        values, _ = lr.metric_values(single, metric, whose)
        expected = np.where(single.readable[:, token], values[:, token], np.nan)
        np.testing.assert_allclose(shown[number], expected, rtol=1e-6)


def test_the_map_takes_sites_components_and_a_stride(llama, batch):
    assert cells_of_map(lr.heatmap(batch, kind="prompts", stride=2)).shape == (5, 3)
    named = lr.heatmap(batch, kind="prompts", sites=[4, 5])
    assert list(named.layout.xaxis.ticktext)[::-1] == ["4", "5"]
    mixed = lr.logit_lens(llama, PROMPTS, components=["attn_out", "resid_post"], positions=-1)
    n_layers = len(mixed.sites) // 2
    assert cells_of_map(lr.heatmap(mixed, kind="prompts")).shape == (5, n_layers)
    attn = lr.heatmap(mixed, kind="prompts", component="attn_out")
    assert attn.layout.xaxis.title.text == "layer (attn_out)"
    heads = lr.logit_lens(llama, PROMPTS, components="head_out", positions=-1)
    assert lr.heatmap(heads, kind="prompts").layout.xaxis.title.text == "site"


def test_a_hundred_prompts_have_labels_that_do_not_overlap(llama):
    many = made([RANKS[0]] * 200, llama=llama, prompts=["The fox"] * 200)
    figure = lr.heatmap(many, kind="prompts")
    assert len(figure.layout.yaxis.tickvals) <= 100
    assert figure.layout.height < 1800
    assert cells_of_map(figure).shape == (200, LAYERS)


def test_hostile_texts_do_not_act_in_the_map(batch):
    texts = dict.fromkeys(batch.texts, "<b>$x$</b>")
    changed = dataclasses.replace(batch, texts=texts, prompts=["<a href='x'>$y$"] * 5)
    figure = lr.heatmap(changed, kind="prompts")
    for label in [*figure.layout.yaxis.ticktext, *np.array(figure.data[0].customdata).ravel()]:
        assert "<a" not in label
        assert "$" not in label


def test_a_wrong_kind_of_map_says_what_is_accepted(llama, batch, untargeted):
    with pytest.raises(ValueError, match='accepted are "tokens" and "prompts"'):
        lr.heatmap(batch, kind="prompt")
    with pytest.raises(ValueError, match="this result has none: pass targets="):
        lr.heatmap(untargeted, kind="prompts", of="target")
    with pytest.raises(ValueError, match="position=3 is out of range"):
        lr.heatmap(batch, kind="prompts", position=3)
    vectors = np.ones((2, llama._module.config.hidden_size), dtype=np.float32)
    with pytest.raises(ValueError, match="vectors have none"):
        lr.heatmap(lr.decode_vectors(llama, vectors), kind="prompts")


def test_show_draws_all_prompts_or_the_one_that_is_named(cli, batch, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(export, "save_png", lambda figure, path: drawn.append(figure))
    run = cli()
    path, png = str(tmp_path / "batch.npz"), str(tmp_path / "x.png")
    batch.save(path)
    status, _, errors = run("show", path, "--png", png)
    assert (status, "the first of" in errors) == (0, False)
    np.testing.assert_array_equal(drawn[0].data[0].z, lr.heatmap(batch, kind="prompts").data[0].z)
    assert run("show", path, "--png", png, "--kind", "tokens")[2].startswith("the figure shows the")
    np.testing.assert_array_equal(drawn.pop().data[0].z, lr.heatmap(batch).data[0].z)
    assert run("show", path, "--png", png, "--kind", "prompts", "--prompt", "1")[0] == 2
    run("show", path, "--png", png, "--prompt", "1")
    np.testing.assert_array_equal(drawn[1].data[0].z, lr.heatmap(batch, prompt=1).data[0].z)


# -- the report --------------------------------------------------------


class BatchTable(HTMLParser):
    """The table of all prompts of a report: its rows as texts, and the colours of their ranks."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.prompts, self.colors, self.words = [], [], [], []
        self.feed(page.split('<section id="batch"')[1].split("</table>")[0])

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "tr":
            self.rows.append([])
            if "data-prompt" in values:
                self.prompts.append(int(values["data-prompt"]))
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if values.get("class") == "ranks":
            self.words.append(values["title"])
            self.colors.append(re.findall(r"#[0-9a-f]{6}", values["style"]))

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")


def report_of(result, tmp_path, **options):
    """The text of a report."""
    path = tmp_path / "report.html"
    lr.report(result, path, **options)
    return path.read_text()


def test_a_report_of_a_real_model_is_small(real, tmp_path):
    """With nothing left out, plotly.js among it."""
    assert len(report_of(real[0], tmp_path, max_bytes=20_000_000).encode()) < 1_600_000


def test_a_report_of_many_prompts_opens_on_their_table(batch, tmp_path):
    table = BatchTable(report_of(batch, tmp_path))
    head, *rows = table.rows
    shown_head, shown_rows = cells_of(str(batch))
    assert head == [*shown_head, "rank of each prompt's target, layer 0 to layer 5"]
    assert [[cell for cell in row if cell] for row in rows] == shown_rows
    assert table.prompts == list(range(5))
    for prompt, (colors, words) in enumerate(zip(table.colors, table.words, strict=True)):
        grey = [layer for layer, color in enumerate(colors) if color == "#d9d9d9"]
        assert grey == [layer for number, layer in UNREADABLE if number == prompt]
        readable = [layer for layer in range(LAYERS) if layer not in grey]
        assert words == ", ".join(f"{layer}: {RANKS[prompt][layer]}" for layer in readable)
        top = [layer for layer, color in enumerate(colors) if color == "#fde725"]  # rank 0
        assert top == [layer for layer in readable if RANKS[prompt][layer] == 0]


def test_a_report_of_some_prompts_numbers_them_as_its_menu_does(batch, tmp_path):
    table = BatchTable(report_of(batch, tmp_path, prompts=[1, 3]))
    assert table.prompts == [0, 1]
    assert [row[1] for row in table.rows[1:]] == [PROMPTS[1], PROMPTS[3]]
    assert '<section id="batch"' not in report_of(batch, tmp_path, prompts=2)
    assert '<section id="batch"' not in report_of(batch[0], tmp_path)


def test_the_table_counts_among_the_bytes_of_the_page(llama, tmp_path):
    many = made([RANKS[0]] * 200, llama=llama, prompts=["The fox <b>&amp;</b>" * 20] * 200)
    size = len(report_of(many, tmp_path).encode())
    smaller = size - 40_000
    page = report_of(many, tmp_path, max_bytes=smaller)
    assert len(page.encode()) <= smaller
    assert 1 < len(BatchTable(page).prompts) < 200
    assert "<b>" not in page.split('<section id="batch"')[1].split("</section>")[0]
