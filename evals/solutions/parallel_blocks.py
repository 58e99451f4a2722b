import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
who = lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"], unit="component")
attention, mlp = ([part.component == name for part in who.parts] for name in ("attn_out", "mlp_out"))
answer = {"attention": who.values[attention, 0, 0].tolist(), "mlp": who.values[mlp, 0, 0].tolist()}
Path(out).write_text(json.dumps(answer))
