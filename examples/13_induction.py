"""Which heads copy? Take one away, and see whether the model can still repeat what it has read.

A row of random words comes twice. The second time the model can know each next word only from the
first. A head without which it cannot is an induction head (Olsson et al. 2022).

    python examples/13_induction.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import lens_recipes as lr

N_WORDS = 24


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)
    words = np.random.default_rng(0).integers(1_000, 40_000, size=N_WORDS).tolist()
    prompt = [words + words[:-1]]

    def repeats(edits: Any = None) -> lr.LensResult:
        """Read the second round."""
        again = slice(N_WORDS, None)
        return lr.logit_lens(loaded, prompt, positions=again, layers=-1, edits=edits)

    print(f"mean log-probability of the right word: {np.nanmean(repeats().next_logprobs):.2f}")
    for layer, head in [(16, 0), (16, 4), (18, 6), (18, 0), (23, 4)]:
        edit = lr.ablate(layer=layer, component="head_out", head=head, to="mean")
        result = repeats(edit)
        print(f"  {np.nanmean(result.next_logprobs):6.2f}  {result.edits[0]}")
    ablated = repeats(lr.ablate(layer=16, component="head_out", head=0, to="mean"))
    print(ablated.certificate)
    Path("out").mkdir(exist_ok=True)
    figure = lr.compare(repeats(), ablated, metric="logprob", of="next")
    lr.write_html(figure, "out/induction.html")
    print("\nLook in out/induction.html at the words that the model no longer expects.")


if __name__ == "__main__":
    main(*sys.argv[1:])
