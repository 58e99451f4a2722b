"""`wiring()`: what each block adds to the residual stream, where that can be read, and through which heads it came.

No names of families here either. The few tokens of `anatomy` are run once more, now with every operation inside the
blocks noted, and each block's output is taken apart backwards into the sum that it is: the stream that came in, and
what was added to it. So a post-norm, a residual multiplier, a module that contains the residual, or attention and MLP
in parallel are what they are. What is no such sum is refused with the reason. Names only decide what a part is called.
"""

from __future__ import annotations

import re
import weakref
from typing import Any

from nnsight.intervention.envoy import Envoy
from torch import nn

from lens_recipes.models.handle import envoy_path, on_meta
from lens_recipes.models.structure.anatomy import Anatomy, anatomy
from lens_recipes.models.structure.graph import Graph, Node, before, operands
from lens_recipes.models.structure.head_path import is_norm
from lens_recipes.models.structure.heads import heads_of_write
from lens_recipes.models.structure.parts import Block, HookPoint, ResidualWrite
from lens_recipes.models.structure.probe import PROBE_SHAPE, configs_of, record_forward
from lens_recipes.trace.operations import Elementwise, Operation

_KINDS = {
    "attn_out": r"attn|attention",
    "mixer_out": r"mixer|mamba|ssm|recurrent|temporal|conv|delta|lru|lstm|rwkv|time",
    "mlp_out": r"mlp|feed_?forward|ffn|moe|expert|glu|\bff|\bfc|dense",
}

_known: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, ...], list[Block]]] = (
    weakref.WeakKeyDictionary()
)


def residual_blocks(model: Envoy) -> list[Block]:
    """What each block adds to the stream, `[layer]`. Costs one run over a dozen tokens, once per model.

    Raises:
        LensError: as `anatomy`.
    """
    module = model._module
    how = tuple(str(implementation) for _, implementation in attention_of(module))
    known = _known.setdefault(module, {})
    if how not in known:
        known[how] = _read(model, anatomy(model))
    return known[how]


def attention_of(module: nn.Module) -> list[tuple[Any, str]]:
    """Every config in a model that chooses an implementation of attention, and which."""
    chosen = [
        (config, getattr(config, "_attn_implementation", None)) for config in configs_of(module)
    ]
    return [
        (config, implementation) for config, implementation in chosen if implementation is not None
    ]


def _read(model: Envoy, parts: Anatomy) -> list[Block]:
    module, graph = model._module, Graph()
    record_forward(module, parts.plain_ids, parts.forward_options, meta=on_meta(model), graph=graph)
    names = {m: name for name, m in module.named_modules()}
    blocks = list(module.get_submodule(parts.blocks).children())
    readers = [
        BlockReader(graph, names, type(module).__name__, block, parts.d_model) for block in blocks
    ]
    return [
        reader.block(None if layer == 0 else graph.outputs.get(blocks[layer - 1]))
        for layer, reader in enumerate(readers)
    ]


class _Unreadable(Exception):
    """Why a block is not the sum that was looked for."""


