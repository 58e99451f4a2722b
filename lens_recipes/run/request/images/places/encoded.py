"""What is known of a prompt's images when their tokens are looked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Encoded(NamedTuple):
    """One prompt as its processor made it.

    Attributes:
        token_ids: `[position]`.
        tensors: What the model is given beside them.
        sizes: Width and height of each image, in pixels.
    """

    token_ids: list[int]
    tensors: dict[str, Tensor]
    sizes: list[tuple[int, int]]


class Seen(NamedTuple):
    """A prompt with the settings of its model and its processor.

    Attributes:
        config: Of the model.
        processor: Of the model.
        encoded: The prompt.
        positions: Of its image tokens.
        settings: Of the image processor, by name.
    """

    config: Any
    processor: Any
    encoded: Encoded
    positions: list[int]
    settings: Mapping[str, Any]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each image, in pixels."""
        return self.encoded.sizes

    def tensor(self, name: str) -> Any:
        """Return what the model is given by a name, as nested lists of numbers.

        Raises:
            KeyError: there is nothing of this name.
        """
        return self.encoded.tensors[name].tolist()


# Those that may be left to the class of an image processor.
SETTINGS = (
    "crop_size",
    "crop_to_patches",
    "do_center_crop",
    "do_pad",
    "do_resize",
    "image_grid_pinpoints",
    "max_image_size",
    "max_patches",
    "min_patches",
    "resize_to_max_canvas",
    "size",
)


def settings_of(processor: Any) -> dict[str, Any]:
    """Return the settings of a processor's image processor, as they hold within the processor.

    A processor may set some anew, which come first (`ProcessorMixin._merge_kwargs`).
    """
    image_processor = getattr(processor, "image_processor", None)
    settings = dict(getattr(image_processor, "__dict__", {}))
    for name in SETTINGS:
        settings[name] = getattr(image_processor, name, None)
    settings.update(getattr(processor, "images_kwargs", None) or {})
    defaults = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", None) or {}
    settings.update(defaults.get("images_kwargs", {}))
    return settings
