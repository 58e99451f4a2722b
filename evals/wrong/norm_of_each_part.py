"""Each part put through the final norm by itself, instead of the norm of the whole stream held fixed.

task: component_attribution
fails: attention, mlp
"""

from _common import hf, returned, toward, write

model, tokenizer = hf()
attention, mlp, _ = returned(model, tokenizer, model.model.layers, "self_attn", model.model.norm)
direction = toward(model, tokenizer)
write(attention=model.model.norm(attention) @ direction, mlp=model.model.norm(mlp) @ direction)
