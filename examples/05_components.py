"""What do attention and MLP each say, and at which step does the answer come?

Prints attention, middle, MLP and block side by side for the last ten layers, then the steps along the stream that moved
the prediction most, and writes the final candidates as lines, through attention and MLP.

    python examples/05_components.py [MODEL] [PROMPT] [TARGET]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

COMPONENTS = ("attn_out", "resid_mid", "mlp_out", "resid_post")


def main(model: str = "smollm2", prompt: str = "The capital of France is", target: str = " Paris") -> None:
    last_ten = slice(-10, None)
    asked = {"components": COMPONENTS, "layers": last_ten, "targets": [target], "positions": -1, "track": 10}
    result = lr.logit_lens(lr.load(model), prompt, **asked)
    print(lr.table(result, show_top=1))
    for step in result.important("kl_drop", 2.0):
        part = "attention" if step.where.component == "resid_mid" else "MLP"
        print(f"layer {step.where.layer}: {part} brings the prediction {step.value:.1f} nats nearer to the final one")
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.top_tokens(result), "out/top_tokens.html")
    print("\nLook at what the largest steps say by themselves. How much each weighs is for the next example to tell.")


if __name__ == "__main__":
    main(*sys.argv[1:])
