"""Right, and all of it sent back: every layer's whole distribution, to look for five tokens at home.

task: ndif_without_the_package
fails: bytes
"""

import json
import sys
from pathlib import Path

import torch
from nnsight import TransformersModel
from transformers import AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model = TransformersModel(
    folder, task="text-generation", tokenizer=AutoTokenizer.from_pretrained(folder), dispatch=True
)
answer = {"top_ids": [], "top_logprobs": []}
for prompt in asked["prompts"]:
    with torch.no_grad(), model.trace(prompt, remote=asked["remote"]):
        rows = [model.lm_head(model.model.norm(layer.output[:, -1])) for layer in model.model.layers]
        logits = torch.cat(rows).save()
    best = (10 * torch.tanh(logits / 10)).log_softmax(-1).topk(5)
    answer["top_ids"].append(best.indices.tolist())
    answer["top_logprobs"].append(best.values.tolist())
Path(out).write_text(json.dumps(answer))
