"""Padded on the right, and read at the last position: for all but the longest prompt that is padding.

task: per_prompt_targets
fails: logprobs, ranks
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
tokenizer.padding_side = "right"
with torch.no_grad():
    run = model(**tokenizer(asked["prompts"], return_tensors="pt", padding=True), output_hidden_states=True)
    states = [*run.hidden_states[1:-1]]
    rows = [model.lm_head(model.transformer.ln_f(h[:, -1])) for h in states] + [run.logits[:, -1]]
last = torch.stack(rows, 1).log_softmax(-1)
tokens = torch.tensor([tokenizer(word).input_ids[0] for word in asked["words"]])
own = last.gather(-1, tokens[:, None, None].expand(-1, last.shape[1], 1))
ranks = (last > own).sum(-1)
Path(out).write_text(json.dumps({"logprobs": own[..., 0].tolist(), "ranks": ranks.tolist()}))
