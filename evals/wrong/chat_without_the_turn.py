"""The chat template without the assistant's turn, so that the last position is still the user's.

task: chat
fails: n_tokens, top_ids
"""

import lens_recipes as lr
from _common import asked, folder, write
from transformers import AutoTokenizer

text = AutoTokenizer.from_pretrained(folder).apply_chat_template(asked["messages"], tokenize=False)
result = lr.logit_lens(lr.load(folder), text, positions=-1, add_special_tokens=False)
write(n_tokens=int(result.tokens.position[0]) + 1, top_ids=result.top_ids[:, 0])
