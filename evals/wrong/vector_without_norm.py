"""A vector times the unembedding, without the final norm.

task: decode_vector
fails: top_ids, top_logprobs
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model = AutoModelForCausalLM.from_pretrained(folder)
with torch.no_grad():
    best = model.lm_head(torch.tensor(asked["vectors"])).log_softmax(-1).topk(5)
Path(out).write_text(json.dumps({"top_ids": best.indices.tolist(), "top_logprobs": best.values.tolist()}))
