"""Generate, decode, and read the text again: its ids need not be those that were written.

task: generated_settled
fails: written
"""

import lens_recipes as lr
from _common import asked, folder, hf, write

module, tokenizer = hf()
inputs, steps = tokenizer(asked["prompt"], return_tensors="pt"), asked["max_new_tokens"]
text = tokenizer.decode(module.generate(**inputs, max_new_tokens=steps, do_sample=False)[0])
ids, start = tokenizer(text).input_ids, inputs.input_ids.shape[1]
result = lr.logit_lens(lr.load(folder), [ids], positions=range(start - 1, start - 1 + steps))
write(written=ids[start : start + steps], top_ids=result.top_ids[..., 0], layers=result.settled())
