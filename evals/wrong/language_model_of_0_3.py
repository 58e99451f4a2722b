"""nnsight as most tutorials have it: `LanguageModel`, a block's hidden state as `.output[0]`, layers joined by `cat`.

What `.output[0]` takes away now is the batch, so that `cat` joins the layers along the tokens.

task: next_token
fails: answer
"""

import json
import sys
from pathlib import Path

import torch
from nnsight import LanguageModel

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
model = LanguageModel(folder, device_map="cpu", dispatch=True)
probs_layers = []
with torch.no_grad(), model.trace() as tracer:  # noqa: SIM117 - nnsight reads the source of each block
    with tracer.invoke(asked["prompt"]):
        for layer in model.gpt_neox.layers:
            layer_output = model.lm_head(model.gpt_neox.final_layer_norm(layer.output[0]))
            probs_layers.append(torch.nn.functional.log_softmax(layer_output, dim=-1).save())
logprobs = torch.cat(probs_layers)
ids = torch.tensor(model.tokenizer(asked["prompt"]).input_ids[1:])
own = logprobs[:, :-1].gather(-1, ids.expand(len(logprobs), -1)[..., None])
ranks = (logprobs[:, :-1] > own).sum(-1)
Path(out).write_text(json.dumps({"ranks": ranks.tolist(), "loss": (-own[..., 0].mean(1)).tolist()}))
