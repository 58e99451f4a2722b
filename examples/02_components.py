"""What do attention and MLP each say, and at which step does the answer come?

Prints attention, middle, MLP and block side by side, the steps along the stream that moved the prediction most, and
writes the important sites as a heatmap and the rival tokens as a line figure.

    python examples/02_components.py [MODEL] [PROMPT] [TARGET] [RIVAL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def main(
    model: str = "smollm2",
    prompt: str = "The capital of France is",
    target: str = " Paris",
    rival: str = " London",
) -> None:
    result = lr.logit_lens(
        lr.load(model),
        prompt,
        components=("attn_out", "resid_mid", "mlp_out", "resid_post"),
        targets=[target, rival],
        track=10,
    )
    print(lr.table(result, show_top=1))
    steps = result.important("kl_drop", 2.0)
    for step in steps:
        part = "attention" if step.where.component == "resid_mid" else "MLP"
        print(f"layer {step.where.layer}: {part} brings the prediction {step.value:.1f} nats nearer to the final one")
    ahead = lr.logit_diff(result, target, rival)[:, -1]
    print(f"logit of {target!r} minus that of {rival!r} at the last five sites: {ahead[-5:].round(2).tolist()}")
    Path("out").mkdir(exist_ok=True)
    if steps:
        lr.write_html(lr.heatmap(result, sites=steps), "out/important_steps.html")
    lr.write_html(lr.trajectory(result, metric="rank"), "out/rank_of_targets.html")
    lr.write_html(lr.top_tokens(result), "out/top_tokens.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