class BlockReader:
    """Takes one block's output apart."""

    def __init__(
        self, graph: Graph, names: dict[nn.Module, str], family: str, block: nn.Module, width: int
    ) -> None:
        self.graph, self.names, self.family, self.root, self.width = (
            graph,
            names,
            family,
            block,
            width,
        )
        self.inside = set(block.modules()) - {block}
        self.base: Node | None = self._base()
        self.carried: dict[
            Node, bool
        ] = {}  # the stream on its way through the block, and what is not

    def _base(self) -> Node | None:
        base = self.graph.inputs.get(self.root)
        shape = (*PROBE_SHAPE, self.width)
        return (
            base
            if base is not None and base.shape == shape and base.dtype.is_floating_point
            else None
        )

    def block(self, given: Node | None) -> Block:
        """The block as a sum. `given` is what the block before it gave."""
        post = self.tap("out", self.root)
        pre, mid, broken = self._pre(), None, ""
        between: tuple[Operation, ...] = ()
        carry: tuple[Operation, ...] = ()
        writes: list[ResidualWrite] = []
        try:
            if self.base is None:
                raise _Unreadable("it does not take the residual stream as its first argument")
            between = self._between(given)
            leaves = self._leaves()
            if given is None and (start := self._starts_later(leaves)):
                pre = self.tap("out", start)
                leaves = self._leaves()
            carry = self._carry(leaves)
            writes = sorted(
                (self._write(node, steps) for node, steps in leaves if node is not self.base),
                key=lambda write: write.tap.when,
            )
            mid = self._mid(leaves)
        except _Unreadable as reason:
            broken, writes = str(reason), []
        return Block(pre, mid, post, between, carry, writes, broken)

    def _pre(self) -> HookPoint:
        """Where the stream before the block is read: at a leaf that takes it, as the block's own arguments hold the
        cache, which a sandboxed server would give back as a copy."""
        for module in self.base.taken if self.base is not None else ():
            if module in self.inside and self.graph.times[module] == 1 and not [*module.children()]:
                return self.tap("in", module)
        return self.tap("in", self.root)

    # -- the sum -------------------------------------------------------

    def _terms(
        self, node: Node, steps: tuple[Operation, ...]
    ) -> list[tuple[Node, tuple[Operation, ...]]]:
        """The tensors that add up to this one, each with what is done to it on the way."""
        carries = self.carries(node)
        if node is self.base or (not carries and self._source(node)):
            return [(node, steps)]
        if added := operands(node):
            found = []
            for operand, factor in added:
                scale: tuple[Operation, ...] = ()
                if factor != 1:
                    scale = (Elementwise("mul", (factor,)),)
                found += self._terms(operand, scale + steps)
            return found
        if back := before(node):
            return self._terms(back[0], (*back[1], *steps))
        raise _Unreadable(
            "the stream is normed or mixed after the addition, so what a block adds does not stay in it"
            if carries or not node.parents
            else f"something is added that no module gives (it comes out of the operation {node.name})"
        )

    def carries(self, node: Node) -> bool:
        """Whether the block's input is in this tensor as a summand."""
        if node is self.base:
            return True
        if node not in self.carried:
            added, back = operands(node), before(node)
            below = [parent for parent, _ in added] if added else [back[0]] if back else []
            self.carried[node] = any(self.carries(parent) for parent in below)
        return self.carried[node]

    def _source(self, node: Node) -> nn.Module | None:
        """The outermost module in the block that gives this tensor, row by row, once."""
        wide = len(node.shape) > 1 and node.shape[-1] == self.width
        given = [
            m
            for m in node.given
            if self.graph.times[m] == 1 and self.graph.inputs.get(m) is not node
        ]
        given = [m for m in given if m in self.inside and wide]
        return given[-1] if given else None

    def _leaves(self) -> list[tuple[Node, tuple[Operation, ...]]]:
        self.carried = {}
        return self._terms(self.graph.outputs[self.root], ())

    def _starts_later(self, leaves: list[tuple[Node, tuple[Operation, ...]]]) -> nn.Module | None:
        """RWKV's first block begins with a norm: the stream starts after it. That norm, if so."""
        for node, _ in leaves if all(node is not self.base for node, _ in leaves) else []:
            source = self._source(node)
            if (
                source is not None
                and is_norm(source)
                and self.graph.inputs.get(source) is self.base
            ):
                self.base = node
                return source
        return None

    def _carry(self, leaves: list[tuple[Node, tuple[Operation, ...]]]) -> tuple[Operation, ...]:
        """What happens to the stream itself on its way through the block."""
        passed = [steps for node, steps in leaves if node is self.base]
        if len(passed) != 1:
            raise _Unreadable(
                "its output is not a sum that contains its input (the stream is normed on the way)"
            )
        return passed[0]

    def _between(self, given: Node | None) -> tuple[Operation, ...]:
        """What is done to the stream between two blocks: nothing, or a number times it."""
        steps: tuple[Operation, ...] = ()
        node = self.base
        while given is not None and node is not None and node is not given:
            back = before(node)
            node, steps = (back[0], (*back[1], *steps)) if back else (None, ())
        if node is None:
            raise _Unreadable("between it and the block before it something is done to the stream")
        return steps

    def _mid(self, leaves: list[tuple[Node, tuple[Operation, ...]]]) -> HookPoint | None:
        """The stream after attention and before the MLP, where it exists and some module takes or gives it."""
        kinds = {node: self._kind(node) for node, _ in leaves if node is not self.base}
        wanted = {node for node, kind in kinds.items() if kind in ("attn_out", "mixer_out")}
        if not wanted or "mlp_out" not in kinds.values():
            return None
        for node in reversed(
            [node for node, carries in self.carried.items() if carries]
        ):  # from the output down
            if {leaf for leaf, _ in self._terms(node, ())} - {self.base} != wanted:
                continue
            for module in node.taken:
                if (
                    module in self.inside
                    and self.graph.times[module] == 1
                    and node.shape[-1] == self.width
                ):
                    return self.tap("in", module)
            if source := self._source(node):
                return self.tap("out", source)
        return None

    # -- what is added -------------------------------------------------

    def _write(self, node: Node, steps: tuple[Operation, ...]) -> ResidualWrite:
        source = self._source(node)
        assert source is not None
        kind = self._kind(node)
        heads = heads_of_write(self, node, steps) if kind == "attn_out" else None
        return ResidualWrite(kind, self.tap("out", source, steps), heads)

    def _kind(self, node: Node) -> str:
        """Attention, state space or MLP: by the name and class of the module that made it, before any norm."""
        source = self._source(node)
        while source is not None and is_norm(source) and source in self.graph.inputs:
            back: tuple[Node, Any] | None = (self.graph.inputs[source], ())
            while back is not None and not back[0].given:
                back = before(back[0])
            source = self._source(back[0]) if back is not None else None
        path = (
            self.names[source].removeprefix(f"{self.names[self.root]}.")
            if source is not None
            else ""
        )
        names = path.split(".")
        for depth in range(len(names)):
            module = self.root.get_submodule(".".join(names[: depth + 1]))
            for said in (_without_family(type(module).__name__, self.family), names[depth]):
                for kind, pattern in _KINDS.items():
                    if "norm" not in said.lower() and re.search(pattern, said.lower()):
                        return kind
        return "other_out"

    def tap(self, side: str, module: nn.Module, steps: tuple[Operation, ...] = ()) -> HookPoint:
        when = (self.graph.began if side == "in" else self.graph.ended)[module]
        return HookPoint(when, side, envoy_path(self.names[module]), steps)


def _without_family(kind: str, family: str) -> str:
    """A class name without the part that all of a family's classes share: RecurrentGemmaMlp is no recurrence."""
    same = next(
        (i for i, (a, b) in enumerate(zip(kind, family, strict=False)) if a != b),
        min(len(kind), len(family)),
    )
    while same and not kind[same : same + 1].isupper():
        same -= 1
    return kind[same:]
