"""A result as a table: `table()` and `render()`, one door for lens results and attributions, in every format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import (
    Important,
    components,
    selected_sites,
    thinned_sites,
    token_index,
)
from lens_recipes.views.words import side_by_side

FORMATS = ("text", "markdown", "tsv")

PROMPTS_SHOWN = 3  # unless one is asked for


class Selection(NamedTuple):
    """What a table shows: which prompts, after which of the tokens read, how many predictions or parts, which sites.

    `named` is how many sites there are without a stride, `sites` what they are called in words.
    """

    prompts: list[int]
    position: int
    show_top: int
    rows: list[int]
    named: int
    sites: str

    @property
    def more(self) -> str:
        """What is to be said of the prompts that are left out; empty for none."""
        left = len(self.prompts) - PROMPTS_SHOWN
        return (
            f"… and {left} more prompt{'' if left == 1 else 's'}: prompt={PROMPTS_SHOWN} is the next"
            * (left > 0)
        )

    @property
    def thinned(self) -> str:
        """The same of the sites."""
        if len(self.rows) == self.named:
            return ""
        return f"{len(self.rows)} of {self.named} {self.sites}, counted from the last; stride=1 shows all"


def select(
    result: LensArrays | AttributionArrays,
    prompt: int | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
) -> Selection:
    prompts = list(range(len(result)))
    if prompt is not None:
        if not isinstance(prompt, int | np.integer) or not -len(result) <= prompt < len(result):
            raise ValueError(
                f"prompt={prompt!r} is out of range: the result holds {len(result)}, counted from 0."
            )
        prompts = [prompts[prompt]]
    if show_top is not None and show_top < 1:
        raise ValueError(f"show_top={show_top} must be at least 1.")
    if isinstance(result, AttributionArrays):
        options = {"sites": sites, "component": component, "stride": stride}
        if unfit := [f"{name}={value!r}" for name, value in options.items() if value is not None]:
            raise ValueError(
                f"{', '.join(unfit)}: an attribution has parts, not sites; show_top= says how many."
            )
        return Selection(prompts, position, show_top or 10, [], 0, "")
    named = selected_sites(result.sites, sites, component)
    rows = thinned_sites(result.sites, named, stride, named=sites is not None, layers_only=True)
    there = [result.sites[s] for s in named]
    top = min(show_top or (1 if len(side_by_side(there)) > 1 else 5), result.top_ids.shape[-1])
    return Selection(
        prompts,
        position,
        top,
        rows,
        len(named),
        "layers" if components(there) == ["resid_post"] else "sites",
    )


# -- what every format says --------------------------------------------


def selected_token(one: LensArrays | AttributionArrays, shown: Selection) -> int | None:
    """The token of one prompt that the table is about, an index; None where an attribution read none of it."""
    if isinstance(one, AttributionArrays) and not len(one.tokens):
        return None
    return token_index(len(one.tokens), shown.position, "position")
