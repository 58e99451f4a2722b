"""Controls of edits: the same run with something in their place that should do nothing.

Steering and swapping are moves of the stream: their control moves it as far in a random direction.
What sets a site (an ablation, a patch) is done to a random site of the same kind instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Patch, Steering, Swap
from lens_recipes.errors import LensError
from lens_recipes.models.images.added import layers_with_additions
from lens_recipes.models.structure.parts import Anatomy, Block
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_edits

DEFAULT_CONTROLS = 5
SEED = 20  # of the sites and the directions that are drawn
TRIES = 20  # to draw sites that no control has yet
NAMED = 3  # sites in the name of a control

FindBlocks = Callable[[], list[Block]]


@dataclass(frozen=True, eq=False, kw_only=True)
class RandomMove(Steering):
    """A control of an edit that moves the stream.

    Attributes:
        of: The number of the planned edit whose tokens it moves as far.
        seed: Of the direction.
    """

    of: int = 0
    seed: int = 0


class Control(NamedTuple):
    """One control of all edits of a run.

    Attributes:
        name: What stands in their place: "L5H3", "a random direction (2)".
        planned: The edits that it makes.
    """

    name: str
    planned: list[PlannedEdit]


class Controls(NamedTuple):
    """The controls of a run.

    Attributes:
        drawn: They.
        n_sites: From how many sites random ones were drawn; None where none were.
        missing: Why there are none, in words; empty where there are.
    """

    drawn: list[Control]
    n_sites: int | None
    missing: str


def resolve_controls(controls: Any, edits: list[Edit]) -> int:
    """Return how many controls a run has.

    Args:
        controls: None for `DEFAULT_CONTROLS` where an edit does more than to patch; else a number.
        edits: Of the run.

    Raises:
        ValueError: no whole number from 0, or a number without edits.
    """
    if controls is None:
        does_more = any(not isinstance(edit, Patch) for edit in edits)
        return DEFAULT_CONTROLS if does_more else 0
    if type(controls) is not int or controls < 0:
        raise ValueError(
            f"controls={controls!r} must be a whole number from 0, or None for "
            f"{DEFAULT_CONTROLS} (0 where edits only patch)."
        )
    if controls > 0 and not edits:
        raise ValueError(f"controls={controls!r} needs edits=: there is nothing to control.")
    return controls


def controls_of(
    request: Any, edits: list[Edit], planned: list[PlannedEdit], controls: Any
) -> Controls | None:
    """Return the controls of a request's edits; None where there are to be none.

    Raises:
        ValueError: as `resolve_controls`.
    """
    n_controls = resolve_controls(controls, edits)
    if n_controls == 0:
        return None
    return draw_controls(
        edits,
        planned,
        n_controls,
        request.blocks,
        request.anatomy,
        first=len(planned),
        never=sites_with_additions(request),
    )


def sites_with_additions(request: Any) -> list[Site]:
    """Return the streams to which a model with images adds something after they were set."""
    if not any(request.image_digests):
        return []
    return [Site(layer, "resid_post") for layer in layers_with_additions(request.model)]


def controls_provenance(controls: Controls | None) -> dict[str, Any]:
    """Return what a result's provenance says of its controls; nothing where there are none."""
    if controls is None:
        return {}
    names = [control.name for control in controls.drawn]
    about = {"names": names, "sites": controls.n_sites, "missing": controls.missing}
    return {"controls": about}


def draw_controls(
    edits: list[Edit],
    planned: list[PlannedEdit],
    n_controls: int,
    find_blocks: FindBlocks,
    anatomy: Anatomy,
    first: int,
    never: list[Site] | None = None,
) -> Controls:
    """Return controls, each with something in place of all edits.

    Args:
        edits: Of the run.
        planned: The same, at each of their sites.
        n_controls: How many.
        find_blocks, anatomy: As for `plan_edits`.
        first: The number of the first planned edit of the controls.
        never: Sites that are no control, beside those of the edits.
    """
    edited = {item.site for item in planned} | set(never or [])
    pools: dict[int, list[Site]] = {}
    for number, edit in enumerate(edits):
        if not isinstance(edit, Steering | Swap):
            own = [item for item in planned if item.edit is edit]
            pools[number] = other_sites(edit, own, edited, find_blocks, anatomy)
            if len(pools[number]) < len(own):
                return Controls([], len(pools[number]), too_few(edit, own, pools[number]))
    generator = random.Random(SEED)
    drawn: list[Control] = []
    known: set[frozenset[Site]] = set()
    for number in range(n_controls):
        sites = draw_sites(edits, planned, pools, known, generator)
        if sites is None:
            break
        replacements, names = [], []
        for index, edit in enumerate(edits):
            own = [item for item in planned if item.edit is edit]
            if index in pools:
                replacements.append(at_sites(edit, sites[index]))
                names.append(in_words(sites[index]))
            else:
                replacements += random_moves(edit, own, number, index)
                names.append(f"a random direction ({number})")
        control = plan_edits(replacements, find_blocks, anatomy, first)
        first += len(control)
        drawn.append(Control(" and ".join(dict.fromkeys(names)), control))
    n_sites = min(map(len, pools.values())) if pools else None
    return Controls(drawn, n_sites, "")


