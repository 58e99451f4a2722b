"""How fast and how large is the lens on images, beside the least that it could cost?

    python benchmarks/images.py                    # 576 image tokens, as LLaVA-1.5 has; JSON on stdout
    python benchmarks/images.py --side 24 40       # patches along a side of the image
    python benchmarks/images.py --memory           # peak memory with 5,041 image tokens, in a fresh process

A small LLaVA with random weights, as wide as SmolLM2, and a vocabulary of 32,064. Measured in one process, in turn, in
seconds of the processor (medians):

- `floor`: a forward pass of what the processor made, without logits, and the bare product of the same rows with the
  unembedding, in chunks;
- `all`: `logit_lens(images=)` with the top five at every layer and position, the image opened and processed anew;
- `image`: the same at the image's tokens alone;
- `plain`: what people write, a forward pass that keeps all streams and the softmax over the vocabulary at each.

Memory is what the lens takes beyond that forward pass with its logits, held against `max_bytes`.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
import tiny_images  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from side_by_side import each_alone, grown, side_by_side  # noqa: E402

import lens_recipes as lr  # noqa: E402

VOCAB, PATCH, CHUNK = 32_064, tiny_images.P, 640  # rows of one product in the floor
PROMPT = "USER: <image> what? ASSISTANT:"
LAYERS = 24  # of the timed model: each forward pass makes the logits of its last layer once more
LARGE = 71  # patches along a side: 5,041 image tokens
MAX_BYTES = 2**28


def model_of(side: int, width: int, layers: int) -> tuple[Any, Any]:
    """A LLaVA whose images are side × side patches, and its processor."""
    tokenizer = tiny_images.tokenizer(image_token="<image>")
    pixels = side * PATCH
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
    )
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "head_dim": 64, **heads}
    decoder = tiny_images.text(tokenizer) | sizes | {"vocab_size": VOCAB}
    decoder |= {"num_hidden_layers": layers, "max_position_embeddings": 8192}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tiny_images.vision(pixels)),
        text_config=transformers.LlamaConfig(**decoder),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=side**2,
    )
    module = tiny_images.made(transformers.LlavaForConditionalGeneration, config)
    return lr.load(module, processor=processor), processor


def picture(side: int) -> Image.Image:
    """An image of random pixels, as large as the model sees it."""
    pixels = np.random.default_rng(0).integers(0, 256, (side * PATCH, side * PATCH, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def floor(module: Any, inputs: dict[str, Any]) -> None:
    """Forward pass and product: no norm, no metric, nothing kept."""
    streams: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: streams.append(out))
        for layer in module.get_decoder().layers
    ]
    try:
        with torch.inference_mode():
            module.model(**inputs, use_cache=False)
            rows = torch.cat([stream.flatten(0, 1) for stream in streams])
            for start in range(0, len(rows), CHUNK):
                rows[start : start + CHUNK] @ module.lm_head.weight.T
    finally:
        for hook in hooks:
            hook.remove()


def plain(module: Any, inputs: dict[str, Any]) -> None:
    """What a script does."""
    with torch.inference_mode():
        streams = module(**inputs, use_cache=False, output_hidden_states=True).hidden_states
        for stream in streams[1:]:
            module.lm_head(module.get_decoder().norm(stream)).softmax(-1)


def measure(side: int, repeat: int) -> dict[str, Any]:
    """Median seconds of each contender, and the ratio to the floor."""
    model, processor = model_of(side, width=576, layers=LAYERS)
    image = picture(side)
    inputs = dict(processor(text=[PROMPT], images=[image], return_tensors="pt"))
    runs = {
        "floor": lambda: floor(model._module, inputs),
        "all": lambda: lr.logit_lens(model, PROMPT, images=image, track=None),
        "image": lambda: lr.logit_lens(model, PROMPT, images=image, positions="image", track=None),
        "plain": lambda: plain(model._module, inputs),
    }
    found = side_by_side(runs, repeat, clock=time.process_time)
    return {"image_tokens": side**2, "tokens": inputs["input_ids"].shape[1], **found}


def memory() -> dict[str, Any]:
    """Megabytes that the lens takes beyond a forward pass that keeps its logits."""
    model, processor = model_of(LARGE, width=128, layers=3)
    image = picture(LARGE)
    inputs = dict(processor(text=[PROMPT], images=[image], return_tensors="pt"))
    lr.logit_lens(model, PROMPT, images=image, positions=-1)  # what is imported on first use
    with torch.inference_mode():
        model._module(**inputs, use_cache=False).logits.sum()
    found = grown(lambda: lr.logit_lens(model, PROMPT, images=image, max_bytes=MAX_BYTES))
    return {"image_tokens": LARGE**2, "max_bytes_mb": MAX_BYTES // 2**20, **found}


def main() -> None:
    """Print one line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, nargs="+", default=[24])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.memory_of:
        print(json.dumps(memory()))
    elif options.memory:
        each_alone(__file__, [f"{LARGE**2} image tokens"])
    else:
        for side in options.side:
            print(json.dumps(measure(side, options.repeat)), flush=True)


if __name__ == "__main__":
    main()
