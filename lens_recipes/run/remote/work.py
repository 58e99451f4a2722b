"""How much a run computes, from shapes alone, and how long that takes on a stated machine.

A forward pass costs two operations for each weight and token, and attention's products; it reads
all weights once. A lens adds a product with the unembedding for each vector, perhaps one with a
transport, and goes over the logits a few times. What else a pass does is small beside these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from lens_recipes.models.handle import text_config
from lens_recipes.run.run import PulledBack, RecipeRun
from lens_recipes.trace.batch import BatchSize

# Of recipes whose work is these products. An attribution takes others.
COUNTED = frozenset({"logit_lens", "generate_lens", "decode_vectors", "fit_lens", "patch_map"})

# How many bytes of memory are moved for each logit that a lens reads: it is written, cast to
# float32, and read for its maximum, the sums, the best ones and the ranks. Fitted to SmolLM2
# (`benchmarks/estimates.py` prints what came of it beside what was measured).
BYTES_PER_LOGIT = 40

# What configs call the number of experts, and how many of them a token runs through.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_OF_TOKEN = ("num_experts_per_tok", "moe_topk", "num_experts_per_token")


@dataclass(frozen=True)
class Machine:
    """What is assumed of the place where a model runs, for an estimate of time.

    The defaults are one data-centre GPU of 2023 at about half of what its maker says, and an
    ordinary line. Blocks that are spread over several devices run one after another, so that they
    are as fast as one.

    Attributes:
        flop_per_s: Operations per second in the precision of the model, a product and a sum being
            two.
        float32_flop_per_s: The same in float32, in which transports and the sums of a fit are made.
        bytes_per_s: Of its memory, read or written.
        line_bytes_per_s: Of the line between here and there, in either direction.
        seconds_per_job: What each job takes beside its work, without a queue.
        seconds_per_pass: What each pass of the model takes beside its work: to be traced, and to
            start its operations one by one.
    """

    flop_per_s: float = 4e14
    float32_flop_per_s: float = 4e13
    bytes_per_s: float = 2e12
    line_bytes_per_s: float = 1e7
    seconds_per_job: float = 3.0
    seconds_per_pass: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what is no speed.

        Raises:
            ValueError: names it.
        """
        for name, value in vars(self).items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_least = is_number and (value > 0 or (name.startswith("seconds") and value == 0))
            if not is_least or not math.isfinite(value):
                raise ValueError(f"{name}={value!r} must be a number above 0.")

    def __str__(self) -> str:
        """Return the assumptions in words."""
        return (
            f"{self.flop_per_s / 1e12:g} TFLOP/s ({self.float32_flop_per_s / 1e12:g} in float32), "
            f"{self.bytes_per_s / 1e9:g} GB/s of memory, {self.line_bytes_per_s / 1e6:g} MB/s on "
            f"the line, {self.seconds_per_job:g} s a job, {self.seconds_per_pass:g} s a pass"
        )


SOME_GPU = Machine()


class Work(NamedTuple):
    """What one batch computes.

    Attributes:
        passes: How often all weights are read, to run the model or to pull gradients back.
        pass_flops: Operations of the model's own passes.
        head_flops: Of the lens's products with the unembedding, in the precision of the model.
        float32_flops: Of products with transports, and of the sums of a fit.
        lens_bytes: Memory that the lens moves.
    """

    passes: int
    pass_flops: float
    head_flops: float
    float32_flops: float
    lens_bytes: float

    @property
    def flops(self) -> float:
        """All operations."""
        return self.pass_flops + self.head_flops + self.float32_flops

    def seconds(self, machine: Machine, weight_bytes: int) -> float:
        """Return about how long a machine takes: of each pass what is slower, work or weights."""
        computing = self.pass_flops / machine.flop_per_s
        reading = self.passes * weight_bytes / machine.bytes_per_s
        of_lens = self.head_flops / machine.flop_per_s
        of_lens += self.float32_flops / machine.float32_flop_per_s
        of_lens += self.lens_bytes / machine.bytes_per_s
        return max(computing, reading) + of_lens + self.passes * machine.seconds_per_pass


class ModelSize(NamedTuple):
    """What a model's shapes say of the work it makes.

    Attributes:
        weight_bytes: Of all its weights, each once.
        flops_per_token: Of its blocks, without attention's own products.
        flops_per_pair: Of attention's products, for each pair of tokens and all layers.
        flops_per_logits: Of one vector's logits.
        flops_per_map: Of a product with a matrix `[d_model, d_model]`.
    """

    weight_bytes: int
    flops_per_token: float
    flops_per_pair: float
    flops_per_logits: float
    flops_per_map: float


