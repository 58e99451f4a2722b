"""Find the operations that turn the last block's output into the logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.record.norms import is_norm
from lens_recipes.models.structure.record.probe import (
    Event,
    ForwardRecord,
    ModuleBegins,
    ModuleEnds,
    TorchCall,
    outermost_lists,
)
from lens_recipes.trace.operations import (
    Elementwise,
    KeepColumns,
    ModuleCall,
    Operation,
    cast_to,
    unembedding_index,
)

# Operations by torch's own names. Elementwise ones with numbers, which may stand between the blocks
# and the logits:
_ARITHMETIC = ("mul", "div", "add", "sub", "rsub", "neg", "pow", "reciprocal")
_FUNCTIONS = ("tanh", "sigmoid", "exp", "clamp")
_ELEMENTWISE = (*_ARITHMETIC, *_FUNCTIONS)

# Those that leave the values of a row as they are, unless the shape shows that they do not:
_COPIES = ("alias", "clone", "contiguous", "detach", "lift_fresh", "_conj")
_VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "expand")
_PICKS = ("index", "slice")
_VALUE_KEEPING = (*_COPIES, *_VIEWS, *_PICKS)


def find_head_operations(
    module: nn.Module, record: ForwardRecord, last_block: nn.Module
) -> list[Operation]:
    """Return the operations that turned the last block's output into the logits, in order.

    A module or a torch operation that takes the tensor on its way and gives something new is one of
    them; everything inside such a module is the module's own business.

    Raises:
        LensError: the tensor cannot be followed to the logits.
    """
    paths = {child: envoy_path(path) for path, child in module.named_modules()}
    around_last_block = {child for child in module.modules() if last_block in set(child.modules())}
    follower = _TensorFollower(record, paths, record.outputs[last_block])
    events = iter(record.events)
    _skip_to_end(events, last_block)
    for event in events:
        if isinstance(event, TorchCall):
            follower.pass_through_call(event)
        elif isinstance(event, ModuleBegins) and event.module not in around_last_block:
            _skip_to_end(events, event.module)
            follower.pass_through_module(event.module)
    operations = follower.operations
    calls = [operation for operation in operations if isinstance(operation, ModuleCall)]
    if follower.current is not record.logits or not calls:
        after = f"after {operations[-1]}" if operations else "right after the last block"
        raise LensError(
            f"{type(module).__name__}: the way from the last block to the logits could not be "
            f"followed {after}{follower.lost_at}. A lens that guesses what comes there would be "
            f"wrong.{_hooks_in_words(module)}"
        )
    # The last call is the unembedding, whatever it looks like.
    operations[unembedding_index(operations)] = calls[-1]._replace(is_norm=False)
    return operations


def _hooks_in_words(module: nn.Module) -> str:
    """Return a sentence about hooks outside of the blocks; empty where there are none."""
    listed = {child for found in outermost_lists(module) for child in found.module.modules()}
    hooked = []
    for path, child in module.named_modules():
        if child not in listed and (child._forward_hooks or child._forward_pre_hooks):
            hooked.append(path or type(child).__name__)
    if not hooked:
        return ""
    return f" There are hooks on {', '.join(hooked)}: without them it may be followed."


class _TensorFollower:
    """A tensor that is followed through a run, and what was done to it.

    Attributes:
        current: The tensor on its way.
        operations: What was done to it, in order.
        lost_at: The last operation on it that cannot be replayed, as a part of an error; or empty.
    """

    def __init__(
        self, record: ForwardRecord, paths: dict[nn.Module, str], tensor: Tensor | None
    ) -> None:
        self.current: Tensor | None = tensor
        self.operations: list[Operation] = []
        self.lost_at = ""
        self._record = record
        self._paths = paths

    def pass_through_module(self, module: nn.Module) -> None:
        """Go on with the output of a module, if it takes the tensor and gives another one."""
        output = self._record.outputs[module]
        arguments = self._record.arguments.get(module, [])
        others = [argument for argument in arguments if argument is not self.current]
        if len(others) < len(arguments) and self._record.inputs[module] is not self.current:
            self.lost_at = (
                f" ({self._paths[module]} takes {len(others)} more with it, so the logits do not "
                "come from the last block alone)"
            )
        takes_it = self.current is not None and self._record.inputs[module] is self.current
        if takes_it and output is not None and output is not self.current:
            call = ModuleCall(self._paths[module], is_norm(module), _device(module))
            self.operations.append(call)
            self.current = output

    def pass_through_call(self, call: TorchCall) -> None:
        """Go on with the output of a torch operation, if it takes the tensor."""
        if self.current is None or not any(argument is self.current for argument in call.args):
            return
        if _keeps_values(call):
            self.current = call.output
            return
        operation = _as_operation(call)
        if operation is None:
            if call.output is self.current:
                self.current = None  # changed in place: the same tensor, with other numbers
            self.lost_at = (
                f" (the operation {call.function} is not one value in, one value out, with plain "
                "numbers)"
            )
            return
        self.operations.append(operation)
        self.current = call.output


def _skip_to_end(events: Iterator[Event], module: nn.Module) -> None:
    """Go on to the event after the end of a module."""
    for event in events:
        if isinstance(event, ModuleEnds) and event.module is module:
            return


def _keeps_values(call: TorchCall) -> bool:
    """Return whether an operation changes no value of a row."""
    source, output = call.args[0], call.output
    if not isinstance(source, Tensor) or not isinstance(output, Tensor):
        return False
    if call.name == "_to_copy":
        return output.dtype == source.dtype
    if call.name == "mul" and len(call.args) == 2:
        return _is_mask_of_ones(call.args[1])
    if call.name in _VALUE_KEEPING:
        return output.shape[-1] == source.shape[-1] and output.numel() == source.numel()
    return False


def _is_mask_of_ones(factor: Any) -> bool:
    """Return whether a factor is 1 at every token, as a mask of padding is where there is none."""
    if not isinstance(factor, Tensor) or factor.device.type == "meta":
        return False
    is_one_a_token = factor.ndim > 1 and factor.shape[-1] == 1
    return is_one_a_token and factor.numel() > 1 and bool((factor == 1).all())


def _as_operation(call: TorchCall) -> Operation | None:
    """Return an operation that can be replayed row by row; None for any other."""
    source, rest, output = call.args[0], call.args[1:], call.output
    if not isinstance(source, Tensor) or not isinstance(output, Tensor):
        return None
    if call.name == "_to_copy":
        return cast_to(output.dtype)
    if call.name == "slice" and output.shape[-1] < source.shape[-1]:
        axis_and_start = rest[:2]  # of [batch, token, column]
        if axis_and_start in ((2, 0), (-1, 0)):
            return KeepColumns(output.shape[-1])
        return None
    takes_numbers = not call.kwargs and all(isinstance(number, int | float) for number in rest)
    if call.name in _ELEMENTWISE and takes_numbers:
        return Elementwise(call.name, rest)
    return None


def _device(module: nn.Module) -> str | None:
    """Return the device of a module's weights; None without weights, or with their shapes alone."""
    first = next(module.parameters(), None)
    if first is None or first.device.type == "meta":
        return None
    return str(first.device)


def without_devices(operations: list[Operation]) -> list[Operation]:
    """Return the same operations on whatever device their modules are."""
    anywhere: list[Operation] = []
    for operation in operations:
        if isinstance(operation, ModuleCall):
            operation = operation._replace(device=None)
        anywhere.append(operation)
    return anywhere
