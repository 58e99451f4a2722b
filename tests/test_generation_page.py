"""The page of a generation in a browser: dark where the reader is, labels in sight, steps a click away."""

from __future__ import annotations

import html
import shutil

import pytest
from playwright.sync_api import sync_playwright
from test_generation_figures import generation
from test_report import QUIET

import lens_recipes as lr
from lens_recipes.views.figures.base.unreadable import GREY

NAMES_IN_SIGHT = """() => {
    const box = document.getElementById("heatmap").closest(".figure");
    const left = box.getBoundingClientRect().left;
    return [...box.querySelectorAll(".names span")].filter((name) => {
        const edges = name.getBoundingClientRect();
        return edges.width > 0 && edges.left >= left;
    }).map((name) => name.textContent);
}"""

COLOURS = """() => [...document.querySelectorAll(".plotly-graph-div")].map((figure) => {
    const grey = figure._fullData.find((trace) => trace.name === "unreadable");
    const { paper_bgcolor, plot_bgcolor, font } = figure._fullLayout;
    return { paper: paper_bgcolor, plot: plot_bgcolor, ink: font.color, grey: grey.colorscale[0][1] };
})"""


@pytest.fixture(scope="module")
def written():
    result = generation(steps=(30,), read=1)
    result.kl_to_final[:2] = 50.0  # cannot be read
    result.model_entropy[:] = 1.0
    return result


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, written, tmp_path):
    """Write the page and open it; at the end nothing may have gone wrong in it."""
    contexts, wrong = [], []

    def open_(name, file, **options):
        lr.write_generation(written, tmp_path / name)
        size = {"width": 1000, "height": 900}
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((tmp_path / file).as_uri())
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def click_column(page, number):
    """Click into the middle of a column of the map, counted from 0."""
    page.locator("#heatmap").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """(number) => {
            const figure = document.getElementById("heatmap");
            const { left, top } = figure.getBoundingClientRect();
            const { xaxis, _size } = figure._fullLayout;
            return [left + _size.l + xaxis.d2p(number), top + _size.t + 20];
        }""",
        number,
    )
    page.mouse.move(x, y)
    page.locator("#heatmap .hoverlayer .hovertext").first.wait_for()
    page.mouse.click(x, y)


def test_a_dark_page_has_dark_figures_in_which_grey_is_told_apart(opened):
    page = opened("a.html", "a.html", color_scheme="dark")
    dark = page.evaluate(COLOURS)
    assert len(dark) == 3
    back = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--back')")
    for colors in dark:
        assert colors["paper"] == colors["plot"] == back.strip()
        assert len({colors["plot"], colors["grey"], colors["ink"]}) == 3
        assert colors["grey"] != GREY
    page.emulate_media(color_scheme="light")
    page.locator("#important .main-svg[style*='rgb(255, 255, 255)']").first.wait_for()
    assert {colors["grey"] for colors in page.evaluate(COLOURS)} == {GREY}


def test_names_of_layers_stay_in_sight_and_a_click_on_the_map_shows_its_step(opened, written):
    page = opened("a.html", "a.html", color_scheme="light")
    assert page.evaluate(NAMES_IN_SIGHT) == []  # plotly's own are there
    page.evaluate("document.getElementById('heatmap').closest('.figure').scrollLeft = 400")
    page.locator(".names span").first.wait_for()
    expected = [str(site.layer) for site in written.sites]
    assert sorted(page.evaluate(NAMES_IN_SIGHT)) == sorted(expected)

    click_column(page, 12)
    page.locator("#important .gtitle", has_text="Step 13 of 30").wait_for()
    for name in ("all", "important"):
        title, active = page.evaluate(
            "(name) => { const { layout } = document.getElementById(name);"
            " return [layout.title.text, layout.sliders[0].active]; }",
            name,
        )
        assert title.startswith("Step 13 of 30")
        assert active == 12
    (mark,) = page.evaluate("document.getElementById('heatmap').layout.shapes")
    assert (mark["x0"], mark["x1"]) == (11.5, 12.5)


def test_in_a_folder_a_click_on_the_map_opens_the_page_of_its_step(opened):
    page = opened("steps", "steps/index.html", color_scheme="dark")
    click_column(page, 3)
    page.wait_for_url("**/step-0004.html")
    page.wait_for_selector("body[data-ready]")
    assert len({colors["paper"] for colors in page.evaluate(COLOURS)}) == 1


def test_the_page_has_the_summary(written, tmp_path):
    lr.write_generation(written, tmp_path / "a.html")
    text = html.unescape((tmp_path / "a.html").read_text())
    for line in written.summary().splitlines():
        assert line.strip() in text