def model_size(run: RecipeRun[Any]) -> ModelSize:
    """Return what the shapes of a run's model say; the numbers in its weights are not looked at."""
    module, anatomy = run.model._module, run.anatomy
    weight_bytes = 0
    for parameter in module.parameters():
        weight_bytes += parameter.numel() * parameter.element_size()
    config = text_config(run.model)
    width = attention_width(config, anatomy.d_model)
    return ModelSize(
        weight_bytes=weight_bytes,
        flops_per_token=2.0 * weights_of_token(run.model.get(anatomy.blocks)._module, config),
        flops_per_pair=4.0 * anatomy.n_layers * width,
        flops_per_logits=2.0 * anatomy.d_model * anatomy.vocab_size,
        flops_per_map=2.0 * anatomy.d_model**2,
    )


def attention_width(config: Any, d_model: int) -> int:
    """Return how wide the queries of all heads of a layer are, side by side."""
    width = getattr(config, "head_dim", None)
    heads = getattr(config, "num_attention_heads", None)
    return width * heads if width and heads else d_model


def weights_of_token(blocks: nn.Module, config: Any) -> float:
    """Return how many weights of the blocks a token meets: of experts, those that it takes."""
    share = 1.0
    n_experts = first_setting(config, EXPERTS)
    n_taken = first_setting(config, EXPERTS_OF_TOKEN)
    if n_experts and n_taken:
        share = min(1.0, n_taken / n_experts)
    n_weights = 0.0
    for name, parameter in blocks.named_parameters():
        if parameter.ndim < 2:
            continue
        is_expert = ".experts." in name and "shared" not in name
        n_weights += parameter.numel() * (share if is_expert else 1.0)
    return n_weights


def first_setting(config: Any, names: Iterable[str]) -> int | None:
    """Return the first of some settings that a config has as a whole number."""
    for name in names:
        value = getattr(config, name, None)
        if type(value) is int:
            return value
    return None


def work_of(run: RecipeRun[Any]) -> list[Work] | None:
    """Return what each batch of a run computes; None for a recipe of which that is not known."""
    if run.recipe not in COUNTED:
        return None
    model = model_size(run)
    found = []
    for batch in run.batches:
        found.append(batch_work(run.plan.batch_size(batch), model, run.anatomy.vocab_size))
    if run.pulled is not None:
        found.append(pulled_work(run.pulled, model, run.anatomy.n_layers))
    return found


def batch_work(size: BatchSize, model: ModelSize, vocab_size: int) -> Work:
    """Return what a batch of this size computes."""
    n_inputs = size.rows * size.columns
    later = max(0, size.new_tokens - 1) * size.rows  # what is written last is not read again
    first = n_inputs if size.all_tokens is None else size.all_tokens
    n_passes = math.ceil(first / max(1, n_inputs))
    # Each token of a prompt with each, and what is written with all before it.
    pairs = first * size.columns + later * (size.columns + size.new_tokens / 2)
    own_logits = n_passes * size.rows * size.logits_per_row + later
    sites = size.logit_rows / max(1, size.tokens)
    logit_rows = size.logit_rows + later * sites
    mapped_rows = size.mapped_rows * (1 + later / max(1, size.tokens))
    if not size.vectors:  # vectors of the caller's own, and a pass of one token
        n_passes = 1
    pass_flops = (first + later) * model.flops_per_token + pairs * model.flops_per_pair
    return Work(
        passes=n_passes + max(0, size.new_tokens - 1),
        pass_flops=pass_flops + own_logits * model.flops_per_logits,
        head_flops=logit_rows * model.flops_per_logits,
        float32_flops=mapped_rows * model.flops_per_map,
        lens_bytes=logit_rows * vocab_size * BYTES_PER_LOGIT,
    )


def pulled_work(pulled: PulledBack, model: ModelSize, n_layers: int) -> Work:
    """Return what it takes to pull gradients back.

    A product with weights is pulled back by one product, as weights get no gradient. Each of
    attention's two is pulled back by two, to either factor.
    """
    of_weights = pulled.tokens * model.flops_per_token
    of_attention = 2 * pulled.pairs * model.flops_per_pair
    return Work(
        passes=pulled.passes,
        pass_flops=(of_weights + of_attention) * pulled.n_blocks / n_layers,
        head_flops=0.0,
        float32_flops=0.0,
        lens_bytes=0.0,
    )
