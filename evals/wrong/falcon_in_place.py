"""Falcon's MLP output kept as a reference: the block adds attention to that very tensor after it was kept.

task: parallel_blocks
fails: mlp
"""

from _common import write_layer_norm_shares

write_layer_norm_shares("self_attention")
