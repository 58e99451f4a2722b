"""Tracking a token: how do its rank and its lead over a rival change, layer by layer?

Prints both for the last token, and draws the ranks, the lead, and the order of all candidates.

    python examples/03_track_a_token.py [MODEL] [PROMPT] [TARGET] [RIVAL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import lens_recipes as lr


def main(
    model: str = "smollm2", prompt: str = "The capital of France is", target: str = " Paris", rival: str = " London"
) -> None:
    result = lr.logit_lens(lr.load(model), prompt, targets=[target, rival], track=10)
    ranks, ahead = result.target_ranks[:, -1], lr.logit_diff(result, target, rival)[:, -1]
    print(f"layer   rank of {target!r}   of {rival!r}   logit ahead")
    for site, (one, other), lead in zip(result.sites, ranks, ahead, strict=True):
        print(f"{site.layer:5} {one:12} {other:12} {lead:+13.2f}")
    first = result.settled(target)[-1]
    print(f"{target!r} is the first choice", f"from layer {result.sites[first].layer} on" if first >= 0 else "never")
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.trajectory(result, metric="rank"), "out/ranks.html")
    lr.write_html(lr.trajectory(result, metric="logit_diff"), "out/lead.html")
    lr.write_html(lr.rank_flow(result), "out/order_of_the_candidates.html")
    print("\nLook at where the lead changes its sign: that may be long before either of the two comes first.")


if __name__ == "__main__":
    main(*sys.argv[1:])
