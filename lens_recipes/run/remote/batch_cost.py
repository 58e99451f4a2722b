"""What one batch costs on a server, by the model's config alone: tokens and memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from lens_recipes.models.handle import dtype_of, text_config
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.lens_head import COPIES

FLOAT32_BYTES = 4

CHECK_SUMS = 4  # float32 sums of each token that are compared with the stream


class ReadSize(NamedTuple):
    """How much of a batch is read.

    Attributes:
        tokens: At how many tokens.
        vectors: How many vectors `[d_model]` are kept of each.
        lens_rows: How many rows the lens makes logits of, at once if memory allows.
    """

    tokens: int
    vectors: int
    lens_rows: int


def batch_tokens(run: RecipeRun[Any], batch: dict[str, Any]) -> int:
    """Return the tokens of a batch that run through the model, those to be written included."""
    if "inputs" not in batch:  # vectors, in a run of one token
        return 1
    ids = batch["inputs"]["input_ids"]
    return ids.numel() + len(ids) * run.shared.get("n_steps", 0)


def batch_memory(run: RecipeRun[Any], batch: dict[str, Any], result_bytes: int) -> int:
    """Return the most memory that a batch takes beside the weights, in bytes.

    It is the sum of the forward pass, the vectors that are read, and what is made of them.

    Args:
        run: The batch's run.
        batch: What the block gets.
        result_bytes: Most bytes of the arrays that come back.
    """
    d_model = run.anatomy.d_model
    if "inputs" not in batch:  # vectors
        n_rows = len(batch["rows"])
        return n_rows * d_model * FLOAT32_BYTES + _lens_memory(run, n_rows) + result_bytes
    size = _read_size(run, batch)
    bytes_per_dimension = size.vectors * _item_bytes(run) + CHECK_SUMS * FLOAT32_BYTES
    return (
        _forward_memory(run, batch["inputs"])
        + size.tokens * d_model * bytes_per_dimension
        + _lens_memory(run, size.lens_rows)
        + 2 * result_bytes
    )


def _read_size(run: RecipeRun[Any], batch: dict[str, Any]) -> ReadSize:
    """Return how much of a batch is read, whichever recipe made it."""
    if "where" in batch:
        _, rows, _ = batch["where"]
    else:  # a generation, whose later tokens are read one by one
        rows, _ = batch["first"]
    n_tokens = len(rows)
    if "groups" not in batch:
        read_plan = run.shared["reads"]
        return ReadSize(n_tokens, read_plan["n_slots"], n_tokens * len(read_plan["sites"]))
    rows_per_token = 1
    for group in batch["groups"]:
        if group[0] == "heads":
            rows_per_token = max(rows_per_token, len(group[3]) + 1)
    return ReadSize(n_tokens, batch["n_slots"], n_tokens * rows_per_token)


def _forward_memory(run: RecipeRun[Any], inputs: dict[str, Any]) -> int:
    """Return the bytes of a forward pass, or of a generation with its cache, logits and scores."""
    anatomy = run.anatomy
    config = text_config(run.model)
    item_bytes = _item_bytes(run)
    n_steps = run.shared.get("n_steps", 0)
    n_rows, width = inputs["input_ids"].shape
    inner_width = getattr(config, "intermediate_size", None) or 4 * anatomy.d_model
    activation_bytes = n_rows * width * (8 * anatomy.d_model + 3 * inner_width) * item_bytes
    n_kept_columns = _kept_columns(inputs, default=1 if n_steps else width)
    logit_bytes = n_rows * n_kept_columns * anatomy.vocab_size * (item_bytes + FLOAT32_BYTES)
    memory_bytes = activation_bytes + logit_bytes
    if n_steps:
        n_cached = n_rows * (width + n_steps)
        memory_bytes += 2 * anatomy.n_layers * n_cached * _key_width(run) * item_bytes
    if run.shared.get("scores"):
        memory_bytes += n_rows * n_steps * anatomy.vocab_size * FLOAT32_BYTES
    return memory_bytes


def _kept_columns(inputs: dict[str, Any], *, default: int) -> int:
    """Return for how many columns the model makes logits."""
    kept = inputs.get("logits_to_keep", default)
    if isinstance(kept, torch.Tensor):
        return len(kept)
    if kept == 0:  # which means all
        return inputs["input_ids"].shape[1]
    return kept


def _key_width(run: RecipeRun[Any]) -> int:
    """Return the width of a layer's keys, which groups of heads share; its values are as wide."""
    config = text_config(run.model)
    n_heads = getattr(config, "num_attention_heads", None) or 1
    n_key_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return round(run.anatomy.d_model * (n_key_heads / n_heads))


def _lens_memory(run: RecipeRun[Any], n_rows: int) -> int:
    """Return the bytes of the logits of some rows and their copies, within the run's own bound."""
    row_bytes = run.anatomy.vocab_size * FLOAT32_BYTES * COPIES
    options = run.shared.get("options", run.shared)
    return max(row_bytes, min(options["max_bytes"], n_rows * row_bytes))


def _item_bytes(run: RecipeRun[Any]) -> int:
    """Return the bytes of one number in the precision of the model."""
    return dtype_of(run.model).itemsize
