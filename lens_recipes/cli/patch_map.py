"""`lens-recipes patch-map`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Cdn,
    Html,
    JsonPath,
    ModelName,
    NoSpecialTokens,
    Png,
    Precision,
    Remote,
    load_model,
    parse_indices,
)
from lens_recipes.cli.common.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    check_picture,
    note_written,
    write_for_programs,
)
from lens_recipes.cli.common.tables import TableFormat, check_format
from lens_recipes.cli.logit_lens.spaces import doubtful_targets
from lens_recipes.terminal import escape_terminal


class PatchUnit(StrEnum):
    """What a cell is."""

    resid_pre = "resid_pre"
    resid_mid = "resid_mid"
    resid_post = "resid_post"
    attn_out = "attn_out"
    mlp_out = "mlp_out"
    mixer_out = "mixer_out"
    head_out = "head_out"
    layer_component = "layer_component"


class Direction(StrEnum):
    """Which run is put into which."""

    denoise = "denoise"
    noise = "noise"


class PatchMetric(StrEnum):
    """What is measured at the last position."""

    logit_diff = "logit_diff"
    logprob = "logprob"
    prob = "prob"
    rank = "rank"


class Method(StrEnum):
    """How it is computed."""

    exact = "exact"
    gradient = "gradient"


def patch_map_command(
    clean: Annotated[str, typer.Argument(metavar="CLEAN", help="The prompt with the answer.")],
    corrupt: Annotated[
        str, typer.Argument(metavar="CORRUPT", help="The same prompt with another answer.")
    ],
    target: Annotated[str, typer.Option(help="The answer to CLEAN, a token.")],
    against: Annotated[str, typer.Option(help="The answer to CORRUPT, a token.")],
    model: ModelName = "smollm2",
    unit: Annotated[PatchUnit, typer.Option(help="What a cell is.")] = PatchUnit.resid_post,
    layers: Annotated[
        str, typer.Option(help='Which layers: "all", or for example 20, 0,3,-1 or 2:5.')
    ] = "all",
    positions: Annotated[
        str, typer.Option(help='Which tokens: "all", or for example -1, 0,3,-1 or 2:5.')
    ] = "all",
    direction: Annotated[
        Direction,
        typer.Option(help="denoise puts the clean run into the corrupt one, noise the other way."),
    ] = Direction.denoise,
    metric: Annotated[
        PatchMetric, typer.Option(help="What is measured after the last token.")
    ] = PatchMetric.logit_diff,
    align_end: Annotated[
        bool,
        typer.Option("--align-end", help="Count tokens from the end, where lengths differ."),
    ] = False,
    span: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CLEAN|CORRUPT",
            help="A column: texts that stand for each other, such as 'country= France| Spain'; "
            "repeat the option for more.",
        ),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="gradient is an approximation, in three passes.")
    ] = Method.exact,
    verify: Annotated[
        int, typer.Option(min=0, help="With --method gradient: run so many cells exactly.")
    ] = 0,
    show_top: Annotated[int, typer.Option(min=1, help="Cells shown in the table.")] = 10,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table; default: text.")
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print a few lines for an assistant.")
    ] = False,
    html: Html = None,
    png: Png = None,
    cdn: Cdn = False,
    json_path: JsonPath = None,
    no_special_tokens: NoSpecialTokens = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Copy each cell of one run into another, and measure what it brings along."""
    check_outputs(html, json_path)
    check_picture(png)
    check_distinct({"--html": html, "--png": png, "--json": json_path})
    check_format(table_format, json_path)
    check_table_format(table_format)
    if target == against:
        raise typer.BadParameter(
            f"{against!r} is the --target as well: their difference is nothing.",
            param_hint="--against",
        )
    align = alignment(align_end, span)
    chosen_layers = parse_indices(layers, "--layers")
    chosen_positions = parse_indices(positions, "--positions")

    from lens_recipes import patch_map

    language_model = load_model(model, remote, dtype)
    tokenizer = getattr(language_model, "tokenizer", None)
    warn_of_spaces(tokenizer, {clean: target, corrupt: against})
    result = patch_map(
        language_model,
        clean,
        corrupt,
        target,
        against,
        unit=unit.value,
        layers=chosen_layers,
        positions=chosen_positions,
        direction=direction.value,
        metric=metric.value,
        align=align,
        method=method.value,
        verify=verify,
        add_special_tokens=not no_special_tokens,
    )
    if json_path == STDOUT:
        from lens_recipes.views.files import patch_map_json

        write_for_programs(patch_map_json(result) + "\n")
    elif json_path is not None:
        result.save(json_path)
    if json_path != STDOUT:
        print_map(result, table_format, show_top=show_top, summary=summary)
    write_map(result, html, png, cdn=cdn)
    note_written([html, png, json_path])


