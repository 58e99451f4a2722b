"""Measure how fast and how large the lens is on a GPU, beside the least that it could cost.

With a network, once, in this repository: `pip wheel --wheel-dir wheels .` (on Linux, torch comes with CUDA). Then on
the machine with the GPU, which needs no network and no checkpoint, with `wheels` and `benchmarks` beside each other:

    pip install --no-index --find-links wheels lens-recipes && python benchmarks/gpu.py > gpu.json

    python benchmarks/gpu.py --shape gemma --case grid tiles            # some of it
    python benchmarks/gpu.py --shape tiny --device cpu --seconds 60     # does the script run? times mean nothing

The models are random, of the shapes of Llama-3.1-8B, Gemma-2-9B and a small mixture of experts, in bfloat16, made on
the device. Each case prints one JSON object as soon as it is measured. Each shape has a share of `--seconds`; what it
has not begun by then is skipped, and the last object names it. Contenders run in turn in one process, the device is
waited for after each, and medians of ratios count. Beside what is measured here:

- `floor` of a lens: a forward pass of the body, and for all rows that are read the product with the unembedding and
  the top 5, in bfloat16; of a generation: Hugging Face's `generate`; of an attribution: one forward pass with the
  logits of one token; of a linear fit: its forward passes.
- `bound_seconds` of a Jacobian fit: floating-point operations / (`--peak-tflops` · 10¹²), where each of the d
  dimensions of the final stream is one backward pass through the blocks after the first source, without gradients of
  weights: d · T · (2 · P + 8 · T · A) operations for T tokens, P active parameters in those blocks, and A the sum over
  them of the width of all heads together (the two products of attention have two gradients each, of 2 · T² · width).
- `waits` of a lens: how often the host waits for the device, as the profiler and torch's sync debug mode count it.
  `grows` says whether more layers, tiles or chunks make more waits: they should not. (On a processor, where to ask for
  a value costs nothing, links between layers are asked for one by one. A mixture of experts waits in its own forward.)

Nothing of this was measured on a GPU yet: what is chosen for GPUs in `lens_recipes/trace/kernels.py` is reasoned.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from side_by_side import side_by_side
from torch.profiler import ProfilerActivity, profile

import lens_recipes as lr
from lens_recipes.recipes.lenses.estimators.jacobian import PromptJacobians
from lens_recipes.run.request.kernels import with_kernels
from lens_recipes.trace.kernels import GROUP_COLUMNS, Kernels, kernels_for

TOP = 5
FLOOR_ROWS = 4096  # of one product in the floor
FIRST_ID = 3
# How a wait is named by the profiler: by CUDA, and by torch where there is no CUDA.
CUDA_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
SYNC_WARNING = "called a synchronizing"  # of torch's sync debug mode
TORCH_WAITS = ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": (
        "LlamaConfig",
        {
            "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "rms_norm_eps": 1e-5,
        },
    ),
    "gemma": (
        "Gemma2Config",
        {
            "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
        },
    ),
    "moe": (
        "Qwen3MoeConfig",
        {
            "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 64,
            "num_experts_per_tok": 8, "vocab_size": 151936,
        },
    ),
}  # fmt: skip
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 384,
}  # fmt: skip
SMALL_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip


@dataclass
class Sizes:
    """Hold how much each case reads."""

    tokens: tuple[int, ...] = (128, 1024)
    prompts: tuple[tuple[int, int], ...] = ((1, 1024), (64, 128))  # of the last position
    budgets: tuple[int, ...] = (2**28, 2**30, 2**32)  # bytes of logits at once
    before: int = 128  # tokens that are written after
    written: int = 64
    tile_tokens: int = 256
    tiles: tuple[int, ...] = (1024, 4096, 16384, 65536, 2**20)
    dimensions: tuple[int, ...] = (8, 32, 64, 128)  # of a Jacobian that are pulled back at once
    tried_dimensions: int = 128
    jacobian_tokens: int = 128
    fit_tokens: int = 8192
    fit_layers: int = 4


TINY = Sizes(
    tokens=(8, 40), prompts=((1, 24), (3, 8)), budgets=(2**16, 2**20), before=8, written=4, tile_tokens=16,
    tiles=(64, 256), dimensions=(4, 16), tried_dimensions=8, jacobian_tokens=24, fit_tokens=512, fit_layers=2,
)  # fmt: skip


@dataclass
class World:
    """Hold a model, and what the cases are told.

    Attributes:
        model: What `lr.load` returns.
        sizes: How much each case reads.
        repeat: How often each contender runs.
        peak_flops: What the device can do in a second.
    """

    model: Any
    sizes: Sizes
    repeat: int
    peak_flops: float

    @property
    def module(self) -> Any:
        """transformers' model."""
        return self.model._module

    @property
    def device(self) -> torch.device:
        """Return where it is."""
        return self.module.device

    def ids(self, prompts: int, tokens: int) -> list[list[int]]:
        """Make random ids, the same each time."""
        generator = torch.Generator().manual_seed(0)
        vocab = self.module.config.vocab_size
        return torch.randint(FIRST_ID, vocab, (prompts, tokens), generator=generator).tolist()

    def timed(self, runs: dict[str, Callable[[], object]]) -> dict[str, Any]:
        """Measure median seconds of some runs and their ratios to the one called `floor`."""
        waited = {name: self.waited(run) for name, run in runs.items()}
        return side_by_side(waited, self.repeat)

    def waited(self, run: Callable[[], object]) -> Callable[[], None]:
        """Return the same run, to the moment at which the device has done it."""

        def call() -> None:
            run()
            self.wait()

        return call

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def peak_of(self, run: Callable[[], object]) -> int | None:
        """Measure the megabytes that a run needs on the device at most, beside what was there; None on a processor."""
        if self.device.type != "cuda":
            run()
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        run()
        self.wait()
        return (torch.cuda.max_memory_allocated(self.device) - before) // 2**20


