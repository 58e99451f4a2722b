"""What the commands share: their options, the checks before a model is loaded, and where results go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

EXIT_STATUS = "Exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted."

# How `generate` generates where neither the caller nor the checkpoint's generation_config says anything.
FALLBACK = {"temperature": 0.7, "top_p": 0.95, "top_k": 5}

MAX_LENGTH = 1000


class Dtype(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help='Hub id, checkpoint folder, or "smollm2" (comes in a Python package).'
    ),
]

Prompts = Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One or several prompts.")]

Components = Annotated[
    str,
    typer.Option(
        help="What is read, with commas: resid_post, resid_mid, attn_out, mlp_out, head_out, embed, …"
    ),
]

Followed = Annotated[
    list[str] | None,
    typer.Option("--target", help="A token to follow through the layers; give it again for more."),
]

Offline = Annotated[
    bool, typer.Option("--offline", help="Put plotly.js into the HTML file (4.5 MB).")
]

Json = Annotated[
    str | None,
    typer.Option("--json", help="Write the whole result here; - for stdout, instead of the table."),
]

Precision = Annotated[
    Dtype | None,
    typer.Option("--dtype", help="Precision of the weights; default: the checkpoint's own."),
]

Remote = Annotated[
    bool, typer.Option("--remote", help="Run on an NDIF server; downloads no weights.")
]


# -- before the model --------------------------------------------------


def index(text: str, option: str) -> Any:
    """ "all", "-1", "0,3,-1" or "2:5" as what the recipes take."""
    if text == "all":
        return None
    try:
        if ":" in text:
            bounds = slice(*(int(part) if part.strip() else None for part in text.split(":")))
            range(0)[bounds]  # a step of 0 is none
            return bounds
        numbers = [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise typer.BadParameter(
            f'{text!r} is not "all", a number, numbers like 0,3,-1, or a range like 2:5.',
            param_hint=option,
        ) from None
    return numbers


def names(text: str) -> list[str]:
    """ "attn_out, mlp_out" as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def check_outputs(html: Path | None, json_path: str | None, *, folder: bool = False) -> None:
    """Refuse a path that could not be written before the model is loaded.

    Args:
        html: None, or where a page goes.
        json_path: None, "-", or where the result goes.
        folder: Whether an `html` that does not end in .html is a folder.
    """
    if str(html) == "-":
        raise typer.BadParameter(
            "figures are not written to stdout: name a file.", param_hint="--html"
        )
    check_apart({"--html": html, "--json": json_path})
    if html is not None:
        check_place(html, "--html", folder and html.suffix.lower() not in (".html", ".htm"))
    if json_path not in (None, "-"):
        path = Path(str(json_path))
        if path.suffix not in (".json", ".npz"):
            raise typer.BadParameter(
                f"{json_path!r} must end in .json or .npz, or be - for stdout.", param_hint="--json"
            )
        check_place(path, "--json")


def check_apart(files: dict[str, Path | str | None]) -> None:
    """Refuse two options that name one file."""
    taken: dict[Path, str] = {}
    for option, path in files.items():
        if path not in (None, "-") and taken.setdefault(Path(path).resolve(), option) != option:
            other = taken[Path(path).resolve()]
            where = "the result itself" if other == "FILE" else f"where {other} goes, too"
            raise typer.BadParameter(
                f"{str(path)!r} is {where}: name another file.", param_hint=option
            )


def check_place(path: Path, option: str, folder: bool = False) -> None:
    """Refuse a path that cannot be written."""
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
    place = path if folder and path.is_dir() else path.parent
    if not os.access(place, os.W_OK):
        raise typer.BadParameter(
            f"nothing may be written to the folder {str(place)!r}.", param_hint=option
        )


# -- the model and the result ------------------------------------------


def loaded(model: str, remote: bool, dtype: Dtype | None) -> Any:
    """The model that the options name."""
    from lens_recipes import load

    _quiet()
    return load(model, remote=remote, **({"dtype": dtype.value} if dtype else {}))


def _quiet() -> None:
    """transformers' progress bars are for a terminal; in a log they are one long line."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()


def output(width: int | None = None) -> Console:
    """Stdout, so many columns wide; in a file or a pipe lines are not cut to a terminal's width."""
    return Console(width=width if width or sys.stdout.isatty() else 250)


def write_json(result: Any, json_path: str | None) -> None:
    """The result where `--json` wants it, if anywhere."""
    from lens_recipes.views.files import as_json

    if json_path == "-":
        print(as_json(result))
    elif json_path is not None:
        result.save(json_path)


def attribution_figure(result: Any, **options: Any) -> Any:
    """The figure that suits what a logit was split into: bars, for heads a grid, for tokens a map."""
    from lens_recipes import attribution_bars, head_grid, source_map

    return {"head": head_grid, "token": source_map}.get(result.unit, attribution_bars)(
        result, **options
    )


def note_truncated(n: int, what: str) -> None:
    """On stderr, that a figure shows one of several `what`."""
    if n > 1:
        print(f"the figure shows the first of {n} {what}", file=sys.stderr)


def note_written(paths: Iterable[Path | str | None]) -> None:
    """What was written, on stderr."""
    for path in paths:
        if path not in (None, "-"):
            print(f"wrote {path}", file=sys.stderr)


def write_outputs(
    result: Any,
    figure: Any,
    html: Path | None,
    json_path: str | None,
    offline: bool,
    targets: int = 1,
) -> None:
    """The files that were asked for; what was written, and what a figure of one of `targets` leaves out, on stderr."""
    from lens_recipes import write_html

    write_json(result, json_path)
    if html is not None:
        write_html(figure, html, offline=offline)
        note_truncated(len(result), "prompts")
        note_truncated(targets, "targets")
    note_written((html, json_path))
