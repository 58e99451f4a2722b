"""This package, doing the works of `works.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from side import serve
from works import LENS_LAYERS, TOP_K

import lens_recipes as lr

MODEL = lr.load("smollm2")


def lens_arrays(result: lr.LensResult) -> dict[str, Any]:
    """Return the numbers of a lens, `[layer, position, …]`."""
    return {
        "top_ids": result.top_ids,
        "top_logprobs": result.top_logprobs,
        "entropy": result.entropy,
    }


def read(ids: list[list[int]], **options: Any) -> dict[str, Any]:
    """Read a lens, as a user would."""
    return lens_arrays(lr.logit_lens(MODEL, ids, track=None, top_k=TOP_K, **options))


def grid(asked, settings):
    return lambda: read(asked["ids"])


def last(asked, settings):
    return lambda: read(asked["ids"], positions=-1)


def components(asked, settings):
    return lambda: read(asked["ids"], components=["attn_out", "mlp_out"])


def heads(asked, settings):
    def run():
        found = lr.attribution(
            MODEL, asked["ids"], asked["target"], against=asked["against"], unit="head"
        )
        of_heads = [part.component == "head_out" for part in found.parts]
        return {"heads": found.values[np.array(of_heads), 0, 0]}

    return run


def generation(asked, settings):
    def run():
        result = lr.generate_lens(
            MODEL,
            asked["ids"],
            max_new_tokens=settings["new"],
            do_sample=False,
            generation_config={"min_new_tokens": settings["new"]},
            track=None,
            top_k=TOP_K,
        )
        return lens_arrays(result)

    return run


def jacobian_read(asked, settings):
    lens = lr.load_lens(asked["lens"], MODEL)
    return lambda: read(asked["ids"], lens=lens, layers=LENS_LAYERS)


def jacobian_fit(asked, settings):
    def run():
        lens = lr.fit_lens(
            MODEL, asked["ids"], kind="jacobian", layers=LENS_LAYERS, quality_tokens=0
        )
        weights = [lens.transports[layer].weight.float() for layer in lens.layers]
        return {"jacobians": torch.stack(weights).numpy()}

    return run


def patch_map(asked, settings):
    def run():
        found = lr.patch_map(
            MODEL,
            asked["ids"][0],
            asked["ids"][1],
            asked["target"],
            asked["against"],
            unit="resid_pre",
            keep_all=True,
        )
        return {"diffs": found.logit_diffs[0]}

    return run


if __name__ == "__main__":
    serve(
        {
            "grid": grid,
            "last": last,
            "prompts": last,
            "components": components,
            "heads": heads,
            "generation": generation,
            "jacobian_read": jacobian_read,
            "jacobian_fit": jacobian_fit,
            "patch_map": patch_map,
        }
    )
