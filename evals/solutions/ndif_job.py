import json
import sys
from pathlib import Path

import lens_recipes as lr

repo, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
if Path(asked["job"]).exists():
    Path(out).write_text(json.dumps({"top_ids": lr.Job.load(asked["job"]).result().top_ids[..., 0].T.tolist()}))
else:
    lr.submit(lr.logit_lens, lr.load(repo, remote=asked["server"]), asked["prompts"], positions=-1, path=asked["job"])
