"""A figure whose script is fetched when the page is opened.

task: offline_report
fails: offline
"""

import json
import sys
from pathlib import Path

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
result = lr.logit_lens(lr.load(folder), asked["prompt"], targets=asked["word"])
lr.heatmap(result).write_html(asked["report"], include_plotlyjs="cdn")
Path(out).write_text(json.dumps({"logprobs": result.target_logprobs[:, -1, 0].tolist()}))
