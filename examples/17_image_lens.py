"""What would each layer say at the patches of an image, and how sure is it of an object?

    python examples/17_image_lens.py [MODEL IMAGE OBJECT ABSENT]    # M photo.jpg " dog" " train"

ABSENT is something that is not in the image: a maximum over so many places is worth nothing without
one. Without a model, SmolLM2 gets eyes made by hand (examples/eyes/by_hand.py), and sees red above
blue. What it says at a patch is what it would say *next*: from the second red patch on, " red".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import lens_recipes as lr


def main(model: str = "", image: str = "", *words: str) -> None:
    words = words or (" red", " green")
    if model:
        loaded, picture = lr.load(model), image
    else:
        sys.path.append(str(Path(__file__).parent))
        from eyes.by_hand import red_above_blue, smollm2_with_eyes

        loaded, picture = smollm2_with_eyes(), red_above_blue()
    question = {"type": "text", "text": " What is in the image?"}
    chat = [{"role": "user", "content": [{"type": "image"}, question]}]
    result = lr.logit_lens(loaded, chat, images=picture, targets=words)
    print(result.summary(), result.certificate, sep="\n\n")
    patches = result.tokens.is_image
    for number, word in enumerate(words):
        probs = np.exp(result.target_logprobs[:, patches, number])  # [layer, patch]
        layer, patch = np.unravel_index(probs.argmax(), probs.shape)
        box = result.tokens.box[patches][patch].astype(int)
        print(f"{word!r}: p {probs.max():.2f} at most, layer {result.sites[layer].layer}, in {box}")
    Path("out").mkdir(exist_ok=True)
    lr.report(result, "out/image.html")
    lr.write_html(lr.object_map(result, words[0]), "out/object.html", offline=True)
    print("\nLook in out/image.html at each patch, and in out/object.html where the object is.")


if __name__ == "__main__":
    main(*sys.argv[1:])
