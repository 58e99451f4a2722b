"""Attributions over many prompts: means, standard errors and counts, each taken here by hand."""

from __future__ import annotations

import dataclasses
import math
import re
import statistics

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

import lens_recipes as lr
from lens_recipes.caller import in_a_shell
from lens_recipes.views.tables.attribution.over_prompts import mean_rows
from lens_recipes.views.tables.selection import select
from lens_recipes.views.words import mean_and_error, signed

PROMPTS = ["The capital of France is", "One two", "A model reads the prompt", "The fox", "Hello"]
TARGETS = [[" the", 7], [7, 8], [8, 9], [9, 10], [10, 11]]


@pytest.fixture(scope="module")
def heads(llama):
    """Five prompts with two targets each, of the last token."""
    return lr.attribution(llama, PROMPTS, TARGETS, against=" and", unit="head")


@pytest.fixture(scope="module")
def layers(llama):
    """The same by layer, after all tokens."""
    return lr.attribution(llama, PROMPTS, TARGETS, unit="layer", positions=None)


def numbers_of(result, part, target=0, position=-1):
    """What a part adds in each prompt, prompt by prompt."""
    row = result.parts.index(part)
    return [float(single.values[row, position, target]) for single in result]


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1, -1])
def test_each_part_has_its_mean_error_and_count(heads, target):
    rows = heads.over_prompts(target=target)
    assert {row.part for row in rows} == set(heads.parts)
    for row in rows:
        numbers = numbers_of(heads, row.part, target)
        assert row.mean == pytest.approx(statistics.mean(numbers), rel=1e-6, abs=1e-9)
        error = statistics.stdev(numbers) / math.sqrt(5)
        assert row.standard_error == pytest.approx(error, rel=1e-6, abs=1e-9)
        assert (row.positive, row.n) == (sum(number > 0 for number in numbers), 5)
    sizes = [abs(row.mean) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_it_takes_any_position_that_every_prompt_has(layers):
    for position in (0, -1, 1):
        for row in layers.over_prompts(position=position):
            numbers = numbers_of(layers, row.part, position=position)
            assert row.mean == pytest.approx(statistics.mean(numbers), rel=1e-6, abs=1e-9)
    with pytest.raises(ValueError, match="position=99 is out of range"):
        layers.over_prompts(position=99)
    with pytest.raises(ValueError, match="there are 2 targets"):
        layers.over_prompts(target=2)


def test_means_sum_to_the_mean_total(heads):
    for target in range(2):
        total = sum(row.mean for row in heads.over_prompts(target=target))
        assert total == pytest.approx(float(heads.total[:, target].mean()), rel=1e-5)


def test_a_head_is_called_as_in_papers_and_other_parts_as_always(heads):
    for row in heads.over_prompts():
        layer, component, head, _ = row.part
        if component == "head_out":
            assert row.name == f"L{layer}H{head}"
            assert str(row.part) == f"{layer}.head_out.{head}"
        else:
            assert row.name == str(row.part)
    assert lr.Part(3, "head_out", 2, 5).short == "L3H2←5"


def test_one_prompt_has_no_standard_error(heads):
    assert all(math.isnan(row.standard_error) for row in heads[0].over_prompts())
    assert all(row.n == 1 for row in heads[0].over_prompts())


def test_sources_have_no_mean_over_prompts(llama):
    by_token = lr.attribution(llama, PROMPTS[:2], " the", unit="token")
    with pytest.raises(ValueError, match='unit="head" for a mean over prompts'):
        by_token.over_prompts()
    assert str(by_token).count("after token") == 2
    lr.attribution_bars(by_token)


# -- the table ---------------------------------------------------------


def rows_of(text):
    """The rows of the grids of a text as (name, mean, s.e., positive)."""
    pattern = r"^(.+?)\s{2,}([+-]\S+)\s+(\S+)\s+(\d+ of \d+)$"
    return [match.groups() for match in re.finditer(pattern, text, re.MULTILINE)]


def test_the_table_has_the_largest_means_the_rest_and_the_total(heads):
    text = str(heads)
    assert "5 prompts, after the last token read of each, in logits" in text
    grids = text.split("each prompt's target − ·and")
    assert len(grids) == 3
    for target, grid in enumerate(grids[1:]):
        largest = heads.over_prompts(target=target)
        shown = rows_of(grid)
        for row, (name, mean, error, positive) in zip(largest[:10], shown, strict=False):
            expected = (*mean_and_error(row.mean, row.standard_error), f"{row.positive} of 5")
            assert name == row.name
            assert (mean, error, positive) == expected
        n_others = len(largest) - 10
        name, mean, error, positive = shown[10]
        rest_parts = [row.part for row in largest[10:]]
        rest = [
            sum(numbers)
            for numbers in zip(
                *(numbers_of(heads, part, target) for part in rest_parts), strict=True
            )
        ]
        assert name == f"all the others ({n_others})"
        assert mean == signed(statistics.mean(rest))
        assert error == mean_and_error(0, statistics.stdev(rest) / math.sqrt(5))[1]
        totals = heads.total[:, target].astype(float).tolist()
        name, mean, error, positive = shown[11]
        assert (name, mean) == ("total", signed(statistics.mean(totals)))
        assert positive == f"{sum(total > 0 for total in totals)} of 5"


def test_markdown_has_the_same_rows(heads):
    page = MarkdownIt("commonmark").enable("table").render(lr.table(heads, format="markdown"))
    rows = []
    for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL):
        cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        if cells:
            rows.append(tuple(cells))
    assert rows == rows_of(str(heads))


