"""Weights that accelerate keeps elsewhere, and brings to a module while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from torch import nn

from lens_recipes.errors import LensError
from lens_recipes.trace.operations import ModuleCall, Operation

COMPARED = 1024  # numbers of two weights that are said to be tied


def offloading_hook(module: nn.Module) -> Any | None:
    """Return accelerate's hook that brings a module's weights, or None where they are its own."""
    hook = vars(module).get("_hf_hook")
    for part in getattr(hook, "hooks", [hook]):  # a sequence of hooks, or one
        if getattr(part, "offload", False):
            return part
    return None


def lacks_weights(module: nn.Module) -> bool:
    """Return whether there are weights that are nowhere: on the meta device, and never brought.

    Each run asks, so it walks the modules itself: `parameters()` costs six times as much.
    """
    pending = [(module, False)]
    while pending:
        current, is_brought = pending.pop()
        hook = offloading_hook(current)
        if hook is None and not is_brought and has_meta_parameter(current):
            return True
        brings_below = is_brought or getattr(hook, "place_submodules", False)
        for child in current._modules.values():
            if child is not None:
                pending.append((child, brings_below))
    return False


def has_meta_parameter(module: nn.Module) -> bool:
    """Return whether a parameter of a module itself is on the meta device."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_meta:
            return True
    return False


def numbers_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names of all parameters, each once, and their numbers, wherever they are kept.

    One of which the numbers cannot be had is yielded as it is, on the meta device.
    """
    kept: dict[str, tuple[Any, str]] = {}
    for path, child in module.named_modules():
        hook = offloading_hook(child)
        stored = getattr(hook, "weights_map", None)
        if stored is None:
            continue
        brings_below = bool(getattr(hook, "place_submodules", False))
        for name, parameter in child.named_parameters(recurse=brings_below):
            if parameter.is_meta:
                kept[f"{path}.{name}" if path else name] = (stored, name)
    sources = tied_sources(module)
    yielded: dict[str, torch.Tensor] = {}  # of tied ones that are offloaded, by their source
    for name, parameter in module.named_parameters():
        numbers: torch.Tensor = parameter
        if name in kept:
            stored, key = kept[name]
            with contextlib.suppress(KeyError):
                numbers = torch.as_tensor(stored[key])
            source = sources.get(name, name)
            if source in yielded and is_same(numbers, yielded[source]):
                continue
            yielded[source] = numbers
        yield name, numbers


def tied_sources(module: nn.Module) -> dict[str, str]:
    """Return of each parameter that is tied to another the name of that one, as transformers says.

    Where accelerate has offloaded both, they are two parameters on the meta device, and nothing
    else tells that they are one.
    """
    sources = {}
    for path, child in module.named_modules():
        prefix = f"{path}." if path else ""
        for target, source in (vars(child).get("all_tied_weights_keys") or {}).items():
            sources[prefix + target] = prefix + source
    return sources


def is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether the shape and the first numbers of two tensors that should be tied agree.

    Numbers that cannot be had are taken to agree.
    """
    if one.shape != other.shape:
        return False
    if one.is_meta or other.is_meta:
        return True
    return torch.equal(one.reshape(-1)[:COMPARED], other.reshape(-1)[:COMPARED])


def input_device(module: nn.Module) -> torch.device:
    """Return where a model takes its inputs: where its first weights are while they are used."""
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            hook = offloading_hook(child)
            is_elsewhere = parameter.device.type == "meta"
            if is_elsewhere and hook is not None and hook.execution_device is not None:
                return torch.device(hook.execution_device)
            return parameter.device
    return torch.device("cpu")


def refuse_uncallable(model: Envoy, operations: Iterable[Operation]) -> None:
    """Refuse what a lens would call after the model has run, when its weights have gone again.

    Raises:
        LensError: a module's weights are brought by a hook of a module around it.
    """
    for operation in operations:
        if isinstance(operation, ModuleCall) and lacks_weights(model.get(operation.path)._module):
            if lacks_weights(model._module):
                return  # a model on paper: nothing of it is called
            raise LensError(
                f"the weights of {operation.path!r} are offloaded, and brought only while the "
                "module around it runs (preload_module_classes): a lens calls it by itself. "
                "Offload the model without preload_module_classes."
            )


class _InputsElsewhere:
    """An nnsight model whose inputs do not go to the meta device, where its first weights lie."""

    _module: nn.Module

    @property
    def device(self) -> torch.device:
        """Where inputs are moved before a run."""
        return input_device(self._module)


class OffloadedModel(_InputsElsewhere, TransformersModel):
    """`TransformersModel`, of a model whose first weights are offloaded."""


class OffloadedNNsight(_InputsElsewhere, NNsight):
    """`NNsight`, of a model whose first weights are offloaded."""


def is_offloaded(module: nn.Module) -> bool:
    """Return whether a model's first weights are elsewhere until they are used."""
    first = next(module.parameters(), None)
    return first is not None and first.device != input_device(module)
