"""Tokens on stdout as they come, coloured on a terminal by the layer at which they were settled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from lens_recipes.arrays.text import escape_terminal
from lens_recipes.models.vocabulary import Decoder

# How early a token was settled, of the layers that were read: up to which share of them, and its colour.
BANDS = ((0.5, "cyan"), (0.75, "green"), (1.0, "yellow"))

LAST = "red"  # at the last layer only

NEVER = "magenta"  # not the model's first choice: the sampler took it


class Stream:
    """Prints each part that `generate_lens` gives to `on_step`; as a context, it ends what it has begun.

    Without a console nothing is printed. Where nobody can see the text grow, a bar on stderr says how far it is.
    """

    def __init__(self, tokenizer: Any, console: Console | None, most: int) -> None:
        self.decoder, self.console, self.most = Decoder(tokenizer), console, most
        self.seen = console is not None and console.is_terminal
        self.styles: list[str] = []
        self.open_line = False

    def __enter__(self) -> Stream:
        hidden = self.seen or not sys.stderr.isatty()
        self.bar = tqdm(
            total=self.most,
            desc="generating",
            unit="token",
            leave=False,
            disable=hidden,
            file=sys.stderr,
        )
        return self

    def __call__(self, part: Any) -> None:
        """One more token."""
        style = self._style(part)
        self._say(self.decoder.add(part.tokens.next_id[0]), style)
        self.bar.update()

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        self._say(self.decoder.rest(), None)
        if self.open_line:
            self._say("\n", None)

    def _say(self, text: str, style: str | None) -> None:
        if self.console is None or not text:
            return
        try:
            self.console.out(escape_terminal(text), style=style, end="", highlight=False)
            self.open_line = not text.endswith("\n")
        except OSError:  # nobody reads any more (a closed pipe, a full disk): the result is still made and written
            self.console = None

    def _style(self, part: Any) -> str | None:
        """The colour of a token; None where there are no colours, or no order in which layers settle."""
        from lens_recipes.arrays.generation import settling

        if not self.seen or self.console is None or not (line := settling(part)):
            return None
        if not self.styles:
            self.styles = bands(len(line))
            self.console.print(legend([part.sites[s] for s in line], self.styles), soft_wrap=True)
        site = int(part.settled("next")[0])
        return self.styles[line.index(site)] if site >= 0 else NEVER


def bands(n: int) -> list[str]:
    """The colour of each of `n` layers.

    >>> bands(4)
    ['cyan', 'cyan', 'green', 'red']
    """
    return [next(color for share, color in BANDS if i < share * n) for i in range(n - 1)] + [LAST]


def legend(sites: list[Any], styles: list[str]) -> Text:
    """Which colour stands for which layers."""
    line = Text("settled at layer ")
    for style in dict.fromkeys(styles):
        first, *_, last = [
            str(site) for site, other in zip(sites, styles, strict=True) if other == style
        ] * 2
        line.append(first if first == last else f"{first}–{last}", style).append("  ")
    return line.append("not the model's first choice", NEVER)


@contextlib.contextmanager
def defer_stderr() -> Iterator[Callable[[str], None]]:
    """What libraries say on stderr while a model is loaded waits, and comes after what is said with the function given.

    Not on a terminal: there, they show how far they are.
    """
    stderr = sys.stderr
    if stderr.isatty():
        yield partial(print, file=stderr)
        return
    held = _Held(stderr)
    sys.stderr = held
    try:
        yield partial(print, file=stderr)
    finally:
        sys.stderr = stderr
        held.release()


class _Held:
    """A stream that writes only when it is released, and at once from then on: a logger may keep it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.waiting: list[str] | None = []

    def write(self, text: str) -> int:
        if self.waiting is None:
            return self.stream.write(text)
        self.waiting.append(text)
        return len(text)

    def release(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        self.stream.write("".join(waiting))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
