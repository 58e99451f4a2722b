import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
pair = [asked["word"], asked["rival"]]
result = lr.logit_lens(lr.load(folder), asked["prompt"], targets=pair, positions=-1)
answer = {"differences": lr.logit_diff(result, *pair)[:, 0].tolist()}
Path(out).write_text(json.dumps(answer))
