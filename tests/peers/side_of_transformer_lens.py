"""Run by TransformerLens's environment: fit Jacobian lenses, write them, and read with them and with ours."""

from __future__ import annotations

import sys
import time

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens


def fit(model, prompts):
    """Their fit on rows of ids, and the seconds that it took."""
    model.to_tokens = lambda ids: torch.tensor([ids])
    started = time.perf_counter()
    lens = JacobianLens.fit(model, prompts, corpus="token ids", show_progress=False)
    return lens, time.perf_counter() - started


def read(lens, model, ids):
    """Their logits of each layer, `{layer: [position, vocabulary]}`."""
    readout = lens.readout(model, torch.tensor([ids]), return_full_logits=True)
    return readout.lens_logits


def answer(task):
    """What one model's lenses come to."""
    model = TransformerBridge.boot_transformers(task["model"], device="cpu", dtype=torch.float32)
    lens, seconds = fit(model, task["prompts"])
    if "write" in task:
        lens.save(task["write"])
    answered = {"jacobians": lens.jacobians, "seconds": seconds}
    if "read" in task:
        # What a file holds is float16.
        answered["theirs"] = read(JacobianLens.load(task["write"]), model, task["ids"])
        answered["ours"] = read(JacobianLens.load(task["read"]), model, task["ids"])
    return answered


if __name__ == "__main__":
    tasks = torch.load(sys.argv[1], weights_only=True)
    torch.save({name: answer(task) for name, task in tasks.items()}, sys.argv[2])
