"""BLOOM's attention and MLP modules return the stream with their share added; taken here for the share.

task: residual_inside
fails: attention, mlp
"""

from _common import write_layer_norm_shares

write_layer_norm_shares("self_attention")
