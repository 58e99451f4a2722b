"""Falcon's MLP output kept as a reference: the block adds attention to that very tensor after it was kept.

task: parallel_blocks
fails: mlp
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
seen = {}


def keep(name):
    def hook(_module, args, output):
        seen[name] = (args[0] if args else None, output[0] if isinstance(output, tuple) else output)

    return hook


for i, layer in enumerate(model.transformer.h):
    layer.self_attention.register_forward_hook(keep(f"attention.{i}"))
    layer.mlp.register_forward_hook(keep(f"mlp.{i}"))
norm = model.transformer.ln_f
norm.register_forward_hook(keep("norm"))

target, against = (tokenizer(asked[name]).input_ids[0] for name in ("target", "against"))
toward = model.get_output_embeddings().weight[target] - model.get_output_embeddings().weight[against]
with torch.no_grad():
    model(**tokenizer(asked["prompt"], return_tensors="pt"))
    stream = seen["norm"][0][0, -1]
    scale = norm.weight / (stream.var(unbiased=False) + norm.eps).sqrt()
    answer = {}
    for name in ("attention", "mlp"):
        rows = torch.stack([seen[f"{name}.{i}"][1][0, -1] for i in range(len(model.transformer.h))])
        answer[name] = ((rows - rows.mean(-1, keepdim=True)) * scale @ toward).tolist()
Path(out).write_text(json.dumps(answer))
