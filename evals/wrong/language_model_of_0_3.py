"""nnsight 0.3 as most tutorials have it: `LanguageModel`, and a block's hidden state as `.output[0]`.

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
with model.trace() as tracer, tracer.invoke(asked["prompt"]):
    for layer in model.gpt_neox.layers:
        layer_output = model.embed_out(model.gpt_neox.final_layer_norm(layer.output[0]))
        probs_layers.append(torch.nn.functional.log_softmax(layer_output, dim=-1).save())
logprobs = torch.cat([probs.value for probs in probs_layers])
ids = torch.tensor(model.tokenizer(asked["prompt"]).input_ids[1:])
own = logprobs[:, :-1].gather(-1, ids.expand(len(logprobs), -1)[..., None])
ranks = (logprobs[:, :-1] > own).sum(-1)
Path(out).write_text(json.dumps({"ranks": ranks.tolist(), "loss": (-own[..., 0].mean(1)).tolist()}))
