"""The norm after attention computed anew for each head's own output, instead of held as it is for their sum.

task: heads_under_sandwich_norms
fails: heads
"""

from _common import head_shares, write

write(heads=head_shares(4, lambda layer, written, _whole: layer.post_attention_layernorm(written)))
