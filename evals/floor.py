"""What a model takes that is loaded and reads one prompt: the floor of the memory task."""

import json
import sys
from pathlib import Path

import lens_recipes as lr
import torch

folder, asked = sys.argv[1], json.loads(Path(sys.argv[3]).read_text())
model = lr.load(folder)
with torch.inference_mode():
    model._module(**model.tokenizer(asked["prompts"][0], return_tensors="pt"))
