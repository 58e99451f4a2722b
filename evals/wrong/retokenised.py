"""Generate, decode, and read the text again: its ids need not be those that were written.

task: generated_settled
fails: written
"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
module, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
inputs, steps = tokenizer(asked["prompt"], return_tensors="pt"), asked["max_new_tokens"]
text = tokenizer.decode(module.generate(**inputs, max_new_tokens=steps, do_sample=False)[0])
ids, start = tokenizer(text).input_ids, inputs.input_ids.shape[1]
result = lr.logit_lens(lr.load(folder), [ids], positions=range(start - 1, start - 1 + steps))
written = ids[start : start + steps]
answer = {"written": written, "top_ids": result.top_ids[..., 0].tolist(), "layers": result.settled().tolist()}
Path(out).write_text(json.dumps(answer))
