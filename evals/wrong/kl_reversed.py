"""KL(lens ‖ model) where KL(model ‖ lens) was asked for, and `kl_div`'s arguments are easily changed about.

task: entropy_kl
fails: kl
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    run = model(**tokenizer(asked["prompt"], return_tensors="pt"), output_hidden_states=True)
    rows = [model.lm_head(model.model.norm(h[0])) for h in run.hidden_states[1:-1]] + [run.logits[0]]
logprobs = torch.stack(rows).log_softmax(-1)
entropy = -(logprobs.exp() * logprobs).sum(-1)
final = logprobs[-1].expand_as(logprobs)
kl = torch.nn.functional.kl_div(final, logprobs, log_target=True, reduction="none").sum(-1)
Path(out).write_text(json.dumps({"entropy": entropy.tolist(), "kl": kl.tolist()}))
