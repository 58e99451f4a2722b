"""What tells one survey from another, so that a folder goes on with its own alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.lenses.digests import tokenizer_digest
from lens_recipes.models.handle import on_meta, running_dtype
from lens_recipes.models.weights.offload import numbers_of
from lens_recipes.models.weights.origin import model_name, model_revision

N_NUMBERS = 64  # of each parameter that are looked at, evenly spaced

# What a quantised weight raises that does not give its numbers.
UNREADABLE = (RuntimeError, NotImplementedError, TypeError)

ABOUT_MODEL = ("model", "revision", "dtype", "weights", "tokenizer", "lens", "edits")


def identity_of(model: Envoy, lens: Any, edits: list[Any], asked: Mapping[str, Any]) -> dict:
    """Return all that the numbers of a survey rest on, but for its items.

    Args:
        model: What `load()` returns.
        lens: As `resolve_lens` returns it.
        edits: As `resolve_edits` returns them.
        asked: The other arguments, as JSON can hold them.
    """
    return {
        "model": model_name(model),
        "revision": model_revision(model),
        "dtype": str(running_dtype(model)).removeprefix("torch."),
        "weights": weights_digest(model),
        "tokenizer": tokenizer_digest(model),
        "lens": None if lens is None else lens.digest,
        "edits": [edit.to_json() for edit in edits],
        **asked,
    }


def weights_digest(model: Envoy) -> str | None:
    """Return what tells the weights of a model from those of another, adapted or trained on.

    It is a digest of names, shapes and some numbers of all parameters. None where they are not
    here.
    """
    if on_meta(model):
        return None
    hashed = hashlib.sha256()
    for name, parameter in numbers_of(model._module):
        hashed.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        if parameter.is_meta or not parameter.numel():
            continue
        try:
            hashed.update(some_numbers(parameter))
        except UNREADABLE:
            continue
    return hashed.hexdigest()[:16]


def some_numbers(parameter: torch.Tensor) -> bytes:
    """Return some numbers of a parameter, evenly spaced."""
    flat = parameter.detach().reshape(-1)
    last = len(flat) - 1
    places = torch.linspace(0, last, min(N_NUMBERS, len(flat)), dtype=torch.float64).long()
    return flat[places.to(flat.device)].to("cpu", torch.float64).numpy().tobytes()
