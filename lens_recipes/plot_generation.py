"""When each token that a model wrote was decided: layers × written tokens, and the page with all figures of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ._table import probability, prompt_end
from .components import UNORDERED, Important, main_component, place
from .display import inert, plotly_safe
from .errors import LensError
from .files import written
from .looks import COLORS, LEGEND, RIM, outline
from .pages import PLOTLY, facts, links, page, picture
from .plot import Columns, site_map
from .plot_steps import WHICH, StepViews, generation_steps, how_written, written_steps
from .result import LensResult, Response
from .steps import Step
from .tracks import settled_layers

__all__ = ["generation_heatmap", "generation_steps", "write_generation"]

LEGEND_LINE = 30  # pixels
MARK = COLORS[1]
INDEX = "index.html"
STEP_PAGE = re.compile(r"step-\d{4,}\.html")
HEADINGS = ("All layers", "Important layers")
FINISH = {
    "eos": "the model ended its text",
    "stop": "a stop string was written",
    "length": "as many new tokens as were allowed",
    "time": "the time that was allowed is over",
    "interrupted": "it was interrupted",
}


def generation_heatmap(
    result: LensResult,
    *,
    metric: str = "prob",
    of: Any = None,
    prompt: int = 0,
    stride: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    colors: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layers × written tokens: what each layer would have written, and from where on the model's answer was decided.

    The outlined cell of a column is the first from which the model's answer is top-1 to the end (`settled_layers`); of
    layers that are not shown, the next one that is. A triangle marks a written token that is not the model's answer:
    sampling, or a penalty, chose it, and the outline is the answer's.

    Args:
        result: What `generate_lens` gives; one prompt of it is shown, without the tokens of the prompt itself.
        metric, of: As for `heatmap`; "next" is the written token.
        prompt: Which prompt.
        stride, sites: As for `heatmap`.
        component: Which rows; None for the `sites` that were named, else for "resid_post", or the only component.
        colors, title: As for `heatmap`.

    Raises:
        ValueError: no token was generated, or as for `heatmap`.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> generation_heatmap(result).show()
    """
    one, steps = written_steps(result, prompt)
    by_token = {step.token: step for step in steps}
    along = main_component(one.sites) if component is None else component
    settled = _settled(one, along)
    columns = Columns(
        list(by_token),
        [step.wrote for step in steps],
        list(range(1, len(steps) + 1)),
        "written token (a cell shows what that layer would have written there)",
        lambda s, t: _where(one, s, by_token[t], settled.get(t)),
    )
    figure, rows = site_map(
        one,
        columns,
        "The lens while the model writes",
        f"after “\u2068{inert(prompt_end(one.prompts[0], 50))}\u2069”",
        metric=metric,
        of=of,
        stride=stride,
        sites=sites,
        component=along if sites is None else component,
        colors=colors,
        title=title,
    )
    places = [(y, s) for y, s in enumerate(rows) if one.sites[s].component == along]
    starts = [(x, settled[step.token]) for x, step in enumerate(steps) if step.token in settled]
    above = [(x, [y for y, s in places if s >= start]) for x, start in starts]  # the start itself may not be shown
    cells = [(x, ys[0], ys[0]) for x, ys in above if ys]
    if cells:
        figure.add_traces(outline(cells, "settled: from here up, the model's answer is top-1"))
    other = [(x, step) for x, step in enumerate(steps) if not step.first_choice]
    if other:
        figure.add_scatter(
            x=[x for x, _ in other],
            y=[len(rows) - 0.1] * len(other),
            mode="markers",
            marker={"symbol": "triangle-down", "size": 10, "color": MARK},
            customdata=["<br>".join(_written(step)) for _, step in other],
            hovertemplate="%{customdata}<extra></extra>",
            name="the written token is not the model's first choice",
            showlegend=True,
        )
    marks = LEGEND_LINE * (bool(cells) + bool(other))  # one below the other: a narrow figure has no room beside
    figure.update_layout(
        legend=LEGEND | {"orientation": "v"}, margin_t=100 + marks, height=figure.layout.height + marks
    )
    figure.update_xaxes(range=[-0.5 - RIM, len(steps) - 0.5 + RIM])  # a scatter would add a margin of its own
    figure.update_yaxes(range=[-0.5 - RIM, len(rows) + (0.3 if other else 2 * RIM - 0.5)])
    return figure


def _settled(one: LensResult, along: str | None) -> dict[int, int]:
    """The site at which each written token settled, of those that did; none where the sites follow no order."""
    if along is None or along in (*UNORDERED, "embed") or all(site.component != along for site in one.sites):
        return {}
    return {step.token: step.site for step in settled_layers(one, component=along) if step.site >= 0}


def _where(one: LensResult, s: int, step: Step, settled: int | None) -> list[str]:
    """What the hover says of a cell before its numbers."""
    t = step.token
    lines = [
        f"<b>{place(one.sites[s])}</b>, position {one.tokens.position[t]}",
        f"input {plotly_safe(one.tokens.text[t], 40)}",
        *_written(step),
        f"the written token here: rank {one.next_ranks[s, t]:,}, p {probability(one.next_logprobs[s, t])}",
    ]
    if settled is not None:
        lines.append(f"{plotly_safe(step.answer, 40)} is top-1 from {place(one.sites[settled])} to the end")
    return lines


def _written(step: Step) -> list[str]:
    return [f"written {plotly_safe(step.wrote, 40)}", *how_written(step)]


# -- the page ----------------------------------------------------------


def write_generation(result: LensResult, path: str | os.PathLike[str], *, prompt: int = 0) -> None:
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
    head = [facts(_facts(one, steps)), picture(generation_heatmap(one), "heatmap")]
    views = {heading: StepViews(one, which) for heading, which in zip(HEADINGS, WHICH, strict=True)}
    path = Path(path)
    if path.suffix.lower() in (".html", ".htm"):
        sliders = [f"<h2>{heading}</h2>\n{picture(view.slider(), view.which)}" for heading, view in views.items()]
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
        beside = [(way, i) for way, i in (("previous", n - 1), ("next", n + 1)) if 0 <= i < len(files)]
        around = links([(INDEX, "all steps"), *((files[i], f"{way}: {words[i]}") for way, i in beside)])
        pictures = [f"<h2>{heading}</h2>\n{picture(view.step(n), view.which)}" for heading, view in views.items()]
        _write(path / file, page(f"Step {n + 1} of {len(files)}", [around, *pictures], inline=False))
    everything = [head[0], "<h2>Steps</h2>", links(zip(files, words, strict=True)), head[1]]
    _write(path / INDEX, page(name, everything, inline=False))


def _facts(one: LensResult, steps: list[Step]) -> dict[str, str]:
    """What the page says in words."""
    # A part of a generation, as `on_step` gets it, has no response.
    response = one.responses[0] if one.responses else Response("".join(step.wrote for step in steps), "unknown")
    why = f" ({FINISH[response.finish]})" if response.finish in FINISH else ""
    proof = one.provenance.get("certificate", "none") if one.certificate is None else one.certificate
    return {
        "prompt": one.prompts[0],
        "response": response.text,
        "end": f"{response.finish}{why}, after {len(steps)} token{'' if len(steps) == 1 else 's'}",
        "certificate": "\n".join([str(proof), *([one.mark] if one.mark else [])]),
    }


def _write(path: Path, text: str) -> None:
    with written(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
