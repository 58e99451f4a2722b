"""How fast and how large is the lens, beside the least that it could cost?

    python benchmarks/lens.py                          # all positions and the last, one prompt; JSON on stdout
    python benchmarks/lens.py --prompts 64 --tokens 16
    python benchmarks/lens.py --memory                 # peak memory, each case in a fresh process

Measured side by side in one process, interleaved, medians:

- `floor`: a forward of the transformer body, and the bare product of the same rows with the unembedding, in chunks;
- `basic`: top-5, log-probabilities and entropy (`track=None`);
- `all`: the same with two targets and tracking;
- `unchecked`: `basic` without what proves every layer, the links between layers and the model's fingerprint;
- `plain`: the recipe that people write, a trace that keeps the softmax over the vocabulary at every layer.

What profiling found (SmolLM2-135M, float32, two cores). With `torch.topk` and one pass per metric over chunks of
256 MB, the passes cost as much as the product: they are bound by memory. So they are now made on a tile of 640 rows
× 1024 columns while it is in cache, once for all metrics, and the exact top k is looked for in the k blocks of 64
columns with the largest maxima. Two surprises: a fresh 2.6 MB tensor per operation costs more in page faults than
the operation, so a tile's buffers are used again; and ranks are counted faster in float32 than in bool.
What is left above the floor is, in this order: exp, the sums, the block maxima, the ranks (which read the logits a
second time, out of cache), and the subtraction of the maximum.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from unittest import mock

import torch
from side_by_side import each_alone, grown, side_by_side

import lens_recipes as lr
from lens_recipes.models.structure import known
from lens_recipes.run.request import read_plan

os.environ.setdefault("HF_HUB_OFFLINE", "1")
CHUNK = 640  # rows of one product in the floor: as many as the lens takes


def text_ids(tokenizer, prompts: int, tokens: int) -> list[list[int]]:
    """English prose from Python's own manual, cut into prompts of one length."""
    import pydoc_data.topics

    words = " ".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    ids = tokenizer(words[: 40 * prompts * tokens]).input_ids
    return [ids[i * tokens : (i + 1) * tokens] for i in range(prompts)]


def floor(module, ids: list[list[int]], last: bool) -> None:
    """Body and product: no norm, no metric, nothing kept."""
    streams = []
    hooks = [
        layer.register_forward_hook(
            lambda _m, _i, out: streams.append(out[:, -1:] if last else out)
        )
        for layer in module.model.layers
    ]
    try:
        with torch.inference_mode():
            module.model(input_ids=torch.tensor(ids), use_cache=False)
            rows = torch.cat([stream.flatten(0, 1) for stream in streams])
            for start in range(0, len(rows), CHUNK):
                rows[start : start + CHUNK] @ module.lm_head.weight.T
    finally:
        for hook in hooks:
            hook.remove()


def plain(model, ids: list[list[int]], last: bool) -> None:
    """What a tutorial does, in nnsight 0.8."""
    import nnsight

    with torch.inference_mode(), model.trace(torch.tensor(ids)):
        probs = nnsight.save([])
        for layer in model.model.layers:
            stream = layer.output[:, -1:] if last else layer.output
            probs.append(model.lm_head(model.model.norm(stream)).softmax(-1))


def unchecked(model, ids: list[list[int]], positions: int | None, fingerprint: int) -> None:
    """The lens without links between layers, of a model that is taken for what it was.

    Its fingerprint is the true one: with another, each run would examine the model as a changed one.
    """
    with (
        mock.patch.object(read_plan, "link_steps", return_value=[]),
        mock.patch.object(known, "fingerprint", return_value=fingerprint),
    ):
        lr.logit_lens(model, ids, positions=positions, track=None)


def contenders(model, ids: list[list[int]], last: bool) -> dict[str, Callable[[], object]]:
    positions = -1 if last else None
    fingerprint = known.fingerprint(model._module)
    return {
        "floor": lambda: floor(model._module, ids, last),
        "basic": lambda: lr.logit_lens(model, ids, positions=positions, track=None),
        "all": lambda: lr.logit_lens(model, ids, positions=positions, targets=[" the", " Paris"]),
        "unchecked": lambda: unchecked(model, ids, positions, fingerprint),
        "plain": lambda: plain(model, ids, last),
    }


def measure(
    model, prompts: int, tokens: int, last: bool, repeat: int, without: set[str]
) -> dict[str, object]:
    """Median seconds of each contender, and the ratio to the floor, run in turn."""
    runs = {
        k: v
        for k, v in contenders(model, text_ids(model.tokenizer, prompts, tokens), last).items()
        if k not in without
    }
    where = "last" if last else "all"
    return {"prompts": prompts, "tokens": tokens, "positions": where, **side_by_side(runs, repeat)}


# -- memory ------------------------------------------------------------


def forward(model, ids: list[list[int]]) -> None:
    with torch.inference_mode():
        model._module(input_ids=torch.tensor(ids), use_cache=False).logits.sum()


def lens(model, ids: list[list[int]]) -> None:
    lr.logit_lens(model, ids)


def forward_and_a_small_lens(model, ids: list[list[int]]) -> None:
    lens(model, [ids[0][:3]])  # what is imported and examined on first use is not the lens's memory
    forward(model, ids)


def last(model, ids: list[list[int]]) -> None:
    lr.logit_lens(model, ids, positions=-1)


# Prompts, their length, what is run before the counting starts, and what is counted: a peak can only be seen to grow.
MEMORY = {
    "forward that keeps its logits, 1024 tokens": (1, 1024, lambda model, ids: lens(model, [ids[0][:3]]), forward),
    "lens, 1024 tokens, beyond that forward": (1, 1024, forward_and_a_small_lens, lens),
    "2000 prompts of 20 tokens, last position, beyond 300 of them": (
        2000, 20, lambda model, ids: last(model, ids[:300]), last,
    ),
}  # fmt: skip


def memory_of(case: str) -> dict[str, int]:
    """Peak resident megabytes before and after one case, in this process."""
    model = lr.load("smollm2")
    prompts, tokens, warm, run = MEMORY[case]
    ids = text_ids(model.tokenizer, prompts, tokens)
    warm(model, ids)
    return grown(lambda: run(model, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 128, 512, 1024])
    parser.add_argument("--prompts", type=int, nargs="+", default=[1])
    parser.add_argument("--positions", choices=["all", "last"], nargs="+", default=["all", "last"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], help="contenders to leave out")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    if options.memory:
        each_alone(__file__, MEMORY)
        return
    model = lr.load("smollm2")
    for prompts in options.prompts:
        for tokens in options.tokens:
            for positions in options.positions:
                last = positions == "last"
                row = measure(model, prompts, tokens, last, options.repeat, set(options.without))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
