"""The attention weights, scaled to the head's whole share: a token that is looked at a lot may write nothing.

task: source_tokens
fails: sources
"""

import json
import sys
from pathlib import Path

import torch

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model = lr.load(folder)
who = lr.attribution(model, asked["prompt"], asked["target"], against=asked["against"], unit="head")
share = who.grid()[1][asked["layer"], asked["head"]]
model._module.set_attn_implementation("eager")
with torch.no_grad():
    run = model._module(**model.tokenizer(asked["prompt"], return_tensors="pt"), output_attentions=True)
weights = run.attentions[asked["layer"]][0, asked["head"], -1]
Path(out).write_text(json.dumps({"sources": (weights * float(share)).tolist()}))
