"""`.output[0]`, as blocks gave tuples once: now it is row 0 of the batch, and every prompt gets its numbers.

task: per_prompt_targets
fails: logprobs, ranks
"""

import json
import sys
from pathlib import Path

import torch
from nnsight import TransformersModel
from transformers import AutoTokenizer

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
tokenizer = AutoTokenizer.from_pretrained(folder)
model = TransformersModel(folder, task="text-generation", tokenizer=tokenizer, dispatch=True)
with torch.no_grad(), model.trace(asked["prompts"]):
    rows = [model.lm_head(model.transformer.ln_f(block.output[0])) for block in model.transformer.h]
    logprobs = torch.stack(rows).log_softmax(-1).save()
last = logprobs[:, -1]
answer = {"logprobs": [], "ranks": []}
for word in asked["words"]:
    own = last[:, tokenizer(word).input_ids[0]]
    answer["logprobs"].append(own.tolist())
    answer["ranks"].append((last > own[:, None]).sum(-1).tolist())
Path(out).write_text(json.dumps(answer))
