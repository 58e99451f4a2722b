"""Where does a model keep the answer on its way? A circuit found by patching, not by looking.

The run of one country is put into that of another, piece by piece: the stream at the country's and
at the last token, and heads that could carry the answer from one to the other.

    python examples/11_circuit.py [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lens_recipes as lr

CLEAN, CORRUPT = "The capital of France is", "The capital of Italy is"
TARGETS, COUNTRY, LAST = [" Paris", " Rome"], 3, 4  # tokens, and positions of this tokenizer


def main(model: str = "smollm2") -> None:
    loaded = lr.load(model)

    def logit_diff(prompt: str, edits: Any = None) -> float:
        """Return the logit of Paris minus that of Rome after the prompt."""
        result = lr.logit_lens(loaded, prompt, targets=TARGETS, positions=-1, edits=edits)
        paris, rome = result.target_logits[-1, 0]
        return float(paris - rome)

    clean, corrupt = logit_diff(CLEAN), logit_diff(CORRUPT)
    print(f"Paris over Rome: clean {clean:+.2f}, corrupt {corrupt:+.2f}. What a patch recovers:")
    parts: list[Any] = [({"layer": layer}, at) for layer in (12, 22, 23) for at in (COUNTRY, LAST)]
    parts += [({"layer": 23, "component": "head_out", "head": head}, LAST) for head in (3, 4, 5)]
    for part, position in parts:
        edit = lr.patch(CLEAN, positions=position, **part)
        print(f"{(logit_diff(CORRUPT, edit) - corrupt) / (clean - corrupt):7.2f}  {edit}")
    without = lr.ablate(layer=23, component="head_out", head=4, to="mean", positions=LAST)
    ablated = lr.logit_lens(loaded, CLEAN, edits=without)
    print(ablated.summary(), ablated.certificate, sep="\n")
    Path("out").mkdir(exist_ok=True)
    lr.write_html(lr.compare(lr.logit_lens(loaded, CLEAN), ablated), "out/circuit.html")
    print("\nLook in out/circuit.html at the last token: what is missing without L23H4.")


if __name__ == "__main__":
    main(*sys.argv[1:])
