"""`lens-recipes show`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.images import images_argument
from lens_recipes.cli.common.lenses import named_lens
from lens_recipes.cli.common.options import EXIT_STATUS, AllLayers, Html, Png
from lens_recipes.cli.common.outputs import (
    check_distinct,
    check_outputs,
    check_picture,
    note_written,
    stdout_console,
    write_for_programs,
)
from lens_recipes.cli.common.pages import write_views
from lens_recipes.cli.common.tables import TableFormat, print_doubts, print_table
from lens_recipes.cli.patch_map import check_table_format, print_map, write_map
from lens_recipes.cli.survey.shown import print_survey


class HeatmapKind(StrEnum):
    """What a picture shows: tokens or prompts by layers, or patches over an image."""

    tokens = "tokens"
    prompts = "prompts"
    image = "image"
    object = "object"


OF_AN_IMAGE = (HeatmapKind.image, HeatmapKind.object)


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
    all_layers: AllLayers = False,
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
    lens: Annotated[
        str | None,
        typer.Option(help='With --verify: the lens it was read with, a file or "linear".'),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="With --verify: an image of its prompt; repeat the option for more, in order.",
        ),
    ] = None,
    html: Html = None,
    png: Png = None,
    kind: Annotated[
        HeatmapKind | None,
        typer.Option(
            help="Of the picture: the tokens of one prompt, or all prompts by layers; default: "
            "prompts where one token of each of several was read. Of a prompt with an image also "
            "image, the top token of each patch, or object, where the token of --of is."
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="With --kind image: which layer; default: the last that was read."),
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
    check_image_options(kind, metric, of, layer, stride)

    from lens_recipes.results import Attribution, PatchMap, Survey, load_result

    result = load_result(file)
    if isinstance(result, Survey):
        refuse_options_of_others(
            {
                "--position": position,
                "--prompt": prompt,
                "--max-prompts": max_prompts,
                "--verify": verify,
                "--lens": lens,
                "--image": image,
                "--kind": kind,
                "--layer": layer,
                "--metric": metric,
                "--of": of,
                "--png": png,
                "--show-top": show_top,
            },
            "a survey",
        )
        if html is not None:
            result.page(html)
        note_written([html])
        if summary:
            print_survey(result, None, summary=True)
        if table or table_format or width or stride or not (summary or html):
            name = None if table_format is None else table_format.value
            print_survey(result, name, summary=False, stride=stride, width=width)
        return
    if isinstance(result, PatchMap):
        refuse_options_of_others(
            {
                "--position": position,
                "--width": width,
                "--stride": stride,
                "--prompt": prompt,
                "--max-prompts": max_prompts,
                "--verify": verify,
                "--lens": lens,
                "--image": image,
                "--kind": kind,
                "--layer": layer,
                "--metric": metric,
                "--of": of,
            },
            "a patch map",
        )
        check_table_format(table_format)
        write_map(result, html, png)
        note_written([html, png])
        if summary:
            print_map(result, table_format, show_top=10, summary=True)
        if table or table_format or show_top or not (summary or html or png):
            print_map(result, table_format, show_top=show_top or 10, summary=False)
        return
    if verify is not None:
        result = verified(result, verify, lens, image)
    elif lens is not None or image:
        option = "--lens" if lens is not None else "--image"
        raise typer.BadParameter("it is for --verify MODEL.", param_hint=option)
    is_attribution = isinstance(result, Attribution)
    if prompt is not None:
        prompt = prompt_index(prompt, len(result))
    picture_options = given(
        {
            "kind": kind,
            "metric": metric,
            "of": metric_owner(of),
            "layer": layer,
            "stride": stride,
        }
    )
    if kind == HeatmapKind.prompts and prompt is not None:
        raise typer.BadParameter("it shows all prompts: leave --prompt out.", param_hint="--kind")
    if picture_options and is_attribution:
        raise typer.BadParameter(
            "the file holds an attribution: it has parts, not layers.",
            param_hint=[f"--{option}" for option in picture_options],
        )

    write_views(result, html, png, prompt=prompt, options=picture_options)
    note_written([html, png])

    if summary:
        summarized = result if prompt is None else result[prompt]
        write_for_programs(summarized.summary() + "\n")
    table_options = given({"position": position, "show_top": show_top, "max_prompts": max_prompts})
    if stride is not None and (table or png is None):
        table_options["stride"] = stride
    if table or table_format or width or table_options:
        print_table(result, table_format, width, prompt=prompt, **table_options)
    elif all_layers or not (summary or html or png):
        print_as_its_command(result, prompt, all_layers=all_layers)


# -- before the file is read -------------------------------------------


def check_paths(file: Path, html: Path | None, png: Path | None) -> None:
    """Refuse paths that cannot be written, or that would overwrite the result."""
    check_distinct({"FILE": file, "--html": html, "--png": png})
    check_outputs(html, json_path=None)
    check_picture(png)


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


def check_image_options(
    kind: HeatmapKind | None,
    metric: str | None,
    of: list[str] | None,
    layer: int | None,
    stride: int | None,
) -> None:
    """Refuse options that the picture of an image does not have, and those that it alone has."""
    if layer is not None and kind != HeatmapKind.image:
        raise typer.BadParameter("one layer is drawn by --kind image alone.", param_hint="--layer")
    if kind not in OF_AN_IMAGE:
        return
    if stride is not None:
        raise typer.BadParameter(
            "the picture of an image has one layer, or all in one: leave it out.",
            param_hint="--stride",
        )
    if of is not None and len(of) > 1:
        raise typer.BadParameter("the picture of an image is of one token.", param_hint="--of")
    if metric is None:
        return
    if kind == HeatmapKind.object:
        raise typer.BadParameter(
            "the map of an object is of its probability: leave it out.", param_hint="--metric"
        )
    if metric not in ("prob", "entropy"):
        raise typer.BadParameter(
            f"{metric!r} is not drawn over an image; prob and entropy are.", param_hint="--metric"
        )
    if of and metric == "entropy":
        raise typer.BadParameter(
            "entropy is of no token: leave one of --metric and --of out.", param_hint="--metric"
        )


def refuse_options_of_others(options: dict[str, Any], description: str) -> None:
    """Refuse options for which what the file holds has no use."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise typer.BadParameter(f"the file holds {description}.", param_hint=option)


