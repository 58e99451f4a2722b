"""Find the operations that turn the last block's output into the logits."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lens_recipes.errors import LensError
from lens_recipes.models.structure.probe import (
    Event,
    ForwardRecord,
    ModuleBegins,
    ModuleEnds,
    TorchCall,
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

    `current` is the tensor on its way. A module or a torch operation that takes it and gives
    something new is one of them; everything inside such a module is the module's own business.

    Raises:
        LensError: the tensor cannot be followed to the logits.
    """
    paths = {child: path for path, child in module.named_modules()}
    around_last_block = {child for child in module.modules() if last_block in set(child.modules())}
    operations: list[Operation] = []
    lost_at = ""
    events = iter(record.events)
    _skip_to_end(events, last_block)
    current = record.outputs[last_block]
    for event in events:
        if isinstance(event, ModuleBegins) and event.module not in around_last_block:
            called = event.module
            _skip_to_end(events, called)
            output = record.outputs[called]
            if record.inputs[called] is current and output is not None and output is not current:
                operations.append(ModuleCall(paths[called], is_norm(called), _device(called)))
                current = output
        elif isinstance(event, TorchCall) and any(arg is current for arg in event.args):
            if not _keeps_values(event):
                operation = _as_operation(event)
                if operation is None:
                    lost_at = (
                        f" (the operation {event.function} is not one value in, one value out, "
                        "with plain numbers)"
                    )
                    continue
                operations.append(operation)
            current = event.output
    calls = [operation for operation in operations if isinstance(operation, ModuleCall)]
    if current is not record.logits or not calls:
        after = f"after {operations[-1]}" if operations else "right after the last block"
        raise LensError(
            f"{type(module).__name__}: the way from the last block to the logits could not be "
            f"followed {after}{lost_at}. A lens that guesses what comes there would be wrong."
        )
    # The last call is the unembedding, whatever it looks like.
    operations[unembedding_index(operations)] = calls[-1]._replace(is_norm=False)
    return operations


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
    if call.name in _VALUE_KEEPING:
        return output.shape[-1] == source.shape[-1] and output.numel() == source.numel()
    return False


def _as_operation(call: TorchCall) -> Operation | None:
    """Return an operation that can be replayed row by row; None for any other."""
    source, rest, output = call.args[0], call.args[1:], call.output
    if not isinstance(source, Tensor) or not isinstance(output, Tensor):
        return None
    if call.name == "_to_copy":
        return cast_to(output.dtype)
    if call.name == "slice" and output.shape[-1] < source.shape[-1]:
        from_the_first_column = rest[:2] in (
            (2, 0),
            (-1, 0),
        )  # (axis, start) of [batch, token, column]
        return KeepColumns(output.shape[-1]) if from_the_first_column else None
    takes_numbers = not call.kwargs and all(isinstance(number, int | float) for number in rest)
    if call.name in _ELEMENTWISE and takes_numbers:
        return Elementwise(call.name, rest)
    return None


def is_norm(module: nn.Module) -> bool:
    """Return whether a module only rescales its input: its name says norm, or it has no matrix."""
    if "norm" in type(module).__name__.lower():
        return True
    parameters = list(module.parameters())
    return len(parameters) > 0 and all(parameter.ndim <= 1 for parameter in parameters)


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
