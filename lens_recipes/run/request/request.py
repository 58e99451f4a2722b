"""`Request`: what every recipe is asked for, checked once."""

from __future__ import annotations

import time
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Site
from lens_recipes.models.handle import (
    context_length,
    exclusive,
    refuse_training,
    resolve_remote,
    tokenizer_of,
)
from lens_recipes.models.lens_head import head_operations_for
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.run.request.prompts import encode
from lens_recipes.run.request.selection import (
    as_list,
    check_ids,
    pick_positions,
    target_ids,
)
from lens_recipes.run.request.sites import plan_sites
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import ReadPlan

NO_PROMPTS = object()  # in place of prompts, for a recipe that runs none


class Request:
    """A model, prompts as token ids, and the positions and targets that are read of them.

    Attributes:
        model: The nnsight model.
        remote: Where it runs: False here, "local" in nnsight's simulation of a server, or a
            server's address (True for the one that nnsight knows).
        anatomy: Where the model keeps its parts.
        tokenizer: The model's, or None.
        token_ids: `[prompt][position]`; empty for a recipe without prompts.
        positions: Which of them are read, `[prompt][token]`.
        target_ids: `[prompt][target]`.
        started: When the request was made, by `time.perf_counter`.
        encode_seconds: How long it took to turn the prompts into ids.
    """

    def __init__(
        self,
        model: Envoy,
        prompts: Any = NO_PROMPTS,
        *,
        positions: Any = None,
        targets: Any = None,
        remote: bool | str | None = None,
        add_special_tokens: bool = True,
    ) -> None:
        """Check all arguments.

        Args:
            model: What `load()` returns.
            prompts: Strings, ids or chats, one or several; left out by a recipe without prompts.
            positions: Indices for every prompt, or a list of such, one per prompt; None for all.
            targets: Tokens to follow, for all prompts or one list for each.
            remote: None as the model was loaded.
            add_special_tokens: As in the tokenizer.

        Raises:
            ValueError: an argument that does not fit the model or the prompts.
            LensError: a model that cannot be read this way, or not where it is to run.
        """
        self.started = time.perf_counter()
        self.model = model
        self.remote = resolve_remote(model, remote)
        has_prompts = prompts is not NO_PROMPTS
        if has_prompts:
            refuse_training(model, self.remote)
        self.tokenizer = tokenizer_of(model)
        self.token_ids: list[list[int]] = []
        with exclusive(model):  # a fast tokenizer is for one thread at a time, too
            self.anatomy = anatomy(model)
            vocab_size = self.anatomy.vocab_size
            encode_started = time.perf_counter()
            if has_prompts:
                self.token_ids = encode(
                    as_list(prompts), self.tokenizer, add_special_tokens=add_special_tokens
                )
            self.encode_seconds = time.perf_counter() - encode_started
            check_ids(self.token_ids, vocab_size, context_length(model))
            self.positions = pick_positions(positions, self.token_ids)
            n_lists = len(self.token_ids) if has_prompts else 1
            self.target_ids = target_ids(targets, n_lists, self.tokenizer, vocab_size)

    @property
    def head_operations(self) -> list[Operation]:
        """What the model does between the last block and the logits, where it runs."""
        return head_operations_for(self.anatomy, self.remote)

    @property
    def seconds(self) -> float:
        """How long ago the request was made."""
        return time.perf_counter() - self.started

    def sites(
        self, layers: Any, components: list[str], heads: Any = None, apply_norm: bool = True
    ) -> tuple[list[Site], ReadPlan]:
        """Return the sites that were asked for, and the plan to read them.

        Raises:
            ValueError, LensError: as `plan_sites`.
        """
        with exclusive(self.model):
            return plan_sites(self.model, self.anatomy, layers, components, heads, apply_norm)
