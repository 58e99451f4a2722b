"""A site as one number, which travels among the arrays of a run."""

from __future__ import annotations

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.edit import EDITABLE

HEADS = 4096  # more than any layer has; float32 holds the numbers of a thousand layers
NO_SITE = -1.0


def site_code(site: Site) -> float:
    """Return the number of a site that can be edited."""
    assert site.layer is not None  # an edit is in a layer
    head = 0 if site.head is None else site.head + 1
    return float((site.layer * len(EDITABLE) + EDITABLE.index(site.component)) * HEADS + head)


def site_of_code(code: float) -> Site | None:
    """Return the site that a number stands for; None where it stands for none."""
    if not code >= 0:
        return None
    rest, head = divmod(int(code), HEADS)
    layer, component = divmod(rest, len(EDITABLE))
    return Site(layer, EDITABLE[component], head - 1 if head else None)
