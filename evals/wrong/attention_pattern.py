"""The attention weights, scaled to the head's whole share: a token that is looked at a lot may write nothing.

task: source_tokens
fails: sources
"""

from _common import asked, attribution, hf, seen, write

share = attribution(unit="head").grid()[1][asked["layer"], asked["head"]]
model, tokenizer = hf()
model.set_attn_implementation("eager")
_, run = seen(model, tokenizer, {}, output_attentions=True)
write(sources=run.attentions[asked["layer"]][0, asked["head"], -1] * float(share))
