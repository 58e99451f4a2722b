"""nnsight of before 0.4: what was saved is read through `.value`, which is no more.

task: entropy_kl
fails: answer
says: no attribute 'value'
"""

import torch
from _common import asked, traced, write

model = traced()
states = []
with model.trace(asked["prompt"]):
    for layer in model.model.layers:
        states.append(model.lm_head(model.model.norm(layer.output)).save())
logprobs = torch.stack([state.value[0] for state in states]).log_softmax(-1)
kl = (logprobs[-1].exp() * (logprobs[-1] - logprobs)).sum(-1)
write(entropy=-(logprobs.exp() * logprobs).sum(-1), kl=kl)
