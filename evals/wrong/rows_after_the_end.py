"""A batch's rows are all as long as the longest: what `generate` fills up after the end is counted as written.

task: generation_with_eos
fails: written, rows
"""

import torch
from _common import asked, hf, write

model, tokenizer = hf()
inputs = tokenizer(asked["prompts"], return_tensors="pt", padding=True)
keep = {"output_hidden_states": True, "return_dict_in_generate": True}
made = model.generate(**inputs, max_new_tokens=asked["max_new_tokens"], do_sample=False, **keep)
layers = [torch.stack([step[i][:, -1] for step in made.hidden_states], 1) for i in range(1, 5)]
logits = torch.stack([model.lm_head(h if i == 3 else model.model.norm(h)) for i, h in enumerate(layers)], 2)
written = made.sequences[:, inputs.input_ids.shape[1] :]
logprobs = logits.log_softmax(-1).gather(-1, written[:, :, None, None].expand(-1, -1, 4, 1))[..., 0]
write(written=written, ended_by=["length"] * len(written), logprobs=logprobs)
