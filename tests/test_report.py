"""The report in a real browser: what it shows is what the arrays say, and no text on it acts as anything but text."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil

import numpy as np
import pytest
import test_generation_figures
from hostile import HOSTILE, hostile_texts
from playwright.sync_api import sync_playwright
from plotly.colors import get_colorscale, hex_to_rgb, sample_colorscale

import lens_recipes as lr
from lens_recipes.arrays.metrics import METRICS, metric_values
from lens_recipes.arrays.text import escape_page_text, visible_token
from lens_recipes.views.figures.base.contrast import luminance

# Without them a browser that may not reach anything asks for updates all the time.
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        path = shutil.which("chromium")  # make test sees to it
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Write a report and open it; at the end nothing may have gone wrong in it, nor been asked for."""
    contexts, wrong, asked = [], [], []

    def open_(result, *, options=None, fragment="", **context):
        file = tmp_path / f"{len(contexts)}.html"
        lr.report(result, file, **options or {})
        contexts.append(browser.new_context(viewport={"width": 1300, "height": 1000}, **context))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url.split("#")[0]))
        page.goto(file.as_uri() + fragment)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        return page

    yield open_
    files = {(tmp_path / f"{n}.html").as_uri() for n in range(len(contexts))}
    for context in contexts:
        context.close()
    assert not wrong
    assert set(asked) <= files


@pytest.fixture(scope="module")
def result(llama):
    names = ("embed", "attn_out", "resid_post")
    prompts = ["some words to begin with", "and others"]
    return lr.logit_lens(
        llama, prompts, components=names, targets=[[260, 261], [262, 263]], top_k=4
    )


def state(page):
    return page.evaluate("({ ...state, pins: state.pins.map((pin) => ({ ...pin })) })")


def cell(page, row, column):
    """Pixels of a cell's middle, which the map is scrolled to: row 0 is the lowest."""
    page.evaluate(
        "x => { document.getElementById('map').scrollLeft = (x - 2) * box.wide; }", column
    )
    box, n = (
        page.locator("#heatmap .nsewdrag").bounding_box(),
        page.evaluate("[tokens().length, rows().length]"),
    )
    return box["x"] + box["width"] * (column + 0.5) / n[0], box["y"] + box["height"] * (
        1 - (row + 0.5) / n[1]
    )


def click(page, row, column, shift=False):
    page.mouse.move(*cell(page, row, column))
    page.wait_for_selector("#tip:not([hidden])")
    if shift:
        page.keyboard.down("Shift")
    page.mouse.click(*cell(page, row, column))
    if shift:
        page.keyboard.up("Shift")


def cells(page, rows):
    """The texts of a table's cells, row by row."""
    read = "(rows) => [...document.querySelectorAll(rows)].map((row) => [...row.cells].map((cell) => cell.textContent))"
    return page.evaluate(read, rows)


def until(page, condition):
    """Wait for something that is true soon; the page's policy does not let a text be evaluated inside it."""
    for _ in range(500):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(10)
    raise AssertionError(condition)


def numbers(page):
    """The table's rows from the bottom up, as floats; a dash is no number."""
    page.evaluate("document.getElementById('table').open = true; table()")
    texts = cells(page, "#numbers tbody tr")
    rows = {
        row[0]: [math.nan if c == "–" else float(c.replace(",", "")) for c in row[1:]]
        for row in texts[::-1]
    }
    return list(rows), np.array(list(rows.values()))


# -- the numbers -------------------------------------------------------


