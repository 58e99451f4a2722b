"""Write a generation as a page, or as a folder with a page for each step."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lens_recipes.arrays.axes import Response
from lens_recipes.arrays.generation import Step
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.errors import LensError
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.figures.generation.heatmap import generation_heatmap
from lens_recipes.views.figures.generation.steps import StepViews
from lens_recipes.views.figures.generation.written import written_steps
from lens_recipes.views.files.atomic import write_text
from lens_recipes.views.pages.html import (
    PLOTLY_FILE,
    Fact,
    Fragment,
    Link,
    embedded_figure,
    fact_list,
    heading,
    link_list,
    page,
)
from lens_recipes.views.plotly_js.bundle import plotly_script
from lens_recipes.views.summaries.lens import lens_summary
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.words import edited

INDEX = "index.html"

STEP_FILE = re.compile(r"step-\d{4,}\.html")

FINISH = {
    "eos": "the model ended its text",
    "stop": "a stop string was written",
    "length": "as many new tokens as were allowed",
    "time": "the time that was allowed is over",
    "interrupted": "it was interrupted",
}


def write_generation(result: LensArrays, path: str | os.PathLike[str], *, prompt: int = 0) -> None:
    """Write what a model wrote after one prompt, and its figures: pages that need no network.

    Args:
        result: What `generate_lens` gives.
        path: A name in .html is one file with everything: the text, the summary,
            `generation_heatmap`, and `generation_steps` for all and for the important layers; a
            click on a column of the map shows its step. Any other is a folder, made
            where there is none: a page for each step, and `index.html`, which is there only when
            everything else is. Pages of an earlier writing are replaced.
        prompt: Which prompt.

    Raises:
        ValueError: no token was generated.
        LensError: the path cannot be written.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> write_generation(result, "capital.html")
    """
    single, steps = written_steps(result, prompt)
    lens = "lens" if single.lens.is_logit else single.lens.name
    model_name = single.provenance.get("model", "the model")
    pages = GenerationPages(
        title=f"The {lens} while {model_name} writes",
        steps=steps,
        facts=fact_list([*generation_facts(single, steps), *more_facts(result[prompt])]),
        heatmap=embedded_figure(generation_heatmap(single), "heatmap"),
        sections=[
            Section("All layers", StepViews(single, "all")),
            Section("Important layers", StepViews(single, "important")),
        ],
    )
    path = Path(path)
    if path.suffix.lower() in (".html", ".htm"):
        write_one_page(pages, path)
    else:
        write_folder(pages, path)


def more_facts(single: LensArrays) -> list[Fact]:
    """Return the summary of one prompt, and how to use the map."""
    return [
        Fact("summary", escape_terminal(lens_summary(single))),
        Fact("map", "A click on a column shows its step."),
    ]


class Section(NamedTuple):
    """A heading, and the figures of all steps below it."""

    heading: str
    views: StepViews

    def slider(self) -> list[Fragment]:
        """Return the heading and the figure of all steps, one at a time."""
        return [heading(self.heading), embedded_figure(self.views.slider(), self.views.which)]

    def step(self, index: int) -> list[Fragment]:
        """Return the heading and the figure of one step."""
        return [heading(self.heading), embedded_figure(self.views.step(index), self.views.which)]


class GenerationPages(NamedTuple):
    """What the pages of a generation are made of."""

    title: str
    steps: list[Step]
    facts: Fragment
    heatmap: Fragment
    sections: list[Section]


def write_one_page(pages: GenerationPages, path: Path) -> None:
    """Write everything into one file."""
    fragments = [pages.facts, pages.heatmap]
    for section in pages.sections:
        fragments += section.slider()
    write_text(path, page(pages.title, fragments, inline=True))


def write_folder(pages: GenerationPages, folder: Path) -> None:
    """Write plotly.js, a page for each step, and the index, which is there only when all is."""
    empty_folder(folder)
    write_text(folder / PLOTLY_FILE, plotly_script())
    links = []
    for number, step in enumerate(pages.steps, start=1):
        links.append(Link(f"step-{number:04d}.html", f"{number} {plotly_safe(step.wrote, 16)}"))
    for index, link in enumerate(links):
        fragments = [link_list(neighbours(links, index))]
        for section in pages.sections:
            fragments += section.step(index)
        title = f"Step {index + 1} of {len(links)}"
        write_text(folder / link.address, page(title, fragments, inline=False))
    fragments = [pages.facts, heading("Steps"), link_list(links), pages.heatmap]
    write_text(folder / INDEX, page(pages.title, fragments, inline=False))


def empty_folder(folder: Path) -> None:
    """Make the folder, or remove the pages of an earlier writing from it."""
    try:
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            if file.name == INDEX or STEP_FILE.fullmatch(file.name):
                file.unlink()
    except OSError as error:
        raise LensError(f"cannot write {str(folder)!r}: {error.strerror or error}.") from error


def neighbours(links: list[Link], index: int) -> Iterable[Link]:
    """Yield the links from one step: to the index, to the step before, and to the step after."""
    yield Link(INDEX, "all steps")
    if index > 0:
        before = links[index - 1]
        yield Link(before.address, f"previous: {before.words}")
    if index + 1 < len(links):
        after = links[index + 1]
        yield Link(after.address, f"next: {after.words}")


def generation_facts(single: LensArrays, steps: list[Step]) -> list[Fact]:
    """Return what the page says in words about one prompt."""
    if single.responses:
        response = single.responses[0]
    else:  # a part of a generation, as `on_step` gets it
        response = Response("".join(step.wrote for step in steps), "unknown")
    reason = ""
    if response.finish in FINISH:
        reason = f" ({FINISH[response.finish]})"
    tokens = "token" if len(steps) == 1 else "tokens"
    certificate = [str(single.certificate or single.provenance.get("certificate", "none"))]
    if single.mark:
        certificate.append(single.mark)
    meaning = lens_line(single)
    if meaning:
        certificate.append(meaning)
    done = [Fact("edited", edited(single).removeprefix("edited: "))] if single.edits else []
    return [
        *done,
        Fact("prompt", single.prompts[0]),
        Fact("response", response.text),
        Fact("end", f"{response.finish}{reason}, after {len(steps)} {tokens}"),
        Fact("certificate", "\n".join(certificate)),
    ]
