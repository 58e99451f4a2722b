import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
paths = [folder, asked["other"]]
a, b = (lr.logit_lens(lr.load(path), asked["prompt"], targets=asked["word"], positions=-1) for path in paths)
gain, unsure = (b.target_logprobs - a.target_logprobs)[:, 0, 0], (b.entropy - a.entropy)[:, 0]
Path(out).write_text(json.dumps({"gain": gain.tolist(), "entropy_gain": unsure.tolist()}))
