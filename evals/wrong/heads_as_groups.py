"""The input of o_proj cut into as many pieces as there are key and value heads, each given to all heads of its group.

task: heads_under_sandwich_norms
fails: heads
"""

from _common import gemma_frozen, head_shares, hf, write

config = hf()[0].config
groups, size = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads


def through(layer, written, whole):
    return written * gemma_frozen(layer.post_attention_layernorm, whole) / size


write(heads=head_shares(groups, through).repeat_interleave(size, -1))
