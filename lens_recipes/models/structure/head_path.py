"""The tail of a decoder: the steps that turn the last block's output into the logits, found by following a tensor.

A step is a plain tuple, so that it can be sent to a server; `readout.replay` does it again on other vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.structure.probe import ForwardRecord

Operation = tuple  # ("call", path, is_norm, device) | ("op", name, *numbers) | ("cast", dtype name) | ("keep", stop)

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
                steps.append(("call", names[what], is_norm(what), _device(what)))
                now = run.outputs[what]
        elif kind == "op" and any(arg is now for arg in more[0]):
            step = _as_step(what, *more[:3])
            if step is None:
                lost = f" (the operation {what} is not one value in, one value out, with plain numbers)"
                continue
            steps += [step] if step else []
            now = more[2]
    calls = [i for i, step in enumerate(steps) if step[0] == "call"]
    if now is not run.logits or not calls:
        after = f"after {describe(steps[-1])}" if steps else "right after the last block"
        raise LensError(
            f"{type(module).__name__}: the way from the last block to the logits could not be followed {after}{lost}. "
            "A lens that guesses what comes there would be wrong."
        )
    kind, path, _, device = steps[calls[-1]]
    steps[calls[-1]] = (
        kind,
        path,
        False,
        device,
    )  # the last call is the unembedding, whatever it looks like
    return steps


def _skip_to_end(events: Iterator[tuple], module: nn.Module) -> None:
    for kind, what, *_ in events:
        if kind == "end" and what is module:
            return


def _as_step(func: Any, args: tuple, kwargs: dict, out: Any) -> Operation | None:
    """One operation as a step; () where it changes no value; None where it cannot be replayed row by row."""
    name = func.overloadpacket.__name__.removesuffix("_")
    now, rest = args[0], args[1:]
    if not isinstance(now, Tensor) or not isinstance(out, Tensor):
        return None
    if name == "_to_copy":
        return ("cast", str(out.dtype).removeprefix("torch.")) if out.dtype != now.dtype else ()
    if name in _PASSES:
        if name == "slice" and out.shape[-1] < now.shape[-1] and rest[:2] in ((2, 0), (-1, 0)):
            return ("keep", out.shape[-1])
        return () if out.shape[-1] == now.shape[-1] and out.numel() == now.numel() else None
    if name in _ELEMENTWISE and not kwargs and all(isinstance(a, int | float) for a in rest):
        return ("op", name, *rest)
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
    return [(*step[:3], None) if step[0] == "call" else step for step in steps]


_AFFINE = {"mul", "div", "add", "sub", "rsub", "neg"}


def split_at_unembedding(
    steps: list[Operation],
) -> tuple[list[Operation], list[Operation], list[Operation]]:
    """The tail in three: before the unembedding; the unembedding and what is linear after it; the softcap.

    A softcap is c · tanh(logit / c): its division belongs to it.
    """
    head = max(i for i, step in enumerate(steps) if step[0] == "call")
    bent = [
        i for i, step in enumerate(steps) if i > head and step[0] == "op" and step[1] not in _AFFINE
    ]
    cap = bent[0] if bent else len(steps)
    around = steps[cap - 1 : cap + 2 : 2] if bent else []
    if (
        len(around) == 2
        and all(step[0] == "op" and step[1] in ("mul", "div") for step in around)
        and cap - 1 > head
    ):
        sizes = [step[2] if step[1] == "mul" else 1 / step[2] for step in around]
        cap -= abs(sizes[0] * sizes[1] - 1) < 1e-6
    return steps[:head], steps[head:cap], steps[cap:]


def describe(step: Operation) -> str:
    kind, *rest = step
    if kind == "call":
        return str(rest[0])
    if kind == "cast":
        return f"to {rest[0]}"
    if kind == "keep":
        return f"first {rest[0]} columns"
    return " ".join([rest[0], *(f"{number:g}" for number in rest[1:])])
