"""`lens-recipes survey`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.lenses import named_lens
from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Html,
    JsonPath,
    ModelName,
    NoSpecialTokens,
    Precision,
    Remote,
    load_model,
    parse_indices,
)
from lens_recipes.cli.common.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    note_written,
    write_for_programs,
)
from lens_recipes.terminal import escape_terminal

FORMATS = ("text", "markdown", "latex", "tsv", "json")


def survey_command(
    items: Annotated[
        str,
        typer.Argument(
            metavar="ITEMS",
            help="A .jsonl, .csv or .tsv file with prompt and target, or a set of the package: "
            "capitals, colours, antonyms, arithmetic, plurals, translation, two-hop.",
        ),
    ],
    model: ModelName = "smollm2",
    lens: Annotated[
        str | None, typer.Option(help='A lens\'s file, a hub id, or "linear"; default: logit lens.')
    ] = None,
    layers: Annotated[
        str, typer.Option(help='Which layers: "all", or for example 20, 0,3,-1 or 2:5.')
    ] = "all",
    metric: Annotated[
        list[str] | None,
        typer.Option(help='Shown in the table, such as "accuracy@1" or "rank"; repeat for more.'),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help='"group": a column for each group, of one metric.')
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=NAME",
            help="What the items call a field, such as prompt=question; repeat for more.",
        ),
    ] = None,
    only_correct: Annotated[
        bool, typer.Option("--only-correct", help="Leave out what the model answers otherwise.")
    ] = False,
    skip_errors: Annotated[
        bool, typer.Option("--skip-errors", help="Leave out items that cannot be read.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep what is done in this folder, and go on there after a stop."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: the I-th of N parts, from 1; needs --folder or --json.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=100, help="Resamples of an interval.")] = 2000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of controls and intervals.")] = 0,
    table_format: Annotated[
        str | None,
        typer.Option("--format", help="text, markdown, latex, tsv or json; default: text."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print a few lines for an assistant.")
    ] = False,
    html: Html = None,
    json_path: JsonPath = None,
    no_special_tokens: NoSpecialTokens = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Ask the same of thousands of prompts: accuracy and rank of the answer at each layer."""
    check_outputs(html, json_path)
    check_distinct({"--html": html, "--json": json_path})
    if table_format is not None and table_format not in FORMATS:
        raise typer.BadParameter(
            f"{table_format!r} is none of {', '.join(FORMATS)}.", param_hint="--format"
        )
    names = field_names(field)
    part = shard_of(shard)
    chosen_layers = parse_indices(layers, "--layers")

    from lens_recipes import survey

    check_table(metric, by)

    loaded = load_model(model, remote, dtype)
    result: Any = survey(
        loaded,
        items,
        lens=named_lens(lens, loaded),
        layers=chosen_layers,
        fields=names,
        only_correct=only_correct,
        on_error="skip" if skip_errors else "stop",
        path=folder,
        shard=part,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
        add_special_tokens=not no_special_tokens,
    )
    if json_path == STDOUT:
        from lens_recipes.views.files import survey_json

        write_for_programs(survey_json(result) + "\n")
    elif json_path is not None:
        result.save(json_path)
    if html is not None:
        result.page(html)
    if json_path != STDOUT:
        print_survey(result, table_format, summary=summary, metric=metric, by=by)
    note_written([html, json_path])


def print_survey(
    result: Any,
    table_format: str | None,
    *,
    summary: bool,
    metric: list[str] | None = None,
    by: str | None = None,
) -> None:
    """Print the table of a survey, or its summary."""
    if not len(result):  # a shard without items
        print(escape_terminal(str(result)))
        return
    if summary:
        write_for_programs(result.summary() + "\n")
        return
    one_or_more = metric[0] if metric and len(metric) == 1 else metric
    text = result.table(metric=one_or_more, by=by, format=table_format or "text")
    if table_format in (None, "text"):
        print(escape_terminal(text))
    else:
        write_for_programs(text + "\n")


def check_table(metric: list[str] | None, by: str | None) -> None:
    """Check what the table shows, before the model runs on all items.

    Raises:
        ValueError: no such metric.
        typer.BadParameter: no such `by`, or several metrics with it.
    """
    from lens_recipes.arrays.survey.names import find_name

    for name in metric or []:
        find_name(name)
    if by not in (None, "group"):
        raise typer.BadParameter(f'{by!r} is unknown: accepted is "group".', param_hint="--by")
    if by == "group" and metric is not None and len(metric) > 1:
        raise typer.BadParameter(
            "a table by group is about one metric: give one --metric.", param_hint="--by"
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
    if not slash or not part.isdecimal() or not n_parts.isdecimal():
        raise typer.BadParameter(
            f"{text!r} is not I/N, such as 3/16 for the third of sixteen parts.",
            param_hint="--shard",
        )
    return int(part), int(n_parts)


SURVEY_EXAMPLES = f"""
Examples:

  lens-recipes survey capitals

  lens-recipes survey items.jsonl --lens linear --html survey.html --json survey.json

  lens-recipes survey items.jsonl --shard 3/16 --folder shard-03

{EXIT_STATUS}
"""
