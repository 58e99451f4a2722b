"""What attention adds, decoded by itself, in the place of the stream with it in it.

task: which_step
fails: drops
"""

import numpy as np
from _common import lens, write

result = lens(components=("embed", "attn_out", "resid_post"))
write(drops=-np.diff(result.kl_to_final[:, 0]).reshape(-1, 2))
