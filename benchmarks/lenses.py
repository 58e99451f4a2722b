"""What are the lenses worth on SmolLM2, and what do they cost?

    python benchmarks/lenses.py                   # everything; about half an hour on two cores
    python benchmarks/lenses.py quality           # KL to the model's output per layer, on text that nothing was fitted on
    python benchmarks/lenses.py alignment         # is each lens about the model, or about the text? about ten minutes
    python benchmarks/lenses.py read linear       # a read with a lens beside one without; the fit beside its passes
    python benchmarks/lenses.py jacobian          # our fit beside TransformerLens's (make test-peers installs it)

Every pair is measured in one run, with the same threads, one after the other.

What profiling found (SmolLM2-135M, float32). The Jacobian fit is a backward pass for each of the 576 dimensions of
the final stream, bound by its products: cotangents in batches of 8, 32 or 96, by `is_grads_batched` or in rows of
their own, with eager or fused attention, all cost the same. So what is gained is what is left out: the head, the last
token, and the 16 positions before the first source, which run once without gradients and are then a cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import side_by_side

import lens_recipes as lr
from lens_recipes.cli.common.lenses import own_lens
from lens_recipes.models import smollm2
from lens_recipes.recipes.lenses.text.samples import own_rows
from lens_recipes.trace.transport import Affine

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
TOKENS = 20_000  # of the model's own text that linear and tuned lens are fitted on
JACOBIAN_PROMPTS, JACOBIAN_TOKENS = 6, 64  # enough to see what such a lens does, in minutes
HELD_OUT = 380  # tokens of English
SMALL_FIT = 4_000  # tokens of the tuned lens whose alignment is measured
PUSHED_PROMPTS, PUSHED_TOKENS = 16, 24  # of English, pushed after the last token
PUSHED_LAYERS = list(range(0, 29, 4))


def english(tokenizer, n_rows: int, n_tokens: int) -> list[list[int]]:
    """Rows of English prose from Python's own manual, read as prompts are: after BOS where the tokenizer has one."""
    import pydoc_data.topics

    topics = pydoc_data.topics.topics
    words = " ".join(topics[name] for name in sorted(topics))
    ids = tokenizer(words[: 40 * n_rows * n_tokens]).input_ids
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    bos = [tokenizer.bos_token_id] * begins
    width = n_tokens - len(bos)
    return [[*bos, *ids[start : start + width]] for start in range(0, n_rows * width, width)]


# -- quality -----------------------------------------------------------


def fitted(model, rows: list[list[int]]) -> dict[str, lr.Lens]:
    """The lenses of the table, each fitted here."""
    prompts = [row[:JACOBIAN_TOKENS] for row in rows[:JACOBIAN_PROMPTS]]
    texts = {"linear": rows, "tuned": rows, "jacobian": prompts}
    lenses = {}
    for kind, text in texts.items():
        started = time.perf_counter()
        lenses[kind] = lr.fit_lens(model, text, kind=kind, tokens=TOKENS, quality_tokens=0)
        seconds = time.perf_counter() - started
        record = lenses[kind].record
        print(
            f"{kind}: {seconds:.0f} s, {record.n_tokens} tokens in {record.n_prompts} rows",
            flush=True,
        )
    return lenses


