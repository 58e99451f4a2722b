"""A vector that you have: what would it say? Here, what differs between two prompts in the stream after each layer.

Takes the streams with nnsight, and decodes their difference and its opposite. A vector alone has no run that certifies
it; that these were taken at the right place is seen from a lens of the same prompt, which has its certificate.

    python examples/09_decode_a_vector.py [MODEL] [PROMPT] [OTHER]
"""

from __future__ import annotations

import sys

import nnsight
import torch

import lens_recipes as lr


def streams(model: nnsight.LanguageModel, prompt: str) -> torch.Tensor:
    """The stream after each block at the last token, [layer, d_model]."""
    with torch.inference_mode(), model.trace(prompt):
        kept = nnsight.save([])
        for block in model.model.layers:  # Llama, Qwen, Gemma; for others see print(lr.anatomy(model))
            kept.append(block.output[0, -1].clone())
    return torch.stack(kept)


def main(
    model: str = "smollm2", prompt: str = "The capital of Japan is", other: str = "The capital of France is"
) -> None:
    lm = lr.load(model)
    one, two = streams(lm, prompt), streams(lm, other)
    difference = one - two
    towards, away = lr.decode_vectors(lm, difference), lr.decode_vectors(lm, -difference)
    for layer in range(len(difference) // 2, len(difference)):
        said = [[result.text(token) for token in result.top_ids[0, layer, :3]] for result in (towards, away)]
        print(f"layer {layer:2}: first − second {said[0]!s:42} second − first {said[1]}")

    lens = lr.logit_lens(lm, prompt, positions=-1)
    print("taken where the lens reads:", (lr.decode_vectors(lm, one).top_ids[0] == lens.top_ids[:, 0]).all())
    print(lens.certificate)
    print("\nLook for the layer from which a difference names what differs. Its size is not read, only its direction.")


if __name__ == "__main__":
    main(*sys.argv[1:])
