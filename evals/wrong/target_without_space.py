"""The word without the space before it: another token.

task: token_rank
fails: ranks, logprobs
"""

from _common import asked, lens, write

result = lens(targets=[asked["word"].strip()])
write(ranks=result.target_ranks[:, 0, 0], logprobs=result.target_logprobs[:, 0, 0])
