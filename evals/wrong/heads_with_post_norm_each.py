"""The norm after attention computed anew for each head's own output, instead of held as it is for their sum.

task: heads_under_sandwich_norms
fails: heads
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
    layer.self_attn.o_proj.register_forward_hook(keep(i))
norm = model.model.norm
norm.register_forward_hook(keep("norm"))

target, against = (tokenizer(asked[name]).input_ids[0] for name in ("target", "against"))
toward = model.get_output_embeddings().weight[target] - model.get_output_embeddings().weight[against]
n = model.config.num_attention_heads
with torch.no_grad():
    model(**tokenizer(asked["prompt"], return_tensors="pt"))
    scale = (1 + norm.weight) / (seen["norm"][0][0, -1].pow(2).mean() + norm.eps).sqrt()
    heads = []
    for i, layer in enumerate(model.model.layers):
        rows = layer.self_attn.o_proj.weight.unflatten(1, (n, -1))
        written = torch.einsum("hd,whd->hw", seen[i][0][0, -1].unflatten(0, (n, -1)), rows)
        heads.append((layer.post_attention_layernorm(written) * scale @ toward).tolist())
Path(out).write_text(json.dumps({"heads": heads}))
