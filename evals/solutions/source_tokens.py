import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
who = lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"], unit="token")
head = (asked["layer"], "head_out", asked["head"])
answer = {"sources": who.values[[part[:3] == head for part in who.parts], 0, 0].tolist()}
Path(out).write_text(json.dumps(answer))
