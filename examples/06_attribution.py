"""Which part of the network wrote the answer, and which token did it read from?

Splits the logit of the answer minus that of a rival: by head, then by the token a head read from.

    python examples/06_attribution.py [MODEL] [PROMPT] [TARGET] [RIVAL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

PROMPT = "The capital of France is"


def main(
    model: str = "smollm2", prompt: str = PROMPT, target: str = " Paris", rival: str = " London"
) -> None:
    loaded = lr.load(model)
    heads = lr.attribution(loaded, prompt, target, against=rival, unit="head")
    print(heads)
    sources = lr.attribution(loaded, prompt, target, against=rival, unit="token")
    print(sources.summary())
    print(sources.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.head_grid(heads), "out/heads.html")
    lr.write_html(lr.attribution_bars(heads), "out/largest_parts.html")
    lr.write_html(lr.source_map(sources), "out/sources.html")
    sources.save("out/sources.npz")
    print("\nLook at the darkest heads in out/heads.html, and in out/sources.html at the tokens")
    print("that they read from.")


if __name__ == "__main__":
    main(*sys.argv[1:])
