"""What people write by hand, with transformers and with nnsight alone: the same works as far as a short script goes.

`transformers` keeps the hidden states of a forward pass; `nnsight` is the loop over layers inside a trace that this
package's first recipe was.
"""

from __future__ import annotations

import sys

import nnsight
import numpy as np
import torch
from nnsight import LanguageModel
from side import serve
from transformers import AutoModelForCausalLM
from works import TOP_K

from lens_recipes.models import smollm2

BATCH = 64


def summary(logits):
    """Return the five likeliest, their log-probabilities and the entropy of some logits."""
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(TOP_K)
    return top.indices, top.values, -(logprobs.exp() * logprobs).sum(-1)


def joined(kept):
    """Return the numbers of all layers, `[layer, position, …]`."""
    names = ("top_ids", "top_logprobs", "entropy")
    return {
        name: torch.stack([entry[i] for entry in kept]).flatten(1, 2).numpy()
        for i, name in enumerate(names)
    }


# -- with transformers -------------------------------------------------


def decoded(model, states, where):
    """Return the lens of each layer's output: all but the last want the final norm still."""
    *streams, final = states[1:]
    kept = [summary(model.lm_head(model.model.norm(stream[:, where]))) for stream in streams]
    return [*kept, summary(model.lm_head(final[:, where]))]


def of_transformers():
    model = AutoModelForCausalLM.from_pretrained(smollm2.folder(), dtype=torch.float32).eval()

    def lens(where):
        def prepare(asked, settings):
            batches = torch.tensor(asked["ids"]).split(BATCH)

            @torch.inference_mode()
            def run():
                found = []
                for ids in batches:
                    states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
                    found.append(joined(decoded(model, states, where)))
                return {
                    name: np.concatenate([each[name] for each in found], 1) for name in found[0]
                }

            return run

        return prepare

    def generation(asked, settings):
        ids = torch.tensor(asked["ids"])

        @torch.inference_mode()
        def run():
            written = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=settings["new"],
                min_new_tokens=settings["new"],
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
            steps = [[state[:, -1:] for state in states] for states in written.hidden_states]
            states = [torch.cat(of_steps, 1) for of_steps in zip(*steps, strict=True)]
            return joined(decoded(model, states, slice(None)))

        return run

    last = lens(slice(-1, None))
    return {"grid": lens(slice(None)), "last": last, "prompts": last, "generation": generation}


# -- with nnsight ------------------------------------------------------


def of_nnsight():
    model = LanguageModel(str(smollm2.folder()), dtype=torch.float32, dispatch=True)

    def lens(where):
        def prepare(asked, settings):
            ids = torch.tensor(asked["ids"])

            def run():
                with torch.inference_mode(), model.trace(ids):
                    kept = nnsight.save([])
                    for layer in model.model.layers:
                        stream = layer.output[:, where]
                        logits = model.lm_head(model.model.norm(stream))
                        logprobs = logits.log_softmax(-1)
                        top = logprobs.topk(TOP_K)
                        entropy = -(logprobs.exp() * logprobs).sum(-1)
                        kept.append((top.indices, top.values, entropy))
                return joined(kept)

            return run

        return prepare

    return {"grid": lens(slice(None)), "last": lens(slice(-1, None))}


if __name__ == "__main__":
    serve(of_nnsight() if sys.argv[1:] == ["nnsight"] else of_transformers())
