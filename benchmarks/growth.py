"""Measure how the lens grows: its memory at a large vocabulary and a long prompt, its time in tokens, layers, vocabulary, prompts.

    python benchmarks/growth.py             # all of it, as JSON lines: under five minutes on two cores
    python benchmarks/growth.py --memory    # peaks alone, each case in a fresh process
    python benchmarks/growth.py --time      # slopes alone

Small random models: what grows is what is asked, not how wide the model is.

- Memory: a Gemma-3-shaped model (262,144 tokens in its vocabulary) at all 128 positions, and a Llama-shaped one with
  the same vocabulary at 32 chosen positions of 32,768 tokens. `forward_mb` is what a forward pass that keeps the same
  logits grows the process by, `lens_mb` what the lens does; `beyond_mb`, the difference, stands beside `max_mb`, the
  bound on the memory for logits (`max_bytes`). `unbounded_mb` is what all logits of all layers would take.
- Time: the slope of log seconds over log size, with its 95 % interval (least squares, Student's t), of the lens and of
  the floor beside it: a forward pass of the body, and the bare products with the unembedding. 1 is in proportion.
  Seconds are those that the processor spent in one thread, whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import scipy.stats
import torch
import transformers
from lens import floor
from side_by_side import each_alone, peak_beyond

import lens_recipes as lr

LARGE = 262_144


def ids(n_tokens: int, seed: int = 0) -> list[int]:
    """Make token ids at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(100, 16_000, (n_tokens,), generator=generator).tolist()


def gemma_3() -> torch.nn.Module:
    """Build Gemma 3's shape, narrow and with six layers, one of which attends to all."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=LARGE, hidden_size=64, intermediate_size=256, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, sliding_window=64,
    )  # fmt: skip
    return transformers.Gemma3ForCausalLM(config).eval()


def llama(n_layers: int = 8, vocab_size: int = 32_768, width: int = 128, n_heads: int = 2) -> torch.nn.Module:  # fmt: skip
    """Build a narrow Llama."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=n_layers,
        num_attention_heads=n_heads, num_key_value_heads=1, max_position_embeddings=65_536, tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


# -- memory ------------------------------------------------------------

# The model, tokens, positions (None for all), and the bound in MiB.
GRID = (gemma_3, 128, None)
LONG = (lambda: llama(2, LARGE, 32, 1), 32_768, [n * 1024 + 1023 for n in range(32)])
MEMORY: dict[str, tuple[Callable[[], torch.nn.Module], int, list[int] | None, int]] = {
    "Gemma-3-shaped, 128 tokens, 256 MiB": (*GRID, 256),
    "Gemma-3-shaped, 128 tokens, 16 MiB": (*GRID, 16),
    "32 of 32,768 tokens, 32 MiB": (*LONG, 32),
}


def memory_of(case: str) -> dict[str, Any]:
    """What a forward pass and the lens each grow this process by."""
    make, n_tokens, positions, max_mib = MEMORY[case]
    module = make()
    model = lr.load(module)
    tokens = ids(n_tokens)
    kept = 0 if positions is None else torch.tensor(positions)
    lr.logit_lens(model, [tokens[:3]])  # what is imported and examined at first

    def forward() -> None:
        with torch.inference_mode():
            module(input_ids=torch.tensor([tokens]), use_cache=False, logits_to_keep=kept)

    def lens() -> None:
        lr.logit_lens(model, [tokens], positions=positions, max_bytes=max_mib * 2**20)

    of_forward, of_lens = peak_beyond(forward)["grown_mb"], peak_beyond(lens)["grown_mb"]
    n_read = n_tokens if positions is None else len(positions)
    n_layers = module.config.num_hidden_layers
    return {
        "vocabulary": LARGE,
        "tokens": n_tokens,
        "positions": n_read,
        "layers": n_layers,
        "max_mb": max_mib,
        "forward_mb": of_forward,
        "lens_mb": of_lens,
        "beyond_mb": round(of_lens - of_forward, 1),
        "unbounded_mb": n_read * n_layers * LARGE * 4 // 2**20,
    }


# -- time --------------------------------------------------------------


# What grows: its sizes, and from a size the model, the prompts, and whether the last position alone is read.
GROWTH: dict[str, tuple[list[int], Callable[[int], tuple[torch.nn.Module, list[list[int]], bool]]]] = {
    "tokens, all positions": ([128, 256, 512, 1024], lambda n: (llama(), [ids(n)], False)),
    "tokens, last position": ([512, 1024, 2048, 4096], lambda n: (llama(), [ids(n)], True)),
    "layers": ([4, 8, 16, 32], lambda n: (llama(n), [ids(192)], False)),
    "vocabulary": ([32_768, 65_536, 131_072, 262_144], lambda n: (llama(8, n), [ids(96)], False)),
    "prompts, last position": (
        [32, 64, 128, 256], lambda n: (llama(), [ids(24, seed) for seed in range(n)], True),
    ),
}  # fmt: skip


def slope(sizes: list[int], seconds: list[float]) -> dict[str, float]:
    """Fit the slope of log seconds over log size, with its 95 % interval."""
    found = scipy.stats.linregress(np.log(sizes), np.log(seconds))
    half = scipy.stats.t.ppf(0.975, len(sizes) - 2) * found.stderr
    return {
        "slope": round(found.slope, 2),
        "low": round(found.slope - half, 2),
        "high": round(found.slope + half, 2),
    }


def timed(run: Callable[[], object]) -> float:
    """Return the seconds of one thread in one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def growth_of(what: str, repeat: int) -> dict[str, Any]:
    """Measure the seconds at each size, the least of some turns of lens and floor side by side, and their slopes."""
    torch.set_num_threads(1)
    sizes, make = GROWTH[what]
    seconds: dict[str, list[float]] = {"lens": [], "floor": []}
    for size in sizes:
        module, prompts, last = make(size)
        model = lr.load(module)
        positions = -1 if last else None
        lr.logit_lens(model, [prompts[0][:3]])
        found: dict[str, list[float]] = {"lens": [], "floor": []}
        for _ in range(repeat):
            found["floor"].append(timed(lambda: floor(module, prompts, last)))  # noqa: B023
            found["lens"].append(timed(lambda: lr.logit_lens(model, prompts, positions=positions, track=None)))  # noqa: B023  # fmt: skip
        for name, values in found.items():
            seconds[name].append(min(values))
    return {
        "growth": what,
        "sizes": sizes,
        "lens_s": [round(each, 3) for each in seconds["lens"]],
        "floor_s": [round(each, 3) for each in seconds["floor"]],
        "lens": slope(sizes, seconds["lens"]),
        "floor": slope(sizes, seconds["floor"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--only", choices=list(GROWTH), nargs="+", default=list(GROWTH))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    if options.memory or not options.time:
        each_alone(__file__, MEMORY)
    if options.time or not options.memory:
        for what in options.only:
            print(json.dumps(growth_of(what, options.repeat)), flush=True)


if __name__ == "__main__":
    main()
