"""How often is the answer there, and from which layer on? A survey of capitals under two lenses.

One prompt is one observation. Here many are asked, in several templates, each beside the answer of
another item of its group. Then the two lenses are compared item by item.

    python examples/14_survey.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)
    path = Path("out") / "two_lenses.safetensors"
    path.parent.mkdir(exist_ok=True)
    lens = lr.fit_lens(loaded, tokens=6_000, path=path)
    logit = lr.survey(loaded, "capitals")
    linear = lr.survey(loaded, "capitals", lens=lens)
    print(linear.summary(), linear.table(metric=["accuracy@1", "rank"], stride=1), sep="\n\n")

    difference = logit.compare(linear, "reciprocal_rank")
    names = ("logit lens", "linear lens")
    print("", difference.table(names=names, stride=2), sep="\n")

    lr.write_html(lr.accuracy_curve(linear), "out/accuracy.html")
    lr.write_html(lr.difference_curve(difference, names=names), "out/difference.html")
    linear.page("out/survey.html")
    linear.save("out/survey.npz")
    print("\nLook in out/survey.html at single items, and in out/accuracy.html at the bands.")


if __name__ == "__main__":
    main(*sys.argv[1:])
