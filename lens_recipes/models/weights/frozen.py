"""Hold the weights of a model still while gradients pass through it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def frozen_weights(module: nn.Module) -> Iterator[None]:
    """Take no gradients of a module's weights, and leave their settings as they were.

    Autograd is on within, whatever the caller has set.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
