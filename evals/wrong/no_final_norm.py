"""The raw stream straight into the unembedding.

task: first_lens
fails: top_ids, top_logprobs
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
    logits = torch.stack([model.lm_head(h[0, -1]) for h in run.hidden_states[1:]])
best = logits.log_softmax(-1).topk(5)
Path(out).write_text(json.dumps({"top_ids": best.indices.tolist(), "top_logprobs": best.values.tolist()}))
