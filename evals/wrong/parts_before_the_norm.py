"""What OLMo 2's attention and MLP return, before the norms through which it is added.

task: component_words
fails: logprobs
"""

import torch
from _common import asked, hf, returned, write

model, tokenizer = hf()
attention, mlp, _ = returned(model, tokenizer, model.model.layers, "self_attn", model.model.norm)
logits = model.lm_head(model.model.norm(torch.stack([attention, mlp], 1)))
write(logprobs=logits.log_softmax(-1)[..., tokenizer(asked["word"]).input_ids[0]])
