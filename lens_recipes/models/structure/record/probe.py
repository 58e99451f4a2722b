"""Run a model on a few tokens, and record what happens in its modules and between them."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from lens_recipes.errors import LensError
from lens_recipes.models.structure.record.graph import Graph
from lens_recipes.models.structure.record.node import operation_name
from lens_recipes.models.structure.record.shapes import shapes_only
from lens_recipes.models.weights.offload import input_device

N_PROMPTS, N_TOKENS = 2, 6  # the two prompts differ in their last token
PROBE_SHAPE = (N_PROMPTS, N_TOKENS)


class ModuleBegins(NamedTuple):
    """The start of a module's call."""

    module: nn.Module


class ModuleEnds(NamedTuple):
    """The end of a module's call."""

    module: nn.Module


class TorchCall(NamedTuple):
    """A run of one of torch's operations."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def name(self) -> str:
        """Return torch's name of the operation, whether or not it ran in place."""
        return operation_name(self.function)


Event = ModuleBegins | ModuleEnds | TorchCall


@dataclass
class ForwardRecord:
    """The record of one run of a model.

    Attributes:
        logits: What came out, `[prompt, position, vocabulary]`.
        calls: Every module that ran, in the order in which they ended.
        inputs, outputs: The first tensor that each took and gave, or None.
        events: What happened, in order; operations only outside of all blocks.
        in_tuple: The modules that give that tensor inside a tuple or list.
        first_inputs: The modules whose first argument that tensor is.
        lone_inputs: Those that take nothing else.
        arguments: All tensors that a module took; of modules outside of all blocks.
    """

    logits: Any = None
    calls: list[nn.Module] = field(default_factory=list)
    inputs: dict[nn.Module, Any] = field(default_factory=dict)
    outputs: dict[nn.Module, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    in_tuple: set[nn.Module] = field(default_factory=set)
    first_inputs: set[nn.Module] = field(default_factory=set)
    lone_inputs: set[nn.Module] = field(default_factory=set)
    arguments: dict[nn.Module, list[Tensor]] = field(default_factory=dict)


def record_forward(
    module: nn.Module,
    ids: tuple[int, ...],
    options: frozenset[str],
    *,
    meta: bool,
    graph: Graph | None = None,
) -> ForwardRecord:
    """Run a model once and record what happens.

    Args:
        module: The model.
        ids: Seven token ids, as `plain_ids` gives.
        options: The names of the arguments that its forward takes.
        meta: Whether it has no weights; then only shapes are computed.
        graph: Filled on the way, if given.

    Raises:
        LensError: the model does not run, or does not give logits for every position.
    """
    device = torch.device("meta") if meta else input_device(module)
    inputs: dict[str, Any] = {"input_ids": probe_prompts(ids).to(device)}
    if "use_cache" in options:
        inputs["use_cache"] = False
    recorder = _Recorder(module, graph)
    computing = shapes_only(module) if meta else contextlib.nullcontext()
    # A caller may be in inference mode, where torch shows other operations: `to` for `_to_copy`.
    with (
        torch.inference_mode(False),
        _hooks(module, recorder),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),  # compiled code cannot be watched
        computing,
    ):
        output = _run(module, inputs, recorder)
    recorder.record.logits = _logits_in(output, type(module).__name__)
    return recorder.record


def probe_prompts(ids: tuple[int, ...]) -> Tensor:
    """Return the two prompts of a trial run, `[prompt, position]`: their last tokens differ."""
    return torch.tensor([list(ids[:6]), [*ids[:5], ids[6]]], device="cpu")


def _missing_arguments(module: nn.Module) -> list[str]:
    """Return what the forward pass of a model cannot do without, beside token ids."""
    return [
        name
        for name, parameter in inspect.signature(type(module).forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "input_ids")
    ]


