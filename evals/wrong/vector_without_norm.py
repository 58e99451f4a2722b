"""A vector times the unembedding, without the final norm.

task: decode_vector
fails: top_ids, top_logprobs
"""

import torch
from _common import asked, hf, write_top_five

write_top_five(hf()[0].lm_head(torch.tensor(asked["vectors"])))
