"""A list from outside of the block, filled inside: on a server it is another list, and what it held is lost.

task: ndif_without_the_package
fails: answer
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
    rows = []
    with torch.no_grad(), model.trace(prompt, remote=asked["remote"]):
        for layer in model.model.layers:
            logits = model.lm_head(model.model.norm(layer.output[:, -1]))
            best = (10 * torch.tanh(logits / 10)).log_softmax(-1).topk(5)
            rows.append((best.indices[0].tolist(), best.values[0].tolist()))
    answer["top_ids"].append([ids for ids, _ in rows])
    answer["top_logprobs"].append([logprobs for _, logprobs in rows])
Path(out).write_text(json.dumps(answer))
