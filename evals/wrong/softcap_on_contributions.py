"""The cap put on each contribution: it is no sum any more. Only the whole logit is capped.

task: softcap_attribution
fails: layers
"""

import json
import math
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model = lr.load(folder)
who = lr.attribution(model, asked["prompt"], asked["target"], against=asked["against"])
cap = model.config.final_logit_softcapping
shares = [float(v) for part, v in zip(who.parts, who.values[:, 0, 0], strict=True) if part.component == "layer"]
answer = {"layers": [cap * math.tanh(share / cap) for share in shares]}
Path(out).write_text(json.dumps({**answer, "logit": who.logit.item(), "capped_logit": who.capped_logit.item()}))
