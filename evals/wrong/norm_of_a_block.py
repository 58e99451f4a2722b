"""The last norm that is found by name: it is inside of a block.

task: modules
fails: norm
"""

from _common import hf, write

names = [name for name, _ in hf()[0].named_modules() if name.endswith("norm") and "layers" in name]
write(blocks="model.layers", norm=names[-1], unembedding="lm_head")
