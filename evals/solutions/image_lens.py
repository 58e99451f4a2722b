import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
parts = [{"type": "image", "image": asked["image"]}, {"type": "text", "text": asked["question"]}]
result = lr.logit_lens(lr.load(folder), [{"role": "user", "content": parts}], positions="image")
answer = {"top_ids": result.top_ids, "top_logprobs": result.top_logprobs, "boxes": result.tokens.box}
Path(out).write_text(json.dumps({name: numbers.tolist() for name, numbers in answer.items()}))
