import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
who = lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"], unit="token")
answer = {"sources": who.by_source(asked["layer"], asked["head"]).tolist()}
Path(out).write_text(json.dumps(answer))
