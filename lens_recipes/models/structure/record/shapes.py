"""Run a model that has no weights: every operation gives a shape and no values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lens_recipes.models.handle import configs_of

# Where a config keeps how its experts are computed.
_EXPERTS = "_experts_implementation_internal"


@contextlib.contextmanager
def shapes_only(module: nn.Module) -> Iterator[None]:
    """Let every operation of a model give a tensor of the right shape, for a while.

    A skeleton may stand in training mode, with dropout where the server's model has none. And
    without values torch's grouped product, in which experts run, exists for bfloat16 alone.
    """
    in_training = [child for child in module.modules() if child.training]
    grouped = [
        config for config in configs_of(module) if getattr(config, _EXPERTS, None) == "grouped_mm"
    ]
    for child in in_training:
        child.training = False
    for config in grouped:
        setattr(config, _EXPERTS, "batched_mm")
    try:
        shape_env = ShapeEnv(assume_static_by_default=True)
        with FakeTensorMode(allow_non_fake_inputs=True, shape_env=shape_env):
            yield
    finally:
        for child in in_training:
            child.training = True
        for config in grouped:
            setattr(config, _EXPERTS, "grouped_mm")
