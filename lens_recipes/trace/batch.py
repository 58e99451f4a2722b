"""Some prompts as one forward pass, and where the tokens are that a recipe reads of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lens_recipes.trace.kernels import sent


class TokenPlaces(NamedTuple):
    """Where the tokens that are read stand in a batch.

    Attributes:
        n_rows: Rows of the batch, one for each prompt.
        rows, columns: Of each token, `[token]`.
    """

    n_rows: int
    rows: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]

    def on(self, device: torch.device) -> TokenPlaces:
        """Return the same places on a device."""
        return TokenPlaces(self.n_rows, sent(self.rows, device), sent(self.columns, device))


class SentPlaces:
    """Places of tokens that are sent to each device once, however many tensors are read there."""

    def __init__(self, places: TokenPlaces) -> None:
        """Begin on the processor."""
        self.places = places
        self.by_device: dict[torch.device, TokenPlaces] = {}

    def on(self, device: torch.device) -> TokenPlaces:
        """Return the same places on a device."""
        if device not in self.by_device:
            self.by_device[device] = self.places.on(device)
        return self.by_device[device]


class BatchSize(NamedTuple):
    """What makes a batch large, for an estimate of the memory it takes.

    Attributes:
        rows, columns: Of its token ids, padding included.
        new_tokens: At most so many are generated in each row.
        logits_per_row: How many positions of a row the model's own head runs on.
        keeps_scores: Whether the scores of all generated tokens are kept.
        tokens: How many tokens are read at a time.
        vectors: How many vectors are read of each of them.
        logit_rows: How many vectors are taken to logits.
        all_tokens: How many tokens run through the model, where a batch is several forward passes
            of at most this size; None where it is one.
        mapped_rows: How many vectors are multiplied by a matrix `[d_model, d_model]` beside what
            the model does: the transport of a lens, or what a fit sums.
    """

    rows: int
    columns: int
    new_tokens: int
    logits_per_row: int
    keeps_scores: bool
    tokens: int
    vectors: int
    logit_rows: int
    all_tokens: int | None = None
    mapped_rows: int = 0


class LensBatch(NamedTuple):
    """One forward pass of a lens.

    Attributes:
        inputs: Of the trace: `input_ids [row, column]`, padded on the left, perhaps their
            `attention_mask`, and the options of the model's forward.
        places: Of the tokens that are read.
        logit_columns: Where each of them is in the model's own logits, `[token]` (its head may have
            run on the last columns only).
        requested_ids: The ids that are followed at each token, `[token, requested]`: the targets,
            and last the id that comes next in the prompt; −1 for none.
        one_invoke_each: Whether each prompt gets a `tracer.invoke` of its own, which takes a
            tokenizer.
        edits: What is done to it (a `BatchEdits`); None for nothing.
    """

    inputs: dict[str, Any]
    places: TokenPlaces
    logit_columns: Int[Tensor, " token"]
    requested_ids: Int[Tensor, "token requested"]
    one_invoke_each: bool
    edits: Any = None

    def identity(self) -> dict[str, Any]:
        """Return what tells this batch from another. The names are those of saved jobs.

        Its edits are among the arguments of the run.
        """
        return {
            "inputs": self.inputs,
            "where": self.places,
            "kept": (self.places.rows, self.logit_columns),
            "wanted": self.requested_ids,
        }


def forward_size(inputs: dict[str, Any], n_tokens: int) -> BatchSize:
    """Return the size of one forward pass of which `n_tokens` are read."""
    rows, columns = inputs["input_ids"].shape
    kept = inputs.get("logits_to_keep", 0)
    n_kept = len(kept) if isinstance(kept, Tensor) else kept
    return BatchSize(
        rows=rows,
        columns=columns,
        new_tokens=0,
        logits_per_row=n_kept or columns,
        keeps_scores=False,
        tokens=n_tokens,
        vectors=0,
        logit_rows=n_tokens,
    )


def split_inputs(inputs: dict[str, Any]) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """Return what each prompt's invoke takes, `[1, column]`, and the options of the forward pass.

    A prompt keeps its padding and its mask. All prompts are then of one width, and nnsight joins
    them as they are, whatever the tokenizer pads with and on which side.
    """
    options = dict(inputs)
    token_ids, mask = options.pop("input_ids"), options.pop("attention_mask", None)
    prompts = []
    for row in range(len(token_ids)):
        prompt = {"input_ids": token_ids[row : row + 1]}
        if mask is not None:
            prompt["attention_mask"] = mask[row : row + 1]
        prompts.append(prompt)
    return prompts, options
