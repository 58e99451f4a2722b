"""Tell a norm from any other module."""

from __future__ import annotations

from torch import nn


def is_norm(module: nn.Module) -> bool:
    """Return whether a module only rescales its input: its name says norm, or it has no matrix."""
    if "norm" in type(module).__name__.lower():
        return True
    parameters = list(module.parameters())
    return len(parameters) > 0 and all(parameter.ndim <= 1 for parameter in parameters)
