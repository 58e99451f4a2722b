"""Can a direction be moved? Two tokens are swapped in the stream, under two lenses.

A swap of the capitals at the last token changes the answer, and under the fitted lens more than
under the logit lens. A swap of the countries at the country's token does not: a token's direction
is what the stream *says* there, not what it keeps for later.

    python examples/12_swap.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lens_recipes as lr

PROMPT = "The capital of France is"
COUNTRY, LAST = 3, 4  # positions, of this tokenizer


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)
    path = Path("out") / "two_lenses.safetensors"
    path.parent.mkdir(exist_ok=True)
    fitted = lr.fit_lens(loaded, tokens=6_000, path=path)
    print("                              p of Paris, Rome")
    for lens in (None, fitted):
        for a, b, position in ((" France", " Italy", COUNTRY), (" Paris", " Rome", LAST)):
            edit = lr.swap(a, b, layers=range(16, 24), positions=position, lens=lens)
            result = lr.logit_lens(
                loaded, PROMPT, targets=[" Paris", " Rome"], positions=-1, lens=lens, edits=edit
            )
            paris, rome = np.exp(result.target_logprobs[-1, 0])
            name = "logit lens" if lens is None else lens.name
            print(f"{name}: {a} and {b} at {position}:   {paris:.3f}, {rome:.3f}")
    print(result, result.summary(), sep="\n\n")
    lr.report(result, "out/swap.html")
    print("\nLook in out/swap.html at the layers from 16 on, which say what they were given.")


if __name__ == "__main__":
    main(*sys.argv[1:])
