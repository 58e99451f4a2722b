"""KL(lens ‖ model) where KL(model ‖ lens) was asked for, and `kl_div`'s arguments are easily changed about.

task: entropy_kl
fails: kl
"""

import torch
from _common import hf, hidden_states, write

model, tokenizer = hf()
run = hidden_states(model, tokenizer)
rows = [model.lm_head(model.model.norm(h[0])) for h in run.hidden_states[1:-1]] + [run.logits[0]]
logprobs = torch.stack(rows).log_softmax(-1)
final = logprobs[-1].expand_as(logprobs)
kl = torch.nn.functional.kl_div(final, logprobs, log_target=True, reduction="none").sum(-1)
write(entropy=-(logprobs.exp() * logprobs).sum(-1), kl=kl)
