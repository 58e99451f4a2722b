"""Which part of a result a table shows, in whatever format: prompts, token, sites, predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.batch.outcomes import is_batch
from lens_recipes.arrays.batch.parts import is_parts_batch
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.seen import check_same_tokens
from lens_recipes.arrays.sites import (
    Important,
    are_vectors,
    components,
    main_component,
    selected_sites,
    thinned_sites,
    token_index,
    whole_number,
)
from lens_recipes.caller import argument, say
from lens_recipes.views.groups import side_by_side
from lens_recipes.views.words import quantity

PROMPTS_SHOWN = 3  # layer by layer, unless the caller names them

BATCH_ROWS = 40  # of the one table of many prompts, unless the caller asks for more

PREDICTIONS_SHOWN = 5  # of each site, where the components do not stand side by side

PARTS_SHOWN = 10  # of each target of an attribution


@dataclass(frozen=True)
class Selection:
    """Which part of a result a table shows.

    Attributes:
        prompts: Numbers of the prompts.
        max_prompts: How many of them a text shows, the first ones.
        is_batch: Whether a text is one table with a row for each prompt, not layer by layer.
        position: Which of the tokens that were read of each prompt; −1 is the last.
        show_top: Predictions of each site; of an attribution, parts of each target.
        site_indices: Which sites have a row; empty for an attribution.
        site_count: How many sites there are without a stride.
        site_noun: What a note calls the sites: "layers" or "sites".
        beside: Results of the same tokens, read with other lenses, that stand beside this one.
    """

    prompts: list[int]
    position: int
    show_top: int
    max_prompts: int = PROMPTS_SHOWN
    is_batch: bool = False
    site_indices: list[int] = field(default_factory=list)
    site_count: int = 0
    site_noun: str = "sites"
    beside: tuple[LensArrays, ...] = ()

    @property
    def prompts_note(self) -> str:
        """Say how many prompts are left out; empty for none.

        Example: "… and 2 more prompts: prompt=3 is the next".
        """
        left_out = len(self.prompts) - self.max_prompts
        if left_out <= 0:
            return ""
        more = f"… and {quantity(left_out, 'more prompt')}"
        if not self.is_batch:
            return f"{more}: {next_prompts(self.prompts[self.max_prompts])}"
        return f"{more}: {all_prompts(len(self.prompts))}"

    @property
    def shown_prompts(self) -> list[int]:
        """Return the numbers of the prompts that a text shows."""
        return self.prompts[: self.max_prompts]

    @property
    def sites_note(self) -> str:
        """Say which sites a stride left out; empty for none.

        Example: "4 of 12 layers, counted from the last; stride=1 shows all".
        """
        if len(self.site_indices) == self.site_count:
            return ""
        shown = f"{len(self.site_indices)} of {self.site_count} {self.site_noun}"
        return f"{shown}, counted from the last; {argument('stride', 1)} shows all"


def select(
    result: LensArrays | AttributionArrays,
    prompt: int | Iterable[int] | None = None,
    position: int = -1,
    show_top: int | None = None,
    sites: Iterable[int | Important] | None = None,
    component: str | None = None,
    stride: int | None = None,
    max_prompts: int | None = None,
    beside: LensArrays | Iterable[LensArrays] | None = None,
) -> Selection:
    """Return what the arguments of `table` select of a result.

    Raises:
        ValueError: An argument is out of range, or does not go with this kind of result.
    """
    prompts = _select_prompts(len(result), prompt)
    if show_top is not None and show_top < 1:
        raise ValueError(f"{argument('show_top', show_top)} must be at least 1.")
    if max_prompts is not None and (whole_number(max_prompts) or 0) < 1:
        raise ValueError(
            f"{argument('max_prompts', max_prompts)} must be a whole number from 1, or None."
        )
    if isinstance(result, AttributionArrays):
        if beside is not None:
            raise ValueError("beside= is about lens results: an attribution stands alone.")
        _refuse_site_options({"sites": sites, "component": component, "stride": stride})
        has_means = len(result) > PROMPTS_SHOWN and is_parts_batch(result)
        as_batch = prompt is None and max_prompts is None and has_means
        shown = max_prompts or (PROMPTS_SHOWN if prompt is None else len(prompts))
        if as_batch:
            shown = len(prompts)
        show_top = show_top or PARTS_SHOWN
        return Selection(prompts, position, show_top, max_prompts=shown, is_batch=as_batch)
    others = results_beside(result, beside)
    layer_options = (show_top, sites, component, stride, beside)
    asks_for_layers = any(option is not None for option in layer_options)
    as_batch = prompt is None and not asks_for_layers and is_batch(result)
    if max_prompts is None:
        max_prompts = len(prompts)
        if prompt is None:
            max_prompts = BATCH_ROWS if as_batch else PROMPTS_SHOWN
    if others and component is None and sites is None:
        component = main_component(result.sites)  # lenses stand side by side, not components
    before_stride = selected_sites(result.sites, sites, component)
    after_stride = thinned_sites(
        result.sites, before_stride, stride, named=sites is not None, layers_only=True
    )
    shown_sites = [result.sites[index] for index in before_stride]
    if show_top is None:
        show_top = _default_predictions(shown_sites)
    return Selection(
        prompts,
        position,
        show_top=min(show_top, result.top_ids.shape[-1]),
        max_prompts=max_prompts,
        is_batch=as_batch,
        site_indices=after_stride,
        site_count=len(before_stride),
        site_noun="layers" if components(shown_sites) == ["resid_post"] else "sites",
        beside=others,
    )


def results_beside(
    result: LensArrays, beside: LensArrays | Iterable[LensArrays] | None
) -> tuple[LensArrays, ...]:
    """Return the results that stand beside another one.

    Raises:
        ValueError: one of them is no lens result, of other tokens or targets, or there are vectors.
    """
    if beside is None:
        return ()
    others: tuple[Any, ...] = (beside,)
    if isinstance(beside, Iterable) and not isinstance(beside, LensArrays):
        others = tuple(beside)
    for other in others:
        if not isinstance(other, LensArrays):
            raise ValueError(
                f"beside= takes lens results of the same prompts; received {type(other).__name__}."
            )
        if are_vectors(result.sites) or are_vectors(other.sites):
            raise ValueError("beside= is about layers, and vectors have none.")
        check_same_tokens(result, other)
        if result.target_ids.tolist() != other.target_ids.tolist():
            raise ValueError(
                "beside= takes results with the same targets: pass the same targets= to each."
            )
    return others


def next_prompts(number: int) -> str:
    """Return how to see the prompts that a table leaves out, from one on."""
    return say(
        python=f"prompt={number} is the next",
        shell=f"--json FILE keeps all, and lens-recipes show FILE --prompt {number} shows the next",
    )


def all_prompts(n_prompts: int) -> str:
    """Return how to see all rows of a table of prompts."""
    return say(
        python=f"max_prompts={n_prompts} shows all",
        shell=f"--json FILE keeps all, and lens-recipes show FILE --max-prompts {n_prompts} shows "
        "them",
    )


def selected_token(result: LensArrays | AttributionArrays, selection: Selection) -> int | None:
    """Return the index of the token of one prompt that the table is about.

    None stands for an attribution that read no token of this prompt.

    Raises:
        ValueError: `selection.position` is out of range.
    """
    if isinstance(result, AttributionArrays) and len(result.tokens) == 0:
        return None
    return token_index(len(result.tokens), selection.position, "position")


def _select_prompts(prompt_count: int, prompt: int | Iterable[int] | None) -> list[int]:
    """Return the numbers of the prompts: all of them, or those that are asked for."""
    prompts = list(range(prompt_count))
    if prompt is None:
        return prompts
    asked: list[Any] = [prompt]
    if isinstance(prompt, Iterable) and not isinstance(prompt, str):
        asked = list(prompt)
    if not asked:
        raise ValueError(f"prompt={prompt!r} names no prompt: pass a number, or several.")
    for number in asked:
        is_whole_number = isinstance(number, int | np.integer)
        if not is_whole_number or not -prompt_count <= number < prompt_count:
            raise ValueError(
                f"{argument('prompt', prompt)} is out of range: the result holds {prompt_count}, "
                "counted from 0."
            )
    return [prompts[number] for number in asked]


def _refuse_site_options(options: dict[str, Any]) -> None:
    """Raise a ValueError for options that select sites: an attribution has none."""
    unfit = []
    for option, value in options.items():
        if value is not None:
            unfit.append(argument(option, value))
    if unfit:
        raise ValueError(
            f"{', '.join(unfit)}: an attribution has parts, not sites; "
            f"{say(python='show_top=', shell='--show-top')} says how many."
        )


def _default_predictions(sites: list[Site]) -> int:
    """Return how many predictions of each site fit: one where several components share a line."""
    if len(side_by_side(sites)) > 1:
        return 1
    return PREDICTIONS_SHOWN