def make_model(shape: str, device: str, dtype: torch.dtype, *, tiny: bool) -> Any:
    """Make a random model of a shape on the device."""
    config_name, settings = SHAPES[shape]
    if tiny:
        settings = settings | SMALL
        if shape == "moe":
            settings = settings | SMALL_EXPERTS
    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(0)
    with torch.device(device):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    module.generation_config.eos_token_id = None  # all write as much as they may
    module.generation_config.pad_token_id = 0
    return lr.load(module.eval().requires_grad_(False))


# -- floors ------------------------------------------------------------


@contextlib.contextmanager
def block_outputs(module: Any, last: bool) -> Iterator[list[torch.Tensor]]:
    """Return the streams after all blocks, as the model runs."""
    streams: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        stream = output if isinstance(output, torch.Tensor) else output[0]
        streams.append(stream[:, -1:] if last else stream)

    hooks = [block.register_forward_hook(keep) for block in module.model.layers]
    try:
        yield streams
    finally:
        for hook in hooks:
            hook.remove()


def floor(world: World, ids: list[list[int]], *, last: bool) -> None:
    """Body, product and top 5: no norm, no metric, nothing kept."""
    module = world.module
    weight = module.get_output_embeddings().weight
    with torch.inference_mode(), block_outputs(module, last) as streams:
        module.model(input_ids=torch.tensor(ids, device=world.device), use_cache=False)
        rows = torch.cat([stream.flatten(0, 1) for stream in streams])
        for start in range(0, len(rows), FLOOR_ROWS):
            (rows[start : start + FLOOR_ROWS] @ weight.T).topk(TOP, -1)


def forward(world: World, ids: list[list[int]], kept: int = 1) -> None:
    """Run one forward pass, with the logits of the last tokens; 0 for those of all."""
    with torch.inference_mode():
        inputs = torch.tensor(ids, device=world.device)
        world.module(input_ids=inputs, use_cache=False, logits_to_keep=kept)