def test_named_prompts_and_programs_get_what_they_always_got(heads):
    assert lr.table(heads, prompt=1) == lr.table(heads[1])
    assert lr.table(heads, prompt=[0, 1, 2, 3]).count("after token") == 4
    assert lr.table(heads, max_prompts=2).count("after token") == 2
    tsv = lr.table(heads, format="tsv").splitlines()
    assert len(tsv) == 1 + 5 * 2 * 10
    shown = select(heads, show_top=3)
    assert len(mean_rows(heads, shown, 0)) == 3 + 2


def test_common_targets_are_named(llama):
    same = lr.attribution(llama, PROMPTS, " the", against="mean")
    assert "·the − mean" in str(same)
    rivals = lr.attribution(llama, PROMPTS, [[7], [8], [7], [8], [7]], against=[9, 10, 9, 10, 9])
    assert "each prompt's target − each prompt's rival" in str(rivals)


@pytest.mark.parametrize("width", [40, 60, 120])
def test_no_line_is_wider(heads, width):
    text = lr.table(heads, width=width)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert len(rows_of(text)) == 2 * 12


# -- the summary -------------------------------------------------------


def test_the_summary_is_of_means(heads):
    text = heads.summary()
    first = heads.over_prompts()
    best = next(row for row in first if row.mean > 0)
    mean, error = mean_and_error(best.mean, best.standard_error)
    assert f"helping most: {best.name} {mean} ± {error} ({best.positive} of 5)" in text
    kinds = {}
    for row in first:
        kinds[row.part.component] = kinds.get(row.part.component, 0) + row.mean
    for kind, total in kinds.items():
        assert f"{kind} {signed(total)}" in text
    assert "prompt 0" not in text


def test_a_few_prompts_keep_their_lines(llama):
    few = lr.attribution(llama, PROMPTS[:3], " the")
    assert all(f"prompt {number}, after token" in few.summary() for number in range(3))


# -- the bars ----------------------------------------------------------


def test_bars_are_means_with_their_errors_and_the_prompts_as_dots(heads):
    figure = lr.attribution_bars(heads, top=5, target=1)
    bars, numbers, dots = figure.data
    ordered = heads.over_prompts(target=1)
    always = [row for row in ordered if row.name in ("embed", "bias")]
    largest = [row for row in ordered if row not in always][:5]
    rows = [row for row in ordered if row in [*always, *largest]]
    np.testing.assert_allclose(bars.x[:7], [row.mean for row in rows], rtol=1e-6)
    np.testing.assert_allclose(bars.error_x.array[:7], [row.standard_error for row in rows])
    assert list(figure.layout.yaxis.ticktext[:7]) == [row.name for row in rows]
    assert f"all the others ({len(heads.parts) - 7})" in figure.layout.yaxis.ticktext
    assert sum(bars.x) == pytest.approx(float(heads.total[:, 1].mean()), rel=1e-5)
    for bar, row in enumerate(rows):
        x = [value for value, y in zip(dots.x, dots.y, strict=True) if y == bar]
        np.testing.assert_allclose(x, numbers_of(heads, row.part, 1), rtol=1e-6)
        assert numbers.text[bar].endswith(f"{row.positive} of 5")
    assert "mean over 5 prompts" in figure.layout.title.text


def test_a_named_prompt_has_the_bars_of_that_prompt(heads):
    assert lr.attribution_bars(heads, prompt=2) == lr.attribution_bars(heads[2])
    assert len(lr.attribution_bars(heads, prompt=0).data) == 1


def test_layers_stand_in_the_order_of_the_model(layers):
    names = list(lr.attribution_bars(layers).layout.yaxis.ticktext)
    assert names == ["embed", *(f"layer {layer}" for layer in range(len(names) - 2)), "bias"]


def test_what_is_not_finite_is_shown_as_what_it_is(heads):
    values = heads.values.copy()
    values[0, 0] = np.inf
    values[1, 1] = np.nan
    spoiled = dataclasses.replace(heads, values=values)
    first, second = spoiled.over_prompts()[:2]
    assert not math.isfinite(first.mean)
    assert not math.isfinite(second.mean)
    assert "nan" in str(spoiled)
    lr.attribution_bars(spoiled)
    assert spoiled.summary()


# -- the shell ---------------------------------------------------------


def test_the_shell_prints_the_means(cli, heads, layers, tmp_path):
    run = cli()
    path = str(tmp_path / "heads.npz")
    heads.save(path)
    _, out, _ = run("show", path)
    loaded = lr.Attribution.load(path)
    with in_a_shell({}):
        expected = lr.table(loaded).splitlines()
    lines = [line.rstrip() for line in out.splitlines()]
    assert [line for line in lines if not line.startswith("distrust:")] == expected
    layer_path, page = str(tmp_path / "layers.npz"), str(tmp_path / "page.html")
    layers.save(layer_path)
    _, _, errors = run("show", layer_path, "--html", page)
    assert "prompts" not in errors
    _, _, errors = run("show", path, "--html", page)
    assert "the figure shows the first of 5 prompts" in errors
