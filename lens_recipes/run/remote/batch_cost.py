"""What one batch costs on a server, by the model's config alone: tokens and memory."""

from __future__ import annotations

from typing import Any

from lens_recipes.models.handle import dtype_of, text_config
from lens_recipes.run.remote.work import attention_width
from lens_recipes.run.request.kernels import expected_kernels
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.batch import BatchSize
from lens_recipes.trace.lens_head import LOGITS_AT_ONCE
from lens_recipes.trace.operations import unembedding_index
from lens_recipes.trace.readout.readout import OWN_ROWS, ReadoutOptions

FLOAT32_BYTES = 4
OWN_COPIES = 3  # of the model's own logits of the tokens at hand
TILE_BUFFERS = 4  # arrays as large as a tile
CHECK_SUMS = 4  # float32 sums of each token that are compared with the stream


def batch_tokens(run: RecipeRun[Any], batch: Any) -> int:
    """Return the tokens of a batch that run through the model, those to be written included."""
    size = run.plan.batch_size(batch)
    if size.all_tokens is not None:
        return size.all_tokens
    return size.rows * (size.columns + size.new_tokens)


def batch_memory(run: RecipeRun[Any], batch: Any, result_bytes: int) -> int:
    """Return the most memory that a batch takes beside the weights, in bytes.

    It is the sum of the forward pass, the vectors that are read, and what is made of them.

    Args:
        run: The batch's run.
        batch: What the traced function gets.
        result_bytes: Most bytes of the arrays that come back.
    """
    size = run.plan.batch_size(batch)
    d_model = run.anatomy.d_model
    logit_bytes = _logit_memory(run, size.logit_rows)
    if not size.vectors:  # vectors of the caller's own: nothing is read of a run
        return size.tokens * d_model * FLOAT32_BYTES + logit_bytes + result_bytes
    bytes_per_dimension = size.vectors * _item_bytes(run) + CHECK_SUMS * FLOAT32_BYTES
    read_bytes = size.tokens * d_model * bytes_per_dimension
    passing, staying = _forward_memory(run, size)
    at_peak = passing + logit_bytes
    if _is_readout(run):  # which begins when the blocks have run
        at_peak = max(passing, logit_bytes)
    return at_peak + staying + read_bytes + 2 * result_bytes


def _is_readout(run: RecipeRun[Any]) -> bool:
    """Return whether a run's vectors become logits in `readout`."""
    return isinstance(getattr(run.plan, "options", None), ReadoutOptions)


def _forward_memory(run: RecipeRun[Any], size: BatchSize) -> tuple[int, int]:
    """Return the bytes of a forward pass that are freed as it goes, and those that stay.

    What stays are its logits, and of a generation its cache and scores.
    """
    anatomy = run.anatomy
    item_bytes = _item_bytes(run)
    config = text_config(run.model)
    inner_width = getattr(config, "intermediate_size", None) or 4 * anatomy.d_model
    width_of_token = 8 * anatomy.d_model + 3 * inner_width
    activation_bytes = size.rows * size.columns * width_of_token * item_bytes
    n_logits = size.rows * size.logits_per_row * anatomy.vocab_size
    memory_bytes = n_logits * item_bytes
    if item_bytes < FLOAT32_BYTES:  # which are then also made in float32
        memory_bytes += n_logits * FLOAT32_BYTES
    if size.new_tokens:
        n_cached = size.rows * (size.columns + size.new_tokens)
        memory_bytes += 2 * anatomy.n_layers * n_cached * _key_width(run) * item_bytes
    if size.keeps_scores:
        memory_bytes += size.rows * size.new_tokens * anatomy.vocab_size * FLOAT32_BYTES
    return activation_bytes, memory_bytes


def _key_width(run: RecipeRun[Any]) -> int:
    """Return the width of a layer's keys, which groups of heads share; its values are as wide."""
    config = text_config(run.model)
    n_heads = getattr(config, "num_attention_heads", None) or 1
    n_key_heads = getattr(config, "num_key_value_heads", None) or n_heads
    return round(attention_width(config, run.anatomy.d_model) * (n_key_heads / n_heads))


def _logit_memory(run: RecipeRun[Any], n_rows: int) -> int:
    """Return the bytes of the logits of some rows and their copies, within the run's own bound."""
    row_bytes = run.anatomy.vocab_size * FLOAT32_BYTES * LOGITS_AT_ONCE
    if _is_readout(run):
        return _readout_memory(run, n_rows, max(1, run.plan.max_bytes // row_bytes))
    return max(row_bytes, min(run.plan.max_bytes, n_rows * row_bytes))


def _readout_memory(run: RecipeRun[Any], n_rows: int, rows_in_budget: int) -> int:
    """Return the bytes of the logits that `readout` has at once, and of the model's own there.

    Args:
        run: The run.
        n_rows: How many vectors become logits in all.
        rows_in_budget: As many as `max_bytes` allows at once.
    """
    reads = getattr(run.plan, "reads", None)
    n_reads = 1 if reads is None else len(reads.sites)
    item_bytes = _item_bytes(run)
    kernels = expected_kernels(run.model)
    at_once = min(rows_in_budget // (n_reads + OWN_ROWS), kernels.rows_at_once // (n_reads + 1))
    n_tokens = min(max(1, at_once), -(-n_rows // n_reads))
    rows = min(n_reads * n_tokens, rows_in_budget)
    # As the module gives them, and in float32; operations after it make new ones.
    copies = FLOAT32_BYTES if item_bytes == FLOAT32_BYTES else FLOAT32_BYTES + item_bytes
    after = run.plan.head_operations[unembedding_index(run.plan.head_operations) + 1 :]
    if after:
        copies = FLOAT32_BYTES * LOGITS_AT_ONCE
    logit_bytes = rows * run.anatomy.vocab_size * copies
    own_bytes = n_tokens * run.anatomy.vocab_size * OWN_COPIES * FLOAT32_BYTES
    tile_columns = min(kernels.tile_columns, run.anatomy.vocab_size)
    return logit_bytes + own_bytes + rows * TILE_BUFFERS * tile_columns * FLOAT32_BYTES


def _item_bytes(run: RecipeRun[Any]) -> int:
    """Return the bytes of one number in the precision of the model."""
    return dtype_of(run.model).itemsize
