"""`write_generation()`: a generation as a page."""

from __future__ import annotations

import os
import re
from pathlib import Path

from plotly.offline import get_plotlyjs

from lens_recipes.arrays.axes import Response
from lens_recipes.arrays.generation import Step
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import plotly_safe
from lens_recipes.errors import LensError
from lens_recipes.views.figures.generation.heatmap import INDEX, generation_heatmap
from lens_recipes.views.figures.generation.steps import WHICH, StepViews, written_steps
from lens_recipes.views.files.atomic import atomic_file
from lens_recipes.views.pages.html import PLOTLY, embedded_figure, fact_list, links, page

STEP_PAGE = re.compile(r"step-\d{4,}\.html")

HEADINGS = ("All layers", "Important layers")

FINISH = {
    "eos": "the model ended its text",
    "stop": "a stop string was written",
    "length": "as many new tokens as were allowed",
    "time": "the time that was allowed is over",
    "interrupted": "it was interrupted",
}


# -- the page ----------------------------------------------------------


def write_generation(result: LensArrays, path: str | os.PathLike[str], *, prompt: int = 0) -> None:
    """Write what a model wrote after one prompt and the figures of it; no network is needed to read them.

    Args:
        result: What `generate_lens` gives.
        path: A name in .html is one file with all of it: the text, `generation_heatmap`, and `generation_steps` for all
            and for the important layers. Any other is a folder, made where there is none: `index.html`, which is there
            only when all is, and a page for each step; pages of an earlier writing are replaced.
        prompt: Which prompt.

    Raises:
        ValueError: no token was generated.
        LensError: the path cannot be written.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> write_generation(result, "capital.html")
    """
    one, steps = written_steps(result, prompt)
    name = f"The lens while {one.provenance.get('model', 'the model')} writes"
    head = [fact_list(_facts(one, steps)), embedded_figure(generation_heatmap(one), "heatmap")]
    views = {heading: StepViews(one, which) for heading, which in zip(HEADINGS, WHICH, strict=True)}
    path = Path(path)
    if path.suffix.lower() in (".html", ".htm"):
        sliders = [
            f"<h2>{heading}</h2>\n{embedded_figure(view.slider(), view.which)}"
            for heading, view in views.items()
        ]
        _write(path, page(name, [*head, *sliders], inline=True))
        return
    try:
        path.mkdir(exist_ok=True)
        for old in path.iterdir():
            if old.name == INDEX or STEP_PAGE.fullmatch(old.name):
                old.unlink()
    except OSError as error:
        raise LensError(f"cannot write {str(path)!r}: {error.strerror or error}.") from error
    _write(path / PLOTLY, get_plotlyjs())
    files = [f"step-{n:04d}.html" for n in range(1, len(steps) + 1)]
    words = [f"{n} {plotly_safe(step.wrote, 16)}" for n, step in enumerate(steps, 1)]
    for n, file in enumerate(files):
        beside = [
            (way, i) for way, i in (("previous", n - 1), ("next", n + 1)) if 0 <= i < len(files)
        ]
        around = links(
            [(INDEX, "all steps"), *((files[i], f"{way}: {words[i]}") for way, i in beside)]
        )
        pictures = [
            f"<h2>{heading}</h2>\n{embedded_figure(view.step(n), view.which)}"
            for heading, view in views.items()
        ]
        _write(
            path / file, page(f"Step {n + 1} of {len(files)}", [around, *pictures], inline=False)
        )
    everything = [head[0], "<h2>Steps</h2>", links(zip(files, words, strict=True)), head[1]]
    _write(path / INDEX, page(name, everything, inline=False))


def _facts(one: LensArrays, steps: list[Step]) -> dict[str, str]:
    """What the page says in words."""
    # A part of a generation, as `on_step` gets it, has no response.
    response = (
        one.responses[0]
        if one.responses
        else Response("".join(step.wrote for step in steps), "unknown")
    )
    why = f" ({FINISH[response.finish]})" if response.finish in FINISH else ""
    proof = (
        one.provenance.get("certificate", "none") if one.certificate is None else one.certificate
    )
    return {
        "prompt": one.prompts[0],
        "response": response.text,
        "end": f"{response.finish}{why}, after {len(steps)} token{'' if len(steps) == 1 else 's'}",
        "certificate": "\n".join([str(proof), *([one.mark] if one.mark else [])]),
    }


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
