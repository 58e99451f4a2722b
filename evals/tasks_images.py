"""Tasks about what stands at the patches of an image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tiny_images
import torch
from PIL import Image

from answers import Check, close, top
from bench import Bench, task

QUESTION = "What is it?"
WIDTH, HEIGHT = 160, 100


@task
def image_lens(bench: Bench) -> Iterator[Check]:
    """A LLaVA, which sees the middle of a long image alone."""
    module, processor = tiny_images.llava()
    folder = bench.folder / "model"
    module.save_pretrained(folder)
    processor.save_pretrained(folder)
    pixels = np.random.default_rng(135).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(bench.folder / "image.png")
    answer = bench.run(folder, {"image": str(bench.folder / "image.png"), "question": QUESTION})
    expected = _early_exits(module, processor, image)
    ids = answer.ids("top_ids", *expected.shape[:2], 5)
    yield top("top_ids", ids, expected)
    best = -np.sort(-expected, axis=-1)[..., :5]
    yield close("top_logprobs", answer.numbers("top_logprobs", *best.shape), best)
    side = HEIGHT / 4
    left = (WIDTH - HEIGHT) / 2
    boxes = [
        (left + column * side, row * side, left + (column + 1) * side, (row + 1) * side)
        for row in range(4)
        for column in range(4)
    ]
    yield close("boxes", answer.numbers("boxes", len(boxes), 4), boxes, atol=3.0)  # resizing rounds


def _early_exits(module: torch.nn.Module, processor: object, image: Image.Image) -> np.ndarray:
    """Log-probabilities [layer, patch, token] from plain hooks and the model's own norm and head."""
    parts = [{"type": "image", "image": image}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    decoder, streams = module.get_decoder(), []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: streams.append(out)) for layer in decoder.layers]
    with torch.no_grad():
        module(**inputs)
        for hook in hooks:
            hook.remove()
        logits = module.get_output_embeddings()(decoder.norm(torch.cat(streams)))
    patches = inputs["input_ids"][0] == module.config.image_token_id
    return logits[:, patches].float().log_softmax(-1).numpy()
