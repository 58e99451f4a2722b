"""Norm and unembedding, but not the cap that the model puts on its logits.

task: softcap_lens
fails: top_logprobs
"""

from _common import traced_logits, write_top_five

write_top_five(traced_logits())
