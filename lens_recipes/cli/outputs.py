"""Where results go: paths are checked before the model is loaded, and written after the run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from lens_recipes.terminal import escape_terminal

PAGE_SUFFIXES = (".html", ".htm")
RESULT_SUFFIXES = (".json", ".npz")
STDOUT = "-"
PIPE_WIDTH = 250  # columns


# -- before the run ----------------------------------------------------


def check_outputs(html: Path | None, json_path: str | None, *, folder: bool = False) -> None:
    """Refuse a path that cannot be written.

    Args:
        html: Where a page goes, if anywhere.
        json_path: Where the result goes, if anywhere; "-" is stdout.
        folder: Whether an `html` that does not end in .html is a folder.
    """
    if str(html) == STDOUT:
        raise typer.BadParameter(
            "figures are not written to stdout: name a file.", param_hint="--html"
        )
    check_distinct({"--html": html, "--json": json_path})
    if html is not None:
        is_page = html.suffix.lower() in PAGE_SUFFIXES
        check_writable(html, "--html", folder=folder and not is_page)
    if json_path is not None and json_path != STDOUT:
        path = Path(json_path)
        if path.suffix not in RESULT_SUFFIXES:
            raise typer.BadParameter(
                f"{json_path!r} must end in .json or .npz, or be - for stdout.", param_hint="--json"
            )
        check_writable(path, "--json")


def check_distinct(paths: Mapping[str, Path | str | None]) -> None:
    """Refuse two options that name the same file; "FILE" is the one that is read."""
    taken: dict[Path, str] = {}
    for option, path in paths.items():
        if path is None or path == STDOUT:
            continue
        place = Path(os.path.realpath(path))  # not resolve(): it fails at a link to itself
        if place not in taken:
            taken[place] = option
            continue
        owner = f"where {taken[place]} goes, too"
        if taken[place] == "FILE":
            owner = "the result itself"
        raise typer.BadParameter(f"{str(path)!r} is {owner}: name another file.", param_hint=option)


def check_writable(path: Path, option: str, *, folder: bool = False) -> None:
    """Refuse a path at which no file, or with `folder` no folder, can be written."""
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(path.parent)!r}.", param_hint=option)
    if folder and path.exists() and not path.is_dir():
        raise typer.BadParameter(
            f"{str(path)!r} is a file; name a folder, or a file in .html.", param_hint=option
        )
    if not folder and path.is_dir():
        raise typer.BadParameter(
            f"{str(path)!r} is a folder; name a file in it.", param_hint=option
        )
    parent = path.parent
    if folder and path.is_dir():
        parent = path
    if not os.access(parent, os.W_OK):
        raise typer.BadParameter(
            f"nothing may be written to the folder {str(parent)!r}.", param_hint=option
        )


# -- after the run -----------------------------------------------------


def stdout_console(width: int | None = None) -> Console:
    """Return a console on stdout; in a file or a pipe, lines are not cut to a terminal's width."""
    if width is None and not sys.stdout.isatty():
        width = PIPE_WIDTH
    from lens_recipes.views.tables.console import open_console

    return open_console(width=width)


def write_for_programs(text: str) -> None:
    """Write to stdout what a program reads: in UTF-8 whatever the console, and nothing replaced."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:  # no file at all, as in a notebook
        print(text, end="")
        return
    sys.stdout.flush()
    raw.write(text.encode("utf-8", "backslashreplace"))
    raw.flush()


def write_outputs(
    result: Any,
    figure: Any,
    html: Path | None,
    json_path: str | None,
    *,
    offline: bool,
    n_prompts: int = 1,
    n_targets: int = 1,
) -> None:
    """Write the files that were asked for, and note them on stderr.

    Args:
        result: What a recipe returned.
        figure: Its figure, of the first prompt and target; None if `html` is None.
        html: Where the figure goes, if anywhere.
        json_path: Where the result goes, if anywhere; "-" is stdout.
        offline: Whether plotly.js is put into the figure's file.
        n_prompts: How many prompts there are of which the figure shows the first.
        n_targets: How many targets there are of which the figure shows the first.
    """
    from lens_recipes import write_html

    write_json(result, json_path)
    if html is not None:
        write_html(figure, html, offline=offline)
        note_truncated(n_prompts, "prompts")
        note_truncated(n_targets, "targets")
    note_written([html, json_path])


def write_json(result: Any, json_path: str | None) -> None:
    """Write the whole result where `--json` asks for it, if anywhere."""
    from lens_recipes.views.files import as_json

    if json_path == STDOUT:
        write_for_programs(as_json(result) + "\n")
    elif json_path is not None:
        result.save(json_path)


def attribution_figure(result: Any, *, prompt: int | None = None) -> Any:
    """Return the figure that suits the unit: bars, for heads a grid, for tokens a map.

    Without a prompt the bars are means over all prompts, and the others are of the first one.
    """
    from lens_recipes import attribution_bars, head_grid, source_map

    if result.unit == "head":
        return head_grid(result, prompt=prompt or 0)
    if result.unit == "token":
        return source_map(result, prompt=prompt or 0)
    return attribution_bars(result, prompt=prompt)


def prompts_of_figure(result: Any, prompt: int | None = None) -> int:
    """Return of how many prompts the figure of an attribution shows the first."""
    if prompt is not None or result.unit in ("layer", "component"):
        return 1
    return len(result)


def note_truncated(count: int, name: str) -> None:
    """Note on stderr that a figure shows the first of several prompts or targets."""
    if count > 1:
        print(f"the figure shows the first of {count} {name}", file=sys.stderr)


def note_written(paths: Iterable[Path | str | None]) -> None:
    """Note on stderr which files were written."""
    for path in paths:
        if path is not None and path != STDOUT:
            print(escape_terminal(f"wrote {path}"), file=sys.stderr)
