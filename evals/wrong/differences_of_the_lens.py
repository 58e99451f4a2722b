"""How the lens's log-probability moves from layer to layer, taken for what each layer adds: the norm moves too.

task: against_mean
fails: layers, total
"""

import numpy as np
from _common import asked, lens, write

logprobs = lens(targets=asked["target"], components=("embed", "resid_post")).target_logprobs[:, 0, 0]
write(layers=np.diff(logprobs), total=float(logprobs[-1]))
