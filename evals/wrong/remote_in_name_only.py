"""One token of a block is run there, and the lens is read here, from weights that are not those of the server.

task: ndif_without_the_package
fails: top_ids, top_logprobs
"""

from _common import asked, lens, traced, write

model = traced()
with model.trace("The", remote=asked["remote"]):
    first = model.model.norm.output[0, 0, 0].save()
result = lens(asked["prompts"])
write(top_ids=result.top_ids.swapaxes(0, 1), top_logprobs=result.top_logprobs.swapaxes(0, 1))
