"""`image_heatmap()`: what a lens says at each patch of an image, over the image."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS, fixed_range, metric_values, vocab_size
from lens_recipes.arrays.metrics.patches import token_at_patches
from lens_recipes.arrays.sites import layer_series, site_label, whole_number
from lens_recipes.arrays.text import counted, escape_plotly, plotly_safe
from lens_recipes.caller import argument, say
from lens_recipes.views.figures.base.cells import HOVER_LETTERS, CellText
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import check_result_kind
from lens_recipes.views.figures.images.frame import (
    BUTTONS_HEIGHT,
    CELLS,
    PICTURE,
    UNREADABLE,
    Frame,
    image_title,
)
from lens_recipes.views.figures.images.patches import Grid, patch_grid, picture_of
from lens_recipes.views.summaries.trust import cannot
from lens_recipes.views.words import lens_title, probability, prompt_end

MAX_CELLS = 20_000  # of all layers of a slider: beyond, every n-th layer is drawn
SLIDER_HEIGHT = 75  # pixels
SMALLEST_SCALE = 1e-6


def image_heatmap(
    result: LensArrays,
    of: Any = "top1",
    *,
    layer: int | None = None,
    prompt: int = 0,
    image: int = 0,
    title: str | None = None,
) -> go.Figure:
    """Draw an image with what the lens says at each of its patches, and a slider over the layers.

    Each patch has the colour of its value, through which the image is seen, and its top-1 token
    where that fits. What is said at a patch is what the model would say *next* if it stopped there.
    Grey patches cannot be read with this lens (`result.readable`). Of an image that is cut into
    tiles, the patches of the finest grid are drawn.

    Args:
        result: Any lens result of a prompt with images.
        of: "top1" for the probability of each patch's own top-1, "entropy" (nats) for that of the
            lens there, or a token, as text or id: its probability. A token must have been measured:
            a target, or among the top tokens of some patch. Where a patch does not have it, the
            patch has no colour, and its hover says what the probability is below.
        layer: Draw this one alone, negative from the last that was read; None for a slider, at the
            last layer. Of thousands of patches the slider has every n-th layer, and says so.
        prompt: Which prompt.
        image: Which of its images.
        title: Replaces the figure's own.

    Raises:
        ValueError: there is no such image, token or layer, or no patch of the image was read.

    Example:
        >>> result = logit_lens(model, "USER: <image> What is this?", images="dog.png")
        >>> image_heatmap(result).show()
        >>> image_heatmap(result, " dog", layer=20).show()
    """
    check_result_kind(LensArrays, result)
    single = result[prompt]
    picture = picture_of(single, image)
    grid = patch_grid(single, image, picture)
    sites = layer_series(single.sites)
    shown = _sites_of(single, sites, layer)
    stride = 1
    if layer is None:
        stride = max(1, math.ceil(len(shown) * len(grid.tokens) / MAX_CELLS))
        shown = shown[::-1][::stride][::-1]
    view = PatchView(single, grid, _measure(single, of, sites, grid), sites)
    text = f"{lens_title(single)} on an image: {view.values.label}"
    if title is not None:
        text = escape_plotly(title)
    titles = [
        image_title(
            single,
            text,
            grid=grid,
            picture=picture,
            image=image,
            prompt=prompt_end(single.prompts[0], 80),
            notes=[view.describe(site) + _stride_note(stride)],
            warning=view.warning(site),
        )
        for site in shown
    ]
    tallest = max(titles, key=lambda each: each["subtitle"]["text"].count("<br>"))
    has_slider = len(shown) > 1
    layout = view.frame.layout(
        tallest,
        picture,
        image,
        room_above=BUTTONS_HEIGHT if picture is not None else 0,
        room_below=SLIDER_HEIGHT if has_slider else 0,
    )
    start = len(shown) - 1
    layout["title"] = layout["title"] | {"subtitle": titles[start]["subtitle"]}
    if picture is not None:
        layout["updatemenus"] = [_switch()]
    figure = Figure(view.traces(shown[start]), layout)
    if has_slider:
        _add_slider(figure, view, shown, titles, start)
    return figure


def _stride_note(stride: int) -> str:
    """Return which layers the slider has, where these are not all."""
    if stride == 1:
        return ""
    return f"; of every {stride} layers one, counted from the last: layer= draws any"


def _sites_of(single: LensArrays, sites: list[int], layer: int | None) -> list[int]:
    """Return the sites that are drawn: all, or the one of a layer.

    Raises:
        ValueError: the layer was not read.
    """
    if layer is None:
        return sites
    layers = [single.sites[site].layer for site in sites]
    number = whole_number(layer)
    if number is not None and -len(sites) <= number < 0:
        return [sites[number]]
    if number is None or number not in layers:
        read = ", ".join(str(each) for each in layers[:40])
        raise ValueError(f"{argument('layer', layer)} was not read; those that were are {read}.")
    return [sites[layers.index(number)]]


class Values(NamedTuple):
    """The numbers that are coloured.

    Attributes:
        label: What they are called.
        metric: Of the table of metrics, for their scale and how they are written.
        numbers: `[site, patch]`; NaN where they were not measured.
        below: What a number that was not measured is below, `[site, patch]`; NaN for nothing.
        limits: Of the scale.
    """

    label: str
    metric: str
    numbers: NDArray[np.floating]
    below: NDArray[np.floating]
    limits: tuple[float, float]


def _measure(single: LensArrays, of: Any, sites: list[int], grid: Grid) -> Values:
    """Return the numbers that `of` names.

    Raises:
        ValueError: a token that was not measured.
    """
    cells = np.ix_(np.array(sites), grid.tokens)
    nothing = np.full((len(sites), len(grid.tokens)), np.nan)
    vocab = vocab_size(single)
    if of in ("top1", "entropy"):
        metric = "prob" if of == "top1" else "entropy"
        numbers, label = metric_values(single, metric)
        low, high = fixed_range(metric, vocab)
        return Values(escape_plotly(label), metric, numbers[cells], nothing, (low or 0, high or 1))
    try:
        found = token_at_patches(single, of, sites, grid.tokens)
    except ValueError as error:
        others = say(
            python='Without a token, of is "top1" or "entropy".',
            shell="Without a token, --metric is prob or entropy.",
        )
        raise ValueError(f"{error} {others}") from None
    name = plotly_safe(single.text(found.token_id), HOVER_LETTERS)
    is_readable = single.readable[cells]
    highest = float(np.nanmax(np.where(is_readable, found.values, np.nan), initial=SMALLEST_SCALE))
    return Values(f"probability of {name}", "prob", found.values, found.below, (0.0, highest))


class PatchView:
    """One image with the numbers of its patches, as the traces of each layer.

    Attributes:
        single: A result of one prompt.
        grid: The patches of the image.
        values: Their numbers.
        sites: Indices of the sites of the numbers.
        frame: Where they stand.
    """

    def __init__(self, single: LensArrays, grid: Grid, values: Values, sites: list[int]) -> None:
        self.single = single
        self.grid = grid
        self.values = values
        self.sites = sites
        self.frame = Frame(grid)
        self._text = CellText(single, values.metric, values.label, full=True)

    def traces(self, site: int) -> list[dict[str, Any]]:
        """Return the traces of one layer: grey cells, coloured cells, words, hovers."""
        readable = self.single.readable[site, self.grid.tokens]
        numbers = self.values.numbers[self.sites.index(site)]
        low, high = self.values.limits
        colored = self.frame.colored(
            np.where(readable, numbers, np.nan),
            zmin=low,
            zmax=high,
            colorscale=METRICS[self.values.metric].colors,
            colorbar={"title": {"text": self.values.label, "side": "right"}, "thickness": 18},
        )
        words = np.full(len(self.grid.tokens), "", dtype=object)
        if self.frame.letters:
            for patch, token in enumerate(self.grid.tokens):
                top = self.single.text(self.single.top_ids[site, token, 0])
                words[patch] = plotly_safe(top, self.frame.letters)
        both = self.frame.words(words, colored)
        return [self.frame.grey(~readable), colored, *both, self.frame.hovers(self._hover(site))]

    def _hover(self, site: int) -> NDArray:
        """Return what each patch says, `[patch]`."""
        tokens = self.single.tokens
        row = self.sites.index(site)
        label = escape_plotly(site_label(self.single.sites[site]))
        lines = np.full(len(self.grid.tokens), "", dtype=object)
        for patch, token in enumerate(self.grid.tokens):
            about = [f"<b>{label}</b>, {place(tokens, token)}"]
            value = float(self.values.numbers[row, patch])
            said = self._text.describe_site(site, int(token), value)
            bound = self.values.below[row, patch]
            if np.isnan(value) and np.isfinite(bound):
                said[0] = (
                    f"{self.values.label}: below {probability(np.log(bound))}, not among the top"
                )
            if not self.single.readable[site, token]:
                said.append(cannot(self.single))
            lines[patch] = "<br>".join([*about, *said])
        return lines

    def describe(self, site: int) -> str:
        """Return the line below the title that names the layer."""
        label = escape_plotly(site_label(self.single.sites[site]))
        missing = np.isnan(self.values.numbers[self.sites.index(site)])
        line = f"<b>{label}</b>"
        if self.frame.letters:
            line += ": in each patch its top token"
        if missing.any():
            n_missing = int(missing.sum())
            patches = counted(n_missing, "patch", "patches")
            line += f"; without colour: {patches}, where it is not among the top"
        return line

    def warning(self, site: int) -> str:
        """Return how many patches of a layer cannot be read; empty for none."""
        readable = self.single.readable[site, self.grid.tokens]
        if readable.all():
            return ""
        n_grey = int((~readable).sum())
        return f"grey: {n_grey} of {len(readable)} patches, which {cannot(self.single)}"


def place(tokens: Any, token: int) -> str:
    """Return where a patch is: its row, column, position, and its box in pixels."""
    left, top, right, bottom = (f"{edge:.0f}" for edge in tokens.box[token])
    tile = "" if tokens.tile[token] < 0 else f"tile {tokens.tile[token]}, "
    return (
        f"{tile}row {tokens.row[token]}, column {tokens.column[token]} "
        f"(position {tokens.position[token]})<br>x {left}–{right}, y {top}–{bottom} pixels"
    )


def _switch() -> dict[str, Any]:
    """Return the buttons that show patches over the image, the image alone, or patches alone."""
    buttons = []
    for label, grey, cells, has_words, picture in (
        ("patches over the image", UNREADABLE, CELLS, True, PICTURE),
        ("the image", 0, 0, False, 1),
        ("patches", 1, 1, True, 0),
    ):
        traces = {
            "opacity": [grey, cells, 1, 1, 1],
            "visible": [True, True, has_words, has_words, True],
        }
        change = {"images[0].opacity": picture}
        buttons.append({"label": label, "method": "update", "args": [traces, change]})
    return {
        "type": "buttons",
        "direction": "right",
        "showactive": True,
        "buttons": buttons,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 6},
        "font": {"size": 11},
    }


def _add_slider(
    figure: go.Figure,
    view: PatchView,
    shown: list[int],
    titles: list[dict[str, Any]],
    start: int,
) -> None:
    """Add a frame for each layer, and the slider that moves between them."""
    frames, marks = [], []
    for number, site in enumerate(shown):
        changes = []
        for trace in view.traces(site):
            names = ("type", "z", "text", "customdata")
            changes.append({name: trace[name] for name in names if name in trace})
        subtitle = titles[number]["subtitle"]
        frames.append(
            {
                "name": str(number),
                "data": changes,
                "traces": list(range(len(changes))),
                "layout": {"title": {"subtitle": subtitle}},
            }
        )
        at_once = {
            "mode": "immediate",
            "frame": {"duration": 0, "redraw": True},
            "transition": {"duration": 0},
        }
        label = escape_plotly(view.single.sites[site])
        marks.append({"method": "animate", "label": label, "args": [[str(number)], at_once]})
    figure.frames = frames
    figure.layout.sliders = [
        {
            "steps": marks,
            "active": start,
            "currentvalue": {"prefix": "layer ", "font": {"size": 12}},
            "pad": {"t": 20},
            "len": 1.0,
        }
    ]
