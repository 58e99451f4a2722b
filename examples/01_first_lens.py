"""The first lens: at which layer does a model come to its answer?

Prints the layer-by-layer table, the summary and the proof, and writes an interactive heatmap.

    python examples/01_first_lens.py [MODEL] [PROMPT] [TARGET]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def main(model: str = "smollm2", prompt: str = "The capital of France is", target: str = " Paris") -> None:
    result = lr.logit_lens(lr.load(model), prompt, targets=[target])
    print(result)
    print(result.summary())
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.heatmap(result), "out/first_lens.html")
    lr.write_html(lr.heatmap(result, metric="rank", of=target), "out/first_lens_rank.html")
    result.save("out/first_lens.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
