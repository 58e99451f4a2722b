"""Write modules, operations and layers as Python expressions of a script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lens_recipes.recipes.paste.literals import Code, attribute_expression, literal, plain_words
from lens_recipes.trace.operations import CastTo, Elementwise, KeepColumns, Operation

MAX_STATEMENT_WIDTH = 92  # in a script of 100 columns, in a block in a function

SIGNS = {"mul": "*", "div": "/", "add": "+", "sub": "-"}


class Statement(NamedTuple):
    """An assignment of a script, such as `logits = model.lm_head(normed)  # the unembedding`.

    Attributes:
        name: The variable that is assigned.
        value: The expression.
        comment: What it is, or nothing.
    """

    name: str
    value: str
    comment: str = ""

    def assigned(self) -> Code:
        """Write the line that assigns the value to the name."""
        return self._commented(f"{self.name} = {self.value}")

    def returned(self) -> Code:
        """Write the line that returns the value."""
        return self._commented(f"return {self.value}")

    def as_float32(self) -> Statement:
        """Return the statement with its value in float32."""
        value = self.value
        if " " in value:
            value = f"({value})"
        return self._replace(value=f"{value}.float()")

    def _commented(self, code: str) -> Code:
        """Write code with the comment, where both fit into a line."""
        line = f"{code}  # {plain_words(self.comment)}"
        if not self.comment or len(line) > MAX_STATEMENT_WIDTH:
            return Code(code)
        return Code(line)


def module_expression(path: str, model: str = "model") -> Code:
    """Write a module path as Python: `model.model.layers[3].mlp`."""
    expression = Code(model)
    for name in path.split("."):
        if re.fullmatch(r"0|[1-9][0-9]*", name):
            expression = Code(f"{expression}[{name}]")
        elif name:
            expression = attribute_expression(expression, name)
    return expression


def layers_expression(layers: Sequence[int]) -> Code:
    """Write ascending layers as Python: as a range where they are one, otherwise as a list."""
    layers = list(map(int, layers))
    first, end = layers[0], layers[-1] + 1
    if layers == list(range(first, end)) and len(layers) > 1:
        return Code(f"range({first}, {end})" if first else f"range({end})")
    if len(layers) > 2:
        step = layers[1] - first
        if layers == list(range(first, end, step)):
            return Code(f"range({first}, {end}, {step})")
    return Code(layers)


def arithmetic_expression(operation: Operation, argument: str) -> Code:
    """Write an operation that is not the call of a module as Python, applied to an expression.

    The argument is a name, a call, or anything else that needs no brackets beside an operator.
    """
    match operation:
        case CastTo(dtype):
            return Code(f"{argument}.to({attribute_expression('torch', dtype)})")
        case KeepColumns(n_columns):
            return Code(f"{argument}[..., :{literal(n_columns)}]")
        case Elementwise(name, [number]) if name in SIGNS:
            return Code(f"{argument} {SIGNS[name]} {literal(number)}")
        case Elementwise(name, numbers):
            arguments = ", ".join([argument, *map(literal, numbers)])
            return Code(f"{attribute_expression('torch', name)}({arguments})")
    raise TypeError(f"{operation} is the call of a module")


def softcap_expression(operations: Sequence[Operation], argument: str) -> Code | None:
    """Write three operations that are a softcap as one expression; None where they are not."""
    match list(operations):
        case [Elementwise("div", [inner]), Elementwise("tanh", []), Elementwise("mul", [outer])]:
            return Code(f"{literal(outer)} * torch.tanh({argument} / {literal(inner)})")
    return None


def changes_nothing(operation: Operation) -> bool:
    """Return whether an operation is a multiplication or a division by 1."""
    match operation:
        case Elementwise("mul" | "div", [1]):
            return True
    return False


def joined_words(words: Sequence[str]) -> Code:
    """Join words as a sentence does: "a, b and c"."""
    if len(words) == 1:
        return plain_words(words[0])
    return plain_words(f"{', '.join(words[:-1])} and {words[-1]}")
