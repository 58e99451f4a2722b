"""A Llama of which it is known at which layer each answer comes up: attention writes nothing, and one block the answer."""

from __future__ import annotations

import math

import torch
import transformers as hf

import lens_recipes as lr

N_LAYERS, N_WORDS, FIRST_WORD, WIDTH = 6, 12, 6, 32
SHARE = 3.0  # of the answer in the stream, beside the word's 1


def answer_of(word: int) -> int:
    """The token that follows a word where its answer comes up."""
    return word + N_WORDS


def planted_model(writes: dict[int, list[tuple[int, float]]]):
    """A model of `N_WORDS` words, each with an answer.

    Args:
        writes: Of each word, at which layers how much of the answer's direction is added: `SHARE` brings it up, `-SHARE`
            takes it away again.
    """
    config = hf.LlamaConfig(
        vocab_size=FIRST_WORD + 2 * N_WORDS,
        hidden_size=WIDTH,
        intermediate_size=N_WORDS,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = hf.LlamaForCausalLM(config).float().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.weight.fill_(1.0)
    axes = torch.eye(WIDTH)
    for token in range(2 * N_WORDS):
        model.model.embed_tokens.weight[FIRST_WORD + token] = axes[token]
        model.lm_head.weight[FIRST_WORD + token] = 2 * axes[token]
    model.model.embed_tokens.weight[:FIRST_WORD] = axes[-1]
    for word, changes in writes.items():
        there = 0.0
        for layer, amount in sorted(changes):
            mlp, neuron = model.model.layers[layer].mlp, word - FIRST_WORD
            mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron] = axes[neuron]
            seen = math.sqrt(
                WIDTH / (1 + there**2)
            )  # the word's share of the stream after the norm
            fired = seen**2 / (1 + math.exp(-seen))
            mlp.down_proj.weight[:, neuron] = axes[N_WORDS + neuron] * amount / fired
            there += amount
    return lr.load(model)
