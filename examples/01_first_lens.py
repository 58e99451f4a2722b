"""The first lens: at which layer does a model come to its answer?

Prints what each layer would predict next, a summary and the proof, and writes an interactive page.

    python examples/01_first_lens.py [MODEL] [PROMPT] [TARGET]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

PROMPT = "The capital of France is"


def main(model: str = "smollm2", prompt: str = PROMPT, target: str = " Paris") -> None:
    result = lr.logit_lens(lr.load(model), prompt, targets=[target])
    print(result)
    print(result.summary())
    Path("out").mkdir(exist_ok=True)
    lr.report(result, "out/first_lens.html")
    result.save("out/first_lens.json")
    print("\nLook at how late the answer comes. Click on it in out/first_lens.html: its rank falls")
    print("long before.")


if __name__ == "__main__":
    main(*sys.argv[1:])
