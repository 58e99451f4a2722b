import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompt"])
answer = {"entropy": result.entropy.tolist(), "kl": result.kl_to_final.tolist()}
Path(out).write_text(json.dumps(answer))
