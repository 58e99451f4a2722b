"""`open_console()`: a console of rich on which no text has an effect."""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from lens_recipes.terminal import escape_terminal


def open_console(**options: Any) -> Console:
    """Return a console that writes what a terminal would act on by number.

    Args:
        **options: What `rich.console.Console` takes.
    """
    console = Console(**options)
    console.push_render_hook(_EscapeText())
    return console


class _EscapeText(RenderHook):
    """Has all text escaped that a console prints."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return what is printed instead; rich calls this."""
        return [_Escaped(renderable) for renderable in renderables]


class _Escaped:
    """Something to print, whose text is escaped; the console's own controls are not."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the pieces of the text; rich calls this."""
        for segment in console.render(self._renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(escape_terminal(segment.text), segment.style)
