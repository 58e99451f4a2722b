"""What OLMo 2's attention and MLP return, before the norms through which it is added.

task: component_words
fails: logprobs
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
    layer.self_attn.register_forward_hook(keep((i, 0)))
    layer.mlp.register_forward_hook(keep((i, 1)))
word = tokenizer(asked["word"]).input_ids[0]
with torch.no_grad():
    model(**tokenizer(asked["prompt"], return_tensors="pt"))
    rows = [[seen[i, part][1][0, -1] for part in (0, 1)] for i in range(len(model.model.layers))]
    logits = model.lm_head(model.model.norm(torch.stack([torch.stack(row) for row in rows])))
Path(out).write_text(json.dumps({"logprobs": logits.log_softmax(-1)[..., word].tolist()}))
