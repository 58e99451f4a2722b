"""At which layer is each word decided, while a chat model answers?

Prints the answer as it comes, each token with the layer from which it was the model's first choice, then the tokens
that were decided last and those that the sampler took against the model's first choice, and writes the figures.

    python examples/04_generation.py [MODEL] [QUESTION]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def show(step: lr.LensResult) -> None:
    """One token of one prompt, as soon as it is there."""
    settled = lr.settled_layers(step)[0]
    print(f"{step.text(step.tokens.next_id[0])!r}@{settled.layer}", end=" ", flush=True)


def main(model: str = "smollm2", question: str = "Name three colours of the rainbow.") -> None:
    result = lr.generate_lens(
        lr.load(model),
        [{"role": "user", "content": question}],
        max_new_tokens=24,
        temperature=0.7,
        seed=0,
        on_step=show,
    )
    print(f"\n{result.responses[0]}")
    print(result.certificate)
    last = result.sites[-1].layer
    late = [step.text for step in lr.settled_layers(result) if step.layer == last]
    print(f"decided in the last layer only: {late}")
    for t in (result.tokens.next_id != result.final_ids).nonzero()[0]:
        written, first = result.text(result.tokens.next_id[t]), result.text(result.final_ids[t])
        print(
            f"position {result.tokens.position[t] + 1}: the sampler took {written!r}, the model's first was {first!r}"
        )
    print({name: value for name, value in result.timings.items() if name.startswith(("decode", "lens", "tokens"))})
    Path("out").mkdir(exist_ok=True)
    lr.write_generation(result, "out/generation.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