def verified(result: Any, model: str, lens: str | None, images: list[str] | None) -> Any:
    """Return the result with a certificate of now, if the model still says what it holds.

    Raises:
        typer.BadParameter: there are images, and several prompts.
    """
    import lens_recipes as lr

    if images and len(result) > 1:
        raise typer.BadParameter(
            f"the file holds {len(result)} prompts, and images go with one: verify it in Python, "
            "result.verify(model, images=…).",
            param_hint="--image",
        )
    loaded = lr.load(model)
    return result.verify(loaded, lens=named_lens(lens, loaded), **images_argument(images))


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


def print_as_its_command(result: Any, prompt: int | None, *, all_layers: bool = False) -> None:
    """Print what the command printed that made the result."""
    from lens_recipes.views.tables.generation.report import generation_report, generation_table
    from lens_recipes.views.tables.table import render

    shown = result if prompt is None else result[prompt]
    console = stdout_console()
    if not result.tokens.generated.any():
        render(result, console, prompt=prompt)
    elif all_layers:
        generation_report(shown, console)
    else:
        generation_table(shown, console)
    print_doubts(shown)


SHOW_EXAMPLES = f"""
Examples:

  lens-recipes show result.json

  lens-recipes show result.json --html page.html --png heatmap.png --metric rank --of " Paris"

  lens-recipes show image.json --png dog.png --kind object --of " dog"

  lens-recipes show result.npz --prompt 2 --position 0 --stride 4 --width 80

  lens-recipes show result.json --format markdown >> "$GITHUB_STEP_SUMMARY"

  lens-recipes show result.json --format tsv | cut -f 6,9,10

No model is needed, and none is loaded without --verify. FILE is what --json or result.save() wrote:
a claim, which anyone can write. --verify smollm2 runs it again, and proves it. The table is printed
unless --summary, --html or --png is given; add --table for both.

{EXIT_STATUS}
"""
