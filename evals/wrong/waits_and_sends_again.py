"""Each call sends the job and waits: nothing is handed over, and it is computed twice.

task: ndif_job
fails: handed_over, sent_once
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

repo, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(repo, remote=asked["server"]), asked["prompts"], positions=-1)
Path(out).write_text(json.dumps({"top_ids": result.top_ids[..., 0].T.tolist()}))
