"""A recipe in three steps: arguments become batches, a block reads each where the model is, numbers become a result.

The middle step is the same here, in nnsight's simulation of a server, and on one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from tqdm import tqdm

from lens_recipes.models.structure.anatomy import Anatomy
from lens_recipes.run.provenance import to_json
from lens_recipes.run.schema import Schema

R = TypeVar("R")

Arrays = dict[str, np.ndarray]


@dataclass
class RecipeRun(Generic[R]):
    """A recipe that has read its arguments and is ready to run.

    Attributes:
        model: What it runs on.
        recipe: Its public name.
        remote: False, "local", or a server's address (True for the one that nnsight knows).
        anatomy: Where it keeps what.
        block: (model, shared, batch) ─► tensors by name. It opens the trace, and travels to a server: it names only
            torch, nnsight and functions of this package that do the same.
        shared: What is the same for all batches, in plain values and tensors.
        batches: What is not.
        schemas: What the block gives for each batch.
        finish: From the arrays of all batches to the result. It may empty them.
        arguments: By which the same run can be prepared again elsewhere, as JSON can hold them.
        local: Further arguments of the block that do not travel.
        here: What runs all batches in this process, if it is not `in_turn`.
    """

    model: Envoy
    recipe: str
    remote: bool | str
    anatomy: Anatomy
    block: Callable[[Any, dict[str, Any], dict[str, Any]], dict[str, torch.Tensor]]
    shared: dict[str, Any]
    batches: list[dict[str, Any]]
    schemas: list[Schema]
    finish: Callable[[list[Arrays]], R]
    arguments: dict[str, Any]
    local: dict[str, Any] = field(default_factory=dict)
    here: Callable[[], list[Arrays]] | None = None

    @functools.cached_property
    def marks(self) -> list[str]:
        """What tells the result of each batch from any other of the same shape: it travels there and back."""
        asked = {
            key: to_json(value)
            for key, value in self.arguments.items()
            if key not in ("prompts", "vectors")
        }
        run = json.dumps(
            [getattr(self.model, "repo_id", None), self.recipe, asked], default=str, sort_keys=True
        )
        return [
            _digest([run, {k: v for k, v in batch.items() if k not in _PLANS}])
            for batch in self.batches
        ]


_PLANS = ("plan", "groups")  # of a batch, which follow from the arguments


def _digest(value: Any) -> str:
    plainly = json.dumps(
        value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v), sort_keys=True
    )
    return hashlib.sha256(plainly.encode()).hexdigest()[:16]


def run_locally(run: RecipeRun[Any]) -> list[Arrays]:
    """All batches in this process."""
    found = []
    for batch in tqdm(
        run.batches, run.recipe, unit="batch", delay=2, leave=False, disable=len(run.batches) < 2
    ):
        numbers = run.block(run.model, run.shared, batch, **run.local)
        found.append({name: value.numpy() for name, value in numbers.items()})
    return found
