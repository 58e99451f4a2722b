"""`hidden_states` as if its first entry were layer 0, and its last, which is normed already, normed again.

task: softcap_lens
fails: top_ids, top_logprobs
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
cap = model.config.final_logit_softcapping
with torch.no_grad():
    run = model(**tokenizer(asked["prompt"], return_tensors="pt"), output_hidden_states=True)
    states = torch.stack([h[0, -1] for h in run.hidden_states[: model.config.num_hidden_layers]])
    logits = torch.tanh(model.lm_head(model.model.norm(states)) / cap) * cap
best = logits.log_softmax(-1).topk(5)
Path(out).write_text(json.dumps({"top_ids": best.indices.tolist(), "top_logprobs": best.values.tolist()}))
