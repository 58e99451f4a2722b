"""What the sampler gave each token, given as what the model gave it: temperature and top-p have changed it.

task: sampled_generation
fails: model_logprobs
"""

import lens_recipes as lr
from _common import asked, folder, write

said = lr.generate_lens(lr.load(folder), asked.pop("prompt"), **asked)
own = said.tokens.sampler_logprob.tolist()
write(written=said.tokens.next_id.tolist(), model_logprobs=own, ranks=said.next_ranks[-1])