def _run(module: nn.Module, inputs: dict[str, Any], recorder: _Recorder) -> Any:
    """Call the model, and say in one sentence why it does not run if it does not."""
    try:
        with recorder:
            return module(**inputs)
    except Exception as error:
        missing = _missing_arguments(module) if isinstance(error, TypeError) else []
        if missing:
            raise LensError(
                f"{type(module).__name__} does not run on a text alone: its forward pass needs "
                f"{' and '.join(missing)}, too. A lens reads models that continue a text."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise LensError(
            f"{type(module).__name__} did not run on six token ids: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _logits_in(output: Any, family: str) -> Tensor:
    """Return the logits in what a model returned.

    Raises:
        LensError: there are none, or none for every position.
    """
    logits = output[0] if isinstance(output, tuple) else getattr(output, "logits", None)
    if logits is None:
        raise LensError(
            f"{family} gives no logits (it has no unembedding): load the model with its "
            "language-model head, for example through load(source)."
        )
    if not isinstance(logits, Tensor):
        raise LensError(
            f"{family} gives a {type(logits).__name__} as its logits, where a tensor [prompt, "
            "position, vocabulary] is expected: its unembedding returns something else than logits."
        )
    if logits.ndim != 3 or logits.shape[:2] != PROBE_SHAPE:
        raise LensError(
            f"{family} gives {list(logits.shape)} for 2 prompts of 6 tokens, where a "
            "language-model head gives [2, 6, vocabulary]: it does not predict the next token."
        )
    return logits


# -- recording ---------------------------------------------------------


class _Recorder(TorchDispatchMode):
    """The writer of a `ForwardRecord`.

    As a mode of torch it sees operations, and through hooks it sees modules.

    Operations inside blocks are not recorded: they would keep every intermediate tensor alive.
    """

    supports_higher_order_operators = True  # flex attention is one

    def __init__(self, module: nn.Module, graph: Graph | None) -> None:
        super().__init__()
        self.record = ForwardRecord()
        self.graph = graph
        self._running: list[nn.Module] = []
        self._around_blocks = _modules_around_lists(module)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            tensor = args[0]
            if isinstance(tensor, FakeTensor):
                # The model asks for a number where only shapes are computed.
                return 0.0 if tensor.is_floating_point() else 0
        output = function(*args, **kwargs)
        if all(module in self._around_blocks for module in self._running):
            self.record.events.append(TorchCall(function, args, kwargs, output))
        if self.graph is not None:
            self.graph.record_operation(function, args, kwargs, output)
        return output

    def before_module(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Record that a module was called."""
        first = first_tensor(args)
        if first is None:
            first = first_tensor(kwargs)
        self.record.inputs[module] = first
        arguments = [*args, *kwargs.values()]
        if arguments and arguments[0] is first:
            self.record.first_inputs.add(module)
            if all(argument is None for argument in arguments[1:]):
                self.record.lone_inputs.add(module)
        if all(running in self._around_blocks for running in self._running):
            given = [*args, *kwargs.values()]
            tensors = [argument for argument in given if isinstance(argument, Tensor)]
            self.record.arguments[module] = tensors
        self.record.events.append(ModuleBegins(module))
        self._running.append(module)
        if self.graph is not None:
            self.graph.record_begin(module, args, kwargs)

    def after_module(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Record that a module has ended."""
        self._running.pop()
        self.record.calls.append(module)
        self.record.outputs[module] = first_tensor(output)
        if isinstance(output, tuple | list):
            self.record.in_tuple.add(module)
        self.record.events.append(ModuleEnds(module))
        if self.graph is not None:
            self.graph.record_end(module, output)


FIRST_WITH_KWARGS = {"with_kwargs": True, "prepend": True}


@contextlib.contextmanager
def _hooks(module: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Let a recorder hear of every module of a model, for a while."""
    before, after = recorder.before_module, recorder.after_module
    with contextlib.ExitStack() as stack:  # takes all of them off, whatever interrupts it
        for child in module.modules():
            # Before a user's own hooks, which then count as a part of the module, as they do where
            # the module is called again. One statement: nothing comes between a hook and its end.
            stack.callback(child.register_forward_pre_hook(before, **FIRST_WITH_KWARGS).remove)
            stack.callback(child.register_forward_hook(after, with_kwargs=True).remove)
        yield


def first_tensor(value: Any) -> Tensor | None:
    """Return a tensor itself, or the first one in a tuple, list, dict or model output."""
    if isinstance(value, Tensor):
        return value
    items: Any = ()
    if hasattr(value, "values"):
        items = value.values()
    elif isinstance(value, tuple | list):
        items = value
    for item in items:
        tensor = first_tensor(item)
        if tensor is not None:
            return tensor
    return None


class ListedModules(NamedTuple):
    """A list of modules in a model, and its path."""

    path: str
    module: nn.Module


def outermost_lists(module: nn.Module) -> list[ListedModules]:
    """Return the lists of modules that are in no other such list: blocks, not a block's experts."""
    lists: list[ListedModules] = []
    for path, child in module.named_modules():
        is_inside = any(path.startswith(f"{outer.path}.") for outer in lists)
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) > 0 and not is_inside:
            lists.append(ListedModules(path, child))
    return lists


def _modules_around_lists(module: nn.Module) -> set[nn.Module]:
    """Return the modules around the outermost lists, and so around the blocks."""
    around: set[nn.Module] = set()
    for path, _ in outermost_lists(module):
        names = path.split(".")
        for depth in range(len(names)):
            around.add(module.get_submodule(".".join(names[:depth])))
    return around


# -- what it is run on -------------------------------------------------


def plain_ids(config: Any, vocab_size: int) -> tuple[int, ...]:
    """Return seven token ids without a special meaning.

    An image token without an image, for instance, would be an error.
    """
    special = _special_ids(config)
    plain = (token for token in range(vocab_size) if token not in special)
    candidates = list(itertools.islice(plain, 21)) or list(range(vocab_size))[:21]
    every_third = candidates[::3]
    # Again from the beginning where the vocabulary is tiny.
    return tuple(itertools.islice(itertools.cycle(every_third), 7))


def _special_ids(config: Any) -> set[int]:
    """Return the token ids that a config, or a config inside it, names."""
    if not hasattr(config, "to_dict"):
        return set()
    values = config.to_dict()
    inner = [value for value in values.values() if isinstance(value, dict)]
    special = set()
    for settings in (values, *inner):
        for setting, value in settings.items():
            if str(setting).endswith(("token_id", "token_index")) and type(value) is int:
                special.add(value)
    return special
