"""How large is a page that needs no network, and how soon can it be used, beside one that holds all of plotly.js?

    python benchmarks/pages.py        # a report, a heatmap and a generation of SmolLM2, opened in Chromium; JSON on stdout

Each page is opened in a new tab, in turn with the other of its kind, until its first figure is drawn; medians of wall
seconds, and of the ratios turn by turn. The floor is the page with all of plotly.js, as plotly itself writes it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from playwright.sync_api import Browser, sync_playwright
from plotly.offline import get_plotlyjs
from side_by_side import side_by_side

import lens_recipes as lr
from lens_recipes.views.figures import export
from lens_recipes.views.pages import html, report
from lens_recipes.views.plotly_js.bundle import PlotlyScripts
from lens_recipes.views.policy import script_hash

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PROMPT = "The capital of France is the city of"


def whole() -> PlotlyScripts:
    """Return all of plotly.js, not compressed."""
    text = get_plotlyjs()
    return PlotlyScripts(f"<script>{text}</script>", (script_hash(text),))


def write_pages(folder: Path) -> list[Path]:
    """Write a page of each kind."""
    model = lr.load("smollm2")
    result = lr.logit_lens(model, PROMPT, targets=[" Paris"])
    written = lr.generate_lens(model, PROMPT, max_new_tokens=4)
    lr.report(result, folder / "report.html", max_bytes=20_000_000)
    lr.write_html(lr.heatmap(result), folder / "heatmap.html", offline=True)
    lr.write_generation(written, folder / "generation.html")
    return sorted(folder.iterdir())


def write_whole_pages(folder: Path) -> list[Path]:
    """Write the same with all of plotly.js."""
    with (
        mock.patch.object(html, "packed_plotly", whole),
        mock.patch.object(report, "packed_plotly", whole),
        mock.patch.object(export, "plotly_for", return_value=whole()),
    ):
        return write_pages(folder)


def opening(browser: Browser, path: Path) -> Callable[[], None]:
    """Return what opens a page until its first figure is drawn."""

    def run() -> None:
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector(".main-svg", state="attached")
        page.close()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        for part in ("own", "whole"):
            Path(name, part).mkdir()
        pairs = zip(
            write_pages(Path(name, "own")), write_whole_pages(Path(name, "whole")), strict=True
        )
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for own, floor in pairs:
            runs = {"floor": opening(browser, floor), "ours": opening(browser, own)}
            sizes = {"bytes": own.stat().st_size, "floor_bytes": floor.stat().st_size}
            row = {"page": own.stem, **sizes, **side_by_side(runs, options.repeat)}
            print(json.dumps(row), flush=True)
        browser.close()


if __name__ == "__main__":
    main()
