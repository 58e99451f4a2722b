"""Whatever is not known by name is refused, with one sentence for all.

task: refused
fails: top_ids of gpt2, top_ids of mamba, reason of gemma3n
"""

import json
from pathlib import Path

from _common import folder, lens, write

if json.loads(Path(folder, "config.json").read_text())["model_type"] == "llama":
    write(top_ids=lens("The fox").top_ids[:, 0, 0])
else:
    write(reason="an encoder or several streams")
