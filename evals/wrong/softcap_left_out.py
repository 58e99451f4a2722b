"""The sum of the contributions given as what the model says: the cap is forgotten.

task: softcap_attribution
fails: capped_logit
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
who = lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"])
layers = who.values[[part.component == "layer" for part in who.parts], 0, 0].tolist()
answer = {"layers": layers, "logit": who.total.item(), "capped_logit": who.total.item()}
Path(out).write_text(json.dumps(answer))
