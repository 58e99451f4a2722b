"""How much does the lens add to generation, beside the least that it could cost?

    python benchmarks/generation.py                      # 64 new tokens after 128; JSON on stdout
    python benchmarks/generation.py --prompts 4 --new 32
    python benchmarks/generation.py --memory             # peak memory of 64 and of 512 steps, each in a fresh process

Measured side by side in one process, interleaved, medians:

- `generate`: Hugging Face's own `generate`, greedy, with its cache;
- `floor`: the same, and after each step the bare product of that step's rows (all layers) with the unembedding;
- `basic`: `generate_lens`, all layers, top-5 (`track=None`);
- `all`: the same with two targets and tracking.

What measuring found (SmolLM2-135M, float32, two cores). The step's rows are one product, as in the floor; what stands
above it is one look at the logits in tiles, and the interleaving of 30 modules. Memory was the surprise: the small
arrays of each step, kept one by one between the large ones that a step needs for a moment, left holes in the heap,
and it grew with every step. Arrays made once for many steps, and filled, need nothing beyond the result.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable

import torch
from lens import text_ids
from side_by_side import each_alone, grown, side_by_side

import lens_recipes as lr

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def generate(module, ids: list[list[int]], new: int, product: bool) -> None:
    """Hugging Face's own, as a user calls it; with `product` the floor."""
    streams: list[torch.Tensor] = []

    def decoded(_module, _args, _out) -> None:
        rows = torch.cat(streams)
        streams.clear()
        rows @ module.lm_head.weight.T

    hooks = []
    if product:
        for layer in module.model.layers:
            hooks.append(
                layer.register_forward_hook(lambda _m, _i, out: streams.append(out[:, -1]))
            )
        hooks.append(module.register_forward_hook(decoded))
    try:
        inputs = torch.tensor(ids)
        module.generate(
            input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=new,
            min_new_tokens=new,
        )  # fmt: skip
    finally:
        for hook in hooks:
            hook.remove()


def lens(model, ids: list[list[int]], new: int, **options) -> None:
    lr.generate_lens(
        model,
        ids,
        max_new_tokens=new,
        generation_config={"min_new_tokens": new},
        do_sample=False,
        **options,
    )


def contenders(model, ids: list[list[int]], new: int) -> dict[str, Callable[[], None]]:
    return {
        "generate": lambda: generate(model._module, ids, new, product=False),
        "floor": lambda: generate(model._module, ids, new, product=True),
        "basic": lambda: lens(model, ids, new, track=None),
        "all": lambda: lens(model, ids, new, targets=[" the", " Paris"]),
    }


def measure(model, prompts: int, tokens: int, new: int, repeat: int) -> dict[str, object]:
    """Median seconds of each contender, and the ratio to the floor, run in turn."""
    runs = contenders(model, text_ids(model.tokenizer, prompts, tokens), new)
    return {"prompts": prompts, "tokens": tokens, "new": new, **side_by_side(runs, repeat)}


# -- memory ------------------------------------------------------------


def memory_of(new: int) -> dict[str, int]:
    """Peak resident megabytes of plain generation, and what the lens of as many steps adds; in this process."""
    model = lr.load("smollm2")
    ids = text_ids(model.tokenizer, 1, 128)
    lens(model, ids, 2)
    generate(model._module, ids, new, product=False)
    return grown(lambda: lens(model, ids, new))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[128])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    if options.memory:
        each_alone(__file__, (64, 512))
        return
    model = lr.load("smollm2")
    for prompts in options.prompts:
        for tokens in options.tokens:
            print(
                json.dumps(measure(model, prompts, tokens, options.new, options.repeat)), flush=True
            )


if __name__ == "__main__":
    main()
