"""Tasks about what a part of the model writes: expected numbers are written out for the one family of each task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from oracle import log_softmax, plain_logits
from torch import Tensor

from answers import Check, close
from bench import Bench, task
from by_hand import decode, direction, frozen, lens_logits, seen, shares
from checkpoints import build, ids_of

PROMPT = "The capital of France is Paris, and the capital of"
ASKED = {"prompt": PROMPT, "target": " the", "against": " of"}
N_LAYERS = N_HEADS = 4


def _difference(module: Any, prompt: str = PROMPT) -> float:
    """The model's own logit of the target minus that of its rival, after all that it does to logits."""
    logits = plain_logits(module, ids_of(prompt))[0, -1]
    return float(logits[int(ids_of(ASKED["target"]))] - logits[int(ids_of(ASKED["against"]))])


def _last(module: Any, *paths: str) -> Tensor:
    """What modules give for the last token: [module, width]."""
    return torch.stack([output[-1] for _, output in seen(module, PROMPT, *paths)])


def _attention_and_mlp(
    bench: Bench, module: Any, norm: str, attention: str, mlp: str, scale: float = 1.0
) -> Iterator[Check]:
    """What the outputs of two modules of each block add to the logit difference."""
    toward = direction(module, ASKED["target"], ASKED["against"]) * scale
    answer = bench.run(bench.checkpoint(module), ASKED)
    for name, path in (("attention", attention), ("mlp", mlp)):
        written = _last(module, *(path.format(i) for i in range(N_LAYERS)))
        yield close(name, answer.numbers(name, N_LAYERS), shares(module, PROMPT, norm, written, toward))


LLAMA = ("model.norm", "model.layers.{}.self_attn", "model.layers.{}.mlp")
FALCON = ("transformer.ln_f", "transformer.h.{}.self_attention", "transformer.h.{}.mlp")


@task
def component_attribution(bench: Bench) -> Iterator[Check]:
    yield from _attention_and_mlp(bench, build("llama", 201), *LLAMA)


@task
def parallel_blocks(bench: Bench) -> Iterator[Check]:
    """Falcon adds attention to its MLP's output in place, after the MLP has returned it."""
    yield from _attention_and_mlp(bench, build("falcon", 202), *FALCON)


@task
def residual_inside(bench: Bench) -> Iterator[Check]:
    """BLOOM's attention and MLP take the stream and give it back with their share: the share is their projection's."""
    norm, attention, mlp = FALCON
    yield from _attention_and_mlp(bench, build("bloom", 203), norm, f"{attention}.dense", f"{mlp}.dense_4h_to_h")


@task
def residual_multiplier(bench: Bench) -> Iterator[Check]:
    module = build("granite", 204)
    scale = module.config.residual_multiplier / module.config.logits_scaling
    yield from _attention_and_mlp(bench, module, *LLAMA, scale)


@task
def softcap_attribution(bench: Bench) -> Iterator[Check]:
    module = build("gemma2", 205)
    toward = direction(module, ASKED["target"], ASKED["against"])
    names = [f"model.layers.{i}" for i in range(N_LAYERS)]
    blocks = torch.stack([output[-1] - given[-1] for given, output in seen(module, PROMPT, *names)])
    answer = bench.run(bench.checkpoint(module), ASKED)
    expected = shares(module, PROMPT, "model.norm", blocks, toward, 1.0)
    yield close("layers", answer.numbers("layers", N_LAYERS), expected)
    ((stream, _),) = seen(module, PROMPT, "model.norm")
    yield close("logit", answer.numbers("logit"), shares(module, PROMPT, "model.norm", stream[-1], toward, 1.0))
    yield close("capped_logit", answer.numbers("capped_logit"), _difference(module))


@task
def heads_under_sandwich_norms(bench: Bench) -> Iterator[Check]:
    """Gemma 3: two heads share a key and value head, and a norm stands between the heads' sum and the stream."""
    module = build("gemma3_text", 206)
    toward = direction(module, ASKED["target"], ASKED["against"])
    expected = np.zeros((N_LAYERS, N_HEADS))
    for layer, block in enumerate(module.model.layers):
        projection = block.self_attn.o_proj
        ((inner, whole),) = seen(module, PROMPT, f"model.layers.{layer}.self_attn.o_proj")
        own = inner[-1].view(N_HEADS, -1)
        rows = projection.weight.view(projection.weight.shape[0], N_HEADS, -1)
        written = torch.einsum("hd,whd->hw", own, rows)
        added = frozen(block.post_attention_layernorm, whole[-1], written, 1.0)
        expected[layer] = shares(module, PROMPT, "model.norm", added, toward, 1.0)
    answer = bench.run(bench.checkpoint(module), ASKED)
    yield close("heads", answer.numbers("heads", N_LAYERS, N_HEADS), expected)


