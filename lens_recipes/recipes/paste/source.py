"""What a script must say of one model: its modules, its norm, softcap and scales as Python source.

All of it is read off a skeleton, a model without weights. Nothing is guessed: where `anatomy` or `wiring` refuse a
skeleton, there is no script.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path, on_meta
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.blocks import residual_blocks
from lens_recipes.models.structure.parts import Block, HookPoint
from lens_recipes.models.structure.probe import ForwardRecord, record_forward
from lens_recipes.recipes.paste.norm import Norm, norm_of
from lens_recipes.run.request.sites import refuse_unreadable
from lens_recipes.trace.operations import (
    CastTo,
    Elementwise,
    KeepColumns,
    ModuleCall,
    Operation,
    split_at_unembedding,
)


class ModelSource:
    """One model, as expressions of a script in which it is called `model`.

    Attributes:
        parts: Its anatomy.
        config: What it was made from.
    """

    def __init__(self, model: Envoy) -> None:
        self.model, self.parts = model, anatomy(model)
        self._run: ForwardRecord = record_forward(
            model._module, self.parts.plain_ids, self.parts.forward_options, meta=on_meta(model)
        )
        self._paths = {envoy_path(name): module for name, module in model._module.named_modules()}
        self.config = model._module.config

    def block(self, layer: int | str) -> str:
        """A block; `layer` may be the name of a variable."""
        return f"{expression(self.parts.blocks)}[{layer}]"

    @property
    def stream(self) -> str:
        """What to write after a block for the stream after it."""
        return self._output(f"{self.parts.blocks}.0")

    @property
    def tail(self) -> list[str]:
        """The body of `to_logits(x)`."""
        return self._lines(self.parts.tail)

    def _output(self, path: str) -> str:
        return ".output[0]" if self._paths[path] in self._run.in_tuple else ".output"

    def _lines(self, steps: list[Operation]) -> list[str]:
        """Steps as assignments to `x`, each with a comment; a softcap is one line."""
        steps = [step for step in steps if not _changes_nothing(step)]
        found, now = [], 0
        while now < len(steps):
            step, cap = steps[now], steps[now : now + 3]
            if [_elementwise_name(part) for part in cap] == ["div", "tanh", "mul"]:
                inner, outer = _elementwise_number(cap[0]), _elementwise_number(cap[2])
                found.append(f"x = {outer} * torch.tanh(x / {inner})  # the softcap")
                now += 3
                continue
            found.append(f"x = {self._applied(step, 'x')}{self._why(step)}")
            now += 1
        return found

    def _applied(self, step: Operation, x: str) -> str:
        if isinstance(step, ModuleCall):
            first = "[0]" if self._paths[step.path] in self._run.in_tuple else ""
            return f"{expression(step.path)}({x}){first}"
        if isinstance(step, CastTo):
            return f"{x}.to(torch.{step.dtype})"
        if isinstance(step, KeepColumns):
            return f"{x}[..., :{step.n_columns}]"
        sign = {"mul": "*", "div": "/", "add": "+", "sub": "-"}.get(step.name)
        if sign and len(step.numbers) == 1:
            return f"{x} {sign} {step.numbers[0]}"
        return f"torch.{step.name}({', '.join([x, *map(str, step.numbers)])})"

    def _why(self, step: Operation) -> str:
        if isinstance(step, Elementwise):
            return "  # a scale of this model" if step.name in ("mul", "div") else ""
        if not isinstance(step, ModuleCall):
            return ""
        if step.path == self.parts.unembed:
            return "  # the unembedding"
        return (
            "  # the final norm: without it the numbers mean nothing"
            if step.is_norm
            else "  # a projection"
        )

    # -- what the blocks add -------------------------------------------

    @property
    def start(self) -> str:
        """The stream before the first block."""
        return self._read(self._blocks[0].pre)

    @cached_property
    def added(self) -> list[Added]:
        """What the blocks add to the stream, alike blocks together, the kind that most are of last.

        Raises:
            LensError: a block is no sum, or the stream is rescaled on its way.
        """
        found: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for layer, block in enumerate(self._blocks):
            writes = [(write.component, self._read(write.tap, layer)) for write in block.writes]
            found.setdefault(tuple(_numbered(writes)), []).append(layer)
        return sorted(
            (Added(layers, writes) for writes, layers in found.items()),
            key=lambda one: len(one.layers),
        )

    @property
    def kinds(self) -> str:
        """The names of what the blocks add: "a, b and c"."""
        names = [*dict.fromkeys(name for group in reversed(self.added) for name, _ in group.writes)]
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

    @cached_property
    def _blocks(self) -> list[Block]:
        blocks = residual_blocks(self.model)
        for layer, block in enumerate(blocks):
            refuse_unreadable(block, layer, self.parts.family)
            if block.between or block.carry:
                raise LensError(
                    f"{self.parts.family}: the stream is rescaled at layer {layer}, so what the blocks add does not "
                    "sum to it as it is, and a short script would be wrong. lens_recipes.logit_lens(components=…) and "
                    "attribution() follow it."
                )
        return blocks

    def _read(self, tap: HookPoint, layer: int | None = None) -> str:
        """What a tap reads after the last token, `[batch, 1, d_model]`, as a copy; with a layer, out of `block`."""
        inside = layer is not None and f"{tap.path}.".startswith(
            base := f"{self.parts.blocks}.{layer}."
        )
        path = expression(tap.path.removeprefix(base), "block") if inside else expression(tap.path)
        read = path + (".input" if tap.side == "in" else self._output(tap.path))
        tensors = self._run.inputs if tap.side == "in" else self._run.outputs
        if tensors[self._paths[tap.path]].ndim != 3:
            read += f".reshape(1, -1, {self.parts.d_model})"
        read += "[:, -1:]"
        steps = [step for step in tap.steps if not _changes_nothing(step)]
        for number, step in enumerate(steps):
            read = self._applied(step, f"({read})" if number else read)
        return read if steps else f"{read}.clone()"

    # -- the tail as a linear map --------------------------------------

    @property
    def linear(self) -> Linear:
        """The tail in the parts that an attribution needs.

        Raises:
            LensError: the way from the stream to the logits is not one norm and then linear.
        """
        before, scores, cap = split_at_unembedding(self.parts.tail)
        norms = [step for step in before if isinstance(step, ModuleCall) and step.is_norm]
        if len(norms) > 1 or (norms and before[0] != norms[0]):
            raise LensError(
                f"{self.parts.family}: between the stream and the unembedding stands more than one norm, or something "
                "before it, which a short script cannot hold at its value. lens_recipes.attribution() can."
            )
        steps = [step for step in before if step not in norms] + scores
        called = [self._paths[step.path] for step in steps if isinstance(step, ModuleCall)]
        if heads := [type(module).__name__ for module in called if [*module.children()]]:
            raise LensError(
                f"{self.parts.family}: its logits pass through a {heads[0]}, which is more than a matrix, "
                'so a logit has no parts. paste("components", …) works.'
            )
        biased = any(getattr(module, "bias", None) is not None for module in called)
        shifted = any(
            isinstance(step, Elementwise) and step.name not in ("mul", "div", "neg")
            for step in steps
        )
        norm = norm_of(self._paths[norms[0].path], self.parts.d_model) if norms else None
        name = expression(norms[0].path) if norms else ""
        return Linear(name, norm, self._lines(steps), biased or shifted, self._lines(cap))


@dataclass(frozen=True)
class Added:
    """What some blocks add to the stream: (name, expression), in the order in which it can be read."""

    layers: list[int]
    writes: tuple[tuple[str, str], ...]

    @property
    def where(self) -> str:
        return listed(self.layers)


@dataclass(frozen=True)
class Linear:
    """A tail: a norm (an expression, and what it is), lines that are linear (but for `shifted`), and a softcap's."""

    name: str
    norm: Norm | None
    scores: list[str]
    shifted: bool
    cap: list[str]


