"""What each layer would have written at each step of a generation: one figure, and a slider over the steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.generation import Step, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.sites import UNORDERED, components, site_label
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.arrays.tracks import DEFAULT_THRESHOLD, important
from lens_recipes.views.figures.base.color import with_contrast_text
from lens_recipes.views.figures.base.style import BORDER, FONT, LEGEND, expect, heading, outline
from lens_recipes.views.groups import stream_of
from lens_recipes.views.words import probability, prompt_end

WHICH = ("all", "important")

MIN_WIDTH, CELL, ROW, SLIDER = 960, 84, 24, 95  # pixels

MIN_ROWS = 6  # what the colour bar needs

GAP = 0.3  # between components, in columns

CHANGES = {
    "heatmap": ("type", "z", "text", "customdata"),
    "scatter": ("type", "x", "y"),
}  # from step to step

# How the number that `important` gives is signed and called on the axis, and what is said where it finds nothing.
FOUND = {
    "prob": ("{:.2f}", 1, "probability", "No layer gives a token a probability of {} here."),
    "kl_drop": (
        "{:+.2f}",
        -1,
        "KL change, nats",
        "No layer brings the KL to final down by {} nats here.",
    ),
    "target_jump": (
        "{:+.2f}",
        1,
        "log-p change, nats",
        "No layer raises the log-probability by {} nats here.",
    ),
}


def generation_steps(
    result: LensArrays,
    *,
    which: str = "all",
    prompt: int = 0,
    metric: str | None = None,
    threshold: float | None = None,
    component: str | None = None,
    title: str | None = None,
) -> go.Figure:
    """Layers × the tokens that each ranks highest, coloured by probability, with a slider over the written tokens.

    The cells that hold the written token are outlined. Components that were read stand side by side; heads have rows of
    their own, and are shown where they are named or alone.

    Args:
        result: What `generate_lens` gives.
        which: "all" layers, or the "important" ones of each step: those with a site that `result.important` finds
            there, with the number that says so. There may be none, and then the figure says that.
        prompt: Which prompt.
        metric, threshold: For "important", as in `result.important`. None: "kl_drop" ("prob" for heads), and the
            metric's own threshold.
        component: None for all, or only this one.
        title: Replaces the figure's own, at all steps.

    Raises:
        ValueError: no token was generated, or an argument that does not fit the result.

    Example:
        >>> result = generate_lens(load("smollm2"), "The capital of France is", max_new_tokens=8)
        >>> generation_steps(result, which="important").show()
    """
    views = StepViews(
        result,
        which,
        prompt=prompt,
        metric=metric,
        threshold=threshold,
        component=component,
        title=title,
    )
    return views.slider()


class StepViews:
    """All steps of one prompt as figures, each alone or with a slider; the arguments are those of `generation_steps`.

    Attributes:
        one, steps: The result of that prompt, and its steps.
        panels: The components that stand side by side.
        rows: (site, panel) of what stands in each row, by the row's label.
        shown: For each step the labels of its rows, top row first, and how they are written.
    """

    def __init__(
        self,
        result: LensArrays,
        which: str,
        *,
        prompt: int = 0,
        metric: str | None = None,
        threshold: float | None = None,
        component: str | None = None,
        title: str | None = None,
    ) -> None:
        if which not in WHICH:
            raise ValueError(f"which={which!r} must be {' or '.join(map(repr, WHICH))}.")
        if which == "all" and (metric, threshold) != (None, None):
            raise ValueError(
                f'metric={metric!r}, threshold={threshold!r}: these are for which="important".'
            )
        self.one, self.steps = written_steps(result, prompt)
        there = components(self.one.sites)
        if component is not None and component not in there:
            raise ValueError(
                f"component={component!r} was not read: this result has {', '.join(map(repr, there))}."
            )
        beside = [name for name in there if name not in ("embed", "head_out")] or there[:1]
        self.panels = beside if component is None else [component]
        self.which, self.title, self.k = which, title, self.one.top_ids.shape[-1]
        self.metric = (
            metric if metric is not None else "prob" if self.panels[0] in UNORDERED else "kl_drop"
        )
        self.threshold = threshold
        self.rows: dict[str, list[tuple[int, int]]] = {}
        for s, site in enumerate(self.one.sites):
            label, panel = self._home(site)
            if panel in self.panels and component in (None, site.component):
                self.rows.setdefault(label, []).append((s, self.panels.index(panel)))
        every = {label: label for label in reversed(self.rows)}
        self.shown = [
            every if which == "all" else self._important(step.token) for step in self.steps
        ]

    def _home(self, site: Site) -> tuple[str, str]:
        """In which row and panel a site stands; the embedding has a row of the stream's."""
        if site.component == "embed":
            return "embed", "embed" if "embed" in self.panels else stream_of(self.panels) or ""
        return str(site) if site.component == "head_out" else str(site.layer), site.component

    def _important(self, token: int) -> dict[str, str]:
        """The rows with a site that stands out after one token, and the largest number that says so."""
        best: dict[str, float] = {}
        for item in important(self.one, self.metric, self.threshold, position=token):
            label = self._home(item.where)[0]
            best[label] = max(item.value, best.get(label, -math.inf))
        form, sign = FOUND[self.metric][:2]
        numbers = {
            label: form.format(sign * value).replace("-", "−") for label, value in best.items()
        }
        return {
            label: f"{label}  ({numbers[label]})" for label in reversed(self.rows) if label in best
        }

    # -- figures -------------------------------------------------------

    def slider(self) -> go.Figure:
        """All steps, one at a time."""
        figure = self.step(0, max(map(len, self.shown)), room_below=SLIDER)
        figure.frames = [
            {
                "name": str(n),
                "data": [
                    {key: trace[key] for key in CHANGES[trace["type"]] if key in trace}
                    for trace in traces
                ],
                "traces": list(range(len(traces))),
                "layout": self._words(n),
            }
            for n, traces in enumerate(map(self._traces, range(len(self.steps))))
        ]
        at_once = {
            "mode": "immediate",
            "frame": {"duration": 0, "redraw": True},
            "transition": {"duration": 0},
        }
        marks = [
            {
                "method": "animate",
                "label": f"{n} {plotly_safe(step.wrote)}",
                "args": [[str(n - 1)], at_once],
            }
            for n, step in enumerate(self.steps, 1)
        ]
        figure.layout.sliders = [
            {"steps": marks, "currentvalue": {"visible": False}, "pad": {"t": 75}}
        ]
        return figure

    def step(self, n: int, n_rows: int | None = None, room_below: int = 0) -> go.Figure:
        """One step, with room for so many rows, and for something below."""
        cells, words = self._traces(n), self._words(n)
        room = max(MIN_ROWS, len(self.shown[n]) if n_rows is None else n_rows)
        edges = self._edges()
        ranks = [(panel, j) for panel in range(len(self.panels)) for j in range(self.k)]
        plain = {"showgrid": False, "zeroline": False}
        what = "head" if self.panels == ["head_out"] else "layer"
        number = "" if self.which == "all" else f" ({FOUND[self.metric][2]})"
        y_range = [room - 0.5, -0.5 - 2 * BORDER]
        layout = words | {
            "template": "plotly_white", "font": FONT, "legend": LEGEND, "showlegend": True,
            "width": max(MIN_WIDTH, 260 + round(CELL * (edges[-1] - edges[0]))),
            "height": 190 + ROW * room + room_below,
            "margin": {"l": 130, "r": 20, "t": 120, "b": 70 + room_below},
            "xaxis": {
                "title": {"text": "the layer's top tokens (1 is what it would have written)"},
                "tickvals": [self._column(*rank) for rank in ranks],
                "ticktext": [self._tick(*rank) for rank in ranks], "range": [edges[0] - BORDER, edges[-1] + BORDER], **plain,
            },
            "yaxis": words["yaxis"] | {"title": {"text": what + number}, "range": y_range, **plain},
        }  # fmt: skip
        return go.Figure(cells, layout)

    def _column(self, panel: int, rank: int) -> float:
        return panel * (self.k + GAP) + rank

    def _edges(self) -> list[float]:
        """Of all columns, those between the panels included."""
        return [
            self._column(panel, j) - 0.5
            for panel in range(len(self.panels))
            for j in range(self.k + 1)
        ]

    def _tick(self, panel: int, rank: int) -> str:
        named = self.panels != ["resid_post"] and rank == self.k // 2
        return f"{rank + 1}<br>{self.panels[panel]}" if named else str(rank + 1)

    def _words(self, n: int) -> dict[str, Any]:
        """What of the layout is one step's own."""
        step, labels = self.steps[n], self.shown[n]
        before = "".join(earlier.wrote for earlier in self.steps[:n])
        text = f"Step {n + 1} of {len(self.steps)}: “{plotly_safe(step.wrote, 20)}”; {'; '.join(how_written(step))}"
        context = f"after “\u2068{escape_plotly(prompt_end(self.one.prompts[0] + before))}\u2069”"
        title = heading(
            self.one, *([text, context] if self.title is None else [self.title, text, context])
        )
        words = {
            "title": title,
            "yaxis": {"tickvals": list(range(len(labels))), "ticktext": list(labels.values())},
        }
        if self.which == "all":
            return words
        limit = DEFAULT_THRESHOLD[self.metric] if self.threshold is None else self.threshold
        nothing = {
            "text": FOUND[self.metric][3].format(f"{limit:g}"), "visible": not labels, "showarrow": False,
            "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "font": {"size": 15},
        }  # fmt: skip
        return words | {
            "annotations": [nothing]
        }  # at every step: plotly takes an empty list in a frame for no change

    def _traces(self, n: int) -> list[dict[str, Any]]:
        """The cells of one step, the outlines of those with the written token, and the words."""
        one, token, width = self.one, self.steps[n].token, len(self._edges()) - 1
        height = max(
            1, len(self.shown[n])
        )  # of no cell at all plotly would draw no colour bar either
        z = np.full((height, width), np.nan, dtype=np.float32)
        words, hover = ([[""] * width for _ in range(height)] for _ in range(2))
        hits = []
        for row, label in enumerate(self.shown[n]):
            for s, panel in self.rows[label]:
                tops = zip(one.top_ids[s, token], one.top_logprobs[s, token], strict=True)
                for j, (i, logprob) in enumerate(tops):
                    column, text = (
                        panel * (self.k + 1) + j,
                        one.text(i),
                    )  # one column is empty between panels
                    z[row, column], words[row][column] = math.exp(logprob), plotly_safe(text, 10)
                    said = f"{site_label(one.sites[s])}, top {j + 1}: {plotly_safe(text, 40)}  {probability(logprob)}"
                    hover[row][column] = said
                    if i == one.tokens.next_id[token]:
                        hits.append((self._column(panel, j), row, row))
        scale = METRICS["prob"]
        cells, black = with_contrast_text({
            "type": "heatmap", "x": self._edges(), "z": z, "text": words, "customdata": hover, "hoverongaps": False,
            "hovertemplate": "%{customdata}<extra></extra>", "colorscale": scale.colors, "zmin": 0, "zmax": 1,
            "xgap": 1, "ygap": 1, "colorbar": {"title": {"text": scale.title, "side": "right"}},
        })  # fmt: skip
        return [cells, *outline(hits, "the token that was written"), black]


# -- one written token -------------------------------------------------


def written_steps(result: LensArrays, prompt: int) -> tuple[LensArrays, list[Step]]:
    """One prompt of a result, and the tokens that the model wrote.

    Raises:
        ValueError: it wrote none.
    """
    expect(LensArrays, result)
    one = result[prompt]
    if not (found := steps(one)):
        raise ValueError(
            f"prompt {prompt} of this result has no generated token (recipe {one.provenance.get('recipe', '?')!r}): "
            "this needs what generate_lens() gives; heatmap() shows any result."
        )
    return one, found


def how_written(step: Step) -> list[str]:
    """How likely a written token was, and whether the model itself ranks it first."""
    numbers = {"model": step.logprob, "sampler": step.sampler_logprob}
    how = ", ".join(f"{who} {probability(p)}" for who, p in numbers.items() if not math.isnan(p))
    answer = f"{plotly_safe(step.answer, 20)} ({probability(step.answer_logprob)})"
    first = (
        "the model's first choice"
        if step.first_choice
        else f"not the model's first choice, {answer}"
    )
    return [f"p: {how}", first]