def draw_sites(
    edits: list[Edit],
    planned: list[PlannedEdit],
    pools: dict[int, list[Site]],
    known: set[frozenset[Site]],
    generator: random.Random,
) -> dict[int, list[Site]] | None:
    """Return random sites for each edit that sets some; None where all were drawn before.

    What was drawn is added to `known`.
    """
    if not pools:
        return {}
    for _ in range(TRIES):
        taken: dict[int, list[Site]] = {}
        for index, pool in pools.items():
            n_sites = sum(item.edit is edits[index] for item in planned)
            used = {site for sites in taken.values() for site in sites}
            left = [site for site in pool if site not in used]
            if len(left) < n_sites:
                return None
            taken[index] = sorted(generator.sample(left, n_sites), key=place_of)
        drawn = frozenset(site for sites in taken.values() for site in sites)
        if drawn not in known:
            known.add(drawn)
            return taken
    return None


def place_of(site: Site) -> tuple[int, int]:
    """Return where a site of one kind comes in the model."""
    return site.layer or 0, site.head or 0


def other_sites(
    edit: Edit,
    own: list[PlannedEdit],
    edited: set[Site],
    find_blocks: FindBlocks,
    anatomy: Anatomy,
) -> list[Site]:
    """Return the sites of the same kind and width that no edit of the run names."""
    if edit.component == "embed":
        return []
    widths = {len(item.columns or ()) for item in own}
    sites = []
    for layer in anatomy.layers:
        try:
            there = plan_edits([replace(edit, layer=layer, head=None)], find_blocks, anatomy)
        except (ValueError, LensError):  # a layer without such a site
            continue
        for item in there:
            if item.site not in edited and len(item.columns or ()) in widths:
                sites.append(item.site)
    return sites


def at_sites(edit: Edit, sites: list[Site]) -> Edit:
    """Return the same edit at other sites of its kind."""
    if edit.component == "head_out":
        # By their layers: those without heads that can be told apart have no part in it.
        layers = sorted({site.layer for site in sites if site.layer is not None})
        return replace(edit, layer=layers, head=[(site.layer, site.head) for site in sites])
    return replace(edit, layer=[site.layer for site in sites], head=None)


def random_moves(edit: Edit, own: list[PlannedEdit], number: int, index: int) -> list[Edit]:
    """Return what moves each site of an edit as far as that, all in one random direction."""
    moves: list[Edit] = []
    for item in own:
        layer = None if edit.component == "embed" else item.site.layer
        moves.append(
            RandomMove(
                layer=layer,
                component=edit.component,
                positions=edit.positions,
                when=edit.when,
                of=item.number,
                seed=SEED + 1000 * number + index,
            )
        )
    return moves


def in_words(sites: list[Site]) -> str:
    """Return sites as the name of a control: "L5H3", "7.attn_out", "4, 9, 12 and 3 more"."""
    names = []
    for site in sites[:NAMED]:
        is_head = site.component == "head_out"
        names.append(f"L{site.layer}H{site.head}" if is_head else site_name(site))
    words = ", ".join(names)
    left_out = len(sites) - NAMED
    return f"{words} and {left_out} more" if left_out > 0 else words


def site_name(site: Site) -> str:
    """Return the name of a site; also of the stream after a layer: "12.resid_post"."""
    return f"{site.layer}.{site.component}"


def too_few(edit: Edit, own: list[PlannedEdit], pool: list[Site]) -> str:
    """Return why no random sites can be drawn."""
    kind = {"head_out": "heads", "embed": "embeddings"}.get(edit.component, edit.component)
    if not pool:
        return f"no control: there are no other {kind} to do the same to"
    return f"no control: {len(own)} {kind} were edited, and only {len(pool)} others are left"
