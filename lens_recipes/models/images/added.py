"""What a model adds to the stream of image tokens between its blocks (Qwen3-VL's deepstack).

No block writes it, so that what the blocks write does not sum to the stream there.
"""

from __future__ import annotations

from typing import Any

from nnsight.intervention.envoy import Envoy


def layers_with_additions(model: Envoy) -> list[int]:
    """Return after which blocks a model adds something of its images to the stream.

    By the config: the features of so many layers of the vision tower are added after the first
    blocks, one after each.
    """
    config = model._module.config
    outer: Any = getattr(config, "thinker_config", config)
    tower = getattr(outer, "vision_config", None)
    indexes = getattr(tower, "deepstack_visual_indexes", None) or ()
    return list(range(len(indexes)))
