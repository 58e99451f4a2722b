"""Name arguments as the reader gave them: in Python, or as options of a command in a shell.

A sentence that says what to do is read by whoever called. In a shell there is no `layers=`, and no
`result` to call a method of.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SHOW_ONE = "one prompt: keep all with --json FILE, then lens-recipes show FILE --prompt 0"
RUN_AGAIN = "Run the command again."  # in a shell, which keeps no job

# The option of each argument, while a command of a shell runs; None in Python.
_options: ContextVar[Mapping[str, str] | None] = ContextVar("options", default=None)


@contextmanager
def in_a_shell(options: Mapping[str, str]) -> Iterator[None]:
    """Have sentences name options of a command instead of arguments.

    Args:
        options: The option of each argument, such as "--show-top" of "top_k".
    """
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


@contextmanager
def in_python() -> Iterator[None]:
    """Have sentences name arguments, also in a shell: of what no option of a command stands for."""
    token = _options.set(None)
    try:
        yield
    finally:
        _options.reset(token)


def say(*, python: str, shell: str) -> str:
    """Return the words for a reader in Python, or those for one in a shell."""
    return python if _options.get() is None else shell


def parameter(name: str) -> str:
    """Return the name of an argument as the reader knows it.

    >>> parameter("layers")
    'layers'
    >>> with in_a_shell({"layers": "--layers"}):
    ...     parameter("layers")
    '--layers'
    """
    options = _options.get()
    if options is None:
        return name
    return options.get(name, name)


def argument(name: str, value: Any) -> str:
    """Return an argument with its value, as the reader writes it.

    >>> argument("layers", [0, 3])
    'layers=[0, 3]'
    >>> with in_a_shell({"layers": "--layers"}):
    ...     argument("layers", [0, 3]), argument("layers", slice(2, 5)), argument("k", 3)
    ('--layers 0,3', '--layers 2:5', 'k=3')
    """
    options = _options.get()
    if options is None or name not in options:
        return f"{name}={value!r}"
    return f"{options[name]} {_in_a_shell(value)}"


def advised(name: str, value: Any) -> str:
    """Return an argument with a value that is advised: in Python in double quotation marks.

    >>> advised("unit", "head")
    'unit="head"'
    >>> with in_a_shell({"unit": "--unit"}):
    ...     advised("unit", "head")
    '--unit head'
    """
    options = _options.get()
    if options is None or name not in options:
        return f"{name}={repr(value).replace(chr(39), chr(34))}"
    return argument(name, value)


def _in_a_shell(value: Any) -> str:
    """Return a value as it is typed in a shell."""
    if isinstance(value, slice):
        bounds = (value.start, value.stop, value.step)
        parts = ["" if bound is None else str(bound) for bound in bounds]
        return ":".join(parts if value.step is not None else parts[:2])
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = ",".join(str(item) for item in value)
    text = str(value)
    quoted = shlex.quote(text)
    return f'"{text}"' if quoted != text and not set('"\\$`!') & set(text) else quoted
