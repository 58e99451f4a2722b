"""From which layer on is the answer there? The logit lens beside a linear lens, over several facts.

The linear lens is fitted on text that the model writes itself, once. Another country's capital is
the control: a lens that only knew what usually follows "The capital of" would rank it as early.

    python examples/10_two_lenses.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lens_recipes as lr

CAPITALS = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo", "Egypt": " Cairo"}


def median_rank(result: lr.LensResult, target: int) -> np.ndarray:
    """Return the median rank of one target of each prompt over the prompts, [site]."""
    return np.median(result.target_ranks[..., target], axis=1)


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)
    path = Path("out") / "two_lenses.safetensors"
    path.parent.mkdir(exist_ok=True)
    lens = lr.fit_lens(loaded, tokens=6_000, path=path)
    prompts = [f"The capital of {country} is" for country in CAPITALS]
    answers = [*CAPITALS.values()]
    targets = [[answer, answers[number - 1]] for number, answer in enumerate(answers)]
    logit = lr.logit_lens(loaded, prompts, targets=targets, positions=-1)
    linear = lr.logit_lens(loaded, prompts, targets=targets, positions=-1, lens=lens)
    print(lens.quality.summary(), linear.certificate, sep="\n")
    columns = [median_rank(result, target) for result in (logit, linear) for target in (0, 1)]
    print("median rank     logit: answer   another    linear: answer   another")
    for site, ranks in zip(logit.sites, zip(*columns, strict=True), strict=True):
        print("layer {:2}        {:14.0f} {:9.0f} {:17.0f} {:9.0f}".format(site.layer, *ranks))
    lr.report(logit, "out/two_lenses.html", beside=linear)
    print("\nLook where the answer is ahead of another's. out/two_lenses.html shows both lenses.")


if __name__ == "__main__":
    main(*sys.argv[1:])
