"""Right, but run here: what was asked for was a script that works on a server.

task: ndif_without_the_package
fails: remote
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompts"], positions=-1)
ids, logprobs = (array.swapaxes(0, 1).tolist() for array in (result.top_ids, result.top_logprobs))
Path(out).write_text(json.dumps({"top_ids": ids, "top_logprobs": logprobs}))
