"""The first layer at which the answer is top-1, although it goes away again.

task: settles
fails: layers
"""

from _common import asked, lens, write

write(layers=(lens(asked["prompts"]).final_ranks == 0).argmax(0))
