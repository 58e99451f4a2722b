"""`lens-recipes show`: a saved result again, as the command that made it shows it, as a table, a page or a picture."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.options import (
    EXIT_STATUS,
    attribution_figure,
    check_apart,
    check_outputs,
    check_place,
    note_truncated,
    note_written,
    output,
)

SHOW_EXAMPLES = f"""
Examples:

  lens-recipes show result.json

  lens-recipes show result.json --html page.html --png heatmap.png --metric rank --of " Paris"

  lens-recipes show result.npz --prompt 2 --position 0 --stride 4 --width 80

  lens-recipes show result.json --format markdown >> "$GITHUB_STEP_SUMMARY"

  lens-recipes show result.json --format tsv | cut -f 6,9,10

No model is needed, and none is loaded. FILE is what --json or result.save() wrote. With --summary, --html or --png only
those are shown or written; with --table, or an option of it, the table as well.

{EXIT_STATUS}
"""

PICTURES = (".png", ".svg")


class Format(StrEnum):
    text = "text"
    markdown = "markdown"
    tsv = "tsv"


def show_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A result in .json or .npz.")],
    table: Annotated[
        bool,
        typer.Option(
            "--table", help="Layer by layer after one token; of an attribution, the largest parts."
        ),
    ] = False,
    form: Annotated[
        Format | None, typer.Option("--format", help="Of the table; default: text.")
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(help="Of the table: which of the tokens that were read, -1 for the last."),
    ] = None,
    show_top: Annotated[
        int | None, typer.Option(min=1, help="Of the table: predictions per layer, or parts.")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=40, help="Of a table as text: columns, at least 40.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of table and picture: every n-th layer; default: about 40 of them."
        ),
    ] = None,
    prompt: Annotated[int | None, typer.Option(help="One of the prompts, counted from 0.")] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print a few lines for an assistant.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write an interactive page here; it needs no network.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(
            help="Write a picture here, in .png or .svg: the heatmap, or the attribution."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="What colours the picture: prob, rank, entropy, kl, …; default: prob."),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(help='Whose: "next", "final" or a target; give it twice for logit_diff.'),
    ] = None,
) -> None:
    """Show a saved result again: on the terminal, as a table, a page or a picture."""
    _check(file, html, png, metric, of)

    from lens_recipes.results import Attribution, load_result

    result = load_result(file)
    if prompt is not None:
        prompt = _number(prompt, len(result))
    view: dict[str, Any] = {"metric": metric, "of": _whose(of), "stride": stride}
    view = {name: value for name, value in view.items() if value is not None}
    if view and isinstance(result, Attribution):
        options = [f"--{name}" for name in view]
        raise typer.BadParameter(
            "the file holds an attribution: it has parts, not layers.", param_hint=options
        )
    if html is not None:
        _page(result, html, prompt)
    if png is not None:
        _picture(_figure(result, prompt, view), png)
    if prompt is None and (
        png is not None or (html is not None and isinstance(result, Attribution))
    ):
        note_truncated(len(result), "prompts")
    if isinstance(result, Attribution) and (html or png) is not None:
        note_truncated(result.target_ids.shape[1], "targets")
    note_written((html, png))

    if summary:
        print((result if prompt is None else result[prompt]).summary())
    asked = {
        "position": position,
        "show_top": show_top,
        "stride": stride if table or png is None else None,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    if table or form or width or asked:
        _table(result, form, width, prompt=prompt, **asked)
    elif not (summary or html or png):
        _as_its_command(result, prompt)


def _check(
    file: Path, html: Path | None, png: Path | None, metric: str | None, of: list[str] | None
) -> None:
    """What can be refused before the file is read."""
    check_outputs(html, None)
    if png is not None:
        if png.suffix.lower() not in PICTURES:
            raise typer.BadParameter(f"{str(png)!r} must end in .png or .svg.", param_hint="--png")
        check_place(png, "--png")
    check_apart({"FILE": file, "--html": html, "--png": png})
    for option, given in (("--metric", metric), ("--of", of)):
        if given and png is None:
            raise typer.BadParameter("this is about a picture: add --png FILE.", param_hint=option)
    if metric is not None:
        from lens_recipes.arrays.metrics import find_metric as known

        known(metric)


def _number(prompt: int, n: int) -> int:
    """A prompt's number, negative ones from the end."""
    if not -n <= prompt < n:
        there = "one prompt" if n == 1 else f"{n} prompts"
        raise typer.BadParameter(
            f"{prompt} is out of range: the file holds {there}, from 0.", param_hint="--prompt"
        )
    return prompt % n


def _whose(of: list[str] | None) -> Any:
    """`of` as the figures take it: nothing, one, or a pair."""
    return None if not of else of[0] if len(of) == 1 else tuple(of)


# -- what is shown -----------------------------------------------------


def _as_its_command(result: Any, prompt: int | None) -> None:
    """What the command that made it printed."""
    from lens_recipes.views.tables.generation.report import generation_report
    from lens_recipes.views.tables.table import render

    if result.tokens.generated.any():
        generation_report(result if prompt is None else result[prompt], output())
    else:
        render(result, output(), prompt=prompt)


def _table(result: Any, form: Format | None, width: int | None, **options: Any) -> None:
    from lens_recipes.views.tables.table import render, table

    if form in (None, Format.text):
        render(result, output(width), **options)
    else:
        print(table(result, format=str(form), width=width, **options))


def _figure(result: Any, prompt: int | None, options: dict[str, Any]) -> Any:
    """The one figure that says most of a result."""
    from lens_recipes import Attribution, generation_heatmap, heatmap

    if isinstance(result, Attribution):
        return attribution_figure(result, prompt=prompt or 0)
    draw = generation_heatmap if result.tokens.generated.any() else heatmap
    return draw(result, prompt=prompt or 0, **options)


def _page(result: Any, path: Path, prompt: int | None) -> None:
    from lens_recipes import Attribution, write_html

    if isinstance(result, Attribution):
        write_html(_figure(result, prompt, {}), path, offline=True)
    else:
        from lens_recipes import report

        report(result, path, prompts=None if prompt is None else [prompt])


def _picture(figure: Any, path: Path) -> None:
    from lens_recipes.views.figures import export as figure_files

    save = getattr(figure_files, f"save_{path.suffix[1:].lower()}")
    save(figure, path)
