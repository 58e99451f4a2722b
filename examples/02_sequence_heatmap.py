"""A whole sentence: which of its words does the model predict, and from which layer on?

Prints the probability that each word had before it came, and the layer from which it was top-1.
Writes two heatmaps of all layers and tokens: the top-1 tokens, and the rank of the word that
really follows.

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
    words = [result.text(token_id) for token_id in result.tokens.id]
    probs = np.exp(result.next_logprobs[-1])  # [token], by the model itself
    settled = result.settled(of="next")  # [token]
    for token in range(len(words) - 1):  # nothing follows the last one
        layer = result.sites[settled[token]].layer if settled[token] >= 0 else "none"
        print(f"{words[token]!r:12} -> {words[token + 1]!r:12} p {probs[token]:.3f}  layer {layer}")
    share_right = (result.next_ranks[:, :-1] == 0).mean(axis=1)  # [layer]
    print("share of words that are top-1, every fifth layer:", share_right[::5].round(2))
    print(result.certificate)
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.heatmap(result), "out/sequence.html")
    lr.write_html(lr.heatmap(result, metric="rank", of="next"), "out/rank_of_next.html")
    print("\nIn out/rank_of_next.html, look for columns that turn early: words without a rival.")


if __name__ == "__main__":
    main(*sys.argv[1:])