@pytest.mark.parametrize("prompt", [0])  # the other: tests/full
def test_the_table_has_the_numbers_of_the_arrays(result, opened, prompt):
    page, one = opened(result, fragment=f"#prompt={prompt}"), result[prompt]
    targets = one.target_ids[0].tolist()
    for component, names in (("resid_post", ("embed", "resid_post")), ("attn_out", ("attn_out",))):
        sites = [s for s, site in enumerate(one.sites) if site.component in names]
        page.evaluate(f"go({{ component: '{component}' }})")
        for metric in page.evaluate("metrics()"):
            page.select_option("#metric", metric)
            for of in page.evaluate(f"choices('{metric}').map(([name]) => name)") or [None]:
                if of is not None:
                    page.evaluate(f"go({{ of: '{of}' }})")
                ours = {"top": None, None: None, "next": "next", "final": "final"}
                pair = metric == "logit_diff"
                asked = [targets[int(j)] for j in of.split("-")] if pair else ours.get(of, of)
                asked = targets[int(asked)] if isinstance(asked, str) and asked.isdigit() else asked
                labels, table = numbers(page)
                assert labels == [*(str(one.sites[s]) for s in sites), "output"]
                expected = metric_values(one, metric, asked)[0]
                np.testing.assert_allclose(
                    table[:-1], expected[sites], rtol=2e-3, atol=2e-4, err_msg=f"{metric} {of}"
                )
                last = [s for s, site in enumerate(one.sites) if site.component == "resid_post"][-1]
                np.testing.assert_allclose(table[-1], expected[last], rtol=2e-3, atol=2e-4)


def test_the_page_knows_every_metric_of_tokens(result, opened):
    page = opened(result)
    of_one = [name for name, kind in METRICS.items() if kind.about in ("top", "token")]
    assert page.evaluate("Object.keys(ofToken)") == of_one
    assert [name for name, kind in METRICS.items() if kind.about == "pair"] == ["logit_diff"]


@pytest.mark.slow
def test_a_new_metric_of_a_whole_cell_is_on_the_page(result, opened, monkeypatch):
    """One more entry of the table is all that it takes."""
    margin = dataclasses.replace(
        METRICS["entropy"],
        name="margin",
        title="margin",
        source=lambda result: result.top_logprobs[..., 0] - result.top_logprobs[..., 1],
    )
    monkeypatch.setitem(METRICS, "margin", margin)
    page = opened(result, fragment="#metric=margin&component=attn_out&prompt=1")
    sites = [s for s, site in enumerate(result.sites) if site.component == "attn_out"]
    expected = metric_values(result[1], "margin")[0][sites]
    np.testing.assert_allclose(numbers(page)[1][:-1], expected, rtol=2e-3, atol=2e-4)


def test_a_click_pins_a_token_and_draws_it_through_the_layers(result, opened):
    page, one = opened(result), result[0]
    along = [s for s, site in enumerate(one.sites) if site.component == "resid_post"]
    pinned = [(p["token"], page.evaluate(f"data.ids[{p['id']}]")) for p in state(page)["pins"]]
    assert pinned == [
        (len(one.tokens) - 1, int(i)) for i in one.target_ids[0]
    ]  # what was asked about
    page.select_option("#scale", "prob")
    drawn = page.evaluate("document.getElementById('lines').data[1].y")
    np.testing.assert_allclose(drawn, np.exp(one.target_logprobs[along, -1, 1]), rtol=1e-5)
    click(page, 2, 3)  # above the embedding: the second layer
    site, token = along[1], 3
    pinned = state(page)["pins"]
    assert [(p["token"], page.evaluate(f"data.texts[{p['id']}]")) for p in pinned] == [
        (token, visible_token(one.text(one.top_ids[site, token, 0]), 40))
    ]
    line = page.evaluate("document.getElementById('lines').data[0]")
    column = one.tracked_ids[token].tolist().index(int(one.top_ids[site, token, 0]))
    np.testing.assert_allclose(
        line["y"], np.exp(one.tracked_logprobs[along, token, column]), rtol=1e-5
    )
    assert line["x"] == [one.sites[s].layer for s in along]
    page.select_option("#scale", "logprob")
    line = page.evaluate("document.getElementById('lines').data[0]")
    np.testing.assert_allclose(line["y"], one.tracked_logprobs[along, token, column], rtol=1e-5)
    click(page, 3, 1, shift=True)
    assert [p["token"] for p in state(page)["pins"]] == [3, 1]
    assert page.evaluate("document.getElementById('lines').data.length") == 2
    page.locator("#pins button").first.click()
    assert [p["token"] for p in state(page)["pins"]] == [1]
    click(page, 3, 1)  # again: unpinned
    assert state(page)["pins"] == []
    assert page.evaluate("document.getElementById('lines').data.length") == 0


