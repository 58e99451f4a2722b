"""`object_map()`: where in an image a token is, over all layers, and how confident the lens is."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.metrics.patches import (
    Confidence,
    TokenAtPatches,
    object_confidence,
    token_at_patches,
)
from lens_recipes.arrays.sites import layer_series, site_label
from lens_recipes.arrays.text import escape_plotly, plotly_safe
from lens_recipes.views.figures.base.cells import HOVER_LETTERS
from lens_recipes.views.figures.base.figure import Figure
from lens_recipes.views.figures.base.style import check_result_kind
from lens_recipes.views.figures.images.frame import Frame, image_title
from lens_recipes.views.figures.images.heatmap import SMALLEST_SCALE, place
from lens_recipes.views.figures.images.patches import Grid, patch_grid, picture_of
from lens_recipes.views.summaries.trust import cannot
from lens_recipes.views.words import probability, prompt_end

WHAT_IT_IS = (
    "the largest probability over patches and layers (Jiang et al. 2024), a score to compare words "
    "by:<br>no probability that the thing is in the image, nor where its edges are; in each patch "
    "the layer"
)


def object_map(
    result: LensArrays,
    token: str | int,
    *,
    prompt: int = 0,
    image: int = 0,
    title: str | None = None,
) -> go.Figure:
    """Draw for each patch of an image the largest probability of a token at any layer.

    The number in a patch is the layer at which it is largest. The title has the object's
    confidence: the largest over patches and layers (Jiang et al. 2024). It is no probability that
    the thing is in the image. Cells that cannot be read (`result.readable`) are left out, and
    patches where no layer can be read are grey.

    Args:
        result: Any lens result of a prompt with images; the token should be among its targets.
        token: As text or id. One that is no target is known only where it is among the top tokens
            of a patch, and its confidence is then a lower bound.
        prompt: Which prompt.
        image: Which of its images.
        title: Replaces the figure's own.

    Raises:
        ValueError: there is no such image, the token was not measured, or no patch was read.

    Example:
        >>> result = logit_lens(model, prompt, images="dog.png", targets=" dog")
        >>> object_map(result, " dog").show()
    """
    check_result_kind(LensArrays, result)
    single = result[prompt]
    picture = picture_of(single, image)
    grid = patch_grid(single, image, picture)
    sites = layer_series(single.sites)
    found = token_at_patches(single, token, sites, grid.tokens)
    readable = single.readable[np.ix_(np.array(sites), grid.tokens)]
    confidence = object_confidence(found, readable)
    name = plotly_safe(single.text(found.token_id), HOVER_LETTERS)
    text = f"Where {name} is read: confidence {_in_words(single, confidence, sites)}"
    has_none = ~readable.any(axis=0)
    warning = ""
    if has_none.any():
        patches = f"{int(has_none.sum())} of {len(grid.tokens)} patches"
        warning = f"grey: {patches} {cannot(single)} at any layer"
    notes = [WHAT_IT_IS]
    if confidence.unreadable > np.nan_to_num(confidence.value):
        notes.append(f"left out: {confidence.unreadable:.3f} at a cell that {cannot(single)}")
    frame = Frame(grid)
    title_texts = image_title(
        single,
        text if title is None else escape_plotly(title),
        grid=grid,
        picture=picture,
        image=image,
        prompt=prompt_end(single.prompts[0], 80),
        notes=notes,
        warning=warning,
    )
    traces = _traces(single, frame, grid, found, readable, sites, name)
    return Figure(traces, frame.layout(title_texts, picture, image))


def _in_words(single: LensArrays, confidence: Confidence, sites: list[int]) -> str:
    """Return the confidence, and at which layer it is."""
    if confidence.site < 0:
        return "not known: no cell where it was measured can be read"
    at_least = "" if confidence.is_exact else "at least "
    label = escape_plotly(site_label(single.sites[sites[confidence.site]]))
    return f"{at_least}{confidence.value:.3f} ({label})"


def _traces(
    single: LensArrays,
    frame: Frame,
    grid: Grid,
    found: TokenAtPatches,
    readable: Any,
    sites: list[int],
    name: str,
) -> list[dict[str, Any]]:
    """Return the patches in their colours, those that cannot be read, and the layers in them."""
    values = np.where(readable, found.values, -np.inf)
    values = np.where(np.isnan(values), -np.inf, values)
    at = values.argmax(axis=0)
    largest = values.max(axis=0)
    is_known = np.isfinite(largest)
    has_none = ~readable.any(axis=0)
    hover = np.full(len(grid.tokens), "", dtype=object)
    words = np.full(len(grid.tokens), "", dtype=object)
    for patch, token in enumerate(grid.tokens):
        lines = [place(single.tokens, int(token))]
        if is_known[patch]:
            site = single.sites[sites[at[patch]]]
            lines.append(f"{name}: {largest[patch]:.3f}, at {escape_plotly(site_label(site))}")
            words[patch] = str(site.layer) if frame.letters else ""
        elif has_none[patch]:
            lines.append(f"{cannot(single)} at any layer")
        else:
            bound = np.nanmax(np.where(readable[:, patch], found.below[:, patch], np.nan))
            lines.append(f"{name}: below {probability(np.log(bound))}, never among the top")
        hover[patch] = "<br>".join(lines)
    colored = frame.colored(
        np.where(is_known, largest, np.nan),
        zmin=0.0,
        zmax=max(float(largest.max()), SMALLEST_SCALE),
        colorscale=METRICS["prob"].colors,
        colorbar={
            "title": {"text": f"largest probability of {name}", "side": "right"},
            "thickness": 18,
        },
    )
    return [frame.grey(has_none), colored, *frame.words(words, colored), frame.hovers(hover)]
