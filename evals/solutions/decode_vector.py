import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.decode_vectors(lr.load(folder), asked["vectors"])
answer = {"top_ids": result.top_ids[0].tolist(), "top_logprobs": result.top_logprobs[0].tolist()}
Path(out).write_text(json.dumps(answer))
