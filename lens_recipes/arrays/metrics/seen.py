"""Which of two lenses sees a token earlier: tokens ranked by how many layers lie between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import layer_series, token_index
from lens_recipes.arrays.text import visible_token
from lens_recipes.terminal import show_lines

LETTERS = 20  # of a token in a sentence


class SeenAt(NamedTuple):
    """Where a lens first has a token among its most likely ones, of the layers that can be read.

    Attributes:
        layer: None for nowhere.
        is_dated: Whether it begins just there. Else the layer before cannot be read, and the lens
            may have had the token there.
    """

    layer: int | None = None
    is_dated: bool = True

    def __str__(self) -> str:
        if self.layer is None:
            return "never"
        return f"layer {self.layer}" if self.is_dated else f"layer {self.layer} or earlier"

    @property
    def short(self) -> str:
        """The number of the layer, "?" behind it where the layer before cannot be read."""
        if self.layer is None:
            return "never"
        return str(self.layer) if self.is_dated else f"{self.layer} ?"


class SeenEarlier(NamedTuple):
    """A token, and from where on each of two lenses has it among its most likely ones.

    Attributes:
        token_id: The token.
        text: Its text.
        role: "target", "final" (the model's own answer), "next" or "tracked".
        first, second: Where each lens first has it.
    """

    token_id: int
    text: str
    role: str
    first: SeenAt
    second: SeenAt

    @property
    def layers_earlier(self) -> int | None:
        """By how many layers the first lens has it earlier; negative where the second has.

        None where one of them never has it.
        """
        if self.first.layer is None or self.second.layer is None:
            return None
        return self.second.layer - self.first.layer

    def __str__(self) -> str:
        return f"{visible_token(self.text, LETTERS)}: {self.first} | {self.second}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the sentence in a notebook."""
        show_lines(printer, str(self))


def seen_earlier(
    first: LensArrays,
    second: LensArrays,
    *,
    top: int = 1,
    prompt: int = 0,
    position: int = -1,
    component: str | None = None,
) -> list[SeenEarlier]:
    """Return which of two lenses sees each token earlier, the largest distances first.

    A lens sees a token where it is among its `top` most likely ones at a layer that can be read
    (`result.readable`) and that both results have. The tokens are the targets, the model's answer,
    the prompt's next token and the tracked tokens of both. Those that only one lens sees come last,
    and those that none sees are left out.

    Args:
        first, second: Two results of the same prompts, read with two lenses.
        top: How many of the most likely tokens count: 1 for the top token.
        prompt: Which prompt.
        position: Which of its selected tokens; −1 is the last.
        component: Along which sites; None for "resid_post", or for the only one that was read.

    Raises:
        ValueError: results of different tokens or without a layer in common, or an argument that
            does not fit them.

    Example:
        >>> logit = logit_lens(model, "The capital of France is", targets=" Paris")
        >>> linear = logit_lens(model, "The capital of France is", targets=" Paris", lens=lens)
        >>> print(seen_earlier(linear, logit)[0])
    """
    rows = []
    for row in seen_by(
        [first, second], top=top, prompt=prompt, position=position, component=component
    ):
        rows.append(SeenEarlier(row.token_id, row.text, row.role, *row.places))
    return rows


class SeenBy(NamedTuple):
    """A token, and where each of several lenses first has it among its most likely ones."""

    token_id: int
    text: str
    role: str
    places: list[SeenAt]

    @property
    def distance(self) -> int | None:
        """How many layers lie between the lens that has it first and the one that has it last.

        None where one of them never has it.
        """
        layers = [place.layer for place in self.places if place.layer is not None]
        return max(layers) - min(layers) if len(layers) == len(self.places) else None


def seen_by(
    results: Sequence[LensArrays],
    *,
    top: int = 1,
    prompt: int = 0,
    position: int = -1,
    component: str | None = None,
) -> list[SeenBy]:
    """Return where each of several lenses first sees each token. See `seen_earlier`."""
    if isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1:
        raise ValueError(f"top={top!r} must be a whole number from 1.")
    for result in results:
        if not isinstance(result, LensArrays):
            raise TypeError(f"received {type(result).__name__}, expected LensResult.")
    singles = [result[prompt] for result in results]
    for single in singles[1:]:
        check_same_tokens(singles[0], single)
    token = token_index(len(singles[0].tokens), position, "position")
    series = _common_series(singles, component)
    rows = []
    for token_id, role in _candidates(singles, token).items():
        places = []
        for single, site_indices in zip(singles, series, strict=True):
            has_it = _is_among_top(single, token_id, token, top)
            if has_it is not None:
                places.append(_first_seen(single, site_indices, has_it, token))
        is_known = len(places) == len(singles)
        if is_known and any(place.layer is not None for place in places):
            rows.append(SeenBy(token_id, singles[0].text(token_id), role, places))
    return sorted(rows, key=_order)


def check_same_tokens(first: LensArrays, second: LensArrays) -> None:
    """Check that two results were read after the same tokens of a model.

    Raises:
        ValueError: they were not.
    """
    for name in ("architecture", "vocab_size"):
        ours, theirs = first.provenance.get(name), second.provenance.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"the two results are of different models ({name} {ours} and {theirs}), whose "
                "layers and tokens do not go together: read one model with both lenses."
            )
    same_positions = first.tokens.position.tolist() == second.tokens.position.tolist()
    if not same_positions or first.tokens.id.tolist() != second.tokens.id.tolist():
        raise ValueError(
            "the two results were read after different tokens: read the same prompts and positions "
            "with both lenses."
        )


