"""Norm and projection looked up by their names; that MiniCPM3 divides what goes into its unembedding has no name.

task: any_family
fails: top_logprobs of minicpm3
"""

from _common import hf, hidden_states, write_top_five
from torch import nn, stack

model, tokenizer = hf()
modules, run = dict(model.base_model.named_modules()), hidden_states(model, tokenizer)
norm = next(modules[name] for name in ("norm", "norm_f", "decoder.final_layer_norm") if name in modules)
project = modules.get("decoder.project_out", nn.Identity())
rows = [model.get_output_embeddings()(project(norm(h[0, -1]))) for h in run.hidden_states[1:-1]]
write_top_five(stack([*rows, run.logits[0, -1]]))
