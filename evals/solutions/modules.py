import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
found = lr.anatomy(lr.load(folder))
answer = {"blocks": found.blocks, "norm": found.norm, "unembedding": found.unembed}
Path(out).write_text(json.dumps(answer))
