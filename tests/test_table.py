"""`table` says what the arrays say, in each of its formats, whatever stands in a token, and no wider than asked."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny
from hostile import HOSTILE, hostile_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from rich.console import Console

import lens_recipes as lr
from lens_recipes.arrays import sites as components
from lens_recipes.arrays.attribution import AXES as PART_AXES
from lens_recipes.arrays.attribution import by_size
from lens_recipes.arrays.lens import AXES
from lens_recipes.arrays.text import visible_token
from lens_recipes.views.tables.attribution.parts import target_rows
from lens_recipes.views.tables.grids import truncate
from lens_recipes.views.tables.programs.tsv import text_field
from lens_recipes.views.tables.table import FORMATS, NARROWEST, render
from lens_recipes.views.words import about_token, probability, prompt_end, signed

PROMPTS = ["The capital of France is", "One two", "A model reads the prompt"]
WIDE = [
    "中文字中文字中文字中文字中文字",
    "🙂🙂🙂🙂🙂🙂🙂🙂",
    "👨\u200d👩\u200d👧",
    "❤\ufe0f",
    "\u0301",
    "日本語",
    "한국어" * 5,
]
MARKUP = [
    "|", "||", "\\", "\\|", "`", "``", "`|`", "*a*", "_b_", "[x](y)", "#1", "@user", ":smile:", "~~s~~", "$", "$x$",
    "|\n|",
    "&amp;", "https://a.b", "<code>", "</code>", "-", '"', '""', '"a', "'", ",", "\r\n", "\u2028", "\x85", "   ",
]  # fmt: skip
COMPONENTS = ["embed", "attn_out", "head_out", "resid_mid", "mlp_out", "resid_post"]


@pytest.fixture(scope="module")
def lens(llama):
    """Three prompts, two targets each; not the same for all."""
    return tiny.believed(lr.logit_lens(llama, PROMPTS, targets=[[" the", 7], [7, " the"], [8, 9]]))


@pytest.fixture(scope="module")
def results(llama, lens):
    """One of each sort."""
    vectors = (
        np.random.default_rng(0)
        .normal(size=(5, llama._module.config.hidden_size))
        .astype(np.float32)
    )
    made = {
        "lens": lens,
        "parts": lr.logit_lens(llama, PROMPTS[:2], targets=[" the"], components=COMPONENTS),
        "heads": lr.logit_lens(llama, PROMPTS[0], components=["head_out"]),
        "raw": lr.logit_lens(llama, PROMPTS[0], apply_norm=False),
        "many targets": lr.logit_lens(llama, PROMPTS[0], targets=list(range(66, 78))),
        "vectors": lr.decode_vectors(llama, vectors, [f"feature {n}" for n in range(5)]),
        "generation": lr.generate_lens(
            llama, PROMPTS[:2], max_new_tokens=3, temperature=1.5, seed=1
        ),
        "by head": lr.attribution(llama, PROMPTS[:2], [" the", 7], against=" and", unit="head"),
        "by token": lr.attribution(
            llama, PROMPTS[:2], [" the"], against="mean", unit="token", positions=[0, -1]
        ),
    }
    return {
        name: tiny.believed(result) if isinstance(result, lr.LensResult) else result
        for name, result in made.items()
    }


KINDS = [
    "lens",
    "parts",
    "heads",
    "raw",
    "many targets",
    "vectors",
    "generation",
    "by head",
    "by token",
]
LENSES, ATTRIBUTIONS = KINDS[:7], KINDS[7:]


def with_texts(result, texts):
    """The same result, its tokens and prompts called otherwise."""
    names = {i: texts[i % len(texts)] for i in {*result.texts, *result.tokens.id.tolist()}}
    tokens = dataclasses.replace(result.tokens, text=[names[int(i)] for i in result.tokens.id])
    more = (
        {"sources": [[texts[0]] * len(s) for s in result.sources]}
        if isinstance(result, lr.Attribution)
        else {}
    )
    prompts = ["".join(texts)] * len(result.prompts)
    return dataclasses.replace(result, texts=names, tokens=tokens, prompts=prompts, **more)


def deep(result, n_layers):
    """The same with many more layers, their numbers those of the few again and again."""
    copies = np.arange(n_layers) % len(result.sites)
    arrays = {
        name: getattr(result, name)[copies] for name, axes in AXES.items() if axes[0] == "site"
    }
    return dataclasses.replace(
        result, sites=[lr.Site(layer) for layer in range(n_layers)], **arrays
    )


# -- reading a table back ----------------------------------------------


class Page(HTMLParser):
    """The tables of a page, `[table][row][cell]` as (text, alignment), and all of its headings and paragraphs."""

    def __init__(self, markdown):
        super().__init__()
        self.tables, self.texts, self.tags = [], [], set()
        self.align = None
        self.feed(MarkdownIt("commonmark").enable("table").render(markdown))

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.align = dict(attributes).get("style", "").removeprefix("text-align:")
            self.tables[-1][-1].append(["", self.align])
        elif tag in ("h3", "p"):
            self.texts.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.align = None

    def handle_data(self, data):
        if self.align is not None:
            self.tables[-1][-1][-1][0] += data
        elif data.strip():
            self.texts[-1] += data


def cells(table):
    return [[text for text, _ in row] for row in table]


def records(text):
    return list(csv.DictReader(io.StringIO(text), dialect="excel-tab", strict=True))


def layers_of_text(text):
    return [line.split()[0] for line in text.splitlines() if re.match(r" +\d+  \S", line)]


def expected_rows(one, token, show_top):
    """What a Markdown row of each site of one prompt has."""
    for s, site in enumerate(one.sites):
        tops = zip(one.top_ids[s, token, :show_top], one.top_logprobs[s, token], strict=False)
        words = [text for i, p in tops for text in (visible_token(one.text(i)), probability(p))]
        numbers = [f"{one.entropy[s, token]:.2f}", f"{one.kl_to_final[s, token]:.2f}"]
        yield [str(site), *words, *numbers, *map(str, one.target_ranks[s, token])]


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("texts", [None, MARKUP, HOSTILE, WIDE])
@pytest.mark.parametrize("kind", [kind for kind in LENSES if kind != "vectors"])
@pytest.mark.parametrize(("position", "show_top"), [(-1, 5), (0, 2)])
def test_markdown_has_the_arrays_numbers_and_any_token(results, kind, texts, position, show_top):
    """As GitHub's parser sees it: nothing but our own tags, and each text in the cell that it belongs to."""
    result = results[kind] if texts is None else with_texts(results[kind], texts)
    page = Page(lr.table(result, format="markdown", position=position, show_top=show_top))
    assert page.tags <= {"h3", "p", "code", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(page.tables) == len(result)
    for one, table in zip(result, page.tables, strict=True):
        head, *rows = cells(table)
        ranks = [f"rank of {visible_token(one.text(i))}" for i in one.target_ids[0]]
        tops = [name for k in range(show_top) for name in (f"top {k + 1}", "p")]
        assert head == ["layer", *tops, "entropy", "KL", *ranks]
        assert rows == list(expected_rows(one, position, show_top))
        right = [not name.startswith("top") for name in head]
        assert all([align == "right" for _, align in row] == right for row in table)
        at = f"after token {one.tokens.position[position]}, {visible_token(one.tokens.text[position])}"
        assert f"{prompt_end(one.prompts[0])}, {at}" in page.texts


@pytest.mark.parametrize("texts", [None, MARKUP, HOSTILE, WIDE])
@pytest.mark.parametrize("kind", LENSES)
@pytest.mark.parametrize("position", [-1, 0])
def test_tsv_has_the_arrays_numbers_and_any_token(results, kind, texts, position):
    result = results[kind] if texts is None else with_texts(results[kind], texts)
    text = lr.table(result, format="tsv", position=position, show_top=3)
    rows = records(text)
    assert (
        len({line.count("\t") for line in text.split("\n")}) == 1
    )  # also for a reader that knows no quotes
    assert len(rows) == len(text.split("\n")) - 1
    shown = iter(rows)
    for number, one in enumerate(result):
        for t in range(len(one.tokens)) if kind == "vectors" else [position]:
            for s, site in enumerate(one.sites):
                row = next(shown)
                assert (row["prompt"], row["position"]) == (
                    str(number),
                    str(one.tokens.position[t]),
                )
                assert row["input"] == text_field(visible_token(one.tokens.text[t], 10_000))
                where = (site.layer, site.component, site.head)
                assert (row["layer"], row["component"], row["head"]) == tuple(
                    "" if x is None else str(x) for x in where
                )
                assert (int(row["site"]), int(row["sites"])) == (s, len(one.sites))
                assert [row[f"top{k}"] for k in (1, 2, 3)] == [
                    text_field(visible_token(one.text(i), 10_000)) for i in one.top_ids[s, t, :3]
                ]
                logprobs = one.top_logprobs[s, t, :3]
                np.testing.assert_allclose(
                    [float(row[f"p{k}"]) for k in (1, 2, 3)], np.exp(logprobs), rtol=1e-5
                )
                numbers = [one.entropy[s, t], one.kl_to_final[s, t]]
                np.testing.assert_allclose(
                    [float(row["entropy"]), float(row["kl"])], numbers, rtol=1e-5
                )
                for j, target in enumerate(one.target_ids[0], start=1):
                    assert row[f"target{j}"] == text_field(visible_token(one.text(target), 10_000))
                    assert int(row[f"target{j}_rank"]) == one.target_ranks[s, t, j - 1]
                    p = math.exp(float(one.target_logprobs[s, t, j - 1]))
                    assert float(row[f"target{j}_p"]) == pytest.approx(p, rel=1e-5, abs=0)
                assert row["mark"] == result.mark
    assert next(shown, None) is None


@pytest.mark.parametrize("kind", LENSES)
def test_tsv_ends_with_the_ids_of_its_texts_and_what_can_be_read(results, kind):
    """The columns of before keep their places: scripts count them."""
    result = results[kind]
    text = lr.table(result, format="tsv", show_top=2)
    header = text.split("\n")[0].split("\t")
    n_targets = result.target_ids.shape[1]
    ids = ["input_id", "top1_id", "top2_id", *(f"target{n + 1}_id" for n in range(n_targets))]
    lens = ["lens", "lens_source", "lens_digest"]
    assert header[-len(ids) - 7 :] == ["mark", *ids, "readable", "fitted", *lens, "edits"]
    rows = iter(records(text))
    for one in result:
        for t in range(len(one.tokens)) if kind == "vectors" else [-1]:
            for s in range(len(one.sites)):
                row = next(rows)
                input_id = int(one.tokens.id[t])
                assert row["input_id"] == ("" if input_id < 0 else str(input_id))
                assert [int(row["top1_id"]), int(row["top2_id"])] == one.top_ids[s, t, :2].tolist()
                shown = [int(row[f"target{n + 1}_id"]) for n in range(n_targets)]
                assert shown == one.target_ids[0].tolist()
                assert row["readable"] == str(int(one.readable[s, t]))
                assert [row[name] for name in ("fitted", *lens)] == ["1", "logit", "", ""]


def test_json_has_the_rows_of_tsv_with_texts_and_numbers_as_they_are(results):
    for kind, result in results.items():
        rows = json.loads(lr.table(result, format="json", show_top=2))
        table = records(lr.table(result, format="tsv", show_top=2))
        assert [list(row) for row in rows] == [list(row) for row in table]
        for row, fields in zip(rows, table, strict=True):
            for name, value in row.items():
                if isinstance(value, float):
                    assert float(fields[name]) == pytest.approx(value, rel=1e-5)
                elif isinstance(value, int):
                    assert int(fields[name]) == value
        if kind in LENSES and kind != "vectors":
            last = rows[-1]
            assert last["top1"] == result.text(last["top1_id"])
            assert last["input"] == result.tokens.text[-1]


def test_the_ids_of_an_attribution(results):
    result = results["by head"]
    for row in records(lr.table(result, format="tsv")):
        one = result[int(row["prompt"])]
        assert int(row["target_id"]) in one.target_ids[0]
        assert row["input_id"] == str(one.tokens.id[-1])
        against = one.against_ids[0].tolist()
        assert row["against_id"] in ["" if token < 0 else str(token) for token in against]


def test_a_tiny_probability_is_not_nothing(lens):
    one = dataclasses.replace(lens[0], target_logprobs=np.full_like(lens[0].target_logprobs, -200))
    assert float(records(lr.table(one, format="tsv"))[0]["target1_p"]) == pytest.approx(
        math.exp(-200), rel=1e-5, abs=0
    )


@pytest.mark.parametrize("texts", [None, MARKUP, HOSTILE, WIDE])
@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_an_attribution_in_every_format(results, kind, texts):
    """The parts by size, their values, the rest and the sums, in Markdown and text; in tsv the same parts."""
    result = results[kind] if texts is None else with_texts(results[kind], texts)
    page, rows = (
        Page(lr.table(result, format="markdown", show_top=4)),
        records(lr.table(result, format="tsv", show_top=4)),
    )
    text = lr.table(result, show_top=4)
    n_targets = result.target_ids.shape[1]
    assert page.tags <= {"h3", "p", "code", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(page.tables) == len(result) * n_targets
    assert len(rows) == len(result) * n_targets * 4
    tables, shown = iter(page.tables), iter(rows)
    for number, one in enumerate(result):
        for k in range(n_targets):
            values, t = one.values[:, -1, k], len(one.tokens) - 1
            order = by_size(values)
            head, *body = cells(next(tables))
            assert head == ["part", one.target_name(0, k)]
            assert [value for _, value in body[:4]] == [signed(values[p]) for p in order[:4]]
            assert all(
                name.startswith(visible_token(str(one.parts[p]), 40))
                for (name, _), p in zip(body, order[:4], strict=False)
            )
            sums = [values[order[4:]].sum(), one.total[t, k], one.logit[t, k]]
            assert [value for _, value in body[4:7]] == [signed(value) for value in sums]
            assert body[4][0] == f"all the others ({len(order) - 4})"
            assert body[-1] == ["error: |total − logit|", f"{one.error[t, k]:.1e}"]
            assert all(value in text for _, value in body)
            for p in order[:4]:
                row, part = next(shown), one.parts[p]
                assert (row["prompt"], row["part"], row["parts"]) == (
                    str(number),
                    str(part),
                    str(len(one.parts)),
                )
                assert (row["layer"], row["head"], row["source"]) == tuple(
                    "" if x is None else str(x) for x in (part.layer, part.head, part.source)
                )
                assert row["target"] == text_field(
                    visible_token(one.text(one.target_ids[0, k]), 10_000)
                )
                got = [
                    float(row[name])
                    for name in ("value", "total", "logit", "capped_logit", "error")
                ]
                arrays = [
                    values[p],
                    one.total[t, k],
                    one.logit[t, k],
                    one.capped_logit[t, k],
                    one.error[t, k],
                ]
                np.testing.assert_allclose(got, arrays, rtol=1e-5)
                if part.source is not None:
                    assert row["source_text"] == text_field(
                        visible_token(one.sources[0][part.source], 10_000)
                    )


def test_an_attribution_at_another_token(results):
    result = results["by token"]
    for form in FORMATS:
        assert lr.table(result, format=form) == lr.table(result, format=form, position=1)
    first = records(lr.table(result, format="tsv", position=0, show_top=1))
    assert [float(row["total"]) for row in first] == pytest.approx(
        [float(one.total[0, 0]) for one in result], rel=1e-5
    )
    assert "after token 0, " in lr.table(result, position=0)


def test_vectors_have_a_row_each_in_every_format(results):
    result = results["vectors"]
    page = Page(lr.table(result, format="markdown", show_top=2))
    head, *rows = cells(page.tables[0])
    assert head == ["vector", "top 1", "p", "top 2", "p", "entropy"]
    assert [row[0] for row in rows] == result.tokens.text == [f"feature {n}" for n in range(5)]
    assert [row[2] for row in rows] == [probability(p) for p in result.top_logprobs[0, :, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_shown_as_what_it_is(results, value):
    lens, parts = results["lens"][0], results["by head"][0]
    lens = dataclasses.replace(lens, kl_to_final=np.full_like(lens.kl_to_final, value))
    parts = dataclasses.replace(parts, values=np.full_like(parts.values, value))
    for row in json.loads(lr.table(lens, format="json")):  # JSON knows no such number
        assert row["kl"] is None
    for form in FORMATS:
        if form == "json":
            continue
        assert str(value) in lr.table(lens, format=form)
        assert signed(value) in lr.table(parts, format=form).replace("\tinf", "\t+inf")


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_what_is_wrong(results, form):
    for result in (results["lens"], results["by head"]):
        bad = dataclasses.replace(
            result, certificate=dataclasses.replace(result.certificate, max_logit_error=9.0)
        )
        assert "NOT CERTIFIED" in lr.table(bad, format=form)
        assert "NOT CERTIFIED" not in lr.table(result, format=form)
    raw = lr.table(results["raw"], format=form)
    assert "RAW STREAM: the final norm was not applied" in raw
    if form not in ("tsv", "json"):
        assert raw.lstrip("*").startswith("RAW STREAM")
        assert "the wiring, not the numbers above, is certified" in raw


def test_a_generation_is_a_table_like_any_other(results):
    one = results["generation"][1]
    rows = [
        row
        for row in records(lr.table(results["generation"], format="tsv", position=1))
        if row["prompt"] == "1"
    ]
    assert [row["top1"] for row in rows] == [
        visible_token(one.text(i), 99) for i in one.top_ids[:, 1, 0]
    ]
    assert layers_of_text(lr.table(one, position=1)) == list("0123")


# -- which rows --------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "n"), [(None, 40), (None, 41), (None, 100), (1, 100), (3, 100), (7, 50), (99, 9)]
)
def test_the_stride_is_that_of_the_heatmap_in_every_format(lens, stride, n):
    one = deep(lens, n)[0]
    layers = list(lr.heatmap(one, stride=stride).layout.yaxis.ticktext)[:-1]
    assert layers[-1] == str(n - 1)
    texts = {form: lr.table(one, format=form, stride=stride) for form in FORMATS}
    assert layers_of_text(texts["text"]) == layers
    assert [row[0] for row in cells(Page(texts["markdown"]).tables[0])[1:]] == layers
    rows = records(texts["tsv"])
    assert [row["layer"] for row in rows] == [row["site"] for row in rows] == layers
    assert {row["sites"] for row in rows} == {str(n)}
    for form in ("text", "markdown"):
        assert (f"{len(layers)} of {n} layers" in texts[form]) == (len(layers) < n)
    assert str(one) == lr.table(one)


def test_sites_that_were_named_are_all_there(lens):
    one = deep(lens, 100)[0]
    assert len(layers_of_text(lr.table(one, sites=range(90)))) == 90
    assert layers_of_text(lr.table(one, sites=range(90), stride=50)) == ["39", "89"]
    assert "2 of 90 layers" in lr.table(one, sites=range(90), stride=50)


def test_a_stride_keeps_all_components_of_a_layer_and_counts_layers(results, monkeypatch):
    parts = results["parts"]
    rows = records(lr.table(parts, format="tsv", stride=3, prompt=0))
    expected = [site for site in parts.sites if site.layer in (0, 3)]
    assert [row["component"] for row in rows] == [site.component for site in expected]
    assert f"{len(expected)} of {len(parts.sites)} sites" in lr.table(parts, stride=3, width=100)
    monkeypatch.setattr(components, "MAX_ROWS", 20)
    assert len(records(lr.table(parts, format="tsv", prompt=0))) == len(parts.sites) == 33


@pytest.mark.parametrize("kind", ["lens", "by head"])
def test_the_first_prompts_or_one_of_them(results, kind):
    result = results[kind]
    many = repeated(result, 5)
    for form in ("text", "markdown"):
        text = lr.table(many, format=form, max_prompts=3, stride=1 if kind == "lens" else None)
        assert "… and 2 more prompts: prompt=3" in text
        assert text.count("after token") == 3
        for number in (0, 3, -1):
            assert lr.table(many, format=form, prompt=number) == lr.table(many[number], format=form)
    assert {row["prompt"] for row in records(lr.table(many, format="tsv", prompt=3))} == {"3"}
    assert {row["prompt"] for row in records(lr.table(many, format="tsv"))} == set("01234")


def repeated(result, n):
    """A result of the first prompt, n times."""
    one = result[0]
    axes = {"target_ids": 0, "against_ids": 0}
    arrays = {name: np.repeat(getattr(one, name), n, 0) for name in axes if hasattr(one, name)}
    size = len(one.tokens)
    for name, axis in (PART_AXES if isinstance(one, lr.Attribution) else AXES).items():
        if "token" in axis:
            array = getattr(one, name)
            arrays[name] = np.concatenate([array] * n, axis.index("token"))
    columns = {
        f.name: np.tile(getattr(one.tokens, f.name), n)
        for f in dataclasses.fields(one.tokens)
        if f.name != "text" and getattr(one.tokens, f.name) is not None
    }
    columns["prompt"] = np.repeat(np.arange(n, dtype=np.int32), size)
    tokens = lr.Tokens(**columns, text=one.tokens.text * n)
    return dataclasses.replace(one, tokens=tokens, prompts=one.prompts * n, **arrays)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("lens", {"format": "html"}, ["'html'", "'markdown'"]),
        ("lens", {"width": 39}, ["width=39", "40"]),
        ("lens", {"width": 80, "format": "tsv"}, ["width=80", '"text"']),
        ("by head", {"width": 80, "format": "markdown"}, ["width=80", '"text"']),
        ("lens", {"show_top": 0}, ["show_top=0", "at least 1"]),
        ("lens", {"stride": 0}, ["stride=0"]),
        ("lens", {"stride": 1.5}, ["stride=1.5"]),
        ("lens", {"stride": True}, ["stride=True"]),
        ("lens", {"prompt": 3}, ["prompt=3", "holds 3"]),
        ("lens", {"prompt": "One"}, ["prompt='One'"]),
        ("lens", {"position": 99}, ["position=99", "positions of this prompt"]),
        ("by head", {"position": 1}, ["position=1", "1 position"]),
        ("by head", {"stride": 2}, ["stride=2", "show_top="]),
        ("by head", {"sites": [0], "component": "mlp_out"}, ["sites=[0]", "component='mlp_out'"]),
        ("lens", {"component": "mlp_out"}, ["'mlp_out'", "'resid_post'"]),
    ],
)
def test_a_wrong_argument_says_what_is_accepted(results, kind, options, words):
    for form in (
        [options["format"]]
        if "format" in options
        else FORMATS
        if "width" not in options
        else ["text"]
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            lr.table(results[kind], **{"format": form, **options})
        assert all(word in str(error.value) for word in words), str(error.value)


# -- the width ---------------------------------------------------------

texts = st.lists(
    st.text(max_size=20)
    | st.sampled_from(HOSTILE + WIDE + MARKUP)
    | st.text("中🙂한\u0301\ufe0f\u200da ", max_size=20),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(NARROWEST, 130),
    texts,
    st.none() | st.integers(1, 5),
    st.booleans(),
)
@pytest.mark.slow
def test_no_line_is_wider_than_asked_and_no_number_is_cut(
    results, kind, width, names, show_top, bad
):
    result = with_texts(results[kind], names)
    if bad and result.certificate is not None:
        result = dataclasses.replace(
            result, certificate=dataclasses.replace(result.certificate, max_logit_error=9.0)
        )
    text = lr.table(result, width=width, show_top=show_top)
    assert all(cell_len(line) <= width for line in text.split("\n")), text
    if kind in ATTRIBUTIONS:
        for one in result:
            for k in range(one.target_ids.shape[1]):
                assert signed(one.total[-1, k]) in text
        return
    if len(result) > 1:  # one table of all prompts; layer by layer:
        first = list(range(min(3, len(result))))
        text = lr.table(result, width=width, show_top=show_top, prompt=first)
        assert all(cell_len(line) <= width for line in text.split("\n")), text
    for one in list(result)[:3]:
        tokens = range(len(one.tokens)) if kind == "vectors" else [-1]
        for t in tokens:
            assert all(probability(p) in text for p in one.top_logprobs[:, t, 0])


@pytest.mark.parametrize("names", [HOSTILE, WIDE, MARKUP, ["a" * 12], ["中" * 12]])
@pytest.mark.parametrize("width", [40, 44, 60, 250])
@pytest.mark.parametrize("kind", ["lens", "heads", "raw", "many targets", "generation"])
def test_every_row_is_whole_at_any_width(results, kind, width, names):
    """Its heading, and each number of the columns that are there; a column that is not is named."""
    one = with_texts(results[kind], names)[0]
    text = lr.table(one, width=width)
    heading, grid = re.split(r"^ *(?:layer|rank of).*\n", text, maxsplit=1, flags=re.MULTILINE)
    end, at = (
        prompt_end(one.prompts[0])[-6:].strip(),
        truncate(about_token(one, len(one.tokens) - 1), width),
    )
    assert heading.endswith(f"{at}\n")
    assert heading.removesuffix(f"{at}\n").rstrip().endswith(end)
    missing = " ".join(grid.split("(no room for ")[1].split()) if "(no room for" in grid else ""
    kept = [
        name
        for name in ("entropy", "KL")
        if not re.search(rf"\b{name}\b", missing.split("rank of")[0])
    ]
    targets = one.target_ids.shape[1] - missing.count("rank of")
    for s, site in enumerate(one.sites):
        row = next(line.split() for line in grid.splitlines() if line.split()[:1] == [str(site)])
        values = {"entropy": one.entropy[s, -1], "KL": one.kl_to_final[s, -1]}
        numbers = [f"{values[name]:.2f}" for name in kept] + [
            str(r) for r in one.target_ranks[s, -1, :targets]
        ]
        assert row[len(row) - len(numbers) :] == numbers
        tops = row[1 : len(row) - len(numbers)]
        assert tops[1::2] == [probability(p) for p in one.top_logprobs[s, -1, : len(tops) // 2]]
        assert len(tops) >= 2


@pytest.mark.parametrize("width", [40, 60, 250])
@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_every_part_is_whole_at_any_width(results, kind, width):
    one = with_texts(results[kind], WIDE)[0]
    text = lr.table(one, width=width)
    token = len(one.tokens) - 1
    assert truncate(about_token(one, token), width) in text.splitlines()[1 if width == 40 else 0]
    for k in range(one.target_ids.shape[1]):
        rows = target_rows(one, token, k, 10)
        values = [
            line.split()[-1]
            for line in text.splitlines()
            if "head_out" in line or "mlp_out" in line
        ]
        assert all(
            value in " ".join(values) or width > 40 for name, value in rows if "_out" in name
        )
        assert all(name.split("←")[0] in text for name, _ in rows)
        assert truncate(one.target_name(0, k).split(" − ")[0], 14).rstrip("…") in text


def test_vectors_are_whole_at_any_width(results):
    result = with_texts(results["vectors"], ["中" * 40])
    for width in (40, 60, 250):
        text = lr.table(result, width=width)
        rows = text.splitlines()[1:6]
        assert all(cell_len(line) <= width for line in text.splitlines())
        assert all(
            f" {probability(p)}" in row
            for p, row in zip(result.top_logprobs[0, :, 0], rows, strict=True)
        )
        numbers = [row.split()[-1] for row in rows]
        entropy = [f"{value:.2f}" for value in result.entropy[0]]
        assert (numbers == entropy) != ("no room for entropy" in text)


def test_predictions_go_first_then_letters_then_columns(results):
    """Of a row of twelve-letter tokens, from the widest table to the narrowest."""
    one = with_texts(results["lens"], ["abcdefghijkl"])[0]
    seen = []
    for width in range(180, NARROWEST - 1, -1):
        text = lr.table(one, width=width)
        row = next(line.split() for line in text.splitlines() if line.split()[:1] == ["3"])
        missing = (
            text.split("(no room for ")[1].split(")")[0].count(",") + 1 if "no room" in text else 0
        )
        tops = (len(row) - 1 - (4 - missing)) // 2  # entropy, KL and two targets
        seen.append((tops, -missing, len(row[1])))
    amounts = [step[:2] for step in seen]
    assert amounts == sorted(amounts, reverse=True)
    assert seen[0] == (5, 0, 12)
    assert {letters for tops, missing, letters in seen if tops == 1 and not missing} == {12, 9, 7}
    assert all(letters == 12 for tops, _, letters in seen if tops > 1)
    assert seen[-1][1] < 0


@pytest.mark.slow
def test_components_side_by_side_are_in_as_many_tables_as_it_takes(results):
    """Every component has its column, and a token is cut only where that gets all of them into one table."""
    result = with_texts(results["parts"], ["abcdefghijkl"])
    names = ["attn_out", "resid_mid", "mlp_out", "resid_post"]
    for width in range(NARROWEST, 140):
        text = lr.table(result, prompt=0, width=width)
        assert all(cell_len(line) <= width for line in text.split("\n"))
        *grids, heads = re.split(r"after token.*\n", text, maxsplit=1)[1].split("\n\n")
        assert "0.head_out.0" in heads
        columns = [grid.splitlines()[0].split() for grid in grids]
        assert {first for first, *_ in columns} == {"layer"}
        assert [name for _, *here in columns for name in here] == names
        assert len(grids) == 1 or "…" not in "".join(grids)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.sampled_from(KINDS), st.integers(NARROWEST, 130), texts)
def test_a_terminal_gets_colours_and_no_wider_lines(results, kind, width, names):
    """Nothing but rich's own colours reaches it, however the tokens are called."""
    result = with_texts(results[kind], names)
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard",
        force_terminal=True,
        legacy_windows=False,
    )
    render(result, console)
    coloured = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert coloured != plain
    assert "\x1b" not in plain
    assert "\n".join(line.rstrip() for line in plain.splitlines()) == lr.table(result, width=width)


def test_what_does_not_fit_is_named(results):
    """Predictions go first, the targets, which were asked for, last."""
    result, one = results["many targets"], results["many targets"][0]
    names = [f"rank of {visible_token(one.text(i))}" for i in one.target_ids[0]]
    assert "no room" not in lr.table(result, width=240)
    text = lr.table(result, width=60)
    missing = " ".join(text.split("(no room for ")[1].split(")")[0].split()).split(", ")
    assert missing[:2] == ["entropy", "KL"]
    kept = len(names) - len(missing[2:])
    assert missing[2:] == names[kept:]
    row = next(line for line in text.splitlines() if line.startswith("    3  ")).split()
    assert row[-kept:] == [str(rank) for rank in one.target_ranks[3, -1, :kept]]
    assert "KL" not in text.split("(no room")[0].splitlines()[2]


def test_hostile_results_are_inert_in_every_format(lens):
    for form in FORMATS:
        text = lr.table(hostile_texts(lens), format=form)
        assert not set("\x00\u202e\ud800\r") & set(text)
        assert "alert(1)" not in text or form != "markdown" or "<img" not in text
