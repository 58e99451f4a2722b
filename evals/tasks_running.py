"""Tasks about text that is being written, and about many prompts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracle import early_exit_logits

from answers import Check, close, numbers, ranked, same, top
from bench import Bench, task
from by_hand import lens, settled
from checkpoints import build, ids_of, one_token_words

STEPS = 12
PROMPTS = ["The fox", "The capital of France is", "One two three four five", "A model reads the prompt and", "Layers"]


def _greedy(module: Any, prompt: str, **options: Any) -> torch.Tensor:
    """Hugging Face's own text for one prompt alone: ids [1, token], the prompt included."""
    ids = ids_of(prompt)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        return module.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, **options)


def _written(module: Any, prompt: str, **options: Any) -> tuple[list[int], np.ndarray]:
    """The ids that were written, and the lens where each was predicted: log-probabilities [layer, step, vocab]."""
    whole, start = _greedy(module, prompt, **options), ids_of(prompt).shape[1]
    return whole[0, start:].tolist(), lens(module, whole)[:, start - 1 : -1]


@task
def generation_with_eos(bench: Bench) -> Iterator[Check]:
    """Rows of one batch end at different steps, at ids that the checkpoint's generation config names."""
    module = build("llama", 301)
    texts = [_written(module, prompt, do_sample=False, eos_token_id=None)[0] for prompt in PROMPTS]
    module.generation_config.eos_token_id = [texts[0][2], texts[2][7]]
    answer = bench.run(bench.checkpoint(module), {"prompts": PROMPTS, "max_new_tokens": STEPS})
    expected = [_written(module, prompt, do_sample=False) for prompt in PROMPTS]
    ends = ["eos" if ids[-1] in module.generation_config.eos_token_id else "length" for ids, _ in expected]
    yield same("written", answer.rows("written", len(PROMPTS)), [ids for ids, _ in expected])
    yield same("ended_by", answer.texts("ended_by", len(PROMPTS)), ends)
    found = answer.rows("logprobs", len(PROMPTS))
    rows = same("rows", [len(steps) for steps in found], [len(ids) for ids, _ in expected])
    yield rows
    for number, (ids, logprobs) in enumerate(expected if rows.passed else []):
        own = logprobs[:, np.arange(len(ids)), ids].T
        yield close(f"logprobs of prompt {number}", numbers(found[number], own.shape, "logprobs"), own)


@task
def generated_settled(bench: Bench) -> Iterator[Check]:
    """The ids that a random model writes are not those of its text read again: only the run itself tells them."""
    module, prompt = build("phi", 302), "The capital of France is"
    answer = bench.run(bench.checkpoint(module), {"prompt": prompt, "max_new_tokens": STEPS})
    ids, logprobs = _written(module, prompt, do_sample=False)
    tops = logprobs.argmax(-1)
    yield same("written", answer.ids("written", len(ids)), ids)
    yield top("top_ids", answer.ids("top_ids", *tops.shape)[..., None], logprobs)
    yield same("layers", answer.ids("layers", len(ids)), [settled(tops[:, t], ids[t]) for t in range(len(ids))])


@task
def sampled_generation(bench: Bench) -> Iterator[Check]:
    """A sampled token need not be the model's first choice: what the model gave it, and what the sampler did."""
    module, prompt = build("llama", 303), "The quick brown fox"
    asked = {"temperature": 1.4, "top_p": 0.9, "seed": 5}
    answer = bench.run(bench.checkpoint(module), {"prompt": prompt, "max_new_tokens": STEPS, **asked})
    with torch.random.fork_rng():
        torch.manual_seed(asked["seed"])
        ids, logprobs = _written(module, prompt, do_sample=True, temperature=1.4, top_p=0.9, top_k=50)
    yield same("written", answer.ids("written", len(ids)), ids)
    own = logprobs[-1, np.arange(len(ids)), ids]
    yield close("model_logprobs", answer.numbers("model_logprobs", len(ids)), own)
    yield ranked("ranks", answer.ids("ranks", len(ids)), logprobs[-1], ids)


# -- many prompts ------------------------------------------------------

MANY, VOCAB, EXTRA = 1500, 20_000, 2 * 10**9


def _many() -> tuple[list[str], list[str]]:
    """Prompts of 8 to 27 tokens, and a word for each of them."""
    generator, words = np.random.default_rng(0), one_token_words()
    prompts = ["The" + "".join(generator.choice(words, size=7 + n % 20)) for n in range(MANY)]
    return prompts, [str(word) for word in generator.choice(words, size=MANY)]


@task
def bounded_memory(bench: Bench) -> Iterator[Check]:
    """Beside what the model takes that has read one of the prompts, measured in the same way."""
    module = build("llama", 304, vocab=VOCAB)
    folder, (prompts, words) = bench.checkpoint(module), _many()
    asked = {"prompts": prompts, "words": words}
    floor = Bench(Path(__file__).parent / "floor.py", bench.folder, bench.limit_s, bench.warm)
    floor.call(folder, asked)
    answer = bench.run(folder, asked)
    extra = bench.ran.peak_bytes - floor.ran.peak_bytes
    yield Check(
        "memory", extra < EXTRA, f"{extra / 1e6:.0f} MB beside a model that reads one prompt; {EXTRA / 1e6:.0f} allowed"
    )
    found, (least, most) = answer.ids("ranks", MANY, 4), _rank_bounds(module, prompts, words)
    off = [tuple(place) for place in np.argwhere((found < least) | (found > most)).tolist()]
    first = f"; {found[off[0]]} at {off[0]}, expected {least[off[0]]}" if off else ""
    yield Check("ranks", not off, f"{len(off)} of {found.size} are wrong{first}")


def _rank_bounds(module: Any, prompts: list[str], words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest rank [prompt, layer] of each word: they differ where another logit is within 1e-4.

    Prompts of one length are run together, so that nothing is padded.
    """
    ids, tokens = [ids_of(prompt) for prompt in prompts], torch.cat([ids_of(word) for word in words])
    least, most = np.zeros((2, len(prompts), 4), dtype=np.int64)
    last = module.lm_head.register_forward_pre_hook(lambda _module, args: (args[0][:, -1:],))
    try:
        for length in {one.shape[1] for one in ids}:
            some = [n for n, one in enumerate(ids) if one.shape[1] == length]
            logits = early_exit_logits(module, torch.cat([ids[n] for n in some]))[:, :, 0]
            own = logits.gather(-1, tokens[some].expand(len(logits), -1, 1))
            least[some] = (logits > own + 1e-4).sum(-1).T
            most[some] = (logits >= own - 1e-4).sum(-1).T - 1  # itself
    finally:
        last.remove()
    return least, most


@task
def compare_prompts(bench: Bench) -> Iterator[Check]:
    """One word through the layers for several prompts, and its mean over them, against a control."""
    module = build("mistral", 305)
    pairs = {"prompts": ["The capital of France is", "The capital of Italy is"], "controls": PROMPTS[2:]}
    answer = bench.run(bench.checkpoint(module), {**pairs, "word": " the"})
    token = int(ids_of(" the"))
    means = [np.mean([lens(module, p)[:, -1, token] for p in group], axis=0) for group in pairs.values()]
    yield close("gap", answer.numbers("gap", 4), means[0] - means[1])
