"""Lenses made up for tests: a random map for each stream but the last."""

from __future__ import annotations

import torch

import lens_recipes as lr
from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.lenses.lens import Lens
from lens_recipes.trace.transport import Affine

# How each kind of lens maps: whether there is a bias, and whether the vector itself is added.
FORMS = {
    "linear": {"bias": True},
    "tuned": {"bias": True, "is_residual": True},
    "jacobian": {"bias": False},
    "r": {"bias": False},
}


def random_lens(model, *, kind="linear", bias=True, is_residual=False, seed=0, layers=None) -> Lens:
    """A lens with a random map for each stream but the last."""
    parts = lr.anatomy(model)
    random = torch.Generator().manual_seed(seed)
    width = parts.d_model
    streams = [EMBEDDING, *parts.layers[:-1]] if layers is None else layers
    transports = {}
    for layer in streams:
        weight = torch.randn(width, width, generator=random) / width**0.5
        offset = torch.randn(width, generator=random) if bias else None
        transports[layer] = Affine(weight, offset, is_residual)
    return Lens(kind, transports)


def lens_of_kind(model, kind: str, seed: int = 0) -> Lens:
    """A random lens that maps as those of a kind do."""
    return random_lens(model, kind=kind, seed=seed, **FORMS[kind])