@pytest.mark.slow
def test_the_cell_and_its_position_at_every_layer(result, opened):
    page, one = opened(result), result[0]
    click(page, 2, 0)
    site = next(
        s
        for s, where in enumerate(one.sites)
        if where.layer == 1 and where.component == "resid_post"
    )
    words = [visible_token(one.text(i), 40) for i in one.top_ids[site, 0]]
    assert [
        text.rsplit(" ", 1)[0] for text in page.locator("#top button").all_inner_texts()
    ] == words
    rows = cells(page, "#every tr")
    assert len(rows) == 1 + 1 + sum(where.component == "resid_post" for where in one.sites)
    shown = next(row for row in rows if row[0] == "1")
    ps = np.array([float(text.rsplit(" ", 1)[1]) for text in shown[1:]])
    np.testing.assert_allclose(ps, np.exp(one.top_logprobs[site, 0]), rtol=0.1, atol=6e-4)


@pytest.mark.slow
def test_a_token_without_data_is_said_to_have_none(llama, opened):
    page = opened(lr.logit_lens(llama, "some words to begin with", top_k=5, track=None))
    last = page.locator(
        "#every tr td"
    ).last  # the fifth of the lowest layer: neither answer nor next token
    last.click()
    assert "no data" in page.locator("#pins button").inner_text()
    assert page.evaluate("document.getElementById('lines').data.length") == 0


@pytest.mark.slow
def test_the_colours_are_those_of_the_heatmap(result, opened):
    page, one = opened(result), result[0]
    rows = [s for s, site in enumerate(one.sites) if site.component in ("embed", "resid_post")]
    for metric, kind in METRICS.items():
        of = "final" if kind.about == "token" else None
        pair = one.target_ids[0].tolist() if metric == "logit_diff" else of
        page.evaluate(f"go({{ metric: '{metric}', of: '{of or ''}', all: true }})")
        figure = lr.heatmap(result, metric=metric, of=pair, sites=rows, show_all=True)
        theirs, limits = (
            np.array(figure.data[0].z, dtype=np.float64),
            [figure.data[0].zmin, figure.data[0].zmax],
        )
        drawn = page.evaluate("document.getElementById('heatmap').data[0]")
        z = np.array([[math.nan if n is None else n for n in row] for row in drawn["z"]])
        np.testing.assert_allclose(
            [drawn["zmin"], drawn["zmax"]], limits, rtol=1e-5, err_msg=metric
        )
        np.testing.assert_allclose(
            z, np.clip(theirs, *limits), rtol=1e-4, atol=1e-5, err_msg=metric
        )
        named = get_colorscale(kind.colors) if isinstance(kind.colors, str) else kind.colors
        assert drawn["colorscale"] == [list(point) for point in named]
        bar = page.evaluate("document.getElementById('bar').style.background")
        first, last = (to_rgb(named[end][1]) for end in (0, -1))
        assert bar.index(first) < bar.index(last)


def to_rgb(color):
    return f"rgb({', '.join(map(str, hex_to_rgb(color)))})"


@pytest.mark.slow
def test_framed_are_the_cells_that_say_what_the_model_answers(result, opened):
    page, one = opened(result), result[0]
    rows = [s for s, site in enumerate(one.sites) if site.component in ("embed", "resid_post")]
    box = page.evaluate("box")
    framed = set()
    for x, y, wide, high in re.findall(
        r"M([\d.]+),([\d.]+)h([\d.]+)v([\d.]+)", page.locator("#edge").get_attribute("d")
    ):
        column = round((float(x) - box["left"]) / box["wide"])
        assert float(wide) == pytest.approx(box["wide"], rel=1e-3)
        first = round((float(y) - box["top"]) / box["tall"])  # from above, where the output is 0
        framed |= {(column, len(rows) - first - n) for n in range(round(float(high) / box["tall"]))}
    hits = np.argwhere((one.top_ids[rows][..., 0] == one.final_ids) & one.readable[rows])
    assert framed == {(int(t), int(row)) for row, t in hits}


