"""Find for each image token of a prompt which patch of which image it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lens_recipes.arrays.images import NO_PLACE, ImagePlace
from lens_recipes.errors import LensError
from lens_recipes.run.request.images.places.dynamic import pixtral_places, qwen_places
from lens_recipes.run.request.images.places.encoded import Encoded, Seen, settings_of
from lens_recipes.run.request.images.places.joined_tiles import (
    llava_next_places,
    llava_onevision_places,
)
from lens_recipes.run.request.images.places.numbers import equal_shares, numbers_alone
from lens_recipes.run.request.images.places.padded_tiles import llama4_places
from lens_recipes.run.request.images.places.square import (
    gemma3_places,
    llava_places,
    paligemma_places,
)
from lens_recipes.run.request.images.places.tiles import (
    aya_vision_places,
    idefics3_places,
    internvl_places,
)

# The rule of each family, by the type of its config. Each was measured: one patch of an image was
# changed, and the token whose embedding moved is the one that the rule names.
RULES: dict[str, Callable[[Seen], list[list[ImagePlace]]]] = {
    "llava": llava_places,
    "vipllava": llava_places,
    "paligemma": paligemma_places,
    "gemma3": gemma3_places,
    "llava_next": llava_next_places,
    "llava_onevision": llava_onevision_places,
    "internvl": internvl_places,
    "aya_vision": aya_vision_places,
    "idefics3": idefics3_places,
    "smolvlm": idefics3_places,
    "llama4": llama4_places,
    "qwen2_vl": qwen_places,
    "qwen2_5_vl": qwen_places,
    "qwen3_vl": qwen_places,
    "qwen3_vl_moe": qwen_places,
    "qwen3_5": qwen_places,
    "qwen3_5_moe": qwen_places,
    "glm4v": qwen_places,
    "glm4v_moe": qwen_places,
    "glm46v": qwen_places,
    "mistral3": pixtral_places,
    "idefics2": equal_shares,
    "blip-2": equal_shares,
}
# What a rule raises where a processor is not as the family's is: then no place is known.
NOT_KNOWN = (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError)


def image_places(model: Any, processor: Any, token: int, encoded: Encoded) -> list[ImagePlace]:
    """Return where each token of a prompt is, `[position]`.

    A family without a rule, and a prompt in which there are other numbers of tokens than the rule
    says, have tokens that are of an image, but without a place in it.

    Args:
        model: What `load()` returns.
        processor: Of the model.
        token: The id that stands for a patch of an image.
        encoded: The prompt.

    Raises:
        LensError: the prompt has no image tokens, or it is not known which image they are of.
    """
    positions = [at for at, each in enumerate(encoded.token_ids) if each == token]
    if not positions:
        raise LensError(
            "the images of this model leave no tokens of their own in the prompt, so there is "
            "nothing in the stream that a lens could read of them."
        )
    config = model._module.config
    seen = Seen(config, processor, encoded, positions, settings_of(processor))
    of_images = by_rule(seen)
    if of_images is None:
        of_images = numbers_alone(seen)
    places = [NO_PLACE] * len(encoded.token_ids)
    patches = [place for of_image in of_images for place in of_image]
    for position, place in zip(positions, patches, strict=True):
        places[position] = place
    return places


def by_rule(seen: Seen) -> list[list[ImagePlace]] | None:
    """Return the places of each image by the rule of its family; None where it does not hold."""
    rule = RULES.get(seen.config.model_type)
    if rule is None:
        return None
    try:
        of_images = rule(seen)
    except NOT_KNOWN:
        return None
    n_places = sum(len(of_image) for of_image in of_images)
    if n_places != len(seen.positions) or len(of_images) != len(seen.sizes):
        return None
    return of_images
