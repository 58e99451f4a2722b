"""Run by tuned-lens's environment: write a lens with random translators, and read with it and with ours."""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM

sys.modules["transformer_lens"] = None  # tuned-lens asks it for classes that are gone
from tuned_lens.nn.lenses import TunedLens  # noqa: E402


def random_lens(model):
    """A lens as their training leaves one: every translator has a weight and a bias."""
    generator = torch.Generator().manual_seed(0)
    lens = TunedLens.from_model(model)
    for translator in lens:
        for parameter in (translator.weight, translator.bias):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.1 * noise)
    return lens


def read(lens, model, ids):
    """Their logits, `{index of hidden_states: [position, vocabulary]}`; index 0 is the embedding."""
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        return {index: lens(states[index][0], index) for index in range(len(lens))}


def answer(task):
    """What one model's lenses come to."""
    model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32).eval()
    lens = random_lens(model)
    lens.save(task["write"])
    ours = TunedLens.from_model_and_pretrained(model, task["read"])
    return {
        "theirs": read(lens, model, task["ids"]),
        "ours": read(ours, model, task["ids"]),
        "hash": ours.unembed.unembedding_hash(),
    }


if __name__ == "__main__":
    tasks = torch.load(sys.argv[1], weights_only=True)
    torch.save({name: answer(task) for name, task in tasks.items()}, sys.argv[2])
