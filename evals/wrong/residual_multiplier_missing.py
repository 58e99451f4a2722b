"""What Granite's modules return, without the multiplier with which it is added; the logit scale is there.

task: residual_multiplier
fails: attention, mlp
"""

from _common import hf, returned, rms_frozen, toward, write

model, tokenizer = hf()
norm = model.model.norm
attention, mlp, stream = returned(model, tokenizer, model.model.layers, "self_attn", norm)
direction = rms_frozen(norm, stream) * toward(model, tokenizer) / model.config.logits_scaling
write(attention=attention @ direction, mlp=mlp @ direction)