@task
def source_tokens(bench: Bench) -> Iterator[Check]:
    """OLMo 2: grouped values, a norm after attention; the answer is one number per token that the head read."""
    module, layer, head = build("olmo2", 207), 2, 1
    block = module.model.layers[layer]
    module.set_attn_implementation("eager")
    weights = module(ids_of(PROMPT), output_attentions=True).attentions[layer][0, head, -1]
    path = f"model.layers.{layer}.self_attn"
    (_, values), (_, whole) = seen(module, PROMPT, f"{path}.v_proj", f"{path}.o_proj")
    module.set_attn_implementation("sdpa")
    width, group = 8, 2
    value = values.view(len(values), -1, width)[:, head // group]
    written = weights[:, None] * (value @ block.self_attn.o_proj.weight[:, head * width : (head + 1) * width].T)
    added = frozen(block.post_attention_layernorm, whole[-1], written)
    toward = direction(module, ASKED["target"], ASKED["against"])
    expected = shares(module, PROMPT, "model.norm", added, toward)
    answer = bench.run(bench.checkpoint(module), {**ASKED, "layer": layer, "head": head})
    yield close("sources", answer.numbers("sources", len(expected)), expected)


@task
def against_mean(bench: Bench) -> Iterator[Check]:
    """GPT-2: a LayerNorm, which takes each part's mean away, and has a bias."""
    module = build("gpt2", 208)
    names = [f"transformer.h.{i}" for i in range(N_LAYERS)]
    blocks = torch.stack([output[-1] - given[-1] for given, output in seen(module, PROMPT, *names)])
    toward = direction(module, ASKED["target"], None)
    answer = bench.run(bench.checkpoint(module), {"prompt": PROMPT, "target": ASKED["target"]})
    expected = shares(module, PROMPT, "transformer.ln_f", blocks, toward)
    yield close("layers", answer.numbers("layers", N_LAYERS), expected)
    logits = lens_logits(module, PROMPT)[-1, -1]
    total = logits[int(ids_of(ASKED["target"]))] - logits.mean()
    yield close("total", answer.numbers("total"), total)


@task
def which_step(bench: Bench) -> Iterator[Check]:
    """KL to the model's own answer before layer 0, after each attention and after each MLP; the steps between."""
    module = build("qwen2", 209)
    blocks = [f"model.layers.{i}" for i in range(N_LAYERS)]
    middles = [f"{block}.post_attention_layernorm" for block in blocks]
    streams = [given[-1] for given, _ in seen(module, PROMPT, blocks[0])]
    for (middle, _), (_, after) in zip(seen(module, PROMPT, *middles), seen(module, PROMPT, *blocks), strict=True):
        streams += [middle[-1], after[-1]]
    logprobs, final = decode(module, torch.stack(streams)), log_softmax(plain_logits(module, ids_of(PROMPT)))[0, -1]
    drops = -np.diff((np.exp(final) * (final - logprobs)).sum(-1)).reshape(N_LAYERS, 2)
    answer = bench.run(bench.checkpoint(module), {"prompt": PROMPT})
    yield close("drops", answer.numbers("drops", N_LAYERS, 2), drops)


@task
def component_words(bench: Bench) -> Iterator[Check]:
    """What attention and MLP say when they are decoded alone; OLMo 2's norms stand between them and the stream."""
    module = build("olmo2", 210)
    answer = bench.run(bench.checkpoint(module), {"prompt": PROMPT, "word": ASKED["target"]})
    norms = ("post_attention_layernorm", "post_feedforward_layernorm")
    added = _last(module, *(f"model.layers.{i}.{norm}" for i in range(N_LAYERS) for norm in norms))
    expected = decode(module, added)[:, int(ids_of(ASKED["target"]))].reshape(N_LAYERS, 2)
    yield close("logprobs", answer.numbers("logprobs", N_LAYERS, 2), expected)
