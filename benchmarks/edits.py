"""What does an edit cost, beside the same lens of the run as it is?

    python benchmarks/edits.py                        # SmolLM2, 8 prompts of 64 tokens; JSON on stdout
    python benchmarks/edits.py --prompts 1 --tokens 32

Measured side by side in one process, interleaved, medians; without the controls that an edited run otherwise
carries. Each edited lens is one forward pass, as the plain one is; a patch, a mean and a clamped swap run their sources
beside it, which `sources` alone shows. What a model is asked about edits (a few tokens, once for each site) is asked in
the first turn, which warms up.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Callable

import numpy as np
from lens import text_ids
from side_by_side import side_by_side

import lens_recipes as lr

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def edits_of(d_model: int, n_tokens: int) -> dict[str, object]:
    """One edit of each kind that copies nothing, then several, then those that copy."""
    vector = np.linspace(-1, 1, d_model)
    everywhere = slice(1, n_tokens)
    return {
        "ablate one token": lr.ablate(layer=12, positions=3),
        "ablate a head": lr.ablate(layer=12, component="head_out", head=4),
        "ablate attention": lr.ablate(layer=12, component="attn_out", positions=everywhere),
        "the middle": lr.ablate(layer=12, component="resid_mid", to=vector),
        "steer": lr.steer(vector, layer=12, scale=0.3),
        "steer by a token": lr.steer((" Rome", " Paris"), layer=12, scale=0.3),
        "steer every layer": lr.steer(vector, scale=0.02),
        "live swap of ten layers": lr.swap(" Rome", " Paris", layers=range(10, 20), clamp=False),
        "patch (a source of one prompt)": lr.patch(0, layer=12, positions=3),
    }


def contenders(model, ids: list[list[int]]) -> dict[str, Callable[[], object]]:
    """The plain lens, and each edited one."""
    options = {"positions": -1}
    if "controls" in inspect.signature(lr.logit_lens).parameters:
        options["controls"] = 0
    runs: dict[str, Callable[[], object]] = {}

    def run(edits: object) -> Callable[[], object]:
        if edits is None:
            return lambda: lr.logit_lens(model, ids, positions=-1)
        return lambda: lr.logit_lens(model, ids, edits=edits, **options)

    runs["floor"] = run(None)
    for name, edits in edits_of(lr.anatomy(model).d_model, len(ids[0])).items():
        runs[name] = run(edits)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    model = lr.load("smollm2")
    ids = text_ids(model.tokenizer, arguments.prompts, arguments.tokens)
    print(json.dumps(side_by_side(contenders(model, ids), arguments.repeat), indent=1))


if __name__ == "__main__":
    main()
