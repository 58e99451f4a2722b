"""What typer says of a value that an option does not take, in plain words."""

from __future__ import annotations

import re

# Newer releases of typer quote pydantic, which writes for programmers.
REPLACED = (
    (re.compile(r"^Value error, "), ""),
    (re.compile(r"^Input should be greater than or equal to (\S+)$"), r"it must be at least \1."),
    (re.compile(r"^Input should be less than or equal to (\S+)$"), r"it must be at most \1."),
    (re.compile(r"^Input should be a valid integer\b.*"), "this is not a valid integer."),
    (
        re.compile(r"^Got unexpected extra argument\S* \((.*)\)$"),
        r"unexpected extra argument: \1. Put a text of several words in quotation marks.",
    ),
    (re.compile(r"^Input should be a valid number\b.*"), "this is not a valid number."),
)


def in_plain_words(message: str) -> str:
    """Return a message about the value of an option without words for programmers.

    >>> in_plain_words("Value error, 'x' is not one of 'a', 'b'.")
    "'x' is not one of 'a', 'b'."
    >>> in_plain_words("Input should be greater than or equal to 1")
    'it must be at least 1.'
    """
    for pattern, words in REPLACED:
        message = pattern.sub(words, message)
    return message
