"""What a model adds to the stream of image tokens between its blocks (Qwen3-VL's deepstack).

No block writes it, so that what the blocks write does not sum to the stream there.
"""

from __future__ import annotations

from typing import Any

from nnsight.intervention.envoy import Envoy


def layers_with_additions(model: Envoy) -> list[int]:
    """Return after which blocks a model adds something of its images to the stream.

    By the config, which says it in one of two ways.
    """
    config = model._module.config
    if getattr(config, "deepstack_layer_map", None) is not None:
        return _before_blocks_that_are_named(config)
    outer: Any = getattr(config, "thinker_config", config)
    tower = getattr(outer, "vision_config", None)
    # So many layers of the vision tower, whichever they are: one after each of the first blocks.
    indexes = getattr(tower, "deepstack_visual_indexes", None) or ()
    return list(range(len(indexes)))


def _before_blocks_that_are_named(config: Any) -> list[int]:
    """Return the blocks before those that Granite 4 Vision names.

    What it adds before block 0 is its embedding of the image.
    """
    named = {block for _, block in config.deepstack_layer_map}
    named |= set(config.spatial_target_layers)
    return sorted(block - 1 for block in named if block > 0)
