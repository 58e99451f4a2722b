"""A recorded run as a graph of tensors and modules, and the part of it that one block makes.

`record_forward` fills a `Graph` while the model runs on a few tokens. A `BlockGraph` answers what
`residual_blocks` asks about one block: which tensors carry the residual stream, and which module
gives what is added to it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from lens_recipes.models.handle import envoy_path
from lens_recipes.models.structure.parts import HookPoint
from lens_recipes.models.structure.record.node import FurtherOutput, Node, Origin, linear_origins
from lens_recipes.models.structure.record.norms import is_norm
from lens_recipes.trace.operations import ModuleCall, Operation


class Graph:
    """The tensors of a run as nodes; `record_forward` calls the three `record_` methods as it goes.

    Attributes:
        inputs: Each module's first argument, where that is a tensor.
        outputs: Each module's first output, where that is a tensor.
        began, ended: When each module began and ended, counted in modules that begin or end.
        run_counts: How often each module ran.
    """

    def __init__(self, module: nn.Module) -> None:
        """Begin before the run. `module` is the model: its weights are known as such."""
        # Weak, as a run may unpack weights as large as the model.
        self._nodes = WeakTensorKeyDictionary()
        self.inputs: dict[nn.Module, Node] = {}
        self.outputs: dict[nn.Module, Node] = {}
        self.began: dict[nn.Module, int] = {}
        self.ended: dict[nn.Module, int] = {}
        self.run_counts: dict[nn.Module, int] = {}
        self._time = 0
        for weight in [*module.parameters(), *module.buffers()]:
            self._nodes[weight] = Node(weight, is_weight=True)

    def runs_once(self, module: nn.Module) -> bool:
        """Return whether a module ran exactly once."""
        return self.run_counts.get(module) == 1

    def record_operation(self, func: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """Note one operation; a tensor that it changed in place becomes a new node."""
        node_args = self._with_nodes(args)
        node_kwargs = self._with_nodes(kwargs)
        if isinstance(output, Tensor):
            self._nodes[output] = Node(output, func, node_args, node_kwargs)
        elif isinstance(output, tuple | list):
            for item, tensor in enumerate(output):
                if isinstance(tensor, Tensor):
                    self._nodes[tensor] = Node(tensor, func, node_args, node_kwargs, item)

    def record_begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Note that a module was called, and with which tensor first."""
        self._time += 1
        self.began[module] = self._time
        self.run_counts[module] = self.run_counts.get(module, 0) + 1
        arguments = [*args, *kwargs.values()]
        if arguments and isinstance(arguments[0], Tensor):
            node = self.node_of(arguments[0])
            node.input_of.append(module)
            self.inputs[module] = node

    def record_end(self, module: nn.Module, output: Any) -> None:
        """Note that a module has ended, and which tensors it gave."""
        self._time += 1
        self.ended[module] = self._time
        items = output if isinstance(output, tuple | list) else [output]
        for item, tensor in enumerate(items):
            if not isinstance(tensor, Tensor):
                continue
            node = self.node_of(tensor)
            if item == 0:
                node.output_of.append(module)
                self.outputs[module] = node
            else:
                node.further_output_of.append(FurtherOutput(module, item))

    def node_of(self, tensor: Tensor) -> Node:
        """Return the node of a tensor, a new one where no operation has given it."""
        node = self._nodes.get(tensor)
        if node is None:
            node = Node(tensor)
            self._nodes[tensor] = node
        return node

    def _with_nodes(self, value: Any) -> Any:
        """Return an operation's arguments with nodes in place of tensors."""
        if isinstance(value, Tensor):
            return self.node_of(value)
        if isinstance(value, dict):
            return {key: self._with_nodes(item) for key, item in value.items()}
        if type(value) is list:
            return [self._with_nodes(item) for item in value]
        if type(value) is tuple:
            return tuple(self._with_nodes(item) for item in value)
        return value


