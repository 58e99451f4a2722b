"""nnsight as most tutorials have it: `LanguageModel`, a block's hidden state as `.output[0]`, layers joined by `cat`.

What `.output[0]` takes away now is the batch, so that `cat` joins the layers along the tokens.

task: next_token
fails: answer
says: same number of dimensions
"""

import torch
from _common import asked, folder, write
from nnsight import LanguageModel

model = LanguageModel(folder, device_map="cpu", dispatch=True)
probs_layers = []
with model.trace() as tracer:  # noqa: SIM117 - nnsight reads the source of each block
    with tracer.invoke(asked["prompt"]):
        for layer in model.gpt_neox.layers:
            layer_output = model.lm_head(model.gpt_neox.final_layer_norm(layer.output[0]))
            probs_layers.append(torch.nn.functional.log_softmax(layer_output, dim=-1).save())
logprobs = torch.cat(probs_layers)
ids = torch.tensor(model.tokenizer(asked["prompt"]).input_ids[1:])
own = logprobs[:, :-1].gather(-1, ids.expand(len(logprobs), -1)[..., None])
write(ranks=(logprobs[:, :-1] > own).sum(-1), loss=-own[..., 0].mean(1))
