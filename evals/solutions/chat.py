import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["messages"], positions=-1)
answer = {"n_tokens": int(result.tokens.position[0]) + 1, "top_ids": result.top_ids[:, 0].tolist()}
Path(out).write_text(json.dumps(answer))
