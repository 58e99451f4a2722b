import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
targets = [[word] for word in asked["words"]]
result = lr.logit_lens(lr.load(folder), asked["prompts"], targets=targets, positions=-1)
answer = {"ranks": result.target_ranks[..., 0].T.tolist(), "logprobs": result.target_logprobs[..., 0].T.tolist()}
Path(out).write_text(json.dumps(answer))