def generate(world: World, ids: list[list[int]]) -> None:
    """Generate as Hugging Face does, as a user calls it."""
    inputs = torch.tensor(ids, device=world.device)
    new = world.sizes.written
    world.module.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=new
    )


# -- cases -------------------------------------------------------------


def lens(world: World, ids: list[list[int]], **options: Any) -> Any:
    """Read the lens as it is called, also where its certificate fails."""
    return lr.logit_lens(world.model, ids, strict=False, **options)


def write(world: World, ids: list[list[int]], **options: Any) -> Any:
    """Read the lens of a text that the model writes."""
    return lr.generate_lens(world.model, ids, do_sample=False, **options)


def split(world: World, ids: list[list[int]], unit: str) -> Any:
    """Split a logit of the last token."""
    return lr.attribution(world.model, ids, FIRST_ID, against=FIRST_ID + 1, unit=unit, strict=False)


def waits(world: World) -> Iterator[dict[str, Any]]:
    """Count how often the host waits, for more layers, tiles and chunks of tokens."""
    n_layers = world.module.config.num_hidden_layers
    short, long = world.sizes.tokens[0], world.sizes.tokens[-1]
    kernels = kernels_for(world.device)
    n_groups = max(1, world.module.config.vocab_size // GROUP_COLUMNS // 32)
    narrow = kernels._replace(tile_columns=n_groups * GROUP_COLUMNS)
    few = [n_layers // 2, n_layers - 1]
    seen = {
        "two layers": count_waits(world, short, kernels, layers=few),
        "all layers": count_waits(world, short, kernels),
        "narrow tiles": count_waits(world, short, narrow),
        "more chunks": count_waits(world, long, kernels),
    }
    fewest = total_of(seen["two layers"])
    grows = {name: total_of(found) - fewest for name, found in seen.items()}
    ids = world.ids(1, short)
    yield {
        "of_the_forward_pass": waits_of(world, lambda: forward(world, ids)),
        "waits": seen,
        "of_an_attribution_by_head": waits_of(world, lambda: split(world, ids, "head")),
        "of_some_steps": {
            str(steps): waits_of(world, partial(write, world, ids, max_new_tokens=steps))
            for steps in (2, 4)
        },
        "grows": {name: more for name, more in grows.items() if more > 0},
    }


def count_waits(
    world: World, n_tokens: int, kernels: Kernels, **options: Any
) -> dict[str, dict[str, int]]:
    """Count how often one lens makes the host wait, by what counts it and by name."""
    ids = world.ids(1, n_tokens)
    with with_kernels(kernels):
        return waits_of(world, lambda: lens(world, ids, **options))


def waits_of(world: World, run: Callable[[], object]) -> dict[str, dict[str, int]]:
    """Count how often a run makes the host wait, by what counts it and by name."""
    run()  # what is found out about a model once is not counted
    found: dict[str, dict[str, int]] = {}
    on_cuda = world.device.type == "cuda"
    activities = [ProfilerActivity.CPU]
    names: tuple[str, ...] = TORCH_WAITS
    if on_cuda:
        activities.append(ProfilerActivity.CUDA)
        names = CUDA_WAITS
    world.wait()
    with profile(activities=activities) as profiler:
        run()
    found["profiler"] = dict(Counter(e.name for e in profiler.events() if e.name in names))
    if on_cuda:
        found["sync_debug_mode"] = warned(run)
    return found


def warned(run: Callable[[], object]) -> dict[str, int]:
    """Count how often torch's sync debug mode warns in a run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {"warnings": sum(SYNC_WARNING in str(warning.message) for warning in caught)}


def total_of(found: dict[str, dict[str, int]]) -> int:
    """Return all waits that the profiler counted."""
    return sum(found["profiler"].values())


def grid(world: World) -> Iterator[dict[str, Any]]:
    """All positions of one prompt, within several budgets."""
    for n_tokens in world.sizes.tokens:
        yield grid_of(world, n_tokens)


def grid_of(world: World, n_tokens: int) -> dict[str, Any]:
    """All positions of one prompt of so many tokens."""
    ids = world.ids(1, n_tokens)
    runs: dict[str, Callable[[], object]] = {"floor": lambda: floor(world, ids, last=False)}
    for budget in world.sizes.budgets:
        options = {"track": None, "max_bytes": budget}
        runs[f"lens, max_bytes {budget}"] = partial(lens, world, ids, **options)
    runs["lens, all it says"] = lambda: lens(world, ids, targets=[FIRST_ID, FIRST_ID + 1])
    passed = lens(world, ids).certificate.passed
    return {"tokens": n_tokens, "certificate_passed": passed, **world.timed(runs)}


def last(world: World) -> Iterator[dict[str, Any]]:
    """The last position of one prompt, and of many."""
    for prompts, n_tokens in world.sizes.prompts:
        yield last_of(world, prompts, n_tokens)


def last_of(world: World, prompts: int, n_tokens: int) -> dict[str, Any]:
    """The last position of so many prompts."""
    ids = world.ids(prompts, n_tokens)
    runs = {
        "floor": lambda: floor(world, ids, last=True),
        "lens": lambda: lens(world, ids, positions=-1, track=None),
        "lens, all it says": lambda: lens(world, ids, positions=-1, targets=[FIRST_ID]),
    }
    return {"prompts": prompts, "tokens": n_tokens, **world.timed(runs)}


def memory(world: World) -> Iterator[dict[str, Any]]:
    """Megabytes on the device beside the model."""
    n_tokens = world.sizes.tokens[-1]
    ids = world.ids(1, n_tokens)
    runs = {
        "forward that keeps its logits": lambda: forward(world, ids, kept=0),
        "floor": lambda: floor(world, ids, last=False),
        "floor, last": lambda: floor(world, ids, last=True),
        "lens, last": lambda: lens(world, ids, positions=-1),
    }
    for budget in world.sizes.budgets:
        runs[f"lens, max_bytes {budget}"] = partial(lens, world, ids, max_bytes=budget)
    yield {"tokens": n_tokens, "peak_mb": {name: world.peak_of(run) for name, run in runs.items()}}


def generation(world: World) -> Iterator[dict[str, Any]]:
    """Tokens written one by one, all layers read at each."""
    ids = world.ids(1, world.sizes.before)
    new = world.sizes.written
    runs = {
        "floor": lambda: generate(world, ids),
        "lens": lambda: write(world, ids, max_new_tokens=new, track=None),
        "lens, all it says": lambda: write(world, ids, max_new_tokens=new, targets=[FIRST_ID]),
    }
    yield {"before": world.sizes.before, "written": world.sizes.written, **world.timed(runs)}


def heads(world: World) -> Iterator[dict[str, Any]]:
    """A logit of the last token by layer and by head."""
    ids = world.ids(1, world.sizes.before)
    runs = {
        "floor": lambda: forward(world, ids),
        "by layer": lambda: split(world, ids, "layer"),
        "by head": lambda: split(world, ids, "head"),
    }
    yield {"tokens": world.sizes.before, **world.timed(runs)}


def tiles(world: World) -> Iterator[dict[str, Any]]:
    """The grid with tiles of several widths, with a budget in which they differ."""
    ids = world.ids(1, world.sizes.tile_tokens)
    budget = world.sizes.budgets[1]
    chosen = kernels_for(world.device)
    runs: dict[str, Callable[[], object]] = {"floor": lambda: floor(world, ids, last=False)}
    for width in world.sizes.tiles:

        def run(width: int = width) -> None:
            with with_kernels(chosen._replace(tile_columns=width)):
                lens(world, ids, track=None, max_bytes=budget)

        runs[str(width)] = run
    yield {
        "tokens": world.sizes.tile_tokens,
        "max_bytes": budget,
        "chosen": chosen.tile_columns,
        **world.timed(runs),
    }


def jacobian(world: World) -> Iterator[dict[str, Any]]:
    """A Jacobian fit of one prompt, from some of its dimensions, beside what the operations alone cost."""
    ids = world.ids(1, world.sizes.jacobian_tokens)[0]
    layers = lr.anatomy(world.model).layers[:-1]
    chosen = PromptJacobians(world.model, layers)
    width = world.module.config.hidden_size
    flops, n_sources = jacobian_flops(world, len(ids) - chosen.first_position - 1)
    bound = flops / world.peak_flops
    estimates = {"chosen": seconds_of_prompt(world, chosen, ids)}
    for at_once in world.sizes.dimensions:
        tried = PromptJacobians(world.model, layers, dimensions_at_once=min(at_once, width))
        estimates[str(at_once)] = seconds_of_prompt(world, tried, ids)
    yield {
        "tokens": len(ids),
        "sources": n_sources,
        "operations": flops,
        "peak_flops": world.peak_flops,
        "bound_seconds": bound,
        "seconds_of_prompt": estimates,
        "ratio_to_bound": {name: seconds / bound for name, seconds in estimates.items()},
        "is_batched": chosen.is_batched,
    }


def seconds_of_prompt(world: World, jacobians: PromptJacobians, ids: list[int]) -> float:
    """Seconds of all dimensions of a prompt, from what some more dimensions add."""
    width = world.module.config.hidden_size
    some = min(world.sizes.tried_dimensions, width // 2)
    runs = {
        "once": lambda: jacobians.of_prompt(ids, some),
        "twice": lambda: jacobians.of_prompt(ids, 2 * some),
    }
    taken: dict[str, list[float]] = {"once": [], "twice": []}
    for turn in range(world.repeat + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            world.waited(run)()
            if turn:
                taken[name].append(time.perf_counter() - started)
    first, second = statistics.median(taken["once"]), statistics.median(taken["twice"])
    return first + max(0.0, second - first) * (width / some - 1)


def jacobian_flops(world: World, n_sources: int) -> tuple[float, int]:
    """Operations of all backward passes of a prompt, by the formula above, and T."""
    config = world.module.config
    active = 0.0
    for block in world.module.model.layers[1:]:
        for name, parameter in block.named_parameters():
            share = 1.0
            if ".experts." in name:
                share = config.num_experts_per_tok / config.num_experts
            active += share * parameter.numel()
    head_dim = getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    heads_width = (config.num_hidden_layers - 1) * config.num_attention_heads * head_dim
    of_one = n_sources * (2 * active + 8 * n_sources * heads_width)
    return config.hidden_size * of_one, n_sources


def linear(world: World) -> Iterator[dict[str, Any]]:
    """The linear fit of some layers, beside its forward passes alone."""
    rows = world.ids(max(2, world.sizes.fit_tokens // 128), 128)
    n_layers = world.module.config.num_hidden_layers
    step = max(1, n_layers // world.sizes.fit_layers)
    layers = list(range(0, n_layers - 1, step))

    def passes() -> None:
        with torch.no_grad():
            for start in range(0, len(rows), 16):
                some = torch.tensor(rows[start : start + 16], device=world.device)
                world.module.model(some, use_cache=False)

    def fit() -> None:
        lr.fit_lens(
            world.model, rows, kind="linear", layers=layers, tokens=len(rows) * 128, quality_tokens=0
        )  # fmt: skip

    ratios = world.timed({"floor": passes, "fit": fit})
    yield {"tokens": len(rows) * 128, "layers": len(layers), **ratios}


def kernels_of_grid(world: World) -> Iterator[dict[str, Any]]:
    """Where the time of a grid goes: the operations that take most of the device's."""
    ids = world.ids(1, world.sizes.tile_tokens)
    budget = world.sizes.budgets[1]
    lens(world, ids, track=None, max_bytes=budget)
    activities = [ProfilerActivity.CPU]
    by = "self_cpu_time_total"
    if world.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        by = "self_device_time_total"
    with profile(activities=activities) as profiler:
        lens(world, ids, track=None, max_bytes=budget)
        world.wait()
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, by))
    top = [{"name": row.key[:80], "ms": getattr(row, by) / 1000, "calls": row.count} for row in rows[:20]]  # fmt: skip
    total = sum(getattr(row, by) for row in rows) / 1000
    yield {"tokens": world.sizes.tile_tokens, "total_ms": total, "most": top}