def warn_of_spaces(tokenizer: Any, answers: dict[str, str]) -> None:
    """Warn of an answer without the space that the word after its prompt has.

    Args:
        tokenizer: The model's, or None.
        answers: The answer to each prompt.
    """
    targets = [[answer] for answer in answers.values()]
    for doubtful in doubtful_targets(tokenizer, list(answers), targets):
        warning = (
            f'warning: "{doubtful.target}" has no leading space. If you mean the word after the '
            f'prompt, write " {doubtful.target}".'
        )
        print(escape_terminal(warning), file=sys.stderr)


def alignment(align_end: bool, span: list[str] | None) -> Any:
    """Return the argument `align` of the options.

    Raises:
        typer.BadParameter: both, or a span that is not NAME=CLEAN|CORRUPT.
    """
    if align_end and span:
        raise typer.BadParameter("spans are aligned by their texts: leave --align-end out.")
    if align_end:
        return "end"
    if not span:
        return None
    spans: dict[str, Any] = {}
    for item in span:
        name, equals, texts = item.partition("=")
        parts = texts.split("|")
        if not equals or not name or len(parts) > 2 or not all(parts):
            raise typer.BadParameter(
                f"{item!r} is not NAME=CLEAN|CORRUPT, nor NAME=TEXT for a text that both prompts "
                "have.",
                param_hint="--span",
            )
        spans[name] = parts[0] if len(parts) == 1 else tuple(parts)
    return spans


# -- what is shown, also by `show` -------------------------------------


def check_table_format(table_format: TableFormat | None) -> None:
    """Refuse the one format that a map has no table in."""
    if table_format is TableFormat.json:
        raise typer.BadParameter(
            "a patch map's table is text, markdown or tsv; --json - writes all of it as JSON.",
            param_hint="--format",
        )


def print_map(
    result: Any, table_format: TableFormat | None, *, show_top: int, summary: bool
) -> None:
    """Print the table of a map, and below it what to distrust; or its summary."""
    from lens_recipes.views.summaries.patch_map import doubts

    if summary:
        write_for_programs(result.summary() + "\n")
        return
    name = "text" if table_format is None else table_format.value
    text = escape_terminal(result.table(show_top=show_top, format=name))
    if name == "text":
        print(text)
    else:
        write_for_programs(text + "\n")
    for doubt in doubts(result):
        line = escape_terminal(f"distrust: {doubt}")
        print(line, file=sys.stdout if name == "text" else sys.stderr)


def write_map(result: Any, html: Path | None, png: Path | None, *, cdn: bool = False) -> None:
    """Write the figure of a map as a page and as a picture, where they are asked for."""
    if html is None and png is None:
        return
    from lens_recipes import patch_heatmap, write_html
    from lens_recipes.cli.common.pages import write_picture

    figure = patch_heatmap(result)
    if html is not None:
        write_html(figure, html, offline=not cdn)
    if png is not None:
        write_picture(figure, png)


PATCH_MAP_EXAMPLES = f"""
Examples:

  lens-recipes patch-map "The capital of France is" "The capital of Spain is" \
--target " Paris" --against " Madrid"

  lens-recipes patch-map "The capital of France is" "The capital of Spain is" \
--target " Paris" --against " Madrid" --unit head_out --html heads.html --json heads.json

{EXIT_STATUS}
"""
