"""Several devices on a machine that has none: tensors that say they are on one, and compute on the processor.

As on real devices, no operation takes tensors of two of them, and what one device has is read by no other before it
was brought there. What is moved, and how large it was, is noted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

KIND = "cuda"
FIRST, SECOND = torch.device(KIND, 0), torch.device(KIND, 1)
CPU, META = torch.device("cpu"), torch.device("meta")
ANYWHERE = torch.device(KIND, 9)  # of what torch makes out of sight
aten = torch.ops.aten
CROSSING = (aten._to_copy.default, aten.copy_.default)
# Those that take indices from the processor.
INDEXED = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default)


class Placed(torch.Tensor):
    """A tensor that says that it is on a device; its numbers are in `inner`."""

    inner: torch.Tensor
    place: torch.device
    is_meta = False  # what torch itself believes of it, so that it does nothing without asking
    is_cpu = False
    is_cuda = True

    @property
    def device(self) -> torch.device:
        return self.place

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Placed:
        placed = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("meta"),
        )
        placed.inner, placed.place = inner, device
        return placed

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(with_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(with_tensors(index), value)

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:
        return f"Placed({self.inner!r}, {self.device})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            args, kwargs = moved_to(*args, **(kwargs or {}))
            if not args[1:] and not kwargs:
                return args[0]  # it is there already
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {}, moved=[])


def with_tensors(index: Any) -> Any:
    """An index whose lists are tensors: torch would make them where it believes the indexed one to be."""
    if isinstance(index, tuple):
        return tuple(with_tensors(each) for each in index)
    return torch.tensor(index) if isinstance(index, list) else index


def moved_to(tensor: torch.Tensor, *where: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments of `Tensor.to` with a device of ours; nothing but the tensor where it need not move."""
    device, dtype = options.get("device"), options.get("dtype")
    for one in where:
        if isinstance(one, torch.Tensor):
            device, dtype = one.device, one.dtype
        elif isinstance(one, torch.dtype):
            dtype = one
        elif isinstance(one, str | torch.device):
            device = one
    device = tensor.device if device is None else torch.device(device)
    dtype = tensor.dtype if dtype is None else dtype
    if device == tensor.device and dtype == tensor.dtype and not options.get("copy"):
        return (tensor,), {}
    return (tensor, device, dtype), {}


def dispatched(function: Any, args: Any, kwargs: dict[str, Any], moved: list[Any]) -> Any:
    """Run an operation on the numbers, and place what it gives where its arguments were."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    devices = {each.device for each in tensors if each.ndim > 0} - {ANYWHERE}
    target = kwargs.get("device")
    target = None if target is None else torch.device(target)
    if target == META:  # torch made it like another, and believes that one to be there
        target = args[0].device if tensors else ANYWHERE
    if function in CROSSING:
        if target is None:
            target = args[0].device
        if len({target, *devices}) > 1:
            moved.append(tuple(tensors[-1].shape))
    elif function in INDEXED:
        devices = {args[0].device}
    elif len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {function}, {devices}")
    if target is None:
        target = next(iter(devices), tensors[0].device if tensors else CPU)
    if target.type == KIND and target.index is None:
        target = FIRST
    plain_args, plain_kwargs = tree_map(inner_of, (args, kwargs))
    if "device" in plain_kwargs:
        plain_kwargs["device"] = CPU
    if function is aten._to_copy.default and target not in devices:
        found = function(*plain_args, **plain_kwargs)  # a copy, even where only the place changes
    else:
        found = function(*plain_args, **plain_kwargs)
    outer = {id(inner_of(each)): each for each in tensors}

    def place(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in outer:  # what was changed in place
            return outer[id(value)]
        return value if target == CPU else Placed(value, target)

    return tree_map(place, found)


def inner_of(value: Any) -> Any:
    """The numbers of what is placed, and anything else as it is."""
    return value.inner if isinstance(value, Placed) else value


class _Devices(TorchDispatchMode):
    """Lets new tensors be made on the devices, and notes what is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[Any] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {}, self.moved)


@contextlib.contextmanager
def devices() -> Iterator[list[Any]]:
    """Let there be devices; gives the shape of each tensor that was moved between two."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(
        True
    )  # so that `torch.tensor` makes its copy where it is seen
    try:
        with (
            mock.patch.object(torch.cuda, "_lazy_init"),
            mock.patch.object(torch.accelerator, "synchronize"),
            _Devices() as mode,
        ):
            yield mode.moved
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def put(module: nn.Module, device: torch.device) -> None:
    """Put a module's parameters and buffers on a device."""
    for child in module.modules():
        for tensors in (child._parameters, child._buffers):
            for name, tensor in tensors.items():
                if tensor is None or isinstance(tensor.data, Placed):
                    continue
                placed: Any = Placed(tensor.detach(), device)
                if tensors is child._parameters:
                    placed = nn.Parameter(placed, requires_grad=False)
                tensors[name] = placed


def split(module: Any, places: dict[str, torch.device]) -> Any:
    """Put a model's modules on devices, with accelerate's hooks that bring inputs there, as `device_map` does."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    class Bring(AlignDevicesHook):
        """Whose weights are there already."""

        def init_hook(self, child: nn.Module) -> nn.Module:
            return child

    for path, device in places.items():
        child = module.get_submodule(path)
        put(child, device)
        add_hook_to_module(child, Bring(execution_device=device))
    add_hook_to_module(module, Bring(io_same_device=True))
    module.set_attn_implementation("eager")  # torch makes the mask of another itself, out of sight
    module.hf_device_map = {path: str(device) for path, device in places.items()}
    return module
