"""All prompts in one batch, and the whole vocabulary kept for every layer and every position.

task: bounded_memory
fails: memory
"""

import torch
from _common import asked, hf, hidden_states, write

model, tokenizer = hf()
tokens = torch.tensor([tokenizer(word).input_ids[0] for word in asked["words"]])
run = hidden_states(model, tokenizer, asked["prompts"])
states = [model.model.norm(h[:, -1]) for h in run.hidden_states[1:-1]] + [run.hidden_states[-1][:, -1]]
logits = torch.stack([model.lm_head(state) for state in states], 1)
write(ranks=(logits > logits.gather(-1, tokens[:, None, None].expand(-1, len(states), 1))).sum(-1))
