import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
parts, word = ("attn_out", "mlp_out"), asked["word"]
result = lr.logit_lens(lr.load(folder), asked["prompt"], components=parts, targets=word, positions=-1)
answer = {"logprobs": result.target_logprobs.reshape(-1, 2).tolist()}
Path(out).write_text(json.dumps(answer))
