"""Right, and all of it sent back: every layer's whole distribution, to look for five tokens at home.

task: ndif_without_the_package
fails: bytes
"""

import torch
from _common import asked, traced, write

model = traced()
answer = {"top_ids": [], "top_logprobs": []}
for prompt in asked["prompts"]:
    with model.trace(prompt, remote=asked["remote"]):
        rows = [model.lm_head(model.model.norm(layer.output[:, -1])) for layer in model.model.layers]
        logits = torch.cat(rows).save()
    best = (10 * torch.tanh(logits / 10)).log_softmax(-1).topk(5)
    answer["top_ids"].append(best.indices.tolist())
    answer["top_logprobs"].append(best.values.tolist())
write(**answer)
