"""Write the parts of a script that differ from model to model in more than a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lens_recipes.recipes.paste.expressions import layers_expression
from lens_recipes.recipes.paste.literals import Code, literal
from lens_recipes.recipes.paste.norm import Norm
from lens_recipes.recipes.paste.source import LinearHead, ModelSource
from lens_recipes.recipes.paste.writes import AlikeBlocks, BlockWrites

INDENT = "    "


def to_logits_function(source: ModelSource) -> Code:
    """Write the function that takes the stream to logits."""
    *assignments, result = source.head
    body: list[str] = [*(statement.assigned() for statement in assignments), result.returned()]
    shape = f"[batch, position, {source.anatomy.d_model}]"
    purpose = f"Return the logits of a stream {shape}"
    if source.anatomy.norm is not None:
        purpose += "; without the norm they are noise"
    return _function("to_logits(stream)", f"{purpose}.", _without_gradients(body))


def bends_logits(source: ModelSource) -> bool:
    """Return whether a softcap stands behind the unembedding: it bends all but small logits."""
    return any("tanh" in statement.assigned() for statement in source.head)


def write_lines(writes: BlockWrites, target: str) -> Code:
    """Write lines that read what `block`, the block of `layer`, adds to the stream.

    Args:
        writes: What the blocks of the model add.
        target: To what each tensor is assigned, with NAME for its component: `added["NAME"]`.
    """
    groups = writes.alike_blocks
    if len(groups) == 1:
        return Code("\n".join(_assigned_writes(groups[0], target)))
    lines = []
    for index, group in enumerate(groups):
        lines.append(_condition(index, groups))
        lines.extend(_indented(_assigned_writes(group, target)))
    return Code("\n".join(lines))


def _assigned_writes(group: AlikeBlocks, target: str) -> list[str]:
    """Write one assignment for each component of blocks that are read in the same way."""
    return [f"{target.replace('NAME', write.name)} = {write.value}" for write in group.writes]


def _condition(index: int, groups: Sequence[AlikeBlocks]) -> str:
    """Write the line that chooses one of several groups of blocks; the last takes the rest."""
    if index == len(groups) - 1:
        return "else:"
    keyword = "if" if index == 0 else "elif"
    return f"{keyword} layer in {layers_expression(groups[index].layers)}:"


class AttributionCode(NamedTuple):
    """What the script of an attribution says of the way to the logits.

    Attributes:
        functions: The functions `norm_size`, `unembed` and `share`.
        logits: The logits of the variable `stream`, before a softcap.
        bias: Lines that add the biases to the dict `shares`; empty where there are none.
        softcap: Lines that apply the softcap to the variable `lens_logits`; empty without one.
    """

    functions: Code
    logits: Code
    bias: list[Code]
    softcap: list[Code]


def attribution_code(source: ModelSource) -> AttributionCode:
    """Write what the script of an attribution says of the way to the logits.

    Raises:
        LensError: The way from the stream to the logits is not one norm and then linear.
    """
    head = source.linear_head
    functions = [_unembed_function(head), _share_function(head)]
    if head.norm is not None:
        functions.insert(0, _norm_size_function(head.norm))
    return AttributionCode(
        functions=Code("\n\n\n".join(functions)),
        logits=Code(f"unembed({_normed(head, 'stream')})"),
        bias=_bias_lines(head),
        softcap=[statement.assigned() for statement in head.softcap],
    )


def _norm_size_function(norm: Norm) -> str:
    """Write the function that computes by how much a norm divides."""
    if norm.centred:
        mean_square = "var(-1, correction=0, keepdim=True)"
    else:
        mean_square = "pow(2).mean(-1, keepdim=True)"
    result = f"return (vector.float().{mean_square} + {literal(norm.eps)}).sqrt()"
    return _function("norm_size(vector)", "Return by how much the final norm divides.", [result])


def _unembed_function(head: LinearHead) -> str:
    """Write the function that takes the normed stream to logits, as far as that is linear."""
    purpose = "Return the logits of the normed stream"
    if head.softcap:
        purpose += ", before the softcap"
    *assignments, result = head.unembedding
    body = [statement.assigned() for statement in assignments]
    body.append(result.as_float32().returned())
    return _function("unembed(normed)", f"{purpose}.", _without_gradients(body))


def _share_function(head: LinearHead) -> str:
    """Write the function that computes what a part of the stream adds to its logits.

    A norm that divides by the size of the whole stream is linear, but for its bias. The script
    takes the biases off each part and counts them once.
    """
    body = []
    if head.norm is None:
        normed = "part"
    elif head.norm.biased:
        body.append(f"bias = {head.norm_name}(0 * part)")
        body.append(f"normed = {head.norm_name}(part) - bias")
        normed = "normed * (norm_size(part) / norm_size(stream))"
    else:
        normed = f"{head.norm_name}(part) * (norm_size(part) / norm_size(stream))"
    if head.has_bias:
        body.append(f"normed = ({normed}).to(stream.dtype)")
        body.append("return unembed(normed) - unembed(0 * normed)  # without its bias")
    else:
        body.append(f"normed = {normed}")
        body.append("return unembed(normed.to(stream.dtype))")
    purpose = "Return what a part adds to the logits, with the norm held at the stream's size."
    return _function("share(part, stream)", purpose, body)


def _bias_lines(head: LinearHead) -> list[Code]:
    """Write the lines that add the biases of norm and unembedding to the dict `shares`."""
    has_norm_bias = head.norm is not None and head.norm.biased
    if not has_norm_bias and not head.has_bias:
        return []
    bias = f"unembed({_normed(head, '0 * stream')})"
    comment = Code("# The bias of norm and unembedding.")
    return [comment, Code(f'shares["bias"] = logit_diff({bias})')]


def _normed(head: LinearHead, argument: str) -> str:
    """Write the final norm of an expression; the expression itself where there is no norm."""
    if head.norm is None:
        return argument
    return f"{head.norm_name}({argument})"


def _function(signature: str, purpose: str, body: Sequence[str]) -> Code:
    """Write a function with a docstring of one line."""
    return Code("\n".join([f"def {signature}:", *_indented([f'"""{purpose}"""', *body])]))


def _without_gradients(body: Sequence[str]) -> list[str]:
    """Write lines inside a `no_grad`: one around the trace does not travel to a server."""
    return ["with torch.no_grad():  # a trace on a server has gradients on", *_indented(body)]


def _indented(lines: Sequence[str]) -> list[str]:
    return [INDENT + line for line in lines]
