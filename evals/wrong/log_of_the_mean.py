"""The logarithm of the mean probability, where the mean of the logarithms was asked for.

task: compare_prompts
fails: gap
"""

import numpy as np
from _common import asked, lens, write

results = [lens(asked[name], targets=asked["word"]) for name in ("prompts", "controls")]
means = [np.log(np.exp(result.target_logprobs[..., 0]).mean(1)) for result in results]
write(gap=means[0] - means[1])
