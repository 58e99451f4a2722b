"""The chat template without the assistant's turn, so that the last position is still the user's.

task: chat
fails: n_tokens, top_ids
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

import lens_recipes as lr

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
text = AutoTokenizer.from_pretrained(folder).apply_chat_template(asked["messages"], tokenize=False)
result = lr.logit_lens(lr.load(folder), text, positions=-1, add_special_tokens=False)
answer = {"n_tokens": int(result.tokens.position[0]) + 1, "top_ids": result.top_ids[:, 0].tolist()}
Path(out).write_text(json.dumps(answer))
