"""Padded on the right, and read at the last position: for all but the longest prompt that is padding.

task: per_prompt_targets
fails: logprobs, ranks
"""

import torch
from _common import asked, hf, hidden_states, write

model, tokenizer = hf()
tokenizer.padding_side = "right"
run = hidden_states(model, tokenizer, asked["prompts"])
rows = [model.lm_head(model.transformer.ln_f(h[:, -1])) for h in run.hidden_states[1:-1]] + [run.logits[:, -1]]
last = torch.stack(rows, 1).log_softmax(-1)
tokens = torch.tensor([tokenizer(word).input_ids[0] for word in asked["words"]])
own = last.gather(-1, tokens[:, None, None].expand(-1, last.shape[1], 1))
write(logprobs=own[..., 0], ranks=(last > own).sum(-1))
