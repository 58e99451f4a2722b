"""The first lens: at which layer does a model come to its answer?

Prints what each layer would say next, the summary and the proof, and writes one page to click on.

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
    lr.report(result, "out/first_lens.html")
    result.save("out/first_lens.json")
    print("\nLook at how late the answer comes, and in out/first_lens.html click on it: its rank falls long before.")


if __name__ == "__main__":
    main(*sys.argv[1:])
