"""The raw stream straight into the unembedding.

task: first_lens
fails: top_ids, top_logprobs
"""

import torch
from _common import hf, hidden_states, write_top_five

model, tokenizer = hf()
run = hidden_states(model, tokenizer)
write_top_five(torch.stack([model.lm_head(h[0, -1]) for h in run.hidden_states[1:]]))
