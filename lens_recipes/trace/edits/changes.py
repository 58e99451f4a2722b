"""From what is at a site to what an edit puts there: set, copy, add a direction, swap.

Each is a named tuple of plain values with a method `apply`, and travels to a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.edits.directions import Directions
from lens_recipes.trace.kernels import sent
from lens_recipes.trace.pack import OWN_ERROR

SAME_DIRECTION = 1e-3  # of two vectors of the norm 1: more than rounding makes of one


class EditContext(NamedTuple):
    """What a change may look at.

    Attributes:
        directions: Turns a `TokenDirection` into a vector.
        units: The median norm of the site's vectors in each entry's prompt, `[entry]`.
        source: What was read of another run, `[entry, width]` or `[1, width]`; None for nothing.
        norms: How far the edits of earlier runs have moved their tokens, by site, `[entry]`.
    """

    directions: Directions
    units: Float[Tensor, " entry"]
    source: Tensor | None
    norms: Mapping[int, Tensor] = {}


class SetTo(NamedTuple):
    """A site is set to given vectors, `[entry, width]` or `[1, width]`."""

    values: Float[Tensor, "entry width"]

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        return sent(self.values, current.device).expand_as(current)


class CopySource(NamedTuple):
    """A site is set to what was there in another run, or to the mean of that."""

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        assert context.source is not None  # the plan reads it
        return context.source.to(current.device).expand_as(current)


class KeepAsIs(NamedTuple):
    """Nothing is changed: what is there is written back."""

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        return current


class AddDirection(NamedTuple):
    """A vector is added.

    Attributes:
        direction: `[width]`, or a token's.
        scale: How much of it.
        in_units: Whether the vector has the norm 1, and `scale` is in units of the median norm of
            the prompt's own vectors.
    """

    direction: Any
    scale: float
    in_units: bool

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        vector = sent(context.directions.vector(self.direction), current.device)
        amount = self.scale * torch.ones_like(current[:, :1])
        if self.in_units:
            vector = unit(vector)
            refuse_no_direction(vector)
            refuse_no_unit(context.units, self.scale)
            amount = amount * context.units.to(current.device)[:, None]
        return current + amount * vector


class AddVectors(NamedTuple):
    """Each token gets a vector of its own added, `[entry, width]`."""

    vectors: Float[Tensor, "entry width"]

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        return current + sent(self.vectors, current.device)


class SwapCoordinates(NamedTuple):
    """The coordinates in the plane of two directions are exchanged.

    Attributes:
        a, b: The directions, `[width]`, or a token's.
        is_clamped: Whether the coordinates are those of the clean run, `EditContext.source`.
    """

    a: Any
    b: Any
    is_clamped: bool

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        directions = [unit(context.directions.vector(each)) for each in (self.a, self.b)]
        refuse_no_plane(*directions)
        plane = torch.stack(directions).to(current.device, torch.float64)  # [2, width]
        to_coordinates = torch.linalg.pinv(plane)  # [width, 2]
        coordinates = current.double() @ to_coordinates
        wanted = coordinates
        if self.is_clamped:
            assert context.source is not None  # the plan reads it
            wanted = context.source.to(current.device).double() @ to_coordinates
        moved = (wanted.flip(-1) - coordinates) @ plane
        return current + moved.to(current.dtype)


class Partly(NamedTuple):
    """Another change, of which a share is made.

    Attributes:
        change: The whole of it.
        share: From 0, nothing, to 1, all.
    """

    change: Any
    share: float

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        return current + self.share * (self.change.apply(current, context) - current)


class AddRandom(NamedTuple):
    """A control: each token is moved as far as another edit has moved it, in a random direction.

    Attributes:
        of: The site of that edit, in a run before this one.
        seed: Of the direction, which is the same for all tokens.
    """

    of: int
    seed: int

    def apply(
        self, current: Float[Tensor, "entry width"], context: EditContext
    ) -> Float[Tensor, "entry width"]:
        """Return what is to be there."""
        generator = torch.Generator("cpu").manual_seed(self.seed)
        direction = torch.randn(current.shape[-1], generator=generator, device="cpu")
        norms = context.norms[self.of].to(current.device, current.dtype)
        return current + norms[:, None] * sent(unit(direction), current.device)


def refuse_no_direction(vector: Float[Tensor, " width"]) -> None:
    """Refuse a direction that points nowhere.

    Raises:
        ValueError: it has only zeros.
    """
    if not bool(vector.any()):
        raise ValueError(
            f"{OWN_ERROR}a token has no direction here, or none but that of the other token: the "
            "logit, or the difference of the two, is the same for every stream. Pass another token."
        )


def refuse_no_plane(a: Float[Tensor, " width"], b: Float[Tensor, " width"]) -> None:
    """Refuse two directions of which only rounding tells what a swap would do.

    Raises:
        ValueError: one points nowhere, or both point the same way.
    """
    refuse_no_direction(a)
    refuse_no_direction(b)
    if float((a - b.to(a.device)).norm()) < SAME_DIRECTION:
        raise ValueError(
            f"{OWN_ERROR}swap: the two tokens have the same direction here, so there is nothing to "
            "exchange. Pass other tokens."
        )


def refuse_lost(
    current: Float[Tensor, "entry width"],
    asked: Float[Tensor, "entry width"],
    there: Float[Tensor, "entry width"],
    dtype: torch.dtype,
) -> None:
    """Refuse to add something of which the model's dtype holds next to nothing.

    Args:
        current: What was there.
        asked: What is to be there.
        there: The same as the dtype holds it.
        dtype: The model's.

    Raises:
        ValueError: most numbers change by half or twice as much as was asked for, or worse.
    """
    change = (asked - current).abs()
    is_lost = (there - asked).abs() > change / 2
    n_changed = int((change > 0).sum())
    if 2 * int((is_lost & (change > 0)).sum()) <= n_changed:
        return
    name = str(dtype).removeprefix("torch.")
    raise ValueError(
        f"{OWN_ERROR}steer: so little is added that rounding in {name} "
        "leaves next to nothing of it. Take a larger scale, or load the model in float32."
    )


def refuse_no_unit(units: Float[Tensor, " entry"], scale: float) -> None:
    """Refuse to add something in units of nothing, which would add nothing.

    Raises:
        ValueError: most vectors of a prompt have no length.
    """
    if scale == 0 or bool((units != 0).all()):
        return
    raise ValueError(
        f"{OWN_ERROR}steer: most vectors of a prompt are zero at this place, so a scale in units "
        "of their median norm adds nothing. Pass a vector with normalize=False."
    )


def unit(vector: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    """Return a vector of the norm 1 in the same direction; nothing stays nothing.

    It is scaled twice: the squares of very large and of very small numbers are none of float32's.
    """
    largest = vector.abs().max()
    scaled = vector / torch.where(largest == 0, 1.0, largest)
    return scaled / scaled.norm().clamp(min=1e-30)
