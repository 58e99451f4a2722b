"""Value head = head modulo the number of value heads; it is head divided by the size of a group.

task: source_tokens
fails: sources
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


i, head = asked["layer"], asked["head"]
attention, post, norm = (
    model.model.layers[i].self_attn,
    model.model.layers[i].post_attention_layernorm,
    model.model.norm,
)
for name, module in (("v", attention.v_proj), ("o", attention.o_proj), ("norm", norm)):
    module.register_forward_hook(keep(name))
model.set_attn_implementation("eager")

target, against = (tokenizer(asked[name]).input_ids[0] for name in ("target", "against"))
toward = model.get_output_embeddings().weight[target] - model.get_output_embeddings().weight[against]
width, groups = attention.head_dim, model.config.num_key_value_heads
with torch.no_grad():
    weights = model(**tokenizer(asked["prompt"], return_tensors="pt"), output_attentions=True).attentions[i]
    value = seen["v"][1][0].unflatten(-1, (groups, width))[:, head % groups]
    written = weights[0, head, -1, :, None] * (value @ attention.o_proj.weight[:, head * width : (head + 1) * width].T)
    whole, stream = seen["o"][1][0, -1], seen["norm"][0][0, -1]
    added = written * post.weight / (whole.pow(2).mean() + post.variance_epsilon).sqrt()
    scale = norm.weight / (stream.pow(2).mean() + norm.variance_epsilon).sqrt()
Path(out).write_text(json.dumps({"sources": (added * scale @ toward).tolist()}))
