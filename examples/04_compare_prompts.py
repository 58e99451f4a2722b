"""Several prompts in one batch, each with its own target: is it a pattern, or one prompt?

Prints the rank of each capital at the last layers, and what the model predicts, for four countries
and two controls that ask for no capital. Each prompt has the same numbers as when it runs alone.

    python examples/04_compare_prompts.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

CAPITALS = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo", "Egypt": " Cairo"}
QUESTIONS = {f"The capital of {country} is": city for country, city in CAPITALS.items()}
CONTROLS = {"The currency of France is the": " Paris", "The largest animal is": " Paris"}


def main(model: str = "smollm2") -> None:
    targets = QUESTIONS | CONTROLS  # by prompt
    target_lists = [[target] for target in targets.values()]
    result = lr.logit_lens(lr.load(model), list(targets), targets=target_lists, positions=-1)
    layers = [f"{site.layer:6}" for site in result.sites[-8:]]
    print(f"{'rank of the target at layer':38}", *layers, "  prediction")
    for single, (prompt, target) in zip(result, targets.items(), strict=True):
        ranks = single.target_ranks[-8:, -1, 0]
        prediction = single.text(single.final_ids[-1])
        print(f"{prompt:30}{target:8}", *(f"{rank:6}" for rank in ranks), f"  {prediction!r}")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/capitals.html")
    lr.write_html(lr.layer_profile(result, over="prompt"), "out/layers.html")
    print("\nLook for a step that all capitals share. If a control has it, too, it is not about")
    print("capitals.")


if __name__ == "__main__":
    main(*sys.argv[1:])
