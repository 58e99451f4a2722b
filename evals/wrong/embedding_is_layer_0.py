"""`hidden_states[layer]`, which is what goes into the block: its first entry is the embedding.

task: one_layer
fails: top_ids, top_logprobs
"""

from _common import asked, hf, hidden_states, write_top_five

model, tokenizer = hf()
state = hidden_states(model, tokenizer).hidden_states[asked["layer"]][0, -1]
write_top_five(model.lm_head(model.model.norm(state)))
