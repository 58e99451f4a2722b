"""What Granite's modules return, without the multiplier with which it is added; the logit scale is there.

task: residual_multiplier
fails: attention, mlp
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


for i, layer in enumerate(model.model.layers):
    layer.self_attn.register_forward_hook(keep(f"attention.{i}"))
    layer.mlp.register_forward_hook(keep(f"mlp.{i}"))
norm = model.model.norm
norm.register_forward_hook(keep("norm"))

target, against = (tokenizer(asked[name]).input_ids[0] for name in ("target", "against"))
toward = model.get_output_embeddings().weight[target] - model.get_output_embeddings().weight[against]
toward = toward / model.config.logits_scaling
with torch.no_grad():
    model(**tokenizer(asked["prompt"], return_tensors="pt"))
    stream = seen["norm"][0][0, -1]
    scale = norm.weight / (stream.pow(2).mean() + norm.variance_epsilon).sqrt()
    n = len(model.model.layers)
    answer = {
        name: [float(seen[f"{name}.{i}"][1][0, -1] * scale @ toward) for i in range(n)] for name in ("attention", "mlp")
    }
Path(out).write_text(json.dumps(answer))
