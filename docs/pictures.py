"""Draw the pictures of the README from real results. This needs the extra `dev` and Chromium.

python docs/pictures.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

import lens_recipes as lr

HERE = Path(__file__).parent


def main() -> None:
    """Draw each picture."""
    model = lr.load("smollm2")
    result = lr.logit_lens(model, "The capital of France is", targets=[" Paris", " London"])
    picture_of_report(result, HERE / "report.png")
    figure = lr.heatmap(result, stride=1)
    lr.save_png(figure, HERE / "heatmap.png", scale=1.5)

    heads = lr.attribution(
        model, "The capital of France is", " Paris", against=" London", unit="head"
    )
    lr.save_png(lr.head_grid(heads), HERE / "heads.png", scale=1.5)

    written = lr.generate_lens(
        model, "The capital of France is", max_new_tokens=12, do_sample=False
    )
    figure = lr.generation_heatmap(written, stride=1)
    lr.save_png(figure, HERE / "generation.png", scale=1.5)


def picture_of_report(result: lr.LensResult, path: Path) -> None:
    """Draw the report with two tokens pinned, as a browser shows it."""
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "report.html"
        lr.report(result, page_file)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 960}, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-ready]")
        page.fill("#search", "the")  # beside the targets, which are pinned already
        page.locator("#found button").first.click(modifiers=["Shift"])
        page.fill("#search", "")
        page.locator("h1").click()
        page.screenshot(path=path)
        browser.close()


if __name__ == "__main__":
    main()
