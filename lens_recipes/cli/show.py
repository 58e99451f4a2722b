"""`lens-recipes show`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.options import EXIT_STATUS
from lens_recipes.cli.outputs import (
    attribution_figure,
    check_distinct,
    check_outputs,
    check_writable,
    note_truncated,
    note_written,
    prompts_of_figure,
    stdout_console,
    write_for_programs,
)

PICTURE_SUFFIXES = (".png", ".svg")


class TableFormat(StrEnum):
    """A format of the table."""

    text = "text"
    markdown = "markdown"
    tsv = "tsv"


class HeatmapKind(StrEnum):
    """What the columns or rows of a heatmap are, besides layers."""

    tokens = "tokens"
    prompts = "prompts"


def show_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A result in .json or .npz.")],
    table: Annotated[
        bool,
        typer.Option(
            "--table",
            help="Print every layer after one token, of several prompts a row each; for an "
            "attribution, the largest parts.",
        ),
    ] = False,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table; default: text.")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(help="For the table: which of the tokens that were read; -1 is the last."),
    ] = None,
    show_top: Annotated[
        int | None, typer.Option(min=1, help="For the table: predictions per layer, or parts.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=40, help="For a table as text: columns, at least 40.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="For table and picture: every n-th layer; default: about 40 of them."
        ),
    ] = None,
    prompt: Annotated[int | None, typer.Option(help="One of the prompts, counted from 0.")] = None,
    max_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="For the table: how many of the prompts; default: 40 rows."),
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print a few lines for an assistant.")
    ] = False,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="First run it again on this model, and refuse what the model does not say.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive page here; it needs no network.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Write a picture here, in .png or .svg: the heatmap, or the attribution."
        ),
    ] = None,
    kind: Annotated[
        HeatmapKind | None,
        typer.Option(
            help="Of the picture: the tokens of one prompt, or all prompts by layers; default: "
            "prompts where one token of each of several was read."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="What colours the picture: prob, rank, entropy, kl, …; default: prob, of prompts "
            "rank."
        ),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(
            help='Whose metric: "next", "final", "target" (each prompt\'s own) or one target; '
            "repeat it once for logit_diff."
        ),
    ] = None,
) -> None:
    """Show a saved result again: on the terminal, as a table, a page or a picture."""
    check_paths(file, html, png)
    check_picture_options(png, kind, metric, of)

    from lens_recipes.results import Attribution, load_result

    result = load_result(file)
    if verify is not None:
        result = verified(result, verify)
    is_attribution = isinstance(result, Attribution)
    if prompt is not None:
        prompt = prompt_index(prompt, len(result))
    picture_options = given(
        {"kind": kind, "metric": metric, "of": metric_owner(of), "stride": stride}
    )
    if kind == HeatmapKind.prompts and prompt is not None:
        raise typer.BadParameter("it shows all prompts: leave --prompt out.", param_hint="--kind")
    if picture_options and is_attribution:
        raise typer.BadParameter(
            "the file holds an attribution: it has parts, not layers.",
            param_hint=[f"--{option}" for option in picture_options],
        )

    if html is not None:
        write_page(result, html, prompt)
    if png is not None:
        write_picture(best_figure(result, prompt, picture_options), png)
    if is_attribution:
        holds_one_figure = png is not None or html is not None
    else:
        holds_one_figure = png is not None and heatmap_kind(result, prompt, kind) == "tokens"
    if holds_one_figure and is_attribution:
        note_truncated(prompts_of_figure(result, prompt), "prompts")
    elif holds_one_figure and prompt is None:
        note_truncated(len(result), "prompts")
    if holds_one_figure and is_attribution:
        note_truncated(result.target_ids.shape[1], "targets")
    note_written([html, png])

    if summary:
        summarized = result if prompt is None else result[prompt]
        write_for_programs(summarized.summary() + "\n")
    table_options = given({"position": position, "show_top": show_top, "max_prompts": max_prompts})
    if stride is not None and (table or png is None):
        table_options["stride"] = stride
    if table or table_format or width or table_options:
        print_table(result, table_format, width, prompt=prompt, **table_options)
    elif not (summary or html or png):
        print_as_its_command(result, prompt)


# -- before the file is read -------------------------------------------


def check_paths(file: Path, html: Path | None, png: Path | None) -> None:
    """Refuse paths that cannot be written, or that would overwrite the result."""
    check_outputs(html, json_path=None)
    if png is not None:
        if png.suffix.lower() not in PICTURE_SUFFIXES:
            raise typer.BadParameter(f"{str(png)!r} must end in .png or .svg.", param_hint="--png")
        check_writable(png, "--png")
    check_distinct({"FILE": file, "--html": html, "--png": png})


def check_picture_options(
    png: Path | None, kind: str | None, metric: str | None, of: list[str] | None
) -> None:
    """Refuse options of a picture without a picture, and a metric that does not exist."""
    for option, value in (("--kind", kind), ("--metric", metric), ("--of", of)):
        if value and png is None:
            raise typer.BadParameter("this is about a picture: add --png FILE.", param_hint=option)
    if metric is not None:
        from lens_recipes.arrays.metrics import find_metric

        find_metric(metric)


def verified(result: Any, model: str) -> Any:
    """Return the result with a certificate of now, if the model still says what it holds."""
    import lens_recipes as lr

    return result.verify(lr.load(model))


def prompt_index(prompt: int, n_prompts: int) -> int:
    """Return the number of a prompt, where negative ones count from the end."""
    if not -n_prompts <= prompt < n_prompts:
        available = "one prompt" if n_prompts == 1 else f"{n_prompts} prompts"
        raise typer.BadParameter(
            f"{prompt} is out of range: the file holds {available}, from 0.", param_hint="--prompt"
        )
    return prompt % n_prompts


def metric_owner(of: list[str] | None) -> str | tuple[str, ...] | None:
    """Return `of` as the figures take it: nothing, one, or a pair."""
    if not of:
        return None
    return of[0] if len(of) == 1 else tuple(of)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that have a value."""
    return {option: value for option, value in options.items() if value is not None}


