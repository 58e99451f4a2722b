"""Edits by plain PyTorch hooks on a family's own modules: what `edits=` must give.

Nothing here comes from `lens_recipes.trace.edits`. Only the places are those that `residual_blocks`
names, which tests/test_components.py has checked by behaviour. Every prompt runs alone, without
padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from oracle import _hidden_input, _with_hidden
from torch import Tensor

import lens_recipes as lr
from lens_recipes.models.structure.block.blocks import residual_blocks
from lens_recipes.trace.operations import ModuleCall, replay

Change = Callable[[Tensor], Tensor]  # [position, width] to [position, width]


class HookedEdit(NamedTuple):
    """What is done to the vectors of one prompt at one site."""

    layer: int
    component: str
    head: int | None
    change: Change


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


class Hooked:
    """A model that runs with plain hooks."""

    def __init__(self, model: Any) -> None:
        self.module = model._module
        self.anatomy = lr.anatomy(model)
        self.blocks = residual_blocks(model)

    def at(self, path: str) -> Any:
        return self.module.get_submodule(path.replace("E_", ""))

    def logits(self, token_ids: list[int], *edits: HookedEdit) -> Tensor:
        """Logits [position, vocab] of one prompt with edits, made in the order given at each module."""
        inputs = {"input_ids": torch.tensor([token_ids])}
        if "use_cache" in inspect.signature(self.module.forward).parameters:
            inputs["use_cache"] = False
        with ExitStack() as stack, torch.no_grad():
            for edit in edits:
                self.hook(stack, edit)
            output = self.module(**inputs)
        logits = output[0] if isinstance(output, tuple) else output.logits
        return logits[0].float()

    def read(self, token_ids: list[int], layer: int, component: str, head: int | None) -> Tensor:
        """What is at a site of a run without edits, [position, width]."""
        kept = []

        def keep(current: Tensor) -> Tensor:
            kept.append(current.clone())
            return current

        self.logits(token_ids, HookedEdit(layer, component, head, keep))
        return kept[0]

    # -- hooks -------------------------------------------------------------

    def hook(self, stack: ExitStack, edit: HookedEdit) -> None:
        block = self.blocks[edit.layer]
        block_module = self.at(self.anatomy.block(edit.layer))
        component = edit.component
        if component == "resid_post":
            self.after(stack, block_module, edit.change)
        elif component in ("resid_pre", "embed"):
            if block.resid_pre.side == "out":
                self.after(stack, self.at(block.resid_pre.path), edit.change)
            else:
                self.before(stack, block_module, edit.change)
        elif component == "head_out":
            (write,) = (write for write in block.writes if write.component == "attn_out")
            self.head(stack, write.heads, edit)
        elif component == "resid_mid":
            self.middle(stack, block, block_module, edit.change)
        else:
            (write,) = (write for write in block.writes if write.component == component)
            self.write(stack, write, edit.change)

    def after(self, stack: ExitStack, module: Any, change: Change) -> None:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            stream = first(output)
            grid = stream.reshape(-1, stream.shape[-1])
            return _with_hidden(output, change(grid).reshape(stream.shape))

        stack.callback(module.register_forward_hook(hook).remove)

    def before(self, stack: ExitStack, module: Any, change: Change) -> None:
        def hook(_module: Any, args: tuple, kwargs: dict) -> Any:
            stream = _hidden_input(args, kwargs)
            changed = change(stream.reshape(-1, stream.shape[-1])).reshape(stream.shape)
            args = tuple(changed if value is stream else value for value in args)
            kwargs = {k: changed if value is stream else value for k, value in kwargs.items()}
            return args, kwargs

        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def write(self, stack: ExitStack, write: Any, change: Change) -> None:
        """What is added is scale ⊙ what the module gives + shift: both are read off, not undone."""
        operations = write.point.operations

        def as_module_gives(raw: Tensor) -> Tensor:
            shift = replay(None, operations, torch.zeros_like(raw))
            scale = replay(None, operations, torch.ones_like(raw)) - shift
            return (change(raw * scale + shift) - shift) / scale

        self.after(stack, self.at(write.point.path), as_module_gives)

    def head(self, stack: ExitStack, heads: Any, edit: HookedEdit) -> None:
        columns = heads.columns[edit.head]

        def of_all(grid: Tensor) -> Tensor:
            grid = grid.clone()
            grid[:, columns] = edit.change(grid[:, columns])
            return grid

        self.before(stack, self.at(heads.point.path), of_all)

    def middle(self, stack: ExitStack, block: Any, block_module: Any, change: Change) -> None:
        """What takes the stream in the middle gets another one, and so does the sum after the block."""
        moved = []

        def at_middle(grid: Tensor) -> Tensor:
            changed = change(grid)
            moved.append(changed - grid)
            return changed

        def in_sum(grid: Tensor) -> Tensor:
            return grid + moved.pop()

        point = block.resid_mid
        if point.side == "out":
            self.after(stack, self.at(point.path), at_middle)
            return
        self.before(stack, self.at(point.path), at_middle)
        self.after(stack, block_module, in_sum)


# -- directions --------------------------------------------------------


def token_direction(model: Any, token: int, minus: int | None = None) -> Tensor:
    """The gradient of a token's logit (minus another's), norms held, by autograd: of length 1."""
    module = model._module
    tail = lr.anatomy(model).tail
    calls = [n for n, operation in enumerate(tail) if isinstance(operation, ModuleCall)]
    d_model = lr.anatomy(model).d_model
    start = torch.linspace(-1, 1, d_model)[None, None].requires_grad_(True)

    def linear(number: int, x: Tensor) -> Tensor:
        operation = tail[number]
        if not isinstance(operation, ModuleCall):
            # What is not linear after the unembedding is monotone: it has no part in a direction.
            is_capped = number > calls[-1] and operation.name == "tanh"
            return x if is_capped else operation.apply(None, x)
        part = module.get_submodule(operation.path.replace("E_", ""))
        if not operation.is_norm:
            return first(part(x))
        return held_norm(part, x)

    with torch.enable_grad():
        x = start
        for number in range(len(tail)):
            x = linear(number, x)
        logits = x[0, 0]
        wanted = logits[token] if minus is None else logits[token] - logits[minus]
        (gradient,) = torch.autograd.grad(wanted, start)
    return unit(gradient[0, 0])


def held_norm(norm: Any, x: Tensor) -> Tensor:
    """A norm whose divisor is a number, and no function of x."""
    bias = getattr(norm, "bias", None)
    bias = 0.0 if bias is None else bias
    # A norm that takes off the mean does not see a shift.
    with torch.no_grad():
        is_centred = bool((norm(x + 1) - norm(x)).abs().max() < 1e-3)
        mean = x.mean(-1, keepdim=True) if is_centred else 0.0
        centred = x - mean
        ratio = (norm(x) - bias) / centred
    own_mean = x.mean(-1, keepdim=True) if is_centred else 0.0
    return (x - own_mean) * ratio + bias


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def swapped(current: Tensor, clean: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Vectors whose coordinates along a and b are those of `clean`, exchanged: by normal equations."""
    plane = torch.stack([a, b]).double()
    gram = plane @ plane.T
    own = torch.linalg.solve(gram, plane @ current.double().T).T
    wanted = torch.linalg.solve(gram, plane @ clean.double().T).T.flip(-1)
    return (current.double() + (wanted - own) @ plane).float()
