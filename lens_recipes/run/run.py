"""`RecipeRun`: a recipe in three steps.

A request becomes batches; a traced function reads each where the model is; arrays become a result.
The middle step is the same here, in nnsight's simulation of a server, and on one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.run.progress import progress, tokens_of
from lens_recipes.run.provenance import provenance, to_json
from lens_recipes.run.request.request import Request
from lens_recipes.run.schema import Schema

R = TypeVar("R")
Arrays = dict[str, np.ndarray]
NOT_IN_IDENTITY = ("prompts", "vectors")  # each batch holds its own


class PulledBack(NamedTuple):
    """How far gradients are pulled back, in a run that takes some.

    Attributes:
        tokens: Through how many tokens, each counted anew for each dimension that is pulled back.
        pairs: How many pairs of tokens attention compares there, counted likewise.
        n_blocks: Through how many blocks.
        passes: In how many batches of dimensions, each of which goes through all weights.
    """

    tokens: int
    pairs: int
    n_blocks: int
    passes: int


@dataclass
class RecipeRun(Generic[R]):
    """A recipe that has read its arguments and is ready to run.

    Attributes:
        request: What was asked for, checked.
        traced: (model, plan, batch) ─► tensors by name. It opens the trace, and travels to a
            server: it names only torch, nnsight and functions of `trace/`, which do the same.
        plan: What is the same for all batches, in plain values and tensors. It knows a batch's size
            and identity.
        batches: What differs from batch to batch, such as a `LensBatch` each.
        schemas: What the traced function gives for each batch.
        finish: From this run and the arrays of all batches to the result. It may empty the arrays.
        arguments: By which the same run can be prepared again elsewhere, as JSON can hold them. A
            recipe gives those that it has understood otherwise than they were written; `@recipe`
            adds the others.
        about: What else a result's provenance says.
        local: Further arguments of the traced function that do not travel.
        context: Entered around all batches that run in this process.
        run_here: What runs all batches in this process, if it is not `run_locally`.
        recipe: The recipe's public name; `@recipe` sets it.
        seconds_here: What tells about how long it takes in this process, by trying some of it; None
            where that is not known.
        as_sent: What gives the same run as it would be sent to a server, where its arguments cannot
            be read a second time; None to prepare it again by them.
        runs_remotely: Whether it can run on a server.
        pulled: How far gradients are pulled back; None in a run without any.
        not_counted: What is done beside the batches and takes time, in words for an estimate.
    """

    request: Request
    traced: Callable[..., dict[str, torch.Tensor]]
    plan: Any
    batches: list[Any]
    schemas: list[Schema]
    finish: Callable[[RecipeRun[R], list[Arrays]], R]
    arguments: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    local: dict[str, Any] = field(default_factory=dict)
    context: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    run_here: Callable[[RecipeRun[R]], list[Arrays]] | None = None
    recipe: str = ""
    seconds_here: Callable[[], float] | None = None
    as_sent: Callable[[], RecipeRun[R]] | None = None
    runs_remotely: bool = True
    pulled: PulledBack | None = None
    not_counted: str = ""

    @property
    def model(self) -> Envoy:
        """The model that it runs on."""
        return self.request.model

    @property
    def remote(self) -> bool | str:
        """Where it runs."""
        return self.request.remote

    @property
    def anatomy(self) -> Anatomy:
        """Where the model keeps its parts."""
        return self.request.anatomy

    @functools.cached_property
    def batch_digests(self) -> list[str]:
        """What tells the result of each batch from any other of the same shape.

        It travels there and back.
        """
        asked = {}
        for argument, value in self.arguments.items():
            if argument == "lens":
                asked[argument] = value["digest"]
            elif argument == "edits":
                asked[argument] = [without_place(edit) for edit in to_json(value)]
            elif argument not in NOT_IN_IDENTITY:
                asked[argument] = to_json(value)
        model_name = getattr(self.model, "repo_id", None)
        run = json.dumps([model_name, self.recipe, asked], default=str, sort_keys=True)
        identities = [self.plan.batch_identity(batch) for batch in self.batches]
        return [digest([run, without_pixels(identity)]) for identity in identities]

    def provenance(self) -> dict[str, Any]:
        """Return where a result of this run comes from, as JSON can hold it."""
        arguments = {}
        for argument, value in self.arguments.items():
            if argument == "lens":
                arguments[argument] = {name: value[name] for name in ("source", "digest")}
            elif argument not in (*NOT_IN_IDENTITY, "edits"):  # they have a place of their own
                arguments[argument] = value
        record = provenance(
            self.model,
            self.recipe,
            arguments,
            self.anatomy.vocab_size,
            self.remote,
            self.request.seconds,
        )
        return record | self.about


def without_place(edit: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded edit whose lens, if it has one, is known by its digest alone."""
    if "lens" not in edit:
        return edit
    return {**edit, "lens": edit["lens"]["digest"]}


def without_pixels(identity: Any) -> Any:
    """Return what a batch is, in which pixels are known by a digest: there may be millions."""
    if not isinstance(identity, dict) or not isinstance(identity.get("inputs"), dict):
        return identity
    inputs = {}
    for name, value in identity["inputs"].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            numbers = value.detach().cpu().contiguous().view(torch.uint8).numpy()
            value = [hashlib.sha256(numbers.tobytes()).hexdigest(), list(value.shape)]
        inputs[name] = value
    return {**identity, "inputs": inputs}


def digest(value: Any) -> str:
    """Return a short hash of plain values and tensors."""
    text = json.dumps(value, default=as_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_plain(value: Any) -> Any:
    """Return a tensor as lists, and anything else that JSON does not know as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def run_locally(run: RecipeRun[Any]) -> list[Arrays]:
    """Run all batches in this process."""
    results = []
    sizes = [tokens_of(batch) for batch in run.batches]
    with run.context(), progress(run.batches, run.recipe, sizes) as batches:
        for batch in batches:
            numbers = run.traced(run.model, run.plan, batch, **run.local)
            results.append({array_name: value.numpy() for array_name, value in numbers.items()})
    return results
