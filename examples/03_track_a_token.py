"""Track a token: how do its rank and its logit difference to a rival change, layer by layer?

Prints both after the last token, and draws the ranks, the difference and the order of candidates.

    python examples/03_track_a_token.py [MODEL] [PROMPT] [TARGET] [RIVAL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr

PROMPT = "The capital of France is"


def main(
    model: str = "smollm2", prompt: str = PROMPT, target: str = " Paris", rival: str = " London"
) -> None:
    result = lr.logit_lens(lr.load(model), prompt, targets=[target, rival], track=10)
    ranks = result.target_ranks[:, -1]  # [layer, target], after the last token
    logit_diffs = lr.logit_diff(result, target, rival)[:, -1]  # [layer]
    print(f"layer   rank of {target!r}   of {rival!r}   logit difference")
    for site, (rank, rival_rank), logit_diff in zip(result.sites, ranks, logit_diffs, strict=True):
        print(f"{site.layer:5} {rank:12} {rival_rank:12} {logit_diff:+13.2f}")
    settled = result.settled(target)[-1]
    layer = f"from layer {result.sites[settled].layer} on" if settled >= 0 else "at no layer"
    print(f"{target!r} is top-1 {layer}")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/ranks.html")
    lr.write_html(lr.trajectory(result, metric="logit_diff"), "out/logit_difference.html")
    lr.write_html(lr.rank_flow(result), "out/order_of_the_candidates.html")
    print("\nLook at where the logit difference changes its sign: it may be long before either")
    print("of the two tokens is top-1.")


if __name__ == "__main__":
    main(*sys.argv[1:])
