"""The model's first choices given as what was written, because the lens of the last layer says so.

task: sampled_generation
fails: written
"""

import lens_recipes as lr
from _common import asked, folder, write

said = lr.generate_lens(lr.load(folder), asked.pop("prompt"), **asked)
write(written=said.final_ids, model_logprobs=said.model_logprobs, ranks=[0] * len(said.tokens))
