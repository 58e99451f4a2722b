"""TransformerLens in its own environment, doing the works of `works.py` with its own one-call tools where it has them."""

from __future__ import annotations

import sys

import numpy as np
import torch
from side import serve
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens, direct_logit_attribution
from transformer_lens.tools.analysis.logit_lens import logit_lens, logit_readout
from works import LENS_LAYERS, TOP_K

BATCH = 64


def bridge(*, folded: bool):
    """Return the model; folded as attribution and patching want it."""
    model = TransformerBridge.boot_transformers(sys.argv[1], device="cpu", dtype=torch.float32)
    if folded:
        model.enable_compatibility_mode()
    return model


RAW, FOLDED = bridge(folded=False), bridge(folded=True)


def flat(found, skip=0):
    """Return the numbers of a readout, `[entry, position, …]`, without its first entries."""
    return {
        "top_ids": found.top_ids[skip:].flatten(1, -2).numpy(),
        "top_logprobs": found.values[skip:].flatten(1, -2).numpy(),
        "entropy": found.entropy[skip:].flatten(1).numpy(),
    }


def lens(positions):
    def prepare(asked, settings):
        batches = torch.tensor(asked["ids"]).split(BATCH)

        @torch.no_grad()
        def run():
            found = []
            for ids in batches:
                lens = logit_lens(
                    RAW, ids, positions=positions, top_k=TOP_K, return_type="log_probs"
                )
                found.append(flat(lens.readout, skip=1))  # theirs begins with the embedding
            return {name: np.concatenate([each[name] for each in found], 1) for name in found[0]}

        return run

    return prepare


def components(asked, settings):
    ids = torch.tensor(asked["ids"])

    @torch.no_grad()
    def run():
        _, cache = RAW.run_with_cache(
            ids, names_filter=lambda name: name.endswith(("hook_attn_out", "hook_mlp_out"))
        )
        stack = []
        for layer in range(RAW.cfg.n_layers):
            for part in ("attn", "mlp"):
                stack.append(cache[f"blocks.{layer}.hook_{part}_out"])
        return flat(logit_readout(RAW, torch.stack(stack), top_k=TOP_K, return_type="log_probs"))

    return run


def heads(asked, settings):
    ids = torch.tensor(asked["ids"])

    @torch.no_grad()
    def run():
        found = direct_logit_attribution(
            FOLDED, ids, asked["target"], asked["against"], unit="head"
        )
        is_head = [label.startswith("L") for label in found.labels]
        return {"heads": found.attribution.flatten()[torch.tensor(is_head)].numpy()}

    return run


def generation(asked, settings):
    """Their generation has no lens: the text is written, and read in a second pass."""
    ids = torch.tensor(asked["ids"])

    @torch.no_grad()
    def run():
        written = RAW.generate(
            ids,
            max_new_tokens=settings["new"],
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=False,  # with transformers 5.24 its cache stays empty, and the text is another
            return_type="tokens",
            verbose=False,
        )
        found = logit_lens(
            RAW,
            written[:, :-1],
            positions=slice_of_last(settings["new"]),
            top_k=TOP_K,
            return_type="log_probs",
        )
        return flat(found.readout, skip=1)

    return run


def slice_of_last(count):
    """Return their slice of the last positions."""
    return (-count, None)


def jacobian_read(asked, settings):
    lens, ids = JacobianLens.load(asked["lens"]), torch.tensor(asked["ids"])

    @torch.no_grad()
    def run():
        found = lens.readout(RAW, ids, layers=LENS_LAYERS, top_k=TOP_K, return_full_logits=True)
        streams = [found.lens_logits[layer] for layer in sorted(found.lens_logits)]
        kept = []
        for logits in streams:
            logprobs = logits.reshape(-1, logits.shape[-1]).log_softmax(-1)
            top = logprobs.topk(TOP_K)
            kept.append((top.indices, top.values, -(logprobs.exp() * logprobs).sum(-1)))
        names = ("top_ids", "top_logprobs", "entropy")
        return {
            name: torch.stack([entry[i] for entry in kept]).numpy() for i, name in enumerate(names)
        }

    return run


def jacobian_fit(asked, settings):
    RAW.to_tokens = lambda ids: torch.tensor([ids])

    def run():
        lens = JacobianLens.fit(
            RAW,
            asked["ids"],
            corpus="token ids",
            source_layers=LENS_LAYERS,
            show_progress=False,
        )
        return {
            "jacobians": torch.stack([lens.jacobians[i] for i in sorted(lens.jacobians)]).numpy()
        }

    return run


def patch_map(asked, settings):
    clean, corrupt = (torch.tensor([row]) for row in asked["ids"])

    def metric(logits):
        return logits[0, -1, asked["target"]] - logits[0, -1, asked["against"]]

    @torch.no_grad()
    def run():
        _, cache = FOLDED.run_with_cache(clean)
        return {"diffs": patching.get_act_patch_resid_pre(FOLDED, corrupt, cache, metric).numpy()}

    return run


if __name__ == "__main__":
    serve(
        {
            "grid": lens(None),
            "last": lens(-1),
            "prompts": lens(-1),
            "components": components,
            "heads": heads,
            "generation": generation,
            "jacobian_read": jacobian_read,
            "jacobian_fit": jacobian_fit,
            "patch_map": patch_map,
        }
    )
