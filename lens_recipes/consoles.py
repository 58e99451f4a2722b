"""Rich consoles whose text is wanted as text."""

from __future__ import annotations

import io

from rich.console import Console


def kept(width: int) -> Console:
    """A console that keeps what is printed to it, without colours; in a notebook too, where rich would show it."""
    return Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, force_jupyter=False)


def plain(console: Console) -> str:
    """What was printed to a `kept` console, without the blanks at the ends of lines."""
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)
