import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompt"], components=("embed", "resid_mid", "resid_post"), positions=-1)
kl = result.kl_to_final[:, 0]
answer = {"drops": (kl[:-1] - kl[1:]).reshape(-1, 2).tolist()}
Path(out).write_text(json.dumps(answer))
