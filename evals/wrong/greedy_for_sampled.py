"""The model's first choices given as what was written, because the lens of the last layer says so.

task: sampled_generation
fails: written
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
said = lr.generate_lens(lr.load(folder), asked.pop("prompt"), **asked)
ranks = [0] * len(said.tokens)
answer = {"written": said.final_ids.tolist(), "model_logprobs": said.model_logprobs.tolist(), "ranks": ranks}
Path(out).write_text(json.dumps(answer))
