"""Several prompts in one batch, each with its own target: is it a pattern, or one prompt?

Prints the rank of each capital at the last layers and what the model says itself, for four countries and two controls
that ask for no capital. Each prompt has the numbers that it would have alone.

    python examples/04_compare_prompts.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

CAPITALS = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo", "Egypt": " Cairo"}
ASKED = {f"The capital of {country} is": city for country, city in CAPITALS.items()}
CONTROLS = {"The currency of France is the": " Paris", "The largest animal is": " Paris"}


def main(model: str = "smollm2") -> None:
    asked = ASKED | CONTROLS
    result = lr.logit_lens(lr.load(model), list(asked), targets=[[token] for token in asked.values()], positions=-1)
    last = [site.layer for site in result.sites[-8:]]
    print(f"{'rank of the target at layer':38}", *(f"{layer:6}" for layer in last), "  the model says")
    for one, (prompt, token) in zip(result, asked.items(), strict=True):
        ranks = one.target_ranks[-8:, -1, 0]
        print(f"{prompt:30}{token:8}", *(f"{rank:6}" for rank in ranks), f"  {one.text(one.final_ids[-1])!r}")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/capitals.html")
    lr.write_html(lr.layer_profile(result, over="prompt"), "out/layers.html")
    print("\nLook for a step that all capitals share, and whether a control has it too: then it is not about capitals.")


if __name__ == "__main__":
    main(*sys.argv[1:])
