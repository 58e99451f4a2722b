"""Cohere multiplies its logits by a number of its config; the order of tokens does not show that it is missing.

task: logit_scale
fails: top_logprobs
"""

from _common import traced_logits, write_top_five

write_top_five(traced_logits())
