"""The processor of a multimodal model: what turns images and text into the model's inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from nnsight.intervention.envoy import Envoy

from lens_recipes.caller import say
from lens_recipes.errors import LensError

# Where a config says which id stands for a patch.
IMAGE_TOKENS = ("image_token_id", "image_token_index")

# How to get the processor of each model, or the processor itself.
_readers: weakref.WeakKeyDictionary[Envoy, Callable[[], Any]] = weakref.WeakKeyDictionary()
_processors: weakref.WeakKeyDictionary[Envoy, Any] = weakref.WeakKeyDictionary()


def set_processor(model: Envoy, processor: Any) -> None:
    """Keep a model's processor."""
    _processors[model] = processor


def set_processor_reader(model: Envoy, read: Callable[[], Any]) -> None:
    """Keep how a model's processor is read, which is done when images are first given."""
    _readers[model] = read


def processor_of(model: Envoy) -> Any:
    """Return a model's processor, read from its checkpoint the first time.

    Raises:
        LensError: the model has none, or pillow is missing.
    """
    refuse_text_alone(model)
    if model not in _processors:
        own = getattr(model, "processor", None)  # of nnsight
        if own is None and model not in _readers:
            raise LensError(
                "this model was loaded without its processor, which images need"
                + say(
                    python=": load its checkpoint by hub id or folder, or pass load(model, "
                    "processor=…).",
                    shell=".",
                )
            )
        _processors[model] = _readers[model]() if own is None else own
    return _processors[model]


def refuse_text_alone(model: Envoy) -> None:
    """Raise a LensError for a model whose config knows of no images."""
    config = getattr(model._module, "config", None)
    if not any(hasattr(config, name) for name in ("vision_config", *IMAGE_TOKENS)):
        raise LensError(
            f"this model takes no images: {type(model._module).__name__} reads text alone. Leave "
            "the images out, or load a multimodal model."
        )


def check_processor(processor: Any) -> None:
    """Raise a LensError for what is no processor of text and images together."""
    parts = ("image_processor", "tokenizer")
    if not callable(processor) or any(getattr(processor, part, None) is None for part in parts):
        raise LensError(
            f"{type(processor).__name__} is no processor of text and images: it is what "
            "transformers.AutoProcessor reads, with a tokenizer and an image processor."
        )


def image_token_id(model: Envoy) -> int:
    """Return the id that stands in the prompt for each patch of an image.

    The config says it; a processor may mean what stands for a whole image.

    Raises:
        LensError: this model has no such token.
    """
    token = stated_image_token(model)
    if token is None:
        raise LensError(
            f"{type(model._module).__name__} has no token that stands for a patch of an image, so "
            "there is nothing in the stream that a lens could read of it."
        )
    return token


def stated_image_token(model: Envoy) -> int | None:
    """Return the id that a model's config names for a patch of an image; None for none."""
    config = getattr(model._module, "config", None)
    for name in IMAGE_TOKENS:
        token = getattr(config, name, None)
        if isinstance(token, int):
            return token
    return None
