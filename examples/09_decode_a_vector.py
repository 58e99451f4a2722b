"""What does a vector say? Here, the difference between two prompts in the stream after each layer.

Decodes it and its negative. No run certifies a vector: a certified lens of the prompt checks it.

    python examples/09_decode_a_vector.py [MODEL] [PROMPT] [OTHER]
"""

from __future__ import annotations

import sys

import nnsight
import torch

import lens_recipes as lr

JAPAN, FRANCE = "The capital of Japan is", "The capital of France is"


def streams(model: nnsight.LanguageModel, prompt: str) -> torch.Tensor:
    """Return the stream after each block at the last token, [layer, d_model]."""
    with torch.inference_mode(), model.trace(prompt):
        # The path of the blocks in Llama, Qwen, Gemma; for others see print(lr.anatomy(model)).
        vectors = nnsight.save([block.output[0, -1].clone() for block in model.model.layers])
    return torch.stack(vectors)


def main(model: str = "smollm2", prompt: str = JAPAN, other: str = FRANCE) -> None:
    loaded = lr.load(model)
    vectors = streams(loaded, prompt)
    difference = vectors - streams(loaded, other)
    decoded = lr.decode_vectors(loaded, difference)
    negative = lr.decode_vectors(loaded, -difference)
    for layer in range(len(difference) // 2, len(difference)):
        words = [decoded.text(token) for token in decoded.top_ids[0, layer, :3]]
        opposite = [negative.text(token) for token in negative.top_ids[0, layer, :3]]
        print(f"layer {layer:2}: first − second {words!s:42} second − first {opposite}")
    lens = lr.logit_lens(loaded, prompt, positions=-1)
    same = lr.decode_vectors(loaded, vectors).top_ids[0] == lens.top_ids[:, 0]
    print("read at the same places as the lens:", same.all())
    print(lens.certificate)
    print("\nLook for the first layer that names what differs. Only a direction is read, no size.")


if __name__ == "__main__":
    main(*sys.argv[1:])
