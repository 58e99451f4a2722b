import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
said = lr.generate_lens(lr.load(folder), asked["prompts"], max_new_tokens=asked["max_new_tokens"], do_sample=False)
answer = {"written": [one.tokens.next_id.tolist() for one in said], "ended_by": [r.finish for r in said.responses]}
answer["logprobs"] = [one.next_logprobs.T.tolist() for one in said]
Path(out).write_text(json.dumps(answer))
