"""Module paths as Llama has them, for whatever the folder holds.

task: any_family
fails: answer
says: attribute 'layers'
"""

from _common import traced_logits, write_top_five

write_top_five(traced_logits())
