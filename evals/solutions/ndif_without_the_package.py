import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompts"], positions=-1, remote=asked["remote"], track=None)
ids, logprobs = (array.swapaxes(0, 1).tolist() for array in (result.top_ids, result.top_logprobs))
answer = {"top_ids": ids, "top_logprobs": logprobs}
Path(out).write_text(json.dumps(answer))
