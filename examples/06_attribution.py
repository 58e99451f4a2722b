"""Which part of the network wrote the answer, and which token did it read to know it?

Splits the logit of the answer minus that of a rival: by head first, then the heads by the token they read from.

    python examples/06_attribution.py [MODEL] [PROMPT] [TARGET] [RIVAL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def main(
    model: str = "smollm2", prompt: str = "The capital of France is", target: str = " Paris", rival: str = " London"
) -> None:
    lm = lr.load(model)
    heads = lr.attribution(lm, prompt, target, against=rival, unit="head")
    print(heads)
    sources = lr.attribution(lm, prompt, target, against=rival, unit="token")
    print(sources.summary())
    print(sources.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.head_grid(heads), "out/heads.html")
    lr.write_html(lr.attribution_bars(heads), "out/largest_parts.html")
    lr.write_html(lr.source_map(sources), "out/sources.html")
    sources.save("out/sources.npz")
    print("\nLook at the darkest heads of out/heads.html, and in out/sources.html at the tokens they read from.")


if __name__ == "__main__":
    main(*sys.argv[1:])
