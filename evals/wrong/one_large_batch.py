"""All prompts in one batch, and the whole vocabulary kept for every layer and every position.

task: bounded_memory
fails: memory
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
tokens = torch.tensor([tokenizer(word).input_ids[0] for word in asked["words"]])
with torch.no_grad():
    run = model(**tokenizer(asked["prompts"], return_tensors="pt", padding=True), output_hidden_states=True)
    states = [model.model.norm(h[:, -1]) for h in run.hidden_states[1:-1]] + [run.hidden_states[-1][:, -1]]
    logits = torch.stack([model.lm_head(state) for state in states], 1)
own = logits.gather(-1, tokens[:, None, None].expand(-1, len(states), 1))
Path(out).write_text(json.dumps({"ranks": (logits > own).sum(-1).tolist()}))
