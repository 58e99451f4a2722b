import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
said = lr.generate_lens(lr.load(folder), asked.pop("prompt"), **asked)
answer = {"written": said.tokens.next_id.tolist(), "model_logprobs": said.tokens.next_logprob.tolist()}
answer["ranks"] = said.next_ranks[-1].tolist()
Path(out).write_text(json.dumps(answer))