@pytest.mark.slow
def test_the_tip_and_the_words_are_those_of_the_cell(result, opened):
    page, one = opened(result), result[0]
    rows = [s for s, site in enumerate(one.sites) if site.component in ("embed", "resid_post")]
    for row, token in ((0, 2), (3, 5)):
        page.mouse.move(0, 0)
        page.mouse.move(*cell(page, row, token))
        page.wait_for_selector("#tip:not([hidden])")
        said = page.locator("#tip").inner_text()
        assert f"(position {one.tokens.position[token]})" in said
        assert [word.rsplit(" ", 1)[0] for word in page.locator("#tip li").all_inner_texts()] == [
            visible_token(one.text(i), 40) for i in one.top_ids[rows[row], token]
        ]
    shown = page.evaluate(
        "[...document.querySelectorAll('#words text')].map((t) => t.textContent.slice(1, -1))"
    )
    n = len(one.tokens)
    assert shown[: n * len(rows)] == [
        visible_token(one.text(i)) for s in rows for i in one.top_ids[s, :, 0]
    ]


@pytest.mark.slow
def test_every_word_can_be_read_on_its_colour(result, opened):
    page = opened(result)
    for metric in ("prob", "entropy", "kl"):
        page.select_option("#metric", metric)
        inks = page.evaluate(
            "[...document.querySelectorAll('#words text')].map((t) => t.getAttribute('fill'))"
        )
        drawn = page.evaluate("document.getElementById('heatmap').data[0]")
        numbers = [z for row in drawn["z"] for z in row]
        parts = [
            (z - drawn["zmin"]) / (drawn["zmax"] - drawn["zmin"]) for z in numbers if z is not None
        ]
        colors = iter(sample_colorscale(drawn["colorscale"], parts, colortype="tuple"))
        grey = (217 / 255,) * 3  # behind what cannot be read
        for ink, number in zip(inks, numbers, strict=True):
            ground = grey if number is None else next(colors)
            back = luminance("#" + "".join(f"{round(255 * c):02x}" for c in ground))
            light, dark = sorted((luminance(ink), back), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4.4


# -- the controls ------------------------------------------------------


@pytest.mark.slow
def test_sliders_and_keys_move_the_cell(result, opened):
    page = opened(result)
    assert state(page)["token"] == len(result[0].tokens) - 1
    page.locator("#position").press("Home")
    page.locator("#layer").press("Home")
    assert (state(page)["token"], state(page)["site"]) == (0, 0)
    assert page.locator("#layer").get_attribute("aria-valuetext") == "embed"
    page.locator("#map").focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
    now = state(page)
    assert now["token"] == 1
    assert str(result.sites[now["site"]]) == "1"
    assert "position 1" in page.locator("#said").inner_text()
    page.keyboard.press("Enter")
    assert [p["token"] for p in state(page)["pins"]] == [1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Enter")
    assert [p["token"] for p in state(page)["pins"]] == [1, 0]
    page.keyboard.press("Escape")
    assert state(page)["pins"] == []
    box, cursor = (
        page.locator("#heatmap .nsewdrag").bounding_box(),
        page.locator("#cursor").bounding_box(),
    )
    assert cursor["x"] == pytest.approx(
        box["x"], abs=3
    )  # the frame is round the cell that the state names
    assert cursor["y"] + cursor["height"] == pytest.approx(
        box["y"] + box["height"] - 2 * cursor["height"], abs=3
    )


@pytest.mark.slow
def test_the_keyboard_stays_where_it_was(result, opened):
    page = opened(result)
    page.locator("#layer").press("Home")
    for _ in range(2):
        page.locator("#top button").nth(2).focus()
        page.keyboard.press("Enter")
        assert (
            page.evaluate(
                "[...document.getElementById('top').children].indexOf(document.activeElement)"
            )
            == 2
        )
    assert state(page)["pins"] == []


@pytest.mark.slow
def test_a_cell_that_the_map_does_not_show_is_scrolled_to(opened):
    page = opened(test_generation_figures.generation(steps=(200,)))
    for key in (None, "Home", "End"):  # at first it is the last token's
        if key:
            page.locator("#position").press(key)
        around, cursor = page.locator("#map").bounding_box(), page.locator("#cursor").bounding_box()
        assert around["x"] <= cursor["x"] <= around["x"] + around["width"] - cursor["width"]


@pytest.mark.slow
def test_every_control_has_a_name(result, opened):
    page = opened(result)
    for role, names in (
        ("slider", ["layer", "position"]),
        ("combobox", ["colour", "of", "component", "prompt", "show"]),
    ):
        for name in names:
            assert page.get_by_role(role, name=name, exact=True).count() == 1, name
    assert page.get_by_role("searchbox", name="find a token").count() == 1


@pytest.mark.slow
def test_everything_can_be_reached_by_keyboard(result, opened):
    page = opened(result)
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.closest('[id]')?.id")
        )
    assert {
        "prompt",
        "metric",
        "of",
        "component",
        "search",
        "map",
        "layer",
        "position",
        "top",
        "scale",
    } <= reached
    assert "table" in reached


@pytest.mark.slow
def test_a_search_finds_tokens_and_marks_their_cells(result, opened):
    page, one = opened(result), result[0]
    token = int(one.top_ids[2, 1, 0])
    page.fill("#search", visible_token(one.text(token), 40).replace("·", " "))
    assert page.locator("#found button").count() >= 1
    marks = page.locator("#marks").get_attribute("d").count("M")
    rows = [s for s, site in enumerate(one.sites) if site.component in ("embed", "resid_post")]
    wanted = visible_token(one.text(token), 40).replace("·", " ").lower()
    hits = sum(
        wanted in visible_token(one.text(i), 40).replace("·", " ").lower()
        for i in [*one.top_ids[rows, :, 0].ravel(), *one.final_ids]
    )
    assert marks == hits > 0
    page.locator("#found button").first.click()
    assert len(state(page)["pins"]) == 1
    page.fill("#search", "no such token anywhere")
    assert "No such token is on this page. It keeps" in page.locator("#matched").inner_text()
    page.fill("#search", "")
    assert page.locator("#matched").inner_text() == ""
    assert page.locator("#marks").get_attribute("d").count("M") == 0


def test_the_address_holds_the_view(result, opened):
    page = opened(result)
    page.select_option("#prompt", "1")
    page.select_option("#component", "attn_out")
    page.select_option("#metric", "rank")
    page.select_option("#of", "1")
    page.select_option("#scale", "logprob")
    click(page, 1, 1)
    page.locator("#layer").press("ArrowUp")
    before, lines = state(page), page.evaluate("document.getElementById('lines').data")
    assert before["prompt"] == 1
    assert before["pins"]
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert state(page) == before
    assert page.evaluate("document.getElementById('lines').data") == lines
    assert page.input_value("#metric") == "rank"
    page.evaluate("location.hash = '#metric=entropy'")
    until(page, "document.getElementById('whose').textContent.startsWith('entropy')")


@pytest.mark.parametrize(
    "fragment",
    ["#metric=nonsense&of=9&site=999&token=-4&pins=1:999,x:y,:&prompt=7", "#%%%", "#pins=0:0"],
)
@pytest.mark.slow
def test_a_wrong_address_is_a_view_all_the_same(result, opened, fragment):
    page = opened(result, fragment=fragment)
    assert state(page)["metric"] == "prob"
    assert page.locator("#every tr").count() > 2


# -- how it looks ------------------------------------------------------


@pytest.mark.slow
def test_dark_or_light_as_the_reader_likes(result, opened):
    page = opened(result, color_scheme="dark")
    ink = "getComputedStyle(document.body).color"
    dark = page.evaluate(ink)
    assert page.evaluate("document.getElementById('lines').layout.font.color") == "#e8e8e8"
    page.emulate_media(color_scheme="light")
    until(page, "document.getElementById('lines').layout.font.color === '#222'")
    assert page.evaluate(ink) != dark


@pytest.mark.slow
def test_pins_of_an_address_are_no_more_than_can_be_told_apart(result, opened):
    page = opened(result, fragment="#pins=" + ",".join(f"0:{n // 2}" for n in range(60)))
    assert [p["id"] for p in state(page)["pins"]] == list(range(8))


@pytest.mark.slow
def test_what_was_found_is_said_of_the_prompt_that_is_shown(result, opened):
    page = opened(result)
    page.fill("#search", "a")
    page.select_option("#prompt", "1")
    marked = page.locator("#marks").get_attribute("d").count("M")
    assert f"top-1 in {marked} cell" in page.locator("#matched").inner_text()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.input_value("#search") == "a"


@pytest.mark.slow
def test_on_paper_there_are_no_controls(result, opened):
    page = opened(result, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#metric").is_visible()
    until(page, "getComputedStyle(document.body).color === 'rgb(34, 34, 34)'")
    assert page.locator("#heatmap").is_visible()
    assert page.locator("footer").is_visible()
    until(page, "document.getElementById('lines').layout.font.color === '#222'")
    until(
        page, "box.left + tokens().length * box.wide <= document.getElementById('map').clientWidth"
    )  # all of it


# -- any result --------------------------------------------------------


def test_what_is_not_certified_is_said_on_the_page(result, opened):
    wrong = dataclasses.replace(result.certificate, max_logit_error=9.0)
    page = opened(dataclasses.replace(result, certificate=wrong))
    assert "NOT CERTIFIED" in page.locator("header").inner_text()
    bare = dataclasses.replace(
        result, certificate=None, provenance={**result.provenance, "certificate": "a reason"}
    )
    assert "a reason" in opened(bare).locator("footer").inner_text()


def test_no_text_acts_on_the_page(opened, tmp_path):
    result = test_generation_figures.generation(steps=(30,), sharp=1.0)
    result = hostile_texts(
        dataclasses.replace(result, responses=[lr.Response("".join(HOSTILE), "eos")])
    )
    targets = np.array([[3, 4]], dtype=np.int32)
    logprobs = np.full((*result.entropy.shape, 2), -1.0, dtype=np.float32)
    fields = {"target_ids": targets, "target_logprobs": logprobs, "target_logits": logprobs}
    result = dataclasses.replace(
        result, **fields, target_ranks=np.full(logprobs.shape, 1, dtype=np.int32)
    )
    page = opened(result, options={"title": "</title><script>alert(1)</script>$x$"})
    assert page.evaluate("document.scripts.length") == 5
    assert page.evaluate("document.images.length") == 0
    assert (
        page.evaluate(
            "document.querySelectorAll('u, i, s, link, iframe, object, base, form').length"
        )
        == 0
    )
    assert page.locator("h1").inner_text() == "</title><script>alert(1)</script>$x$"
    tokens = page.evaluate(
        "[...document.getElementById('columns').children].map((c) => c.textContent)"
    )
    whole = [visible_token(text, 40) for text in result.tokens.text]
    assert tokens == [text if len(text) <= 14 else text[:13] + "…" for text in whole]
    assert page.evaluate("data.texts") == [
        visible_token(result.text(i), 40) for i in page_ids(result)
    ]
    for row in range(3):
        click(page, row, row, shift=True)
    page.fill("#search", "<")
    for metric in page.evaluate("metrics()"):
        page.select_option("#metric", metric)
    drawn = page.evaluate("[...document.querySelectorAll('#words text')].map((t) => t.textContent)")
    assert {visible_token("</script>"), "$x$"} & {
        re.sub("[\u2066-\u2069]", "", text) for text in drawn
    }
    assert escape_page_text("".join(HOSTILE)) in (tmp_path / "0.html").read_text(encoding="utf-8")


def page_ids(result):
    arrays = (
        result.top_ids,
        result.final_ids,
        result.tokens.next_id,
        result.tracked_ids,
        result.target_ids,
    )
    return [i for i in np.unique(np.concatenate([array.ravel() for array in arrays])) if i >= 0]


def test_the_policy_lets_nothing_in(result, tmp_path):
    lr.report(result, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src ('sha256-[A-Za-z0-9+/=]+' ?){4};", policy)
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?https?:""",
        re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL),
    )
    assert text.count("<script>") == 3  # two that unpack plotly.js, and ours
    stored = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL
    )[1]
    assert not set("<>&") & set(stored)
    assert json.loads(stored)["sites"][0]["label"] == "embed"


# -- size --------------------------------------------------------------


@pytest.mark.slow
def test_prompts_that_have_no_room_are_left_out_and_named_ones_refused(result, tmp_path):
    lr.report(result, tmp_path / "a.html")
    room, text = (tmp_path / "a.html").stat().st_size + 200_000, ""
    while "1 of 2 prompts" not in text:
        room -= 5_000
        lr.report(result, tmp_path / "a.html", max_bytes=room)
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert len(text.encode()) <= room
    with pytest.raises(ValueError, match=r"bytes more than max_bytes.*fewer prompts"):
        lr.report(result, tmp_path / "b.html", prompts=[0, 1], max_bytes=room)
    for wrong, words in (
        (2, "2 is none of the prompts 0 to 1"),
        (True, "True is none"),
        ([], "names no prompt"),
    ):
        with pytest.raises(ValueError, match=words):
            lr.report(result, tmp_path / "b.html", prompts=wrong)
    who = lr.Attribution.__new__(lr.Attribution)
    with pytest.raises(ValueError, match="about a lens result; received Attribution"):
        lr.report(who, tmp_path / "b.html")
    with pytest.raises(ValueError, match=r"\.html file.*'b\.txt'"):
        lr.report(result, "b.txt")
    with pytest.raises(lr.LensError, match="cannot write"):
        lr.report(result, tmp_path / "no" / "b.html")
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]


# -- what cannot be read -----------------------------------------------


def test_what_cannot_be_read_is_grey_until_it_is_asked_for(result, opened):
    page, one = opened(result), result[0]
    along = [s for s, site in enumerate(one.sites) if site.component == "resid_post"]
    readable = one.readable[along]
    assert 0 < readable.sum() < readable.size
    embed = [s for s, site in enumerate(one.sites) if site.component == "embed"]
    shown = one.readable[embed + along]

    def looks():
        """Which cells have a colour, which are grey, and the colour of each word."""
        colored, grey = page.evaluate(
            "document.getElementById('heatmap').data.map(({ z }) => z.map((row) => row.map((n) => n !== null)))"
        )
        inks = page.evaluate(
            "[...document.querySelectorAll('#words text')].map((word) => getComputedStyle(word).fill)"
        )
        return np.array(colored)[:-1], np.array(grey)[:-1], inks

    colored, grey, inks = looks()
    np.testing.assert_array_equal(colored, shown)
    np.testing.assert_array_equal(grey, ~shown)
    dimmed = [ink == "rgb(89, 89, 89)" for ink in inks[: shown.size]]
    assert dimmed == (~shown).ravel().tolist()
    rows = page.evaluate(
        "[...document.querySelectorAll('#every tbody tr')].map((row) => row.classList.contains('unreadable'))"
    )
    assert rows[::-1][:-1] == (~shown[:, -1]).tolist()
    assert "cannot be read with this lens" in page.text_content(".trust")
    page.check("#all")
    colored, grey, _ = looks()
    assert colored.all()
    assert not grey.any()


def test_a_click_on_a_row_of_the_table_shows_its_prompt(opened, result):
    page = opened(result)
    rows = cells(page, "#batch tbody tr")
    assert [row[1] for row in rows] == result.prompts
    marked = "[...document.querySelectorAll('#batch tbody tr')].findIndex((row) => row.className === 'here')"
    assert page.evaluate(marked) == 0
    page.click("#batch tbody tr:nth-child(2) td.ranks")
    assert state(page)["prompt"] == page.evaluate(marked) == 1
    page.focus("#batch tbody tr:first-child button")
    page.keyboard.press("Enter")
    assert state(page)["prompt"] == page.evaluate(marked) == 0
