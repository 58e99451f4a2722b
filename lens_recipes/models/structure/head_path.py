"""The tail of a decoder: the operations that turn the last block's output into the logits, found by following a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.structure.probe import ForwardRecord
from lens_recipes.trace.operations import (
    CastTo,
    Elementwise,
    KeepColumns,
    ModuleCall,
    Operation,
    unembedding_index,
)

# Elementwise operations with numbers that may stand between the blocks and the logits, by torch's own names.
_ELEMENTWISE = {
    "mul",
    "div",
    "add",
    "sub",
    "rsub",
    "tanh",
    "neg",
    "clamp",
    "pow",
    "sigmoid",
    "reciprocal",
    "exp",
}

# Operations that leave the values of a row as they are.
_PASSES = {
    "alias",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "lift_fresh",
    "reshape",
    "slice",
    "unsqueeze",
}

_PASSES |= {"squeeze", "view", "index", "_unsafe_view", "_reshape_alias", "_conj"}


def find_head_operations(
    module: nn.Module, run: ForwardRecord, last_block: nn.Module
) -> list[Operation]:
    """The steps that turned the last block's output into the logits, in order.

    `now` is the tensor on its way. A module or an operation that takes it and gives something new is a step;
    everything inside such a module is the module's own business.
    """
    names = {m: name for name, m in module.named_modules()}
    ancestors = {m for m in module.modules() if last_block in set(m.modules())}
    events = iter(run.events)
    _skip_to_end(events, last_block)
    now = run.outputs[last_block]
    steps: list[Operation] = []
    lost = ""
    for kind, what, *more in events:
        if kind == "begin" and what not in ancestors:
            _skip_to_end(events, what)
            if (
                run.inputs[what] is now
                and run.outputs[what] is not None
                and run.outputs[what] is not now
            ):
                steps.append(ModuleCall(names[what], is_norm(what), _device(what)))
                now = run.outputs[what]
        elif kind == "op" and any(arg is now for arg in more[0]):
            step = _as_step(what, *more[:3])
            if step is None:
                lost = f" (the operation {what} is not one value in, one value out, with plain numbers)"
                continue
            if not isinstance(step, _Unchanged):
                steps.append(step)
            now = more[2]
    calls = [step for step in steps if isinstance(step, ModuleCall)]
    if now is not run.logits or not calls:
        after = f"after {steps[-1]}" if steps else "right after the last block"
        raise LensError(
            f"{type(module).__name__}: the way from the last block to the logits could not be followed {after}{lost}. "
            "A lens that guesses what comes there would be wrong."
        )
    # The last call is the unembedding, whatever it looks like.
    steps[unembedding_index(steps)] = calls[-1]._replace(is_norm=False)
    return steps


def _skip_to_end(events: Iterator[tuple], module: nn.Module) -> None:
    for kind, what, *_ in events:
        if kind == "end" and what is module:
            return


class _Unchanged:
    """Stands for an operation that changes no value of a row."""


def _as_step(func: Any, args: tuple, kwargs: dict, out: Any) -> Operation | _Unchanged | None:
    """One operation as a step; `_Unchanged` where it changes no value; None where it cannot be replayed row by row."""
    name = func.overloadpacket.__name__.removesuffix("_")
    now, rest = args[0], args[1:]
    if not isinstance(now, Tensor) or not isinstance(out, Tensor):
        return None
    if name == "_to_copy":
        if out.dtype == now.dtype:
            return _Unchanged()
        return CastTo(str(out.dtype).removeprefix("torch."))
    if name in _PASSES:
        if name == "slice" and out.shape[-1] < now.shape[-1] and rest[:2] in ((2, 0), (-1, 0)):
            return KeepColumns(out.shape[-1])
        same = out.shape[-1] == now.shape[-1] and out.numel() == now.numel()
        return _Unchanged() if same else None
    if name in _ELEMENTWISE and not kwargs and all(isinstance(a, int | float) for a in rest):
        return Elementwise(name, rest)
    return None


def is_norm(module: nn.Module) -> bool:
    """A module that only rescales its input: at most one-dimensional parameters, and the name says norm."""
    return "norm" in type(module).__name__.lower() or (
        bool(params := list(module.parameters())) and all(p.ndim <= 1 for p in params)
    )


def _device(module: nn.Module) -> str | None:
    first = next(module.parameters(), None)
    return None if first is None or first.device.type == "meta" else str(first.device)


def without_devices(steps: list[Operation]) -> list[Operation]:
    """The same steps on whatever device their modules are."""
    return [step._replace(device=None) if isinstance(step, ModuleCall) else step for step in steps]
