"""From which layer on is each word top-1, while a chat model answers?

Prints the answer as it comes, each token with the layer from which it was the model's top-1. Then
prints what is top-1 in the last layer only, and where the sampler did not take the top-1.

    python examples/07_generation.py [MODEL] [QUESTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

QUESTION = "Name three colours of the rainbow."


def show(step: lr.LensResult) -> None:
    """Print one token, as soon as it is written."""
    settled = lr.settled_layers(step)[0]
    print(f"{step.text(step.tokens.next_id[0])!r}@{settled.layer}", end=" ", flush=True)


def main(model: str = "smollm2", question: str = QUESTION) -> None:
    chat = [{"role": "user", "content": question}]
    settings = {"max_new_tokens": 24, "temperature": 0.7, "seed": 0}
    result = lr.generate_lens(lr.load(model), chat, **settings, on_step=show)
    print(f"\n{result.responses[0]}")
    last_layer = result.sites[-1].layer
    late = [step.text for step in lr.settled_layers(result) if step.layer == last_layer]
    print("top-1 in the last layer only:", late)
    written_ids, top_ids = result.tokens.next_id, result.final_ids
    for token in (written_ids != top_ids).nonzero()[0]:
        written, top = result.text(written_ids[token]), result.text(top_ids[token])
        print(f"token {token + 1}: the sampler took {written!r}, the model's top-1 was {top!r}")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_generation(result, "out/generation.html")
    print("\nLook at words that are top-1 early and readable: little else could follow.")


if __name__ == "__main__":
    main(*sys.argv[1:])
