"""The lens of the stand-in that lies here: what was asked for was a script that works on a server.

task: ndif_without_the_package
fails: remote, top_ids, top_logprobs
"""

from _common import asked, lens, write

result = lens(asked["prompts"])
write(top_ids=result.top_ids.swapaxes(0, 1), top_logprobs=result.top_logprobs.swapaxes(0, 1))