def quality(model) -> None:
    """Print KL(model ‖ lens) in nats of every layer and lens, on text that nothing was fitted on."""
    started = time.perf_counter()
    rows = [row.ids.tolist() for row in own_rows(model, -(-TOKENS // 127), 128, seed=0)]
    print(
        f"{sum(map(len, rows))} tokens written in {time.perf_counter() - started:.0f} s", flush=True
    )
    lenses = fitted(model, rows)
    held_out = english(model.tokenizer, 1, HELD_OUT)
    results = {"logit": lr.logit_lens(model, held_out)}
    for name, lens in lenses.items():
        results[name] = lr.logit_lens(model, held_out, lens=lens)
    columns = {name: result.kl_to_final.mean(-1) for name, result in results.items()}
    agreement = {}
    for name, result in results.items():
        agreement[name] = (result.top_ids[..., 0] == result.final_ids).mean(-1)
    print("KL to the model's output in nats, and how often top-1 is the model's")
    print("layer " + "".join(f"{name:>16}" for name in columns))
    for layer in range(len(columns["logit"])):
        cells = [
            f"{columns[name][layer]:>10.3f} {agreement[name][layer]:>4.0%} " for name in columns
        ]
        print(f"{layer:>5} " + "".join(cells))
    means = {name: column[:-1].mean() for name, column in columns.items()}
    print(" mean " + "".join(f"{mean:>10.3f}      " for mean in means.values()))
    below = columns["linear"][:24].mean() / columns["logit"][:24].mean()
    n_inner = len(columns["logit"]) - 1
    print(f"linear below layer 24: {below:.2f} × the logit lens")
    for name, other in (("linear", "logit"), ("tuned", "linear")):
        n_better = int((columns[name][:-1] < columns[other][:-1]).sum())
        print(f"{name} is better than {other} in {n_better} of {n_inner} layers")


def alignment(model) -> None:
    """Print whether what each lens announces of a push is what the model does, on text that nothing was fitted on."""
    n_rows = -(-SMALL_FIT // 127)
    rows = [row.ids.tolist() for row in own_rows(model, n_rows, 128, seed=0)]
    jacobian_rows = [row[:JACOBIAN_TOKENS] for row in rows[:JACOBIAN_PROMPTS]]
    lenses: dict[str, lr.Lens | None] = {"logit": None, "linear": own_lens(model)}
    for kind, text in {"tuned": rows, "jacobian": jacobian_rows}.items():
        started = time.perf_counter()
        lenses[kind] = lr.fit_lens(model, text, kind=kind, tokens=SMALL_FIT, quality_tokens=0)
        print(f"{kind}: {time.perf_counter() - started:.0f} s", flush=True)
    prompts = english(model.tokenizer, PUSHED_PROMPTS, PUSHED_TOKENS)
    measured = {}
    for name, lens in lenses.items():
        started = time.perf_counter()
        measured[name] = lr.lens_alignment(lens, model, prompts, layers=PUSHED_LAYERS)
        print(f"\n{name}: {time.perf_counter() - started:.0f} s\n{measured[name]}", flush=True)
    print("\nalignment (95 % interval) drop of the answer in nats")
    print("layer " + "".join(f"{name:>26}" for name in measured))
    for row, layer in enumerate(PUSHED_LAYERS):
        line = f"{layer:>5} "
        for found in measured.values():
            spread = found.alignment["mean"]
            interval = f"({spread.low[row]:.2f} … {spread.high[row]:.2f})"
            mark = " " if found.is_beyond_control[row] else "?"
            line += f"{spread.mean[row]:>7.2f}{mark} {interval:>12} {found.drop.mean[row]:>4.1f}"
        print(line)


# -- cost --------------------------------------------------------------


def read(model) -> None:
    """Print what a read costs with a lens, beside one without."""
    width = lr.anatomy(model).d_model
    generator = torch.Generator().manual_seed(0)
    transports = {}
    for layer in lr.anatomy(model).layers[:-1]:
        noise = torch.randn(width, width, generator=generator)
        transports[layer] = Affine(torch.eye(width) + 0.01 * noise, torch.zeros(width))
    lens = lr.Lens("linear", transports)
    prompts = english(model.tokenizer, 4, 32)
    cases: dict[str, Callable[[], object]] = {
        "without": lambda: lr.logit_lens(model, prompts),
        "with": lambda: lr.logit_lens(model, prompts, lens=lens),
    }
    ratios = side_by_side(cases, 5, floor="without")["ratio_to_floor"]
    print(f"a read with a lens: {ratios['with']:.2f} × one without")


def linear(model) -> None:
    """Print what the linear fit of as much text as `fit_lens` takes costs, beside its forward passes alone."""
    rows = english(model.tokenizer, TOKENS // 128, 128)
    module = model._module.model

    def passes() -> None:
        with torch.no_grad():
            for start in range(0, len(rows), 16):
                module(torch.tensor(rows[start : start + 16]), use_cache=False)

    cases: dict[str, Callable[[], object]] = {
        "passes": passes,
        "fit": lambda: lr.fit_lens(model, rows, kind="linear", tokens=TOKENS, quality_tokens=0),
    }
    ratios = side_by_side(cases, 2, floor="passes")["ratio_to_floor"]
    print(f"the linear fit: {ratios['fit']:.2f} × its forward passes")


def jacobian(model) -> None:
    """Print what a Jacobian fit of one prompt costs, beside TransformerLens's, and how far the two are apart."""
    prompts = english(model.tokenizer, 1, 64)
    started = time.perf_counter()
    lens = lr.fit_lens(model, prompts, kind="jacobian", quality_tokens=0)
    ours = time.perf_counter() - started
    print(f"Jacobian, 64 tokens: {ours:.1f} s")
    if not PEERS.exists():
        print("no TransformerLens: make test-peers installs it")
        return
    with tempfile.TemporaryDirectory() as folder:
        task, answer = Path(folder, "task.pt"), Path(folder, "answer.pt")
        torch.save({"smollm2": {"model": str(smollm2.folder()), "prompts": prompts}}, task)
        script = ROOT / "tests" / "peers" / "side_of_transformer_lens.py"
        subprocess.run([PEERS, script, task, answer], check=True, capture_output=True)
        theirs = torch.load(answer, weights_only=True)["smollm2"]
    print(f"TransformerLens: {theirs['seconds']:.1f} s; ours {ours / theirs['seconds']:.2f} ×")
    largest = 0.0
    for layer, transport in lens.transports.items():
        scale = theirs["jacobians"][layer].abs().max()
        error = (transport.weight - theirs["jacobians"][layer]).abs().max() / scale
        largest = max(largest, float(error))
    print(f"largest difference: {largest:.1e} of a layer's largest number")


PARTS = {
    "quality": quality,
    "alignment": alignment,
    "read": read,
    "linear": linear,
    "jacobian": jacobian,
}


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    model = lr.load("smollm2")
    for part in chosen:
        PARTS[part](model)


if __name__ == "__main__":
    main()
