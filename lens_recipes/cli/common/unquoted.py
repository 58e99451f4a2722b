"""Notice prompts that were typed without quotation marks: a shell makes a prompt of each word."""

from __future__ import annotations

import re
import shlex
import sys

SAFE_WORD = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


def warn_of_unquoted(prompts: list[str]) -> None:
    """Say on stderr that several prompts are one word each, and what to type for one prompt."""
    are_words = all(prompt and not any(map(str.isspace, prompt)) for prompt in prompts)
    if len(prompts) < 2 or not are_words:
        return
    command = quoted_command(sys.argv[1:], prompts)
    print(
        f"note: these are {len(prompts)} prompts of one word each, as they were typed without "
        f"quotation marks. As one prompt: {command}",
        file=sys.stderr,
    )


def quoted_command(arguments: list[str], prompts: list[str]) -> str:
    """Return the command with all prompts joined to one, in quotation marks.

    >>> quoted_command(["logit-lens", "Hello", "big", "world", "--raw"], ["Hello", "big", "world"])
    'lens-recipes logit-lens "Hello big world" --raw'
    """
    words = ["lens-recipes"]
    left = list(prompts)
    for argument in arguments:
        if left and argument == left[0]:
            if len(left) == len(prompts):
                words.append(quoted(" ".join(prompts), always=True))
            left.pop(0)
        else:
            words.append(quoted(argument))
    return " ".join(words)


def quoted(text: str, *, always: bool = False) -> str:
    """Return a text as a shell takes it: as it is, or in the quotation marks that read best."""
    if SAFE_WORD.fullmatch(text) and not always:
        return text
    if not re.search(r'["\\$`!]', text):
        return f'"{text}"'
    return shlex.quote(text)
