"""Value head = head modulo the number of value heads; it is head divided by the size of a group.

task: source_tokens
fails: sources
"""

from _common import asked, hf, rms_frozen, seen, toward, write

model, tokenizer = hf()
model.set_attn_implementation("eager")
i, head, norm = asked["layer"], asked["head"], model.model.norm
attention, post = model.model.layers[i].self_attn, model.model.layers[i].post_attention_layernorm
modules = {"v": attention.v_proj, "o": attention.o_proj, "norm": norm}
found, run = seen(model, tokenizer, modules, output_attentions=True)
width, groups = attention.head_dim, model.config.num_key_value_heads
value = found["v"][1][0].unflatten(-1, (groups, width))[:, head % groups]
columns = attention.o_proj.weight[:, head * width : (head + 1) * width]
written = run.attentions[i][0, head, -1, :, None] * (value @ columns.T)
added = written * rms_frozen(post, found["o"][1][0, -1])
write(sources=added * rms_frozen(norm, found["norm"][0][0, -1]) @ toward(model, tokenizer))
