import json
import sys
from pathlib import Path

import lens_recipes as lr

repo, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model, job = lr.load(repo, remote=asked["server"]), Path(asked["job"])
if not job.exists():
    raise SystemExit(0 if lr.submit(lr.logit_lens, model, asked["prompts"], positions=-1, path=job) else 1)
Path(out).write_text(json.dumps({"top_ids": lr.Job.load(job, model).result().top_ids[..., 0].T.tolist()}))
