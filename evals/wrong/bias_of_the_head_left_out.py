"""The stream times two rows of the unembedding; GPT-J's has a bias too.

task: logit_difference
fails: differences
"""

import torch
from _common import asked, hf, hidden_states, write

model, tokenizer = hf()
*states, last = (h[0, -1] for h in hidden_states(model, tokenizer).hidden_states[1:])
normed = torch.stack([*map(model.transformer.ln_f, states), last])
word, rival = (tokenizer(asked[name]).input_ids[0] for name in ("word", "rival"))
write(differences=normed @ (model.lm_head.weight[word] - model.lm_head.weight[rival]))
