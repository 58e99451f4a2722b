"""A batch's rows are all as long as the longest: what `generate` fills up after the end is counted as written.

task: generation_with_eos
fails: written, rows
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(asked["prompts"], return_tensors="pt", padding=True)
with torch.no_grad():
    made = model.generate(
        **inputs, max_new_tokens=asked["max_new_tokens"], do_sample=False,
        output_hidden_states=True, return_dict_in_generate=True,
    )  # fmt: skip
    layers = [torch.stack([step[i][:, -1] for step in made.hidden_states], 1) for i in range(1, 5)]
    logits = torch.stack([model.lm_head(h if i == 3 else model.model.norm(h)) for i, h in enumerate(layers)], 2)
written = made.sequences[:, inputs.input_ids.shape[1] :]
logprobs = logits.log_softmax(-1).gather(-1, written[:, :, None, None].expand(-1, -1, 4, 1))[..., 0]
answer = {"written": written.tolist(), "ended_by": ["length"] * len(written), "logprobs": logprobs.tolist()}
Path(out).write_text(json.dumps(answer))