def listed(layers: list[int]) -> str:
    """Ascending layers as Python: a range where there is one."""
    first, end = layers[0], layers[-1] + 1
    step = layers[1] - first if len(layers) > 1 else 0
    if step == 1 and layers == [*range(first, end)]:
        return f"range({first}, {end})" if first else f"range({end})"
    if len(layers) > 2 and layers == [*range(first, end, step)]:
        return f"range({first}, {end}, {step})"
    return str(layers)


def expression(path: str, model: str = "model") -> str:
    """A path of modules as Python: `model.model.layers[3].mlp`."""
    parts = [part for part in path.split(".") if part]
    return model + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)


def _changes_nothing(step: Operation) -> bool:
    return _elementwise_name(step) in ("mul", "div") and _elementwise_number(step) == 1


def _elementwise_name(operation: Operation) -> str:
    """Return torch's name of an elementwise operation, or nothing for another kind."""
    return operation.name if isinstance(operation, Elementwise) else ""


def _elementwise_number(operation: Operation) -> float:
    """Return the number of an elementwise operation that has one."""
    assert isinstance(operation, Elementwise)
    return operation.numbers[0]


def _numbered(writes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same with names that differ: attn_out, attn_out_2."""
    seen: dict[str, int] = {}
    found = []
    for name, code in writes:
        seen[name] = seen.get(name, 0) + 1
        found.append((name if seen[name] == 1 else f"{name}_{seen[name]}", code))
    return found
