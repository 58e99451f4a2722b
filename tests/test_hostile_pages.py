"""Pages and figures of a result whose every field is hostile: in a real browser, nothing comes of any text."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hostile import FIELD, assert_inert, hostile_fields
from plotly.offline import get_plotlyjs
from test_attribution_views import attribution
from test_generation_figures import generation
from test_report import browser  # noqa: F401

import lens_recipes as lr
from lens_recipes.arrays.text import escape_plotly

CDN = "https://cdn.plot.ly/"


def with_targets(result):
    """The same result with two targets and two tracked tokens."""
    shape = (*result.entropy.shape, 2)
    logprobs = np.linspace(-3, -1, np.prod(shape), dtype=np.float32).reshape(shape)
    n_prompts = len(result.prompts)
    return dataclasses.replace(
        result,
        target_ids=np.tile(np.array([[3, 4]], dtype=np.int32), (n_prompts, 1)),
        target_logprobs=logprobs,
        target_logits=logprobs,
        target_ranks=np.full(shape, 1, dtype=np.int32),
        tracked_ids=np.tile(np.array([[5, 6]], dtype=np.int32), (shape[1], 1)),
        tracked_logprobs=logprobs,
    )


@pytest.fixture(scope="module")
def stream():
    """A generation in which one component was read, whose name is hostile."""
    return hostile_fields(with_targets(generation(steps=(4,), sharp=1.0)))


@pytest.fixture(scope="module")
def parts():
    """Several components, two of them with hostile names."""
    read = generation(steps=(4,), names=("attn_out", "mlp_out"), heads=2, sharp=1.0)
    other = [
        site._replace(component=f"{FIELD}2") if site.component == "mlp_out" else site
        for site in read.sites
    ]
    result = hostile_fields(with_targets(dataclasses.replace(read, sites=other)))
    return dataclasses.replace(
        result,
        sites=[
            site._replace(component=f"{FIELD}2") if old.component == f"{FIELD}2" else site
            for site, old in zip(result.sites, other, strict=True)
        ],
    )


@pytest.fixture(scope="module")
def logits():
    return hostile_fields(attribution("token", [["a", "b", "c"]], targets=2))


LENS_FIGURES = {
    "heatmap": lr.heatmap,
    "heatmap of a target": lambda r: lr.heatmap(r, metric="rank", of=3, title=FIELD),
    "compare": lambda r: lr.compare(r, r, names=(FIELD, f"{FIELD} 2"), title=FIELD),
    "generation_heatmap": lambda r: lr.generation_heatmap(r, title=FIELD),
    "generation_steps": lambda r: lr.generation_steps(r, title=FIELD),
    "important steps": lambda r: lr.generation_steps(
        r, which="important", metric="prob", threshold=0
    ),
}
LINE_FIGURES = {
    "trajectory": lambda r: lr.trajectory(r, of=[3, 4], position=[0, -1], title=FIELD),
    "trajectory of one": lambda r: lr.trajectory(r, of=3),
    "top_tokens": lambda r: lr.top_tokens(r, title=FIELD),
    "rank_flow": lambda r: lr.rank_flow(r, title=FIELD),
    "layer_profile": lambda r: lr.layer_profile(r, title=FIELD),
    "one metric": lambda r: lr.layer_profile(r, metric="entropy"),
}
LOGIT_FIGURES = {
    "attribution_bars": lambda r: lr.attribution_bars(r, title=FIELD),
    "all bars": lambda r: lr.attribution_bars(r, top=1000),
    "source_map": lambda r: lr.source_map(r, title=FIELD),
    "head_grid": lambda r: lr.head_grid(r, title=FIELD),
}


@pytest.mark.parametrize("name", LENS_FIGURES)
def test_no_field_acts_in_a_map(stream, parts, name):
    for result in (stream, parts):
        figure = LENS_FIGURES[name](result)
        assert_inert(figure)
        assert not set("\u202e\ud800\x00") & set(figure.to_json())


@pytest.mark.parametrize("name", LINE_FIGURES)
def test_no_field_acts_in_lines(stream, name):
    figure = LINE_FIGURES[name](stream)
    assert_inert(figure)
    assert not set("\u202e\ud800\x00") & set(figure.to_json())


@pytest.mark.parametrize("name", LOGIT_FIGURES)
def test_no_field_acts_in_the_figure_of_a_logit(logits, name):
    assert_inert(LOGIT_FIGURES[name](logits))


def test_a_field_is_shown_as_it_is_written(stream):
    label = lr.heatmap(stream).layout.yaxis.ticktext[0]
    assert label == escape_plotly(f"0.{FIELD}")
    assert html.unescape(label).startswith("0.=1+1<a href='https://x.invalid/a'>link</a>")
    assert lr.trajectory(stream, of=3, title="<b>5 $ & more").layout.title.text == (
        "&lt;b&gt;5 &#36; &amp; more"
    )


# -- pages -------------------------------------------------------------


def write_figure(result, folder: Path, offline: bool) -> list[Path]:
    """Pages of the figures of a kind each."""
    lr.write_html(lr.heatmap(result, title=FIELD), folder / "map.html", offline=offline)
    lr.write_html(lr.generation_steps(result), folder / "steps.html", offline=offline)
    return [folder / "map.html", folder / "steps.html"]


def write_report(result, folder: Path) -> list[Path]:
    lr.report(result, folder / "report.html", title=FIELD)
    return [folder / "report.html"]


def write_pages(result, folder: Path) -> list[Path]:
    lr.write_generation(result, folder / "one.html")
    lr.write_generation(result, folder / "many")
    return [folder / "one.html", folder / "many" / "index.html", folder / "many" / "step-0002.html"]


WRITERS = {
    "figure with plotly": lambda result, folder: write_figure(result, folder, offline=True),
    "figure": lambda result, folder: write_figure(result, folder, offline=False),
    "report": write_report,
    "generation": write_pages,
}

# Of what is on a page, whatever would act, and what would load something.
ACTING = """() => {
  const acting = "a:not(.modebar-btn), img, iframe, object, embed, form, link, base, audio, video, frame, u, marquee";
  const found = [...document.querySelectorAll(acting)].map((node) => node.outerHTML);
  const large = [...document.querySelectorAll("[style*='300px']")].map((node) => node.outerHTML);
  const handlers = [...document.querySelectorAll("[onerror], [onload], [onclick]")].map((node) => node.outerHTML);
  return { found, large, handlers, acted: window.acted ?? null };
}"""
OUR_LINK = re.compile(r'<a href="(?:index|step-\d{4})\.html">[^<]*</a>')


@pytest.fixture
def visit(browser):  # noqa: F811
    """Open a page; return what acted on it, and what went wrong or was asked for while it was drawn."""
    context = browser.new_context()

    def visit_(file: Path):
        page, wrong, asked = context.new_page(), [], []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        headers = {"content-type": "text/javascript", "access-control-allow-origin": "*"}
        page.route(f"{CDN}**", lambda route: route.fulfill(body=get_plotlyjs(), headers=headers))
        page.goto(file.as_uri())
        page.wait_for_selector(".main-svg", timeout=60_000, state="attached")
        return page, wrong, asked

    yield visit_
    context.close()


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("which", ["stream", "parts"])
def test_nothing_comes_of_a_text_on_a_page(kind, which, request, visit, tmp_path):
    result = request.getfixturevalue(which)
    for file in WRITERS[kind](result, tmp_path):
        page, wrong, asked = visit(file)
        found = page.evaluate(ACTING)
        assert [node for node in found.pop("found") if not OUR_LINK.fullmatch(node)] == []
        assert found == {"large": [], "handlers": [], "acted": None}
        assert wrong == []
        mine = {file.as_uri(), (file.parent / "plotly.min.js").as_uri()}
        assert {url for url in asked if not url.startswith((CDN, "blob:", "data:"))} <= mine


def test_steps_and_maps_still_work_below_the_policy(visit, tmp_path):
    """Hovers, the slider and the picture of a figure; each would say in the console what it lacks."""
    result = generation(steps=(4,))
    lr.write_generation(result, tmp_path / "a.html")
    page, wrong, _ = visit(tmp_path / "a.html")
    titles = "[...document.querySelectorAll('#all .gtitle')].map((node) => node.textContent)"
    before = page.evaluate(titles)
    page.locator("#all .slider-grip-rect").hover()
    page.evaluate("Plotly.animate('all', ['2'], { mode: 'immediate', frame: { duration: 0 } })")
    assert page.evaluate(titles) != before
    assert (
        page.evaluate("Plotly.toImage('all').then((url) => url.slice(0, 15))") == "data:image/png;"
    )
    assert wrong == []


class Policy(HTMLParser):
    """The policy of a page, and what stood before it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.before: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get("http-equiv") == "Content-Security-Policy" and not self.policy:
            self.policy = given["content"]
        elif not self.policy:
            self.before.append(tag)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_policy_names_each_script(kind, stream, tmp_path):
    for file in WRITERS[kind](stream, tmp_path):
        found = Policy(file.read_text(encoding="utf-8"))
        rules = dict(rule.split(" ", 1) for rule in found.policy.split("; "))
        assert set(found.before) <= {"html", "head", "meta"}
        assert rules["default-src"] == rules["form-action"] == rules["base-uri"] == "'none'"
        assert rules["img-src"] == "data: blob:"
        assert rules["style-src"] == "'unsafe-inline'"
        sources = rules.pop("script-src").split()
        elsewhere = [source for source in sources if not source.startswith("'sha256-")]
        if kind == "figure":
            assert re.fullmatch(rf"{CDN}plotly-[\d.]+\.min\.js", elsewhere.pop())
        if file.parent.name == "many":
            assert elsewhere == ["'self'", "file:"]
        else:
            assert elsewhere == []
        assert "unsafe" not in " ".join(sources)


@pytest.mark.slow
def test_a_script_that_gets_onto_a_page_does_not_run(stream, visit, tmp_path):
    """The second lock: the page as it is, with a script and a style sheet from elsewhere let in."""
    added = "<script>window.acted=1</script><link rel=stylesheet href=https://x.invalid/a.css>"
    for writer in WRITERS.values():
        for file in writer(stream, tmp_path):
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("</body>", f"{added}</body>"), encoding="utf-8")
            page, wrong, _ = visit(file)
            assert page.evaluate("window.acted ?? null") is None
            assert len(wrong) >= 2
            assert any("script" in text for text in wrong)
            assert any("style" in text for text in wrong)
