"""Runs a model on a few tokens, and notes what happens between its modules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode

from lens_recipes.errors import LensError
from lens_recipes.models.structure.graph import Graph

PROBE_SHAPE = (2, 6)  # two prompts of six tokens, which differ in the last one


@dataclass
class ForwardRecord:
    """What was seen while the model ran.

    Attributes:
        logits: What came out.
        calls: Every module that ran, in the order in which they ended.
        inputs, outputs: The first tensor that each took and gave, or None.
        in_tuple: The modules that give that tensor inside a tuple or list.
        events: In order: ("begin", module), ("end", module), and outside of all blocks
            ("op", function, args, kwargs, out).
    """

    logits: Any
    calls: list[nn.Module]
    inputs: dict[nn.Module, Any]
    outputs: dict[nn.Module, Any]
    events: list[tuple]
    in_tuple: set[nn.Module]


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first one in a tuple, list, dict or model output."""
    if isinstance(value, Tensor):
        return value
    items = (
        value.values()
        if hasattr(value, "values")
        else value
        if isinstance(value, tuple | list)
        else ()
    )
    return next((found for item in items if (found := first_tensor(item)) is not None), None)


def record_forward(
    module: nn.Module,
    ids: tuple[int, ...],
    options: frozenset[str],
    *,
    meta: bool,
    graph: Graph | None = None,
) -> ForwardRecord:
    """Run the model once and note down everything; with `meta`, its shapes alone. `graph` is filled on the way.

    Raises:
        LensError: it does not run, or does not give logits for every position.
    """
    rows = torch.tensor([ids[:6], [*ids[:5], ids[6]]])
    device = torch.device("meta") if meta else next(module.parameters()).device
    kwargs: dict[str, Any] = {"input_ids": rows.to(device)}
    if "use_cache" in options:
        kwargs["use_cache"] = False

    run = ForwardRecord(None, [], {}, {}, [], set())
    stack: list[nn.Module] = []
    ops = _Operations(run, stack, _outside_of_lists(module), graph)

    def before(m: nn.Module, args: tuple, kw: dict) -> None:
        run.inputs[m] = first_tensor(args) if first_tensor(args) is not None else first_tensor(kw)
        run.events.append(("begin", m))
        stack.append(m)
        if graph is not None:
            graph.begin(m, args, kw)

    def after(m: nn.Module, args: tuple, kw: dict, out: Any) -> None:
        stack.pop()
        run.calls.append(m)
        run.outputs[m] = first_tensor(out)
        if isinstance(out, tuple | list):
            run.in_tuple.add(m)
        run.events.append(("end", m))
        if graph is not None:
            graph.end(m, out)

    shapes_only = _shapes_only(module) if meta else contextlib.nullcontext()
    # A caller may be in inference mode, where operations are not the same: `to` would be one of no module.
    with torch.inference_mode(False), _hooks(module, before, after), torch.no_grad(), shapes_only:
        try:
            with ops:
                out = module(**kwargs)
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise LensError(
                f"{type(module).__name__} did not run on six token ids: {type(error).__name__}: {why}"
            ) from error
    run.logits = getattr(out, "logits", None) if not isinstance(out, tuple) else out[0]
    if run.logits is None:
        raise LensError(
            f"{type(module).__name__} gives no logits (it has no unembedding): load the model with its "
            "language-model head, for example through load(source)."
        )
    if not isinstance(run.logits, Tensor):
        raise LensError(
            f"{type(module).__name__} gives a {type(run.logits).__name__} as its logits, where a tensor [prompt, "
            "position, vocabulary] is expected: its unembedding returns something else than logits."
        )
    if run.logits.ndim != 3 or run.logits.shape[:2] != rows.shape:
        raise LensError(
            f"{type(module).__name__} gives {list(run.logits.shape)} for 2 prompts of 6 tokens, where a language-model "
            "head gives [2, 6, vocabulary]: it does not predict the next token."
        )
    return run


class _Operations(TorchDispatchMode):
    """Notes the operations between modules. (Those inside blocks would keep every intermediate tensor alive.)"""

    def __init__(
        self,
        run: ForwardRecord,
        stack: list[nn.Module],
        outside: set[nn.Module],
        graph: Graph | None,
    ) -> None:
        super().__init__()
        self.run, self.stack, self.outside, self.graph = run, stack, outside, graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return (
                0.0 if args[0].is_floating_point() else 0
            )  # shapes only: the model asked for a value
        out = func(*args, **(kwargs or {}))
        if all(m in self.outside for m in self.stack):
            self.run.events.append(("op", func, args, kwargs or {}, out))
        if self.graph is not None:
            self.graph.operation(func, args, kwargs or {}, out)
        return out


def _outside_of_lists(module: nn.Module) -> set[nn.Module]:
    """The modules around the outermost lists of modules: around the blocks, wherever those will turn out to be."""
    lists = outermost_lists(module)
    return {
        m
        for path, m in module.named_modules()
        if any(f"{inner}.".startswith(f"{path}." if path else "") for inner, _ in lists)
        and m not in [child for _, child in lists]
    }


def outermost_lists(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Lists of modules that are not inside another such list: blocks, not the experts in a block."""
    found: list[tuple[str, nn.Module]] = []
    for path, child in module.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) and not inside:
            found.append((path, child))
    return found


@contextlib.contextmanager
def _shapes_only(module: nn.Module) -> Iterator[None]:
    """Run a model that has no weights: every operation gives a tensor of the right shape and no values.

    A skeleton may stand in training mode, with dropout where the server's model has none; and without values torch's
    grouped product, which experts run in, is there for bfloat16 alone.
    """
    training = [m for m in module.modules() if m.training]
    grouped = [c for c in configs_of(module) if getattr(c, _EXPERTS, None) == "grouped_mm"]
    for m in training:
        m.training = False
    for config in grouped:
        setattr(config, _EXPERTS, "batched_mm")
    try:
        with FakeTensorMode(
            allow_non_fake_inputs=True, shape_env=ShapeEnv(assume_static_by_default=True)
        ):
            yield
    finally:
        for m in training:
            m.training = True
        for config in grouped:
            setattr(config, _EXPERTS, "grouped_mm")


_EXPERTS = "_experts_implementation_internal"


def configs_of(module: nn.Module) -> list[Any]:
    """Every config in a model, each once."""
    found = {
        id(config): config
        for m in module.modules()
        if (config := getattr(m, "config", None)) is not None
    }
    return list(found.values())


@contextlib.contextmanager
def _hooks(module: nn.Module, before: Any, after: Any) -> Iterator[None]:
    handles = []
    for child in module.modules():
        handles.append(child.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(child.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plain_ids(config: Any, vocab_size: int) -> tuple[int, ...]:
    """Seven ids without a meaning of their own (an image token without an image is an error)."""
    top = config.to_dict() if hasattr(config, "to_dict") else {}
    parts = [top, *(value for value in top.values() if isinstance(value, dict))]
    ends = ("token_id", "token_index")
    special = {
        v for part in parts for k, v in part.items() if str(k).endswith(ends) and type(v) is int
    }
    plain = [i for i in range(vocab_size) if i not in special] or list(range(vocab_size))
    return tuple((plain[:21:3] * 7)[:7])