# -- the views ---------------------------------------------------------


def print_as_its_command(result: Any, prompt: int | None) -> None:
    """Print what the command printed that made the result."""
    from lens_recipes.views.tables.generation.report import generation_report
    from lens_recipes.views.tables.table import render

    if not result.tokens.generated.any():
        render(result, stdout_console(), prompt=prompt)
    elif prompt is None:
        generation_report(result, stdout_console())
    else:
        generation_report(result[prompt], stdout_console())


def print_table(
    result: Any, table_format: TableFormat | None, width: int | None, **options: Any
) -> None:
    """Print the table in its format."""
    from lens_recipes.views.tables.table import render, table

    if table_format in (None, TableFormat.text):
        render(result, stdout_console(width), **options)
    else:
        shown = table(result, format=str(table_format), width=width, **options)
        write_for_programs(shown + "\n")


def best_figure(result: Any, prompt: int | None, options: dict[str, Any]) -> Any:
    """Draw the one figure that says most about a result."""
    from lens_recipes import Attribution, generation_heatmap, heatmap

    if isinstance(result, Attribution):
        return attribution_figure(result, prompt=prompt)
    kind = heatmap_kind(result, prompt, options.get("kind"))
    options = {option: value for option, value in options.items() if option != "kind"}
    if kind == "prompts":
        return heatmap(result, kind="prompts", **options)
    draw = generation_heatmap if result.tokens.generated.any() else heatmap
    return draw(result, prompt=prompt or 0, **options)


def heatmap_kind(result: Any, prompt: int | None, kind: str | None) -> str:
    """Return which heatmap is drawn: the one that is asked for, or the one that says more."""
    from lens_recipes.arrays.batch.outcomes import is_batch

    if kind is not None:
        return str(kind)
    one_token_each = len(result.tokens) == len(result)
    if prompt is None and one_token_each and is_batch(result):
        return "prompts"
    return "tokens"


def write_page(result: Any, path: Path, prompt: int | None) -> None:
    """Write a report, or the figure of an attribution, as a page that needs no network."""
    from lens_recipes import Attribution, report, write_html

    if isinstance(result, Attribution):
        write_html(best_figure(result, prompt, {}), path, offline=True)
        return
    prompts = None if prompt is None else [prompt]
    report(result, path, prompts=prompts)


def write_picture(figure: Any, path: Path) -> None:
    """Write a figure in the format that the path ends in."""
    from lens_recipes.views.figures import export

    if path.suffix.lower() == ".png":
        export.save_png(figure, path)
    else:
        export.save_svg(figure, path)


SHOW_EXAMPLES = f"""
Examples:

  lens-recipes show result.json

  lens-recipes show result.json --html page.html --png heatmap.png --metric rank --of " Paris"

  lens-recipes show result.npz --prompt 2 --position 0 --stride 4 --width 80

  lens-recipes show result.json --format markdown >> "$GITHUB_STEP_SUMMARY"

  lens-recipes show result.json --format tsv | cut -f 6,9,10

No model is needed, and none is loaded without --verify. FILE is what --json or result.save() wrote:
a claim, which anyone can write. --verify smollm2 runs it again, and proves it. With --summary,
--html or --png only those are shown or written; with --table, or an option for it, the table as
well.

{EXIT_STATUS}
"""
