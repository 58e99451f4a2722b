"""Entropies with the logarithm to base 2, where nats were asked for.

task: compare_models
fails: entropy_gain
"""

import math

import lens_recipes as lr
from _common import asked, folder, write

paths = [folder, asked["other"]]
a, b = (lr.logit_lens(lr.load(path), asked["prompt"], targets=asked["word"], positions=-1) for path in paths)
gain, unsure = (b.target_logprobs - a.target_logprobs)[:, 0, 0], (b.entropy - a.entropy)[:, 0]
write(gain=gain, entropy_gain=unsure / math.log(2))
