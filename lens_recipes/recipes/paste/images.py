"""Write what the script of an image lens says of the image's tokens.

The script gives the model a question and an image through the model's own processor, and reads the
stream at the tokens that stand for patches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from transformers.models.auto import modeling_auto

from lens_recipes.errors import LensError
from lens_recipes.models.images.added import layers_with_additions
from lens_recipes.models.images.processor import image_token_id
from lens_recipes.recipes.paste.literals import Code, literal
from lens_recipes.recipes.paste.source import ModelSource


class ImageCode(NamedTuple):
    """What the script of an image lens says of one model.

    Attributes:
        token: The id that stands in the prompt for each patch.
        adds_between: Whether the model adds more of the image between its first blocks. What it
            goes on with is then what the next block reads.
        next_input: The stream that the block after `layer` reads.
    """

    token: Code
    adds_between: bool
    next_input: Code


def image_code(source: ModelSource) -> ImageCode:
    """Write what the script of an image lens says of one model.

    Raises:
        LensError: the images of this model leave no tokens in the stream, or it takes none.
    """
    config = source.model._module.config
    _refuse_without_images(source, config)
    return ImageCode(
        token=literal(image_token_id(source.model)),
        adds_between=bool(layers_with_additions(source.model)),
        next_input=Code(source.block("layer + 1") + ".input"),
    )


def _refuse_without_images(source: ModelSource, config: Any) -> None:
    """Raise LensError for a model of which a script could not read images."""
    model_type = type(config).model_type
    family = source.anatomy.family
    whole = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    if type(source.model._module).__name__ != whole:  # what is built may be the text part alone
        raise LensError(
            f"{family} takes text alone: image-lens is for multimodal models whose images enter "
            "the stream, such as 'llava-hf/llava-1.5-7b-hf'. The other recipes read text."
        )
    if getattr(config.get_text_config(), "cross_attention_layers", None):
        raise LensError(
            f"{family} reads images by cross-attention: they leave no tokens in the stream that a "
            "lens could read."
        )
