"""A device that is not there: tensors that say they are on it hold numbers of this process, and all that would make
the host wait for it is counted.

It is what an accelerator is to this package, without one: what runs there runs with the numbers of the processor, two
devices in one operation are refused, and to ask for a value, or to copy there and back, is noted with the line that
does it. Importing it gives torch a device called "far" for as long as the process lives: run it in one of its own.
It knows no gradients.
"""

from __future__ import annotations

import traceback
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("far")
torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="far") comes by here, too
FAR = torch.device("far", 0)

waits: Counter[str] = Counter()  # by what waits
lines: Counter[str] = Counter()  # by where

# What needs the value of a tensor.
ASKS = {
    "aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::nonzero", "aten::masked_select",
    "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
}  # fmt: skip
# What may have tensors of two devices.
MAY_MIX = {"aten::copy_", "aten::_to_copy", "aten::index.Tensor", "aten::index_put_"}


def note(what: str) -> None:
    """Note that the host waits, and in which lines of the package."""
    waits[what] += 1
    frames = [frame for frame in traceback.extract_stack() if "lens_recipes/" in frame.filename]
    places = [f"{frame.filename.split('lens_recipes/')[-1]}:{frame.lineno}" for frame in frames]
    lines[f"{what}: {' < '.join(places[:-4:-1])}"] += 1


def forget() -> None:
    """Begin to count anew."""
    waits.clear()
    lines.clear()


class Far(torch.Tensor):
    """A tensor on the far device; `near` holds its numbers."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        far = torch.Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=FAR, requires_grad=False,
        )  # fmt: skip
        far.near = near
        return far

    def __repr__(self, **options: Any) -> str:
        return f"Far({self.near})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), options=None):
        if function is torch.Tensor.__getitem__ and isinstance(args[0], Far):
            return Far(args[0].near[near_index(args[1])])
        if function is torch.Tensor.__setitem__ and isinstance(args[0], Far):
            given = args[2]
            if isinstance(given, torch.Tensor) and not isinstance(given, Far) and given.dim():
                note("sent")
            args[0].near[near_index(args[1])] = given.near if isinstance(given, Far) else given
            return None
        if function is torch.Tensor.tolist:
            note("tolist")
            return args[0].near.tolist()
        if function is torch.Tensor.numpy:
            raise TypeError("a tensor of another device is no numpy array")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(options or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), options=None):
        return run(function, args, options or {})


class FarDevice(TorchDispatchMode):
    """Within it, tensors can be made on the far device and sent to it."""

    def __torch_dispatch__(self, function, types, args=(), options=None):
        return run(function, args, options or {})


def near_index(index: Any) -> Any:
    """An index with the numbers of its tensors; what is not on the device has to be sent there."""
    if isinstance(index, tuple):
        return tuple(near_index(one) for one in index)
    if isinstance(index, Far):
        if index.dtype == torch.bool:
            note("mask")
        return index.near
    if isinstance(index, list) or (isinstance(index, torch.Tensor) and index.dim()):
        note("sent")
    return index


def run(function, args, options):
    """One operation of torch: with the numbers of this process, and its result on the right device."""
    flat, _ = tree_flatten((args, options))
    far = [value for value in flat if isinstance(value, Far)]
    device = options.get("device")
    goes_far = device is not None and torch.device(device).type == FAR.type
    if not far and not goes_far:
        return function(*args, **options)
    name = function.name()
    comes_home = device is not None and not goes_far
    if not goes_far and name not in MAY_MIX:
        for value in flat:
            if isinstance(value, torch.Tensor) and not isinstance(value, Far) and value.dim():
                raise RuntimeError(f"{name}: tensors of two devices")
    note_waits(name, args, options, goes_far=goes_far, comes_home=comes_home)
    same = {id(value.near): value for value in far}

    def near(value):
        return value.near if isinstance(value, Far) else value

    def there(value):
        if not isinstance(value, torch.Tensor) or isinstance(value, Far) or comes_home:
            return value
        return same[id(value)] if id(value) in same else Far(value)

    near_options = tree_map(near, options)
    if goes_far:
        near_options["device"] = torch.device("cpu")
    result = function(*tree_map(near, args), **near_options)
    if name == "aten::copy_":
        return args[0]
    return tree_map(there, result)


def note_waits(name: str, args, options, *, goes_far: bool, comes_home: bool) -> None:
    """Note what of an operation makes the host wait."""
    if name in ASKS:
        note(name)
    elif name == "aten::_to_copy":
        if comes_home:
            note("brought")
        elif goes_far and not isinstance(args[0], Far) and not options.get("non_blocking"):
            note("sent")
    elif name == "aten::copy_":
        ahead = options.get("non_blocking") or (len(args) > 2 and args[2])
        if isinstance(args[1], Far) and not isinstance(args[0], Far):
            note("brought")
        elif isinstance(args[0], Far) and not isinstance(args[1], Far) and not ahead:
            note("sent")
    elif name in ("aten::index.Tensor", "aten::index_put_"):
        for index in args[1]:
            if index is not None:
                near_index(index)


def send(module: nn.Module) -> nn.Module:
    """Put the weights of a model on the far device, in place."""
    for child in module.modules():
        for name, weight in child._parameters.items():
            if weight is not None:
                child._parameters[name] = nn.Parameter(Far(weight.data), requires_grad=False)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = Far(buffer)
    return module
