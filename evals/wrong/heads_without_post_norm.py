"""Each head's columns of o_proj straight into the stream: the norm between them is forgotten.

task: heads_under_sandwich_norms
fails: heads
"""

from _common import head_shares, write

write(heads=head_shares(4, lambda _layer, written, _whole: written))
