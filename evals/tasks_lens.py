"""Tasks about the stream after each layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from oracle import blocks_of
from transformers import PreTrainedModel

from answers import Check, close, ranked, same, top
from bench import Bench, task
from by_hand import decode, lens, lens_logits, settled
from checkpoints import build, ids_of, tokenizer

FRANCE = "The capital of France is"
FOX = "The quick brown fox jumps over the lazy dog, and then"


def _top_five(bench: Bench, module: PreTrainedModel, prompt: str, name: str = "model") -> Iterator[Check]:
    """Top five ids and log-probabilities of every layer after the last token."""
    answer = bench.run(bench.checkpoint(module, name), {"prompt": prompt})
    expected = lens(module, prompt)[:, -1]
    ids = answer.ids("top_ids", len(expected), 5)
    yield top("top_ids", ids, expected)
    best = -np.sort(-expected, axis=-1)[:, :5]
    yield close("top_logprobs", answer.numbers("top_logprobs", len(expected), 5), best)


@task
def first_lens(bench: Bench) -> Iterator[Check]:
    yield from _top_five(bench, build("llama", 101), FRANCE)


@task
def softcap_lens(bench: Bench) -> Iterator[Check]:
    yield from _top_five(bench, build("gemma2", 102), FRANCE)


@task
def logit_scale(bench: Bench) -> Iterator[Check]:
    yield from _top_five(bench, build("cohere", 103), FRANCE)


@task
def any_family(bench: Bench) -> Iterator[Check]:
    """One script for models that are wired in different ways."""
    for number, family in enumerate(["opt_project", "minicpm3", "mamba"]):
        for check in _top_five(bench, build(family, 104 + number), FRANCE, family):
            yield check._replace(name=f"{check.name} of {family}")


@task
def one_layer(bench: Bench) -> Iterator[Check]:
    module, layer = build("qwen3", 107), 2
    answer = bench.run(bench.checkpoint(module), {"prompt": FOX, "layer": layer})
    expected = lens(module, FOX)[layer, -1]
    best = np.argsort(-expected)[:5]
    yield top("top_ids", answer.ids("top_ids", 5), expected)
    yield close("top_logprobs", answer.numbers("top_logprobs", 5), expected[best])


@task
def settles(bench: Bench) -> Iterator[Check]:
    """Some prompts where the answer is there, goes away and comes back, and some where it only comes last."""
    module = build("phi", 113)
    tops = {prompt: lens(module, prompt)[:, -1].argmax(-1) for prompt in _many_prompts(40)}
    back = [p for p, ids in tops.items() if settled(ids, ids[-1]) != (ids == ids[-1]).argmax()]
    prompts = back[:3] + [p for p in tops if p not in back][:5]
    answer = bench.run(bench.checkpoint(module), {"prompts": prompts})
    expected = [settled(tops[p], tops[p][-1]) for p in prompts]
    yield same("layers", answer.ids("layers", len(prompts)), expected)


def _many_prompts(count: int) -> list[str]:
    nouns = ["fox", "dog", "capital", "model", "prompt", "answer", "layer", "guess"]
    verbs = ["is", "jumps over", "reads", "writes", "turns into"]
    return [f"The {noun} {verb} the" for verb in verbs for noun in nouns][:count]


@task
def token_rank(bench: Bench) -> Iterator[Check]:
    module = build("gpt2", 113)
    answer = bench.run(bench.checkpoint(module), {"prompt": FRANCE, "word": " a"})
    expected, token = lens(module, FRANCE)[:, -1], int(ids_of(" a"))
    yield ranked("ranks", answer.ids("ranks", len(expected)), expected, token)
    yield close("logprobs", answer.numbers("logprobs", len(expected)), expected[:, token])


@task
def logit_difference(bench: Bench) -> Iterator[Check]:
    module = build("gptj", 114)
    answer = bench.run(bench.checkpoint(module), {"prompt": FOX, "word": " the", "rival": " of"})
    logits = lens_logits(module, FOX)[:, -1]
    expected = logits[:, int(ids_of(" the"))] - logits[:, int(ids_of(" of"))]
    yield close("differences", answer.numbers("differences", len(logits)), expected)


@task
def next_token(bench: Bench) -> Iterator[Check]:
    module, following = build("gpt_neox", 115), ids_of(FOX)[0, 1:].numpy()
    answer = bench.run(bench.checkpoint(module), {"prompt": FOX})
    expected = lens(module, FOX)[:, :-1]
    at = expected[:, np.arange(len(following)), following]
    yield ranked("ranks", answer.ids("ranks", *at.shape), expected, following)
    yield close("loss", answer.numbers("loss", len(at)), -at.mean(1))


@task
def entropy_kl(bench: Bench) -> Iterator[Check]:
    module = build("qwen2", 116)
    answer = bench.run(bench.checkpoint(module), {"prompt": FOX})
    expected = lens(module, FOX)
    probs, final = np.exp(expected), expected[-1]
    yield close("entropy", answer.numbers("entropy", *expected.shape[:2]), -(probs * expected).sum(-1))
    kl = (np.exp(final) * (final - expected)).sum(-1)
    yield close("kl", answer.numbers("kl", *kl.shape), kl)


@task
def decode_vector(bench: Bench) -> Iterator[Check]:
    """Rows of a dictionary, some of them tiny: only their direction counts."""
    module = build("starcoder2", 117)
    vectors = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)) * torch.tensor([[0.1], [1], [9]] * 2)
    answer = bench.run(bench.checkpoint(module), {"vectors": vectors.tolist()})
    expected = decode(module, vectors)
    yield top("top_ids", answer.ids("top_ids", 6, 5), expected)
    best = -np.sort(-expected, axis=-1)[:, :5]
    yield close("top_logprobs", answer.numbers("top_logprobs", 6, 5), best)


@task
def modules(bench: Bench) -> Iterator[Check]:
    module = build("xglm", 118)
    answer = bench.run(bench.checkpoint(module), {})
    blocks = blocks_of(module)
    wanted = {
        "blocks": next(each for each in module.modules() if blocks[0] in each.children()),
        "norm": module.get_submodule("model.layer_norm"),
        "unembedding": module.get_output_embeddings(),
    }
    there = dict(module.named_modules())
    for name, expected in wanted.items():
        path = answer.text(name)
        yield Check(name, there.get(path) is expected, f"{path!r}")


@task
def chat(bench: Bench) -> Iterator[Check]:
    module = build("llama", 119)
    messages = [{"role": "user", "content": "Is it a capital?"}]
    answer = bench.run(bench.checkpoint(module), {"messages": messages})
    ids = tokenizer().apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    expected = lens(module, ids["input_ids"])[:, -1]
    yield same("n_tokens", answer.ids("n_tokens"), ids["input_ids"].shape[1])
    yield top("top_ids", answer.ids("top_ids", len(expected), 5), expected)


@task
def compare_models(bench: Bench) -> Iterator[Check]:
    """A model and one trained on from it: some of its weights have moved."""
    base, tuned = build("llama", 120), build("llama", 120)
    with torch.no_grad():
        for block in tuned.model.layers[1:]:
            block.mlp.down_proj.weight.mul_(1.7)
    folder = bench.checkpoint(base, "base")
    answer = bench.run(folder, {"other": str(bench.checkpoint(tuned, "tuned")), "prompt": FRANCE, "word": " the"})
    token, a, b = int(ids_of(" the")), lens(base, FRANCE)[:, -1], lens(tuned, FRANCE)[:, -1]
    yield close("gain", answer.numbers("gain", len(a)), b[:, token] - a[:, token])
    entropies = [-(np.exp(logprobs) * logprobs).sum(-1) for logprobs in (a, b)]
    yield close("entropy_gain", answer.numbers("entropy_gain", len(a)), entropies[1] - entropies[0])


@task
def per_prompt_targets(bench: Bench) -> Iterator[Check]:
    """Prompts of different lengths in one batch, on a model with learned positions."""
    module = build("gpt2", 121)
    words = {"The fox": " is", FOX: " a", FRANCE: " the", "One two three four": " fo", "A model reads": " an"}
    answer = bench.run(bench.checkpoint(module), {"prompts": list(words), "words": list(words.values())})
    expected = [lens(module, prompt)[:, -1] for prompt in words]
    tokens = [int(ids_of(word)) for word in words.values()]
    own = np.array([logprobs[:, token] for logprobs, token in zip(expected, tokens, strict=True)])
    yield close("logprobs", answer.numbers("logprobs", *own.shape), own)
    yield ranked("ranks", answer.ids("ranks", *own.shape), np.array(expected), np.array(tokens)[:, None])
