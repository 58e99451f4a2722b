"""Print tokens as they come, coloured on a terminal by the layer at which they were settled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text
from tqdm import tqdm

from lens_recipes.models.tokens.vocabulary import Decoder
from lens_recipes.terminal import escape_terminal


class Band(NamedTuple):
    """The colour of tokens that settle within the first layers, up to a share of those read."""

    share: float
    color: str


BANDS = (Band(0.5, "cyan"), Band(0.75, "green"), Band(1.0, "yellow"))
LAST = "red"  # at the last layer only
NEVER = "magenta"  # not the model's first choice: the sampler took it


class Stream:
    """A callback for `on_step` that prints each token; as a context, it ends the line it began.

    Without a console nothing is printed. Where nobody can see the text grow, a bar on stderr shows
    the progress.
    """

    def __init__(self, tokenizer: Any, console: Console | None, max_new_tokens: int) -> None:
        self.decoder = Decoder(tokenizer)
        self.console = console
        self.is_watched = console is not None and console.is_terminal
        self.progress = tqdm(
            total=max_new_tokens,
            desc="generating",
            unit="token",
            leave=False,
            disable=self.is_watched or not sys.stderr.isatty(),
            file=sys.stderr,
        )
        self.colors: list[str] = []
        self.line_is_open = False

    def __enter__(self) -> Stream:
        return self

    def __call__(self, step: Any) -> None:
        """Print the token of one step, a lens result of one token."""
        color = self._color(step)
        self._print(self.decoder.add(step.tokens.next_id[0]), color)
        self.progress.update()

    def __exit__(self, *error: object) -> None:
        self.progress.close()
        self._print(self.decoder.rest())
        if self.line_is_open:
            self._print("\n")

    def _print(self, text: str, color: str | None = None) -> None:
        if self.console is None or not text:
            return
        try:
            self.console.out(escape_terminal(text), style=color, end="", highlight=False)
            self.line_is_open = not text.endswith("\n")
        except OSError:
            # Nobody reads any more (a closed pipe, a full disk); the result is still written.
            self.console = None

    def _color(self, step: Any) -> str | None:
        """Return the colour of a token, or None without colours or an order of settling."""
        from lens_recipes.arrays.generation import settling

        if not self.is_watched or self.console is None:
            return None
        sites = settling(step)
        if not sites:
            return None
        if not self.colors:
            self.colors = colors_by_layer(len(sites))
            names = [str(step.sites[site]) for site in sites]
            self.console.print(legend(names, self.colors), soft_wrap=True)
        settled_site = int(step.settled("next")[0])
        if settled_site < 0:
            return NEVER
        return self.colors[sites.index(settled_site)]


def colors_by_layer(n_layers: int) -> list[str]:
    """Return the colour of each layer.

    >>> colors_by_layer(4)
    ['cyan', 'cyan', 'green', 'red']
    """
    colors = []
    for layer in range(n_layers - 1):
        colors.append(next(band.color for band in BANDS if layer < band.share * n_layers))
    return [*colors, LAST]


def legend(sites: list[str], colors: list[str]) -> Text:
    """Say which colour stands for which layers."""
    line = Text("settled at layer ")
    for color in dict.fromkeys(colors):
        members = [site for site, other in zip(sites, colors, strict=True) if other == color]
        first, last = members[0], members[-1]
        line.append(first if first == last else f"{first}–{last}", color).append("  ")
    return line.append("not the model's first choice", NEVER)


@contextlib.contextmanager
def defer_stderr() -> Iterator[Callable[[str], None]]:
    """Hold back what libraries print on stderr, and yield a function that prints before it.

    Not on a terminal, where libraries show their progress.
    """
    stderr = sys.stderr
    if stderr.isatty():
        yield partial(print, file=stderr)
        return
    deferred = DeferredStream(stderr)
    sys.stderr = deferred
    try:
        yield partial(print, file=stderr)
    finally:
        sys.stderr = stderr
        deferred.release()


class DeferredStream:
    """A stream that holds text back until it is released, and writes at once from then on.

    A logger may keep it for good.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.waiting: list[str] = []
        self.is_released = False

    def write(self, text: str) -> int:
        """Write text, or keep it until the release."""
        if self.is_released:
            return self.stream.write(text)
        self.waiting.append(text)
        return len(text)

    def release(self) -> None:
        """Write what was held back."""
        self.is_released = True
        self.stream.write("".join(self.waiting))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