def _common_series(singles: Sequence[LensArrays], component: str | None) -> list[list[int]]:
    """Return the sites that all results have, layer after layer, as indices into each.

    Raises:
        ValueError: there are none.
    """
    first = singles[0]
    common = []
    for index in layer_series(first.sites, component):
        if all(first.sites[index] in single.sites for single in singles):
            common.append(first.sites[index])
    if not common:
        raise ValueError("the results have no layer in common: read the same layers= of each.")
    return [[single.sites.index(site) for site in common] for single in singles]


def _candidates(singles: Sequence[LensArrays], token: int) -> dict[int, str]:
    """Return the tokens that results follow, each with the first of its roles."""
    candidates: dict[int, str] = {}

    def add(token_ids: list[int], role: str) -> None:
        """Add tokens that have no role yet."""
        for token_id in token_ids:
            if token_id >= 0:
                candidates.setdefault(token_id, role)

    for single in singles:
        add(single.target_ids[0].tolist(), "target")
    add([int(singles[0].final_ids[token])], "final")
    add([int(singles[0].tokens.next_id[token])], "next")
    for single in singles:
        add(single.tracked_ids[token].tolist(), "tracked")
    return candidates


def _is_among_top(
    single: LensArrays, token_id: int, token: int, top: int
) -> NDArray[np.bool_] | None:
    """Return at which sites a token is among the most likely ones, `[site]`; None if unknown."""
    if top <= single.top_ids.shape[-1]:
        return (single.top_ids[:, token, :top] == token_id).any(axis=-1)
    if token_id == single.final_ids[token]:
        return single.final_ranks[:, token] < top
    if token_id == single.tokens.next_id[token]:
        return single.next_ranks[:, token] < top
    columns = np.flatnonzero(single.target_ids[0] == token_id)
    if len(columns) == 0:
        return None
    return single.target_ranks[:, token, columns[0]] < top


def _first_seen(
    single: LensArrays, series: list[int], has_it: NDArray[np.bool_], token: int
) -> SeenAt:
    """Return the first of some sites that has a token and can be read."""
    readable = single.readable[series, token]
    seen = np.flatnonzero(has_it[series] & readable)
    if len(seen) == 0:
        return SeenAt()
    start = int(seen[0])
    is_dated = start == 0 or bool(readable[start - 1])
    return SeenAt(single.sites[series[start]].layer, is_dated)


ROLES = ("target", "final", "next", "tracked")


def _order(row: SeenBy) -> tuple[int, int, int]:
    """Return where a token stands: far apart before near, what all see before what some see."""
    role = ROLES.index(row.role)
    if row.distance is not None:
        return 0, -row.distance, role
    return 1, role, min(place.layer for place in row.places if place.layer is not None)
