"""Which of a prompt's images each image token is of, where its place is not known."""

from __future__ import annotations

from lens_recipes.arrays.images import ImagePlace
from lens_recipes.errors import LensError
from lens_recipes.run.request.images.places.encoded import Seen


def numbers_alone(seen: Seen) -> list[list[ImagePlace]]:
    """Return for each image its tokens, without places. The images come in their order.

    Raises:
        LensError: it is not known which tokens are of which image.
    """
    count, n_images = len(seen.positions), len(seen.sizes)
    if n_images == 1:
        return [[ImagePlace(0)] * count]
    for way in (own_counts, counts_of_blanks, runs):
        counts = way(seen)
        if len(counts) == n_images and sum(counts) == count:
            return [[ImagePlace(image)] * number for image, number in enumerate(counts)]
    raise LensError(
        f"the {n_images} images of a prompt are {count} tokens in it, and which of them are of "
        "which image is not known for this kind of model: pass one image for each prompt."
    )


def equal_shares(seen: Seen) -> list[list[ImagePlace]]:
    """Return for each image its tokens, as many for each, without places.

    So it is for models whose tokens are answers to fixed queries: each looks at the whole image
    (the resampler of Idefics 2, the Q-Former of BLIP-2).

    Raises:
        ValueError: they are not as many for each.
    """
    share, rest = divmod(len(seen.positions), len(seen.sizes))
    if rest:
        raise ValueError("the images have not as many tokens each")
    return [[ImagePlace(image)] * share for image in range(len(seen.sizes))]


def own_counts(seen: Seen) -> list[int]:
    """Return how many tokens each image has by its processor's own count; none without one.

    Some count the marks around an image, too: whoever asks compares the sum.
    """
    count = getattr(seen.processor, "_get_num_multimodal_tokens", None)
    if count is None:
        return []
    try:
        found = count(image_sizes=[(height, width) for width, height in seen.sizes])
        return list(found["num_image_tokens"])
    except Exception:  # whatever the code of a processor raises: it only means "no count"
        return []


def counts_of_blanks(seen: Seen) -> list[int]:
    """Return how many tokens blank images of the same sizes have, each alone; none if they fail."""
    from PIL import Image

    mark = str(getattr(seen.processor, "image_token", "") or "")
    token = seen.encoded.token_ids[seen.positions[0]]
    counts = []
    for size in seen.sizes:
        try:
            made = seen.processor(text=[mark], images=[Image.new("RGB", size)])
            ids = [int(each) for each in made["input_ids"][0]]
        except Exception:  # whatever the code of a processor raises: it only means "no count"
            return []
        counts.append(ids.count(token))
    return counts


def runs(seen: Seen) -> list[int]:
    """Return the lengths of the runs of image tokens that follow each other."""
    lengths: list[int] = []
    before = None
    for position in seen.positions:
        if before is not None and position == before + 1:
            lengths[-1] += 1
        else:
            lengths.append(1)
        before = position
    return lengths
