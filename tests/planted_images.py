"""A lens result of a prompt with a picture in which things are at known patches, made without a model."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

import lens_recipes as lr
from lens_recipes.arrays.axes import Site, Tokens
from lens_recipes.arrays.images import ImagePlace, Picture

WORDS = ["·", " dog", " grass", " sky", "ing", "<unk>", " what", "USER", "<image>", "?"]
DOG, GRASS, SKY, PIECE, ODD = 1, 2, 3, 4, 5
VOCAB = 1000


def grid(rows, columns, left, top, width, height, tile=-1):
    """The patches of a grid over a part of an image, row by row."""
    places = []
    for row in range(rows):
        for column in range(columns):
            edges = (
                left + width * column / columns,
                top + height * row / rows,
                left + width * (column + 1) / columns,
                top + height * (row + 1) / rows,
            )
            places.append(ImagePlace(0, tile, row, column, *edges))
    return places


def scene(width=320, height=200):
    """Sky above grass, with a dog on it: its box is the middle of the lower half."""
    image = Image.new("RGB", (width, height), (120, 180, 235))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height // 2, width, height), fill=(70, 150, 60))
    draw.ellipse(dog_box(width, height), fill=(130, 80, 40), outline=(40, 20, 10))
    return image


def dog_box(width=320, height=200):
    """Where the dog is."""
    return (width * 3 // 8, height // 2, width * 5 // 8, height * 3 // 4)


def picture(name="scene.png", image=None):
    """A scene as a result keeps it."""
    image = image or scene()
    file = io.BytesIO()
    image.save(file, "PNG")
    return Picture(name, image.width, image.height, file.getvalue())


def planted(
    rows=4, columns=8, layers=6, places=None, pictures=None, targets=(DOG,), texts=None, top_k=5
):
    """A result: two tokens of text, the patches, a token of text.

    What is under a patch is its top token from the second half of the layers on; the first two
    layers cannot be read there. The dog is a target unless `targets` says otherwise.
    """
    shown = pictures or [picture()]
    width, height = shown[0].width, shown[0].height
    places = places or grid(rows, columns, 0, 0, width, height)
    n_patches = len(places)
    n = n_patches + 3
    ids = np.array([7, 6] + [8] * n_patches + [9], dtype=np.int32)
    every = [ImagePlace(), ImagePlace(), *places, ImagePlace()]
    columns_of = {}
    for name, values in zip(ImagePlace._fields, zip(*every, strict=True), strict=True):
        kind = np.int32 if name in ("image", "tile", "row", "column") else np.float32
        columns_of[name] = np.array(values, dtype=kind)
    words = WORDS if texts is None else texts
    tokens = Tokens(
        prompt=np.zeros(n, np.int32),
        position=np.arange(n, dtype=np.int32),
        id=ids,
        next_id=np.append(ids[1:], -1).astype(np.int32),
        generated=np.zeros(n, bool),
        text=[words[each] for each in ids],
        **columns_of,
    )
    left, top, right, bottom = dog_box(width, height)
    under = np.full(n, GRASS)
    for token, place in enumerate(every):
        x, y = (place.left + place.right) / 2, (place.top + place.bottom) / 2
        if y < height / 2:
            under[token] = SKY
        elif left <= x <= right and top <= y <= bottom:
            under[token] = DOG
    generator = np.random.default_rng(0)
    probs = np.full((layers, n, VOCAB), 0.05 / VOCAB)
    for layer in range(layers):
        sure = 0.15 + 0.7 * layer / (layers - 1)
        for token in range(n):
            top_id = under[token] if layer >= layers // 2 else generator.choice([PIECE, ODD])
            probs[layer, token, top_id] += sure
            probs[layer, token, DOG] += 0.001 * (token % 7)
    probs /= probs.sum(-1, keepdims=True)
    logprobs = np.log(probs).astype(np.float32)
    order = np.argsort(-logprobs, axis=-1, kind="stable")
    top_ids = order[..., :top_k].astype(np.int32)
    ranks = np.argsort(order, axis=-1).astype(np.int32)
    entropy = -(probs * logprobs).sum(-1).astype(np.float32)
    final = top_ids[-1, :, 0]
    kl = (probs[-1] * (logprobs[-1] - logprobs)).sum(-1).astype(np.float32)
    kl = np.maximum(kl, 0)
    kl[:2, tokens.is_image] = 20.0

    def of(token_ids):
        """Log-probabilities and ranks of an id for each token."""
        return (
            np.take_along_axis(logprobs, token_ids[None, :, None], 2)[..., 0],
            np.take_along_axis(ranks, token_ids[None, :, None], 2)[..., 0],
        )

    next_logprobs, next_ranks = of(np.maximum(tokens.next_id, 0))
    next_logprobs[:, -1], next_ranks[:, -1] = np.nan, -1
    final_logprobs, final_ranks = of(final)
    target_ids = np.array([list(targets)], dtype=np.int32).reshape(1, -1)
    target_logprobs = logprobs[..., target_ids[0]]
    return lr.LensResult(
        sites=[Site(layer) for layer in range(layers)],
        tokens=tokens,
        prompts=["USER what" + f"⟨image 0: {n_patches} patches⟩?"],
        top_ids=top_ids,
        top_logprobs=np.take_along_axis(logprobs, top_ids, 2),
        entropy=entropy,
        kl_to_final=kl,
        logsumexp=np.zeros((layers, n), np.float32),
        next_logprobs=next_logprobs,
        next_ranks=next_ranks,
        final_ids=final.astype(np.int32),
        model_logprobs=final_logprobs[-1],
        model_entropy=entropy[-1],
        final_logprobs=final_logprobs,
        final_ranks=final_ranks,
        target_ids=target_ids,
        target_logits=target_logprobs,
        target_logprobs=target_logprobs,
        target_ranks=ranks[..., target_ids[0]],
        tracked_ids=np.zeros((n, 0), np.int32),
        tracked_logprobs=np.zeros((layers, n, 0), np.float32),
        texts=dict(enumerate(words)),
        certificate=None,
        provenance={"model": "planted", "certificate": "made by hand", "vocab_size": VOCAB},
        pictures=[shown],
    )