class BlockGraph:
    """The part of a graph that one block makes.

    Attributes:
        graph: The graph of the whole run.
        block: The block.
        family: The model's class.
        stream: The residual stream that comes in; None where the block does not take it first.
        stream_point: Where that is read.
        stream_shape: (prompts, tokens, d_model) of any stream in this run.
        follows_norms: Whether the stream is followed through norms.
        norms: The norms that it was seen to pass through, by their calls.
    """

    def __init__(
        self,
        graph: Graph,
        paths: dict[nn.Module, str],
        family: str,
        block: nn.Module,
        stream_shape: tuple[int, int, int],
    ) -> None:
        """Find the stream in the block's first argument. `paths` are those of all modules."""
        self.graph = graph
        self.block = block
        self.family = family
        self.stream_shape = stream_shape
        self._paths = paths
        self._inside = set(block.modules()) - {block}
        self._carries: dict[Node, bool] = {}
        self.follows_norms = False
        self.norms: dict[ModuleCall, nn.Module] = {}
        self.stream = self._incoming_stream()
        self.stream_point = self._incoming_point()

    def _incoming_stream(self) -> Node | None:
        """Return the block's first argument, if it has the shape and the dtype of a stream."""
        node = self.graph.inputs.get(self.block)
        if node is None or node.shape != self.stream_shape or not node.dtype.is_floating_point:
            return None
        return node

    def _incoming_point(self) -> HookPoint:
        """Return where the stream before the block is read.

        That is a module without parts that takes it: the block's own arguments hold the cache,
        which a sandboxed server would give back as a copy.
        """
        if self.stream is not None:
            for module in self.stream.input_of:
                if self.is_inside(module) and not list(module.children()):
                    return self.hook_point("in", module)
        return self.hook_point("in", self.block)

    def start_after(self, module: nn.Module, stream: Node) -> None:
        """Let the stream begin with the output of a module in the block."""
        self.stream = stream
        self.stream_point = self.hook_point("out", module)
        self._carries = {}

    def follow_norms(self) -> None:
        """Follow the stream through norms from now on."""
        self.follows_norms = True
        self._carries = {}

    def is_inside(self, module: nn.Module) -> bool:
        """Return whether a module is a part of the block that runs once."""
        return module in self._inside and self.graph.runs_once(module)

    def has_width(self, node: Node) -> bool:
        """Return whether a tensor is as wide as the stream."""
        return node.shape[-1] == self.stream_shape[-1]

    def path(self, module: nn.Module) -> str:
        """Return the path of a module from the model."""
        return self._paths[module]

    def hook_point(
        self, side: str, module: nn.Module, operations: tuple[Operation, ...] = ()
    ) -> HookPoint:
        """Return what a trace reads at a module: what it takes ("in") or gives ("out")."""
        times = self.graph.began if side == "in" else self.graph.ended
        path = envoy_path(self.path(module))
        return HookPoint(times[module], side, path, operations)

    def carries_stream(self, node: Node) -> bool:
        """Return whether the stream that comes in is a summand of a tensor."""
        if node is self.stream:
            return True
        if node not in self._carries:
            origins = self.origins(node)
            self._carries[node] = any(self.carries_stream(origin.node) for origin in origins)
        return self._carries[node]

    def origins(self, node: Node) -> list[Origin]:
        """Return what a tensor is the sum of, or the stream before a norm that gives it."""
        if self.follows_norms:
            for module in node.output_of:
                taken = self.graph.inputs.get(module)
                if taken is None or taken is node or taken.shape != node.shape:
                    continue
                if is_norm(module) and self.is_inside(module) and self.carries_stream(taken):
                    call = ModuleCall(envoy_path(self.path(module)), is_norm=True, device=None)
                    self.norms[call] = module
                    return [Origin(taken, (call,))]
        return linear_origins(node)

    def carrying_nodes(self) -> list[Node]:
        """Return the tensors found so far that carry the stream, those near the output first."""
        carrying = [node for node, carries in self._carries.items() if carries]
        carrying.reverse()
        return carrying

    def source_module(self, node: Node) -> nn.Module | None:
        """Return the outermost module in the block that gives a tensor, as wide as the stream."""
        if len(node.shape) < 2 or not self.has_width(node):
            return None
        for module in reversed(node.output_of):
            passes_it_on = self.graph.inputs.get(module) is node
            if self.is_inside(module) and not passes_it_on:
                return module
        return None
