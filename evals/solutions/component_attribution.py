import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
who = lr.attribution(lr.load(folder), asked["prompt"], asked["target"], against=asked["against"], unit="component")
attention, mlp = (who.by_layer(name)[1].tolist() for name in ("attn_out", "mlp_out"))
answer = {"attention": attention, "mlp": mlp}
Path(out).write_text(json.dumps(answer))
