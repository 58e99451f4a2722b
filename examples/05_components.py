"""What do attention and MLP each add, and at which step does the answer come?

Prints attention, middle, MLP and block side by side for the last ten layers, then the steps along
the stream that moved the prediction most. Draws the final candidates through attention and MLP.

    python examples/05_components.py [MODEL] [PROMPT] [TARGET]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

PROMPT = "The capital of France is"
COMPONENTS = ("attn_out", "resid_mid", "mlp_out", "resid_post")
LAST_TEN = slice(-10, None)


def main(model: str = "smollm2", prompt: str = PROMPT, target: str = " Paris") -> None:
    options = {"components": COMPONENTS, "layers": LAST_TEN, "positions": -1, "track": 10}
    result = lr.logit_lens(lr.load(model), prompt, targets=[target], **options)
    print(lr.table(result, show_top=1))
    for step in result.important("kl_drop", 2.0):
        part = "attention" if step.where.component == "resid_mid" else "MLP"
        layer, nats = step.where.layer, step.value
        print(f"layer {layer}: {part} moves the prediction {nats:.1f} nats towards the final one")
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.top_tokens(result), "out/top_tokens.html")
    print("\nLook at what the components of the largest steps predict by themselves. The next")
    print("example says how much each of them adds.")


if __name__ == "__main__":
    main(*sys.argv[1:])
