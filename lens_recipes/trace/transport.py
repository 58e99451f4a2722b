"""Transports: maps from a site's vector to the stream before the final norm.

The identity makes a lens the logit lens. An affine map makes it a linear lens (Din et al. 2023,
"Jump to Conclusions"), a tuned lens (Belrose et al. 2023) or, without a bias, a Jacobian lens
(Gurnee et al. 2026, "Verbalizable Representations Form a Global Workspace").
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lens_recipes.trace.operations import without_autocast


class Transport(Protocol):
    """A map from a site's vector to the stream before the final norm.

    Any named tuple of plain values and tensors with this method is one; it travels to a server.
    """

    def transform_hidden(
        self, hidden: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]: ...


class Identity(NamedTuple):
    """The transport that leaves a vector as it is, which makes the lens a logit lens."""

    def transform_hidden(
        self, hidden: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]:
        """Map vectors of a site to the stream before the final norm."""
        return hidden


IDENTITY: Transport = Identity()


class Affine(NamedTuple):
    """The transport h ↦ W h + b, or h ↦ h + W h + b.

    Attributes:
        weight: W, `[d_out, d_in]`, in any floating dtype; the product is made in float32.
        bias: b, `[d_out]`, or None for none.
        is_residual: Whether the vector itself is added, as tuned lenses are written.
    """

    weight: Float[Tensor, "d_out d_in"]
    bias: Float[Tensor, " d_out"] | None = None
    is_residual: bool = False

    def transform_hidden(
        self, hidden: Float[Tensor, "*row d_model"]
    ) -> Float[Tensor, "*row d_model"]:
        """Map vectors of a site to the stream before the final norm, in their own dtype."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        rows = hidden.to(dtype)
        with without_autocast(hidden.device):
            moved = rows @ self.weight.to(hidden.device, dtype).T
        if self.is_residual:
            moved = moved + rows
        if self.bias is not None:
            moved = moved + self.bias.to(hidden.device, dtype)
        return moved.to(hidden.dtype)

    def to(self, device: torch.device) -> Affine:
        """Return this map with its numbers on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return Affine(self.weight.to(device), bias, self.is_residual)

    def without_bias(self) -> Affine:
        """Return the linear part: what the map does to a part of a vector."""
        return self._replace(bias=None)


class TransportCall(NamedTuple):
    """A transport as the first operation on the way from a site to the logits.

    The product is made in float64 where there is such: parts of a stream are to sum, and what a
    fitted map makes of them may cancel to a thousandth of their size.
    """

    transport: Transport

    def apply(self, model: Any, x: Tensor) -> Tensor:
        """Return what the transport makes of `x`; no module of the model takes part."""
        exact = x if x.device.type == "mps" else x.double()
        return self.transport.transform_hidden(exact).to(x.dtype)

    def __str__(self) -> str:
        """Return what it is."""
        return "transport"
