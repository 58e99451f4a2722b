import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
n, prompts = len(asked["prompts"]), asked["prompts"] + asked["controls"]
logprobs = lr.logit_lens(lr.load(folder), prompts, targets=asked["word"], positions=-1).target_logprobs[..., 0]
answer = {"gap": (logprobs[:, :n].mean(1) - logprobs[:, n:].mean(1)).tolist()}
Path(out).write_text(json.dumps(answer))
