"""Read the options of `lens-recipes survey`, before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from lens_recipes.cli.common.outputs import STDOUT

MAX_DIGITS = 18  # of a number of parts
CONTROLS = ("shuffle", "random", "none")
FORMATS = ("text", "markdown", "latex", "tsv", "json")
FORMATS_OF_SEVERAL = ("text", "markdown", "tsv", "json")


def check_table(
    metric: list[str] | None, by: str | None, table_format: str | None, control: str
) -> None:
    """Check what the table shows.

    Raises:
        ValueError: no such metric.
        typer.BadParameter: no such `by`, format or control, or several metrics with `by`.
    """
    from lens_recipes.arrays.survey.names import find_name

    if table_format is not None and table_format not in FORMATS:
        raise typer.BadParameter(
            f"{table_format!r} is none of {', '.join(FORMATS)}.", param_hint="--format"
        )
    if control not in CONTROLS:
        raise typer.BadParameter(
            f"{control!r} is none of {', '.join(CONTROLS)}.", param_hint="--control"
        )
    for name in metric or []:
        find_name(name)
    if by not in (None, "group"):
        raise typer.BadParameter(f'{by!r} is unknown: accepted is "group".', param_hint="--by")
    if by == "group" and metric is not None and len(metric) > 1:
        raise typer.BadParameter(
            "a table by group is about one metric: give one --metric.", param_hint="--by"
        )


def check_several(
    html: Path | None,
    json_path: str | None,
    shard: str | None,
    other: Path | None,
    by: str | None,
    table_format: str | None,
) -> None:
    """Refuse what is about one lens alone, where there are several.

    Raises:
        typer.BadParameter: something of the kind was asked for.
    """
    alone = {
        "--html": (html, "a page shows the survey of one lens"),
        "--json": (json_path, "a file holds the survey of one lens"),
        "--shard": (shard, "the table of several lenses is of all items"),
        "--compare": (other, "several lenses are compared with the first of them"),
        "--by": (by, "the table of several lenses has a row for each group as it is"),
    }
    for option, (value, reason) in alone.items():
        if value is not None:
            raise typer.BadParameter(
                f"{reason}: give --lens once, or leave it out.", param_hint=option
            )
    if table_format not in (None, *FORMATS_OF_SEVERAL):
        raise typer.BadParameter(
            f"several lenses stand side by side in {', '.join(FORMATS_OF_SEVERAL)}: give --lens "
            "once.",
            param_hint="--format",
        )


def check_stdout(json_path: str | None, options: dict[str, Any]) -> None:
    """Refuse what would be printed, where the result itself goes to stdout.

    Raises:
        typer.BadParameter: something of the kind was asked for.
    """
    if json_path != STDOUT:
        return
    for option, value in options.items():
        if value:
            raise typer.BadParameter(
                "--json - writes the result to stdout instead: name a file, or leave one out.",
                param_hint=option,
            )


def check_line(components: list[str], options: dict[str, Any]) -> None:
    """Refuse views that follow the layers, where no component has one site in each layer.

    They are refused before anything runs: a survey may take hours.

    Raises:
        typer.BadParameter: something of the kind was asked for.
    """
    from lens_recipes.arrays.sites import ORDER

    names = set(components)
    are_known = names <= set(ORDER)  # others are refused with those that there are
    has_line = "resid_post" in names or (len(names) == 1 and "head_out" not in names)
    if has_line or not are_known:
        return
    for option, value in options.items():
        if value:
            raise typer.BadParameter(
                "it follows one component through the layers: add resid_post to --components, or "
                "name one component alone that is not head_out.",
                param_hint=option,
            )


def field_names(given: list[str] | None) -> dict[str, str] | None:
    """Return what items call each field.

    Raises:
        typer.BadParameter: an entry that is not FIELD=NAME.
    """
    if not given:
        return None
    names = {}
    for entry in given:
        name, equals, called = entry.partition("=")
        if not equals or not name or not called:
            raise typer.BadParameter(
                f"{entry!r} is not FIELD=NAME, such as prompt=question.", param_hint="--field"
            )
        names[name] = called
    return names


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Return which part of how many is asked for.

    Raises:
        typer.BadParameter: a text that is not I/N.
    """
    if text is None:
        return None
    part, slash, n_parts = text.partition("/")
    are_numbers = part.isdecimal() and n_parts.isdecimal()
    if not slash or not are_numbers or max(len(part), len(n_parts)) > MAX_DIGITS:
        raise typer.BadParameter(
            f"{text!r} is not I/N, such as 3/16 for the third of sixteen parts.",
            param_hint="--shard",
        )
    return int(part), int(n_parts)


def other_survey(path: Path | None) -> Any:
    """Return the saved survey that this one is compared with; None for none.

    Raises:
        typer.BadParameter: the file holds something else.
        LensError, ValueError: it cannot be read.
    """
    if path is None:
        return None
    from lens_recipes.results import Survey, load_result

    found = load_result(path)
    if not isinstance(found, Survey):
        raise typer.BadParameter(
            f"{str(path)!r} is no survey: name a file that --json of this command wrote.",
            param_hint="--compare",
        )
    return found