# In this order: what matters most comes first, and the last are skipped where time is short.
CASES: dict[str, Callable[[World], Iterator[dict[str, Any]]]] = {
    "grid": grid,
    "last": last,
    "waits": waits,
    "generation": generation,
    "memory": memory,
    "heads": heads,
    "tiles": tiles,
    "jacobian": jacobian,
    "profile": kernels_of_grid,
    "linear": linear,
}


# -- the whole ---------------------------------------------------------


def about(device: str) -> dict[str, Any]:
    """Return the machine and the versions."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "kernels": kernels_for(torch.device(device))._asdict(),
        "is_a_measurement": device.startswith("cuda"),
    }


def say(**what: Any) -> None:
    """Print one JSON object in a line, at once."""
    print(json.dumps(what), flush=True)


def run_case(shape: str, case: str, world: World) -> bool:
    """Print what a case measures, or its error, so that the others go on; return whether it ended well."""
    started = time.perf_counter()
    try:
        for found in CASES[case](world):
            took = round(time.perf_counter() - started, 2)
            say(shape=shape, case=case, **found, took_seconds=took)
    except Exception as error:
        say(shape=shape, case=case, error=f"{type(error).__name__}: {error}"[:500])
        return False
    return True


def run_all(options: argparse.Namespace) -> bool:
    """Run what was asked for until the time is over; return whether nothing failed."""
    tiny = options.shape == ["tiny"]
    shapes = list(SHAPES) if tiny else options.shape
    cases = options.case or list(CASES)
    dtype = getattr(torch, options.dtype)
    say(**about(options.device))
    began = time.perf_counter()
    skipped: list[str] = []
    failed: list[str] = []
    for number, shape in enumerate(shapes):
        # Each shape has its share of the time, and what those before it have left.
        deadline = began + options.seconds * (number + 1) / len(shapes)
        if time.perf_counter() > deadline:
            skipped += [f"{shape} {case}" for case in cases]
            continue
        started = time.perf_counter()
        model = make_model(shape, options.device, dtype, tiny=tiny)
        parameters = sum(parameter.numel() for parameter in model._module.parameters())
        seconds = round(time.perf_counter() - started, 2)
        say(shape=shape, parameters=parameters, dtype=options.dtype, made_in_seconds=seconds)
        world = World(model, TINY if tiny else Sizes(), options.repeat, options.peak_tflops * 1e12)
        for case in cases:
            if time.perf_counter() > deadline:
                skipped.append(f"{shape} {case}")
            elif not run_case(shape, case, world):
                failed.append(f"{shape} {case}")
        del model, world
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
    say(skipped=skipped, failed=failed)
    return not failed


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), choices=[*SHAPES, "tiny"])
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="in this order; all of them")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--seconds", type=float, default=420, help="begin no case after so many")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0,
        help="dense products in this dtype; 989 is what NVIDIA says of an H100 and H200 in bfloat16",
    )  # fmt: skip
    options = parser.parse_args()
    if "tiny" in options.shape and options.shape != ["tiny"]:
        parser.error("tiny stands for all shapes, made small: give it alone")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no CUDA device is here: --shape tiny --device cpu tries the script itself")
    sys.exit(0 if run_all(options) else 1)


if __name__ == "__main__":
    main()
