"""Ranks that begin at 1, where 0 was said to be the top.

task: bounded_memory
fails: ranks
"""

from _common import asked, lens, write

result = lens(asked["prompts"], targets=[[word] for word in asked["words"]], track=None)
write(ranks=result.target_ranks[..., 0].T + 1)
