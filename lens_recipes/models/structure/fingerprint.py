"""`fingerprint()`: what tells a model as it is now from the same model before it was changed."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

# Every module begins with so many attributes that torch itself gives it.
N_OWN_ATTRIBUTES = len(nn.Module().__dict__)
PLAIN_TYPES = frozenset((bool, int, float, str))
CHANGED_BY_RUNNING = frozenset(("max_seq_len_cached",))  # by a dynamic rotary embedding
ADAPTER_STATES = ("_active_adapter", "merged_adapters")  # lists of names, in each adapted module


def fingerprint(module: nn.Module) -> int:
    """Return a number that changes when modules, tensors, settings or hooks of a model change.

    What counts of each module: its place and class, a `forward` of its own, its hooks, its plain
    attributes, and shape, type and device of its tensors. Of each config: all values. The numbers
    in weights do not count, since no weight is kept.

    It holds within this process, as it is made of identities. It costs about 3 µs a module.
    """
    marks: list[Any] = []
    configs: dict[int, Any] = {}
    seen = {id(module)}
    pending = [module]
    while pending:  # `named_modules` does the same at several times the cost
        current = pending.pop()
        attributes = current.__dict__
        marks += (id(current), type(current), id(attributes.get("forward")))
        marks += attributes["_forward_hooks"]
        marks.append("pre")
        marks += attributes["_forward_pre_hooks"]
        marks.append(current.training)
        for name, value in itertools.islice(attributes.items(), N_OWN_ATTRIBUTES, None):
            if type(value) in PLAIN_TYPES and name not in CHANGED_BY_RUNNING:
                marks.append(value)
        for name in ADAPTER_STATES:
            if name in attributes:
                marks.append(str(attributes[name]))
        for tensors in (attributes["_parameters"], attributes["_buffers"]):
            for tensor in tensors.values():
                if tensor is not None:
                    marks += tensor_marks(tensor)
        config = attributes.get("config")
        if config is not None:
            configs[id(config)] = config
        for name, child in attributes["_modules"].items():
            marks.append(name)
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                pending.append(child)
    marks += nn.modules.module._global_forward_hooks
    marks += nn.modules.module._global_forward_pre_hooks
    for config in configs.values():
        marks.append(config_mark(config))
    return hash(tuple(marks))


def tensor_marks(tensor: Tensor) -> tuple[Any, ...]:
    """Return shape, type and device of a tensor, and of a single number how often it changed."""
    shape = tensor.shape
    if not shape and not tensor.is_inference():
        return (id(tensor), tensor.dtype, tensor.device, tensor._version)
    return (id(tensor), shape, tensor.dtype, tensor.device)


def config_mark(config: Any) -> str:
    """Return all values of a config, and of the configs in it, as text."""
    if not hasattr(config, "__dict__"):  # some modules keep a dict or a tuple under this name
        return repr(config)
    values = []
    for name, value in vars(config).items():
        if hasattr(value, "to_dict"):
            values.append(f"{name}: {config_mark(value)}")
        else:
            values.append(f"{name}: {value!r}")
    return "; ".join(values)
