"""At which layer is each word decided, while a chat model answers?

Prints the answer as it comes, each token with the layer from which it was the model's first choice, then what was
decided in the last layer only and what the sampler took against the model's first choice, and writes the page.

    python examples/07_generation.py [MODEL] [QUESTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def show(step: lr.LensResult) -> None:
    """One token of one prompt, as soon as it is there."""
    print(f"{step.text(step.tokens.next_id[0])!r}@{lr.settled_layers(step)[0].layer}", end=" ", flush=True)


def main(model: str = "smollm2", question: str = "Name three colours of the rainbow.") -> None:
    chat = [{"role": "user", "content": question}]
    result = lr.generate_lens(lr.load(model), chat, max_new_tokens=24, temperature=0.7, seed=0, on_step=show)
    print(f"\n{result.responses[0]}")
    last = result.sites[-1].layer
    print("decided in the last layer only:", [s.text for s in lr.settled_layers(result) if s.layer == last])
    for t in (result.tokens.next_id != result.final_ids).nonzero()[0]:
        written, first = result.text(result.tokens.next_id[t]), result.text(result.final_ids[t])
        print(f"token {t + 1}: the sampler took {written!r}, the model's first was {first!r}")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_generation(result, "out/generation.html")
    print("\nLook at which words are decided early: mostly those that the words before them leave no choice about.")


if __name__ == "__main__":
    main(*sys.argv[1:])
