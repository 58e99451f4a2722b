"""nnsight of before 0.4: what was saved is read through `.value`, which is no more.

task: entropy_kl
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
states = []
with torch.no_grad(), model.trace(asked["prompt"]):
    for layer in model.model.layers:
        states.append(model.lm_head(model.model.norm(layer.output)).save())
logprobs = torch.stack([state.value[0] for state in states]).log_softmax(-1)
entropy = -(logprobs.exp() * logprobs).sum(-1)
kl = (logprobs[-1].exp() * (logprobs[-1] - logprobs)).sum(-1)
Path(out).write_text(json.dumps({"entropy": entropy.tolist(), "kl": kl.tolist()}))
