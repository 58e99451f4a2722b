"""Cohere multiplies its logits by a number of its config; the order of tokens does not show that it is missing.

task: logit_scale
fails: top_logprobs
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
with torch.no_grad(), model.trace(asked["prompt"]):
    rows = [model.lm_head(model.model.norm(layer.output[:, -1])) for layer in model.model.layers]
    best = torch.cat(rows).log_softmax(-1).topk(5).save()
Path(out).write_text(json.dumps({"top_ids": best.indices.tolist(), "top_logprobs": best.values.tolist()}))
