"""`hidden_states` as if its first entry were layer 0, and its last, which is normed already, normed again.

task: softcap_lens
fails: top_ids, top_logprobs
"""

import torch
from _common import hf, hidden_states, write_top_five

model, tokenizer = hf()
cap = model.config.final_logit_softcapping
states = torch.stack([h[0, -1] for h in hidden_states(model, tokenizer).hidden_states[:-1]])
write_top_five(torch.tanh(model.lm_head(model.model.norm(states)) / cap) * cap)
