"""Read the processor of a checkpoint, with pillow alone where it asks for more than images need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers.models.auto.processing_auto import processor_class_from_name

from lens_recipes.errors import LensError
from lens_recipes.models.images.pillow import check_pillow
from lens_recipes.models.loading.reading import read_processor, read_tokenizer


def processor_of_checkpoint(source: str, arguments: Mapping[str, Any]) -> Any:
    """Return the processor of a checkpoint.

    Raises:
        LensError: pillow is missing, or there is no processor that can be read.
    """
    check_pillow()
    try:
        return read_processor(transformers.AutoProcessor, source, arguments)
    except ImportError:
        return without_video(source, arguments)


def without_video(source: str, arguments: Mapping[str, Any]) -> Any:
    """Return a processor that goes without its video processor, which would need torchvision.

    Images need none.

    Raises:
        LensError: it is of a class that cannot go without.
    """
    settings, _ = transformers.ProcessorMixin.get_processor_dict(source, **arguments)
    kind = processor_class_from_name(settings.get("processor_class") or "")
    if kind is None:
        raise LensError(f"{source!r} says of no class of processor that it has.")
    images = read_processor(transformers.AutoImageProcessor, source, arguments)
    still = still_class(kind)
    known = {name: value for name, value in settings.items() if name not in NOT_SETTINGS}
    return still(images, read_tokenizer(source, arguments), None, **known)


# What a processor's file says that its class is not made with.
NOT_SETTINGS = ("processor_class", "auto_map", "image_processor", "tokenizer", "video_processor")


def still_class(kind: type) -> type:
    """Return a class of processors that may lack its video processor."""

    class Still(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer", "video_processor"]

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is None else type(argument)

    Still.__name__ = kind.__name__
    return Still
