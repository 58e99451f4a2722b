"""What do components and attribution cost, beside the least that they could?

    python benchmarks/components.py                    # JSON on stdout
    python benchmarks/components.py --memory           # peak memory, each case in a fresh process

In one process, interleaved, medians of the ratios, SmolLM2-135M in float32:

- `lens` and `components`: the stream of all layers, and five components of all layers, each beside its own floor: the
  transformer's body and the bare product of the same rows with the unembedding.
- `attribution` of the last token by each unit, beside one forward pass that makes the last token's logits; by head also
  as it is sent to a server (`remote="local"`: the unembedding is called for every part, where only the target's rows
  are read here).

What profiling found. Components are the product and nothing else. In attribution by head, most of what stood above the
forward pass was Python writing single columns head by head: one multiplication with a mask took its place. A first
version made the mean row of the unembedding anew for every layer, and the certificate of many positions held all their
logits at once; both showed in the peak, not in the time of one token. What is left by source token is one call of the
output projection per layer and head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from lens import CHUNK, text_ids
from side_by_side import each_alone, grown

import lens_recipes as lr

FIVE = ("attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post")
TARGET, RIVAL = " Paris", " London"


def floor(module, ids: list[list[int]], rows_per_layer: int) -> None:
    """Body and product of as many rows as are asked for of each layer: no norm, no metric, nothing kept."""
    streams = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: streams.append(out))
        for layer in module.model.layers
    ]
    try:
        with torch.inference_mode():
            module.model(input_ids=torch.tensor(ids), use_cache=False)
            rows = torch.cat(
                [stream.flatten(0, 1) for stream in streams for _ in range(rows_per_layer)]
            )
            for start in range(0, len(rows), CHUNK):
                rows[start : start + CHUNK] @ module.lm_head.weight.T
    finally:
        for hook in hooks:
            hook.remove()


def forward(module, ids: list[list[int]]) -> None:
    with torch.inference_mode():
        module(input_ids=torch.tensor(ids), use_cache=False, logits_to_keep=1)


def ratios(
    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]], repeat: int
) -> dict[str, object]:
    """Median of the seconds of each run, of its floor, and of the ratio of the two, run in turn."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(repeat + 1):
        for name, pair in runs.items():
            times = []
            for run in pair:
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
            if turn:  # the first round warms up
                seen[name].append((times[0], times[1]))
    return {
        name: {
            "seconds": round(statistics.median(a for a, _ in times), 3),
            "floor_seconds": round(statistics.median(b for _, b in times), 3),
            "ratio": round(statistics.median(a / b for a, b in times), 3),
            "ratios": [round(a / b, 3) for a, b in times],
        }
        for name, times in seen.items()
    }


def speed(repeat: int, tokens: int) -> None:
    model = lr.load("smollm2")
    module, ids = model._module, text_ids(model.tokenizer, 1, tokens)

    def split(unit: str, **options):
        return lambda: lr.attribution(model, ids, TARGET, against=RIVAL, unit=unit, **options)

    def one():
        forward(module, ids)

    units = {
        f"attribution by {unit}": (split(unit), one)
        for unit in ("layer", "component", "head", "token")
    }
    sent = {"attribution by head, as sent": (split("head", remote="local"), one)}
    print(json.dumps({"tokens": tokens, **ratios(units | sent, max(repeat, 5))}), flush=True)
    lenses = {
        "lens": (lambda: lr.logit_lens(model, ids, track=None), lambda: floor(module, ids, 1)),
        "components": (
            lambda: lr.logit_lens(model, ids, components=FIVE, track=None),
            lambda: floor(module, ids, 5),
        ),
    }
    print(json.dumps({"tokens": tokens, **ratios(lenses, repeat)}), flush=True)


# -- memory ------------------------------------------------------------

MEMORY = {
    "five components, 128 tokens": lambda model, ids: lr.logit_lens(
        model, ids, components=FIVE, track=None
    ),
    "heads of all layers, 32 tokens": lambda model, ids: lr.logit_lens(
        model, [ids[0][:32]], components="head_out", track=None
    ),
    "attribution by head, 128 tokens": lambda model, ids: lr.attribution(
        model, ids, TARGET, unit="head", positions=None
    ),
    "attribution by token, last of 128 tokens": lambda model, ids: lr.attribution(
        model, ids, TARGET, unit="token"
    ),
}


def memory_of(case: str) -> dict[str, int]:
    """Peak resident megabytes before and after one case, beyond a forward that keeps its logits."""
    model = lr.load("smollm2")
    ids = text_ids(model.tokenizer, 1, 128)
    lr.attribution(
        model, [ids[0][:3]], TARGET, unit="token"
    )  # what is imported and examined once is not counted
    lr.logit_lens(model, [ids[0][:3]], components="attn_out")
    with torch.inference_mode():
        model._module(input_ids=torch.tensor(ids), use_cache=False).logits.sum()
    return grown(lambda: MEMORY[case](model, ids))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
    elif options.memory:
        each_alone(__file__, MEMORY)
    else:
        speed(options.repeat, options.tokens)


if __name__ == "__main__":
    main()
