"""The first layer at which the answer is top-1, although it goes away again.

task: settles
fails: layers
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompts"], positions=-1)
Path(out).write_text(json.dumps({"layers": (result.final_ranks == 0).argmax(0).tolist()}))
