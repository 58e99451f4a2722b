"""What a generation reads and writes, as plain values that can travel to a server."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from lens_recipes.trace.batch import BatchSize, forward_size
from lens_recipes.trace.operations import Operation
from lens_recipes.trace.plan import ReadPlan
from lens_recipes.trace.readout.readout import ReadoutOptions
from lens_recipes.trace.transport import IDENTITY


class GenerationPlan(NamedTuple):
    """What is the same for all batches.

    Attributes:
        reads: The sites that are read at each step.
        head_operations: What the model does between its last block and its logits.
        options: What is asked for at every token.
        stop: Strings that end a text.
        decoder: Where the module is that `generate` calls; "" for the model itself.
        generate: Further arguments of `generate`.
        n_steps: At most so many tokens are written.
        keeps_scores: Whether the tokens may be sampled from other scores than the model's own
            logits.
        blocks: Where the model's blocks are.
    """

    reads: ReadPlan
    head_operations: list[Operation]
    options: ReadoutOptions
    stop: list[str]
    decoder: str
    generate: dict[str, Any]
    n_steps: int
    keeps_scores: bool
    blocks: list[str]

    @property
    def max_bytes(self) -> int:
        """Bound on the memory for the logits of one step."""
        return self.options.max_bytes

    @property
    def reads_before_a_block(self) -> bool:
        """Whether the stream is read before a block, beside the cache that the block is given."""
        return any(step.side == "in" and step.module in self.blocks for step in self.reads.steps)

    def batch_size(self, batch: GenerationBatch) -> BatchSize:
        """Return what makes a batch large."""
        n_tokens = len(batch.first_tokens[0])
        # Without a word about it, `generate` asks for the last position's logits alone.
        size = forward_size({"logits_to_keep": 1, **batch.inputs}, n_tokens)
        n_mapped = sum(read.transport is not IDENTITY for read in self.reads.sites)
        return size._replace(
            new_tokens=self.n_steps,
            keeps_scores=self.keeps_scores,
            vectors=self.reads.n_slots,
            logit_rows=n_tokens * len(self.reads.sites),
            mapped_rows=n_tokens * n_mapped,
        )

    def batch_identity(self, batch: GenerationBatch) -> dict[str, Any]:
        """Return what tells a batch from another. The names are those of saved jobs.

        Its edits are among the arguments of the run.
        """
        return {
            "inputs": batch.inputs,
            "pads": batch.padding,
            "first": batch.first_tokens,
            "targets": batch.target_ids,
            "seed": batch.seed,
        }


class GenerationBatch(NamedTuple):
    """Some prompts that are continued together.

    Attributes:
        inputs: Of `generate`: `input_ids` and `attention_mask` `[row, column]`, padded on the left,
            and options.
        padding: How many columns are padding before each row, `[row]`.
        first_tokens: Row and column of each token that is read in the first step; later it is the
            newest of each row.
        target_ids: Token ids to follow, `[row, target]`.
        seed: For the sampler, or None.
        one_invoke_each: Whether each prompt gets a `tracer.invoke` of its own, which takes a
            tokenizer.
        edits: What is done to it (a `BatchEdits`); None for nothing.
    """

    inputs: dict[str, Any]
    padding: Int[Tensor, " row"]
    first_tokens: tuple[Int[Tensor, " token"], Int[Tensor, " token"]]
    target_ids: Int[Tensor, "row target"]
    seed: int | None
    one_invoke_each: bool
    edits: Any = None
