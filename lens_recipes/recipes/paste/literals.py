"""The one gate into a script: what stands in it is code of ours, or a literal of Python.

The name of a folder, a number of a config or the name of a module was chosen by somebody else, and
the user runs the script. The templates print nothing that is not `Code`: see `printed`.
"""

from __future__ import annotations

import keyword
import math
import re
from typing import Any

from markupsafe import Markup

# All other characters of a word in a comment or a docstring are written as question marks.
NOT_PLAIN = re.compile(r"[^A-Za-z0-9 .,:;/()_+-]")


class Code(str):
    """Source that may stand in a script as it is: of ours, with literals for whatever is not.

    Whatever is made of it, such as `code + "x"` or `f"{code}"`, is a `str` again, which a template
    does not print.
    """

    def __html__(self) -> str:
        """Return the source: jinja2 asks so whether a text may be printed as it is."""
        return str(self)


def literal(value: str | float) -> Code:
    r"""Write a text or a number that somebody else chose as Python that evaluates to it.

    What cannot be seen, turns text round or is no Unicode is written by number, so that the
    literal is one line of UTF-8. Quotes are double, as a formatter has them, where that takes no
    backslash.

    Raises:
        TypeError: the value is neither a text nor a number.

    >>> print(literal("Qwen/Qwen3-8B"), literal('x"#'), literal("\n\u202e\udcff"))
    "Qwen/Qwen3-8B" 'x"#' "\n\u202e\udcff"
    >>> print(literal(0.5), literal(-math.inf), literal(math.nan))
    0.5 float("-inf") float("nan")
    """
    if isinstance(value, str):
        return _text_literal(value)
    if isinstance(value, int):
        return Code(repr(int(value)))
    if isinstance(value, float):
        number = float(value)
        if math.isfinite(number):
            return Code(repr(number))
        return Code(f'float("{number}")')
    raise TypeError(f"{type(value).__name__} is neither a text nor a number.")


def _text_literal(text: str) -> Code:
    """Write a text as a literal of one line."""
    written = repr(str(text))
    if '"' in text:
        return Code(written)
    return Code(f'"{written[1:-1]}"')


def plain_words(text: str) -> Code:
    """Write words as a comment or a docstring can hold them: nothing in them ends it.

    >>> print(plain_words("LlamaForCausalLM"), plain_words('x\"\"\"#'))
    LlamaForCausalLM x????
    """
    return Code(NOT_PLAIN.sub("?", text))


def attribute_expression(owner: str, name: str) -> Code:
    """Write an attribute of an expression, whatever its name.

    Python reads a name that is not ASCII in its normal form, which may be another name.

    >>> print(attribute_expression("model", "norm"), attribute_expression("model", "a-b"))
    model.norm getattr(model, "a-b")
    """
    if name.isascii() and name.isidentifier() and not keyword.iskeyword(name):
        return Code(f"{owner}.{name}")
    return Code(f"getattr({owner}, {literal(name)})")


def printed(value: Any) -> Markup:
    """Return code as a template prints it; `Markup` is what templates have printed already.

    Raises:
        TypeError: the value did not pass the gate.
    """
    if isinstance(value, Code | Markup):
        return Markup(value)
    raise TypeError(f"{value!r} is no code: pass it through literal().")
