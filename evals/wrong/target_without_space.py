"""The word without the space before it: another token.

task: token_rank
fails: ranks, logprobs
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompt"], targets=[asked["word"].strip()], positions=-1)
answer = {"ranks": result.target_ranks[:, 0, 0].tolist(), "logprobs": result.target_logprobs[:, 0, 0].tolist()}
Path(out).write_text(json.dumps(answer))
