"""The lenses of a report: one result for each, of the same tokens and sites, and their notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from lens_recipes.arrays.lens import AXES, LensArrays
from lens_recipes.views.pages.html import page_text
from lens_recipes.views.summaries.transfer import lens_line
from lens_recipes.views.summaries.trust import UNFITTED_MARK, unfitted_sentence, unreadable_sentence
from lens_recipes.views.tables.selection import results_beside
from lens_recipes.views.words import edited


class LensNote(NamedTuple):
    """What the page says of a lens, each safe as HTML, and empty where there is nothing to say.

    Attributes:
        edited: What was done to the model while it ran.
        trust: What cannot be read.
        unfitted: Where it was never fitted.
        meaning: How far it was measured to transfer.
    """

    edited: Markup

    trust: Markup
    unfitted: Markup
    meaning: Markup

    @property
    def n_bytes(self) -> int:
        """How many bytes it takes on the page, at most."""
        return sum(len(text.encode()) for text in self) + 400


def lenses_on_page(
    result: LensArrays, beside: LensArrays | Iterable[LensArrays] | None
) -> list[LensArrays]:
    """Return a result for each lens of a page, all of them with the sites that all have.

    Raises:
        ValueError: something else than lens results, of other tokens or targets, vectors beside
            others, or no site in common.
    """
    others = results_beside(result, beside)
    if not others:
        return [result]
    common = list(result.sites)
    for other in others:
        common = [site for site in common if site in other.sites]
    if not common:
        raise ValueError(
            "there is no layer that all results have: read the same layers= with each lens."
        )
    shown = []
    for each in (result, *others):
        site_indices = [each.sites.index(site) for site in common]
        shown.append(at_sites(each, site_indices))
    return shown


def at_sites(result: LensArrays, site_indices: list[int]) -> LensArrays:
    """Return a result with some of its sites."""
    if site_indices == list(range(len(result.sites))):
        return result
    arrays = {}
    for array_name, axes in AXES.items():
        if "site" in axes:
            axis = axes.index("site")
            arrays[array_name] = getattr(result, array_name).take(site_indices, axis)
    sites = [result.sites[index] for index in site_indices]
    return dataclasses.replace(result, sites=sites, **arrays)


def lens_notes(results: Sequence[LensArrays], tokens: list[int]) -> list[LensNote]:
    """Return what the page says of each lens.

    Args:
        results: One for each lens.
        tokens: Indices of the tokens on the page.
    """
    notes = []
    for result in results:
        trust = unreadable_sentence(result, tokens)
        unfitted = unfitted_sentence(result, tokens)
        meaning = lens_line(result)
        notes.append(
            LensNote(
                _safe(edited(result)),
                _safe(trust),
                _safe(f"{UNFITTED_MARK} {unfitted}" if unfitted else ""),
                _safe(meaning),
            )
        )
    return notes


def _safe(text: str) -> Markup:
    """Return a text as HTML; an empty one stays empty."""
    return page_text(text) if text else Markup("")
