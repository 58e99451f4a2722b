"""Sites and parts in a file: each is one that a run can name, once, in the order of the model."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple, TypeVar

from lens_recipes.arrays.axes import Part, Site
from lens_recipes.arrays.sites import ORDER
from lens_recipes.models.components import NAMES, WRITES
from lens_recipes.views.files.schema.checks import MAX_LAYERS, Sizes, read_list

# Below these, far above what a model has. A map has a column for each head, up to the highest.
LIMITS = {"layer": MAX_LAYERS, "head": 10_000, "source": 2**31}

Row = TypeVar("Row", Site, Part)


class Place(NamedTuple):
    """Which of these numbers a row has."""

    layer: bool
    head: bool = False
    source: bool = False


AT_LAYER = [Place(layer=True)]
AT_HEAD = [Place(layer=True, head=True)]
AT_SOURCE = [Place(layer=True, head=True, source=True)]
NOWHERE = [Place(layer=False)]

# What is before the first layer counts as its, or as no layer's.
AT_EMBEDDING = [*AT_LAYER, *NOWHERE]

# The components of each axis, and where each of them can be.
SITES: dict[str, list[Place]] = {
    **dict.fromkeys(NAMES, AT_LAYER),
    "embed": AT_EMBEDDING,
    "head_out": AT_HEAD,
    "vector": NOWHERE,
}
PARTS: dict[str, list[Place]] = {
    **dict.fromkeys(("layer", "attn_bias", "edit", *WRITES), AT_LAYER),
    "embed": AT_EMBEDDING,
    "head_out": AT_HEAD + AT_SOURCE,
    "value_bias": AT_HEAD,
    "bias": NOWHERE,
}


def read_sites(stored: Any, sizes: Sizes) -> list[Site]:
    """Return the sites of a lens result."""
    sites = _read_rows(stored, sizes, Site, "site")
    _check_components(sites, SITES, "site")
    if sites != sorted(sites, key=_place_in_stream):
        raise ValueError("they do not come layer by layer, and in each in the order of the stream")
    if len(sites) > 1 and "vector" in [site.component for site in sites]:
        raise ValueError("vectors have one site, and it stands alone")
    return sites


def _place_in_stream(site: Site) -> tuple[int, int, int]:
    """Return where a site comes in a run."""
    return site.layer or 0, ORDER.index(site.component), site.head or 0


def read_parts(stored: Any, sizes: Sizes) -> list[Part]:
    """Return the parts of an attribution."""
    parts = _read_rows(stored, sizes, Part, "part")
    _check_components(parts, PARTS, "part")
    return parts


def _read_rows(stored: Any, sizes: Sizes, row_class: type[Row], axis: str) -> list[Row]:
    """Return the rows of an axis, each with fields of the right types and in their range.

    There may be a million parts, so all rows are looked at together, field by field.
    """
    entries = read_list(stored, sizes)
    if not entries:
        raise ValueError(f"there are none, expected is at least one {axis}")
    n_fields = len(row_class._fields)
    if set(map(type, entries)) != {list} or set(map(len, entries)) != {n_fields}:
        wrong_entry = next(entry for entry in entries if not _has_length(entry, n_fields))
        raise ValueError(
            f"{wrong_entry!r:.80} is no {axis}, expected are {list(row_class._fields)}"
        )
    rows = list(map(row_class._make, entries))
    for name, column in zip(row_class._fields, zip(*entries, strict=True), strict=True):
        if _can_hold(name, column):
            continue
        wrong = next(row for row in rows if not _can_hold(name, [getattr(row, name)]))
        raise ValueError(f"{list(wrong)!r:.80} is no {axis}: its {name} is not what is expected")
    if len(set(rows)) < len(rows):
        raise ValueError(f"there is a {axis} twice")
    return rows


def _has_length(entry: Any, length: int) -> bool:
    """Tell whether an entry is a list of a length."""
    return isinstance(entry, list) and len(entry) == length


def _can_hold(name: str, column: Sequence[Any]) -> bool:
    """Tell whether a field of rows can have all of some values."""
    types = set(map(type, column))
    if name == "component":
        return types == {str}
    if not types <= {int, NoneType}:
        return False
    numbers = set(column) - {None}
    return not numbers or (min(numbers) >= 0 and max(numbers) < LIMITS[name])


def _check_components(
    rows: list[Site] | list[Part], known: dict[str, list[Place]], axis: str
) -> None:
    """Raise a ValueError if a component is unknown, or at a place where it cannot be."""
    examples = {}
    for row in rows:
        examples[row.component, row.layer is None, row.head is None, row[-1] is None] = row
    for row in examples.values():
        if row.component not in known:
            raise ValueError(
                f"{list(row)!r:.80} is no {axis}: its component is none of {', '.join(known)}"
            )
        source_number = row.source if isinstance(row, Part) else None
        place = Place(row.layer is not None, row.head is not None, source_number is not None)
        if place not in known[row.component]:
            raise ValueError(
                f"{list(row)!r:.80} is no {axis}: {row.component} is not at such a place"
            )
