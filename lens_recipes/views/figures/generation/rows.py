"""The rows of `generation_steps`: which layers and heads are shown at each step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.generation import Step
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.metrics.tracks import DEFAULT_THRESHOLD, important
from lens_recipes.arrays.sites import UNORDERED, Important, components
from lens_recipes.views.groups import side_by_side, stream_of

WHICH = ("all", "important")


class ImportanceWords(NamedTuple):
    """How a figure says by what a site is important.

    Attributes:
        number_format: Of the number, as `str.format` takes it.
        sign: By which the number is multiplied: a drop of the KL is a negative change.
        axis_title: What the number is called.
        nothing: A sentence for steps without an important site; `{}` is the threshold.
    """

    number_format: str
    sign: int
    axis_title: str
    nothing: str

    def format_number(self, value: float) -> str:
        """Return the number that `result.important` gives for a site as text."""
        return self.number_format.format(self.sign * value).replace("-", "−")


IMPORTANCE_WORDS = {
    "prob": ImportanceWords(
        "{:.2f}", 1, "probability", "No layer gives a token a probability of {} here."
    ),
    "kl_drop": ImportanceWords(
        "{:+.2f}",
        -1,
        "KL change, nats",
        "No layer brings the KL to final down by {} nats here.",
    ),
    "target_jump": ImportanceWords(
        "{:+.2f}",
        1,
        "log-p change, nats",
        "No layer raises the log-probability by {} nats here.",
    ),
}


class RowSite(NamedTuple):
    """A site in a row: its index, and the number of the panel in which it stands."""

    site_index: int
    panel: int


class Row(NamedTuple):
    """A row at one step.

    Attributes:
        sites: The sites in it.
        label: What it is called at this step.
    """

    sites: list[RowSite]
    label: str


def check_which(which: str, metric: Any, threshold: Any) -> None:
    """Check which layers a caller wants.

    Raises:
        ValueError: an unknown choice, or a metric or threshold that goes with the other choice.
    """
    if which not in WHICH:
        raise ValueError(f"which={which!r} must be {' or '.join(map(repr, WHICH))}.")
    if which == "all" and (metric is not None or threshold is not None):
        raise ValueError(
            f'metric={metric!r}, threshold={threshold!r}: these are for which="important".'
        )


class StepRows(NamedTuple):
    """The rows of all steps.

    Attributes:
        panels: The components that stand side by side.
        by_step: For each step its rows, from the upper row down.
        axis_title: Says what the rows are, and by what they are important.
        nothing: A sentence for steps without rows; empty where all layers are shown.
    """

    panels: list[str]
    by_step: list[list[Row]]
    axis_title: str
    nothing: str

    @property
    def largest(self) -> int:
        """The number of rows of the step that has most."""
        return max(len(rows) for rows in self.by_step)


def choose_rows(
    single: LensArrays,
    steps: list[Step],
    which: str,
    metric: str | None,
    threshold: float | None,
    component: str | None,
) -> StepRows:
    """Return the rows of each step.

    Args:
        single: The result of one prompt.
        steps: The tokens that were written after it.
        which, metric, threshold, component: As for `generation_steps`.

    Raises:
        ValueError: a component, metric or threshold that does not fit the result.
    """
    panels = _choose_panels(single, component)
    sites_by_row = _assign_sites(single, panels, component)
    axis_title = "head" if panels == ["head_out"] else "layer"
    if which == "all":
        rows = [Row(sites, row_name) for row_name, sites in sites_by_row.items()]
        return StepRows(panels, [rows] * len(steps), axis_title, nothing="")
    if metric is None:
        metric = "prob" if panels[0] in UNORDERED else "kl_drop"
    by_step = []
    for step in steps:
        items = important(single, metric, threshold, position=step.token)
        by_step.append(_important_rows(sites_by_row, items, IMPORTANCE_WORDS[metric]))
    limit = DEFAULT_THRESHOLD[metric] if threshold is None else threshold
    words = IMPORTANCE_WORDS[metric]
    axis_title += f" ({words.axis_title})"
    return StepRows(panels, by_step, axis_title, words.nothing.format(f"{limit:g}"))


def _choose_panels(single: LensArrays, component: str | None) -> list[str]:
    """Return the components that stand side by side.

    Embedding and heads have rows of their own, and a panel only if they are named or alone.

    Raises:
        ValueError: a component that was not read.
    """
    available = components(single.sites)
    if component is not None:
        if component not in available:
            raise ValueError(
                f"component={component!r} was not read: this result has "
                f"{', '.join(map(repr, available))}."
            )
        return [component]
    return side_by_side(single.sites) or available[:1]


def _assign_sites(
    single: LensArrays, panels: list[str], component: str | None
) -> dict[str, list[RowSite]]:
    """Return the sites of each row, by the row's name, from the upper row down."""
    sites_by_row: dict[str, list[RowSite]] = {}
    for site_index, site in enumerate(single.sites):
        panel = _panel_of(site, panels)
        if panel in panels and component in (None, site.component):
            place = RowSite(site_index, panels.index(panel))
            sites_by_row.setdefault(_row_name(site), []).append(place)
    return dict(reversed(sites_by_row.items()))


def _panel_of(site: Site, panels: list[str]) -> str | None:
    """Return the panel in which a site stands; the embedding stands in that of the stream."""
    if site.component == "embed" and "embed" not in panels:
        return stream_of(panels)
    return site.component


def _row_name(site: Site) -> str:
    """Return the name of the row in which a site stands: its layer, or a row of its own."""
    if site.component in ("embed", "head_out"):
        return str(site)
    return str(site.layer)


def _important_rows(
    sites_by_row: dict[str, list[RowSite]], items: list[Important], words: ImportanceWords
) -> list[Row]:
    """Return the rows with an important site, labelled with the largest number that says so."""
    largest: dict[str, float] = {}
    for item in items:
        row_name = _row_name(item.where)
        largest[row_name] = max(item.value, largest.get(row_name, -math.inf))
    rows = []
    for row_name, sites in sites_by_row.items():
        if row_name in largest:
            number = words.format_number(largest[row_name])
            rows.append(Row(sites, f"{row_name}  ({number})"))
    return rows
