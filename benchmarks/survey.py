"""What does a survey cost beside `logit_lens` of the same, and that beside the floor? And its statistics?

    python benchmarks/survey.py [N_PROMPTS]      # SmolLM2, prompts of 20 tokens; default 1,024: four blocks

The floor is that of benchmarks/lens.py: a forward pass of the transformer's body, and the bare product of the last
position of each layer with the unembedding. All are measured in one process, in turn, in seconds of the processor, so
that others on the machine count less.

What was measured on a busy machine with one thread, 128 prompts: survey 1.01 × `logit_lens` of the same (1.01 × in a
folder), which is 1.05 × the floor. The table of all metrics takes 7 s, 5 s with clusters; the summary 3 s.

The statistics are those of 20,000 items × 80 layers with 2,000 resamples, in seconds: the table, the summary, and one
curve of each kind, with and without clusters.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

import lens_recipes as lr
from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.survey.arrays import ItemNames
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.recipes.survey.block import columns_of
from lens_recipes.recipes.survey.items import read_items
from lens_recipes.recipes.survey.prepare import ItemReader, choose_controls

os.environ.setdefault("HF_HUB_OFFLINE", "1")
BLOCK, CHUNK = 256, 640
LENGTH = 20
TURNS = 3
N_ITEMS, N_LAYERS = 20_000, 80


def items_of(model, n_items: int) -> list[dict]:
    """Prompts of random ids, each with an answer of two spellings and what it is held against."""
    rng = np.random.default_rng(0)
    items = []
    for _ in range(n_items):
        prompt = rng.integers(1000, 40_000, LENGTH).tolist()
        words = rng.choice(np.arange(1000, 40_000), 3, replace=False).tolist()
        items.append({"prompt": prompt, "target": words[:2], "against": words[2]})
    return items


def floor(module, prompts: list[list[int]]) -> None:
    """Body and product, as in benchmarks/lens.py: no norm, no metric, nothing kept."""
    streams = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: streams.append(out[:, -1]))
        for layer in module.model.layers
    ]
    try:
        with torch.inference_mode():
            module.model(input_ids=torch.tensor(prompts), use_cache=False)
            rows = torch.cat(streams)
            for start in range(0, len(rows), CHUNK):
                rows[start : start + CHUNK] @ module.lm_head.weight.T
    finally:
        for hook in hooks:
            hook.remove()


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of this process's processor time that a call takes."""
    started = time.process_time()
    run()
    return time.process_time() - started


def cost_of_running(n_items: int) -> None:
    """Print what a survey costs beside the logit lens of the same, and beside the floor."""
    model = lr.load("smollm2")
    items = items_of(model, n_items)
    reader = ItemReader(model, anatomy(model), add_special_tokens=True)
    prepared = [reader.prepare(item) for item in read_items(items)]
    blocks = [prepared[start : start + BLOCK] for start in range(0, n_items, BLOCK)]
    asked = []
    for block in blocks:
        controls = choose_controls(block, reader.tokenizer, reader.vocab_size, 0)
        asked.append(([one.token_ids for one in block], columns_of(block, controls).ids))

    def lens() -> None:
        for prompts, tokens in asked:
            lr.logit_lens(model, prompts, positions=-1, targets=tokens, track=None, top_k=1)

    def plain() -> None:
        for prompts, _ in asked:
            floor(model._module, prompts)

    def survey() -> None:
        lr.survey(model, items)

    def kept() -> None:
        with tempfile.TemporaryDirectory() as folder:
            lr.survey(model, items, path=os.path.join(folder, "kept"))

    runs = {"floor": plain, "logit_lens": lens, "survey": survey, "survey in a folder": kept}
    lr.survey(model, items[:8])  # warm
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            found[name].append(seconds_of(run))
    n_tokens = sum(len(one.token_ids) for one in prepared)
    print(f"{n_items} prompts, {n_tokens} tokens, {torch.get_num_threads()} threads")
    for name, seconds in found.items():
        print(f"{name}: {min(seconds):.2f} s ({', '.join(f'{each:.2f}' for each in seconds)})")

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))

    print(f"survey is {ratio('survey', 'logit_lens'):.3f} × logit_lens of the same")
    print(f"in a folder {ratio('survey in a folder', 'logit_lens'):.3f} ×")
    print(f"logit_lens is {ratio('logit_lens', 'floor'):.3f} × the floor")


def large(clustered: bool) -> lr.Survey:
    """A survey of many items and layers, of numbers that are drawn."""
    rng = np.random.default_rng(0)
    shape = N_ITEMS, N_LAYERS
    names = [
        ItemNames(
            str(number), "ab"[number % 2], str(rng.integers(2000)) if clustered else "", "text"
        )
        for number in range(N_ITEMS)
    ]

    def ranks() -> np.ndarray:
        return np.floor(np.exp(rng.normal(3, 3, shape))).clip(0, 40_000).astype(np.int32)

    def floats() -> np.ndarray:
        return rng.normal(-5, 2, shape).astype(np.float32)

    kl = np.abs(floats())
    kl[:, -1] = 0
    return lr.Survey(
        sites=[Site(layer) for layer in range(N_LAYERS)],
        names=names,
        number=np.arange(N_ITEMS),
        target_ids=np.ones((N_ITEMS, 1), np.int32),
        against_ids=np.ones((N_ITEMS, 1), np.int32),
        answer_ids=np.ones(N_ITEMS, np.int32),
        position=np.full(N_ITEMS, 19, np.int32),
        ranks=ranks(),
        logprobs=floats(),
        against_logprobs=floats(),
        entropy=np.abs(floats()),
        kl_to_final=kl,
        top_ids=rng.integers(0, 3, shape).astype(np.int32),
        shuffled_ranks=ranks(),
        shuffled_logprobs=floats(),
        random_ranks=ranks(),
        random_logprobs=floats(),
        provenance={"model": "drawn", "vocab_size": 49_152},
    )


def cost_of_statistics() -> None:
    """Print how long the statistics of a large survey take."""
    for clustered in (False, True):
        found = large(clustered)
        other = large(clustered)
        said = "in 2,000 clusters" if clustered else "independent"
        print(f"{N_ITEMS} items ({said}) × {N_LAYERS} layers × 2,000 resamples:")
        asked: dict[str, Callable[[], object]] = {
            "a curve of means": lambda found=found: found.curve("logprob"),
            "a curve of medians": lambda found=found: found.curve("rank"),
            "the table of all metrics and layers": lambda found=found: found.table(stride=1),
            "the table by group": lambda found=found: found.table(by="group", stride=1),
            "the summary": found.summary,
            "a comparison": lambda found=found, other=other: found.compare(other, "logprob"),
        }
        for name, run in asked.items():
            print(f"  {name}: {seconds_of(run):.1f} s")


if __name__ == "__main__":
    cost_of_statistics()
    cost_of_running(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
