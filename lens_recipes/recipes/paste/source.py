"""Write the stream of one model, and its way to the logits, as Python expressions.

Everything is read off a skeleton, a model without weights. Nothing is guessed: a model that
`anatomy` or `residual_blocks` refuse gets no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from nnsight.intervention.envoy import Envoy

from lens_recipes.errors import LensError
from lens_recipes.models.handle import envoy_path, on_meta
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.structure.record.probe import record_forward
from lens_recipes.recipes.paste.expressions import (
    Statement,
    arithmetic_expression,
    changes_nothing,
    module_expression,
    softcap_expression,
)
from lens_recipes.recipes.paste.literals import Code
from lens_recipes.recipes.paste.norm import Norm, identify_norm
from lens_recipes.trace.operations import (
    Elementwise,
    ModuleCall,
    Operation,
    is_norm_call,
    split_at_unembedding,
)


class LinearHead(NamedTuple):
    """The way from the stream to the logits, as far as an attribution has to know it.

    Attributes:
        norm_name: The final norm as an expression; empty where there is none.
        norm: Which norm it is; None where there is none.
        unembedding: From the normed stream to the logits before a softcap.
        has_bias: Whether the unembedding, or something beside it, adds a constant.
        softcap: What the model does to the logits in the end; empty in most models.
    """

    norm_name: str
    norm: Norm | None
    unembedding: list[Statement]
    has_bias: bool
    softcap: list[Statement]


class ModelSource:
    """One model in expressions of a script, in which it is called `model`.

    Attributes:
        model: The skeleton.
        anatomy: Where it keeps its parts.
        modules: Its modules by path.
        record: What its modules took and returned in a trial run.
    """

    def __init__(self, model: Envoy) -> None:
        self.model = model
        self.anatomy = anatomy(model)
        self.record = record_forward(
            model._module,
            self.anatomy.plain_ids,
            self.anatomy.forward_options,
            meta=on_meta(model),
        )
        named_modules = model._module.named_modules()
        self.modules = {envoy_path(name): module for name, module in named_modules}

    @property
    def _first_block(self) -> str:
        """Return the path of the first block that runs."""
        return self.anatomy.block(self.anatomy.layers[0])

    # -- the stream ----------------------------------------------------

    def block(self, layer: int | str) -> Code:
        """Write a block; `layer` may be the name of a variable."""
        return Code(f"{module_expression(self.anatomy.blocks)}[{layer}]")

    def stream(self, layer: int | str) -> Code:
        """Write the stream after a block, `[batch, position, d_model]`."""
        return Code(self.block(layer) + self.output(self._first_block))

    def put_stream(self, layer: int | str) -> Code:
        """Write the line that lets a model go on with the variable `stream` after a block."""
        block = self.block(layer)
        if self._returns_tuple(self._first_block):
            return Code(f"{block}.output = (stream, *{block}.output[1:])")
        return Code(f"{block}.output = stream")

    @property
    def last_stream(self) -> Code:
        """Write the stream after the last block."""
        return self.stream(self.anatomy.last_layer)

    @property
    def output_note(self) -> Code:
        """Say what a block returns: scripts for older versions of transformers get it wrong."""
        if self.output(self._first_block) == ".output":
            return Code("A block returns a tensor: .output[0] would be batch row 0.")
        return Code("A block returns a tuple, with the stream first.")

    # -- from the stream to the logits ---------------------------------

    @property
    def head(self) -> list[Statement]:
        """Write what turns the variable `stream` into logits."""
        return self._statements(self.anatomy.tail, "stream")

    @cached_property
    def linear_head(self) -> LinearHead:
        """Write the same in the parts that an attribution needs.

        Raises:
            LensError: The way from the stream to the logits is not one norm and then linear.
        """
        before, linear, softcap = split_at_unembedding(self.anatomy.tail)
        norm_call = self._only_norm(before)
        operations = [*before, *linear]
        norm_name, norm = "", None
        if norm_call is not None:
            norm_name = module_expression(norm_call.path)
            norm = identify_norm(self.modules[norm_call.path], self.anatomy.d_model)
            operations.remove(norm_call)
        self._refuse_nonlinear_modules(operations)
        return LinearHead(
            norm_name,
            norm,
            self._statements(operations, "normed"),
            any(self._adds_constant(operation) for operation in operations),
            self._statements(softcap, "lens_logits"),
        )

    def _only_norm(self, before: Sequence[Operation]) -> ModuleCall | None:
        """Return the call of the norm before the unembedding, None where there is none.

        Raises:
            LensError: There are several, or something stands before it.
        """
        norm_calls = [
            operation
            for operation in before
            if isinstance(operation, ModuleCall) and operation.is_norm
        ]
        if not norm_calls:
            return None
        if len(norm_calls) > 1 or before[0] != norm_calls[0]:
            raise LensError(
                f"{self.anatomy.family}: between the stream and the unembedding stands more than "
                "one norm, or something before it, which a short script cannot hold at its value. "
                "lens_recipes.attribution() can."
            )
        return norm_calls[0]

    def _refuse_nonlinear_modules(self, operations: Sequence[Operation]) -> None:
        """Raise LensError if one of the modules is more than a matrix."""
        for operation in operations:
            if isinstance(operation, ModuleCall):
                module = self.modules[operation.path]
                if list(module.children()):
                    raise LensError(
                        f"{self.anatomy.family}: its logits pass through a "
                        f"{type(module).__name__}, which is more than a matrix, so a logit has no "
                        'parts. paste("components", …) works.'
                    )

    def _adds_constant(self, operation: Operation) -> bool:
        """Return whether an operation moves zero: by a bias, or by adding a number."""
        if isinstance(operation, ModuleCall):
            return getattr(self.modules[operation.path], "bias", None) is not None
        if isinstance(operation, Elementwise):
            return operation.name not in ("mul", "div", "neg")
        return False

    def _statements(self, operations: Sequence[Operation], name: str) -> list[Statement]:
        """Write operations on the variable `name` as statements.

        A norm has no line of its own: it stands within the operation after it. The three
        operations of a softcap are one line, too.
        """
        remaining = [operation for operation in operations if not changes_nothing(operation)]
        statements = []
        while remaining:
            softcap = softcap_expression(remaining[:3], name)
            if softcap is not None:
                statement = Statement(name, softcap, "the softcap")
                remaining = remaining[3:]
            elif len(remaining) > 1 and is_norm_call(remaining[0]):
                normed = self.applied(remaining[0], name)
                statement = self._statement(remaining[1], "normed", normed)
                statement = statement._replace(comment=f"the norm, then {statement.comment}")
                remaining = remaining[2:]
            else:
                statement = self._statement(remaining[0], name, name)
                remaining = remaining[1:]
            statements.append(statement)
            name = statement.name
        return statements

    def _statement(self, operation: Operation, name: str, argument: str) -> Statement:
        """Write one operation as a statement; `name` is for a result that has no better name."""
        value = self.applied(operation, argument)
        if isinstance(operation, ModuleCall):
            if operation.path == self.anatomy.unembed:
                return Statement("logits", value, "the unembedding")
            return Statement("projected", value, "a projection")
        if isinstance(operation, Elementwise) and operation.name in ("mul", "div"):
            return Statement(name, value, "a scale of this model")
        return Statement(name, value, "what this model does")

    def applied(self, operation: Operation, argument: str) -> str:
        """Write an operation applied to an expression."""
        if isinstance(operation, ModuleCall):
            call = f"{module_expression(operation.path)}({argument})"
            if self._returns_tuple(operation.path):
                return f"{call}[0]"
            return call
        return arithmetic_expression(operation, argument)

    # -- modules -------------------------------------------------------

    def output(self, path: str) -> str:
        """Write the attribute of a module that holds the tensor it returns."""
        if self._returns_tuple(path):
            return ".output[0]"
        return ".output"

    def _returns_tuple(self, path: str) -> bool:
        """Return whether a module returns its tensor inside a tuple."""
        return self.modules[path] in self.record.in_tuple
