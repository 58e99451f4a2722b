import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
said = lr.generate_lens(lr.load(folder), asked["prompt"], max_new_tokens=asked["max_new_tokens"], do_sample=False)
layers = [-1 if step.layer is None else step.layer for step in lr.settled_layers(said)]
answer = {"written": said.tokens.next_id.tolist(), "top_ids": said.top_ids[..., 0].tolist(), "layers": layers}
Path(out).write_text(json.dumps(answer))
