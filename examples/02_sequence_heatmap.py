"""A whole sentence at once: which of its words does the model see coming, and from which layer on?

Prints for each word its probability before it came and the layer from which it was the first choice, and writes two
heatmaps of all layers and all tokens: the first choices, and the rank of the word that really follows.

    python examples/02_sequence_heatmap.py [MODEL] [TEXT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lens_recipes as lr

TEXT = "The Eiffel Tower is in Paris, and the Statue of Liberty is in New York City."


def main(model: str = "smollm2", text: str = TEXT) -> None:
    result = lr.logit_lens(lr.load(model), text)
    tokens, settled = result.tokens, result.settled(of="next")
    for t in range(len(tokens.id) - 1):  # nothing follows the last one
        layer = f"from layer {result.sites[settled[t]].layer}" if settled[t] >= 0 else "never first"
        word, p = result.text(tokens.next_id[t]), np.exp(result.next_logprobs[-1, t])
        print(f"after {result.text(tokens.id[t])!r:12} came {word!r:12} p {p:.3f}  {layer}")
    right = (result.next_ranks[:, :-1] == 0).mean(axis=1)  # [layer]
    print("share of words that a layer has as its first choice:", *(f"{share:.2f}" for share in right[::5]))
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.heatmap(result), "out/sequence.html")
    lr.write_html(lr.heatmap(result, metric="rank", of="next"), "out/sequence_rank_of_next.html")
    print("\nIn out/sequence_rank_of_next.html, look for columns that turn early: words without an alternative.")


if __name__ == "__main__":
    main(*sys.argv[1:])
