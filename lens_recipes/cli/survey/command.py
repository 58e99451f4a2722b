"""`lens-recipes survey`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lens_recipes.cli.common.edits import EDIT_SHORT, EditOptions, edits_argument, parse_edits
from lens_recipes.cli.common.images import check_readable, image_files
from lens_recipes.cli.common.lenses import named_lens
from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Components,
    Html,
    JsonPath,
    LensSources,
    ModelName,
    NoSpecialTokens,
    Precision,
    Remote,
    load_model,
    parse_indices,
    parse_names,
)
from lens_recipes.cli.common.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    note_written,
    write_for_programs,
)
from lens_recipes.cli.survey.arguments import (
    check_line,
    check_several,
    check_stdout,
    check_table,
    field_names,
    other_survey,
    shard_of,
)
from lens_recipes.cli.survey.shown import (
    names_of_lenses,
    print_difference,
    print_lenses,
    print_survey,
)

LOGIT = "logit"


def survey_command(
    items: Annotated[
        str,
        typer.Argument(
            metavar="ITEMS",
            help="A .jsonl, .csv or .tsv file with prompt and target (and images, their paths from "
            "that file on), a set of the package (capitals, colours, antonyms, arithmetic, "
            "plurals, translation, two-hop), or the folder of the Jacobian-lens paper's "
            "evaluations.",
        ),
    ],
    model: ModelName = "smollm2",
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="An image of every item that names none; repeat the option for more, in order.",
        ),
    ] = None,
    lens: LensSources = None,
    edit: EditOptions = None,
    components: Components = "resid_post",
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
    control: Annotated[
        str,
        typer.Option(
            help='What the answer is held against: "shuffle", the answer of another item of its '
            'group, "random", a token about as frequent, or "none".'
        ),
    ] = "shuffle",
    other: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="FILE",
            help="Print the paired differences to a survey that --json wrote before; with --format "
            "tsv or json, these alone.",
        ),
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
    stride: Annotated[
        int | None,
        typer.Option(
            min=1, help="Show every n-th layer, counted from the last; default: about 20."
        ),
    ] = None,
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
    check_distinct({**image_files(image), "--html": html, "--json": json_path, "--compare": other})
    sources = list(lens or [LOGIT])
    check_table(metric, by, table_format, control)
    if len(sources) > 1:
        check_several(html, json_path, shard, other, by, table_format)
    printed = {"--format": table_format, "--by": by, "--compare": other, "--summary": summary}
    check_stdout(json_path, printed)
    chosen = parse_names(components)
    check_line(chosen, {"--lens": len(sources) > 1, "--html": html, "--summary": summary})
    edits = parse_edits(edit)
    options: dict[str, Any] = {
        "images": image,
        "layers": parse_indices(layers, "--layers"),
        "components": chosen,
        "control": None if control == "none" else control,
        "fields": field_names(field),
        "only_correct": only_correct,
        "on_error": "skip" if skip_errors else "stop",
        "shard": shard_of(shard),
        "bootstrap": bootstrap,
        "confidence": confidence,
        "seed": seed,
        "add_special_tokens": not no_special_tokens,
    }
    saved = other_survey(other)
    check_readable(image)

    from lens_recipes import survey

    loaded = load_model(model, remote, dtype)
    options |= edits_argument(edits, loaded)
    if len(sources) > 1:
        surveys = {}
        for name, source in zip(names_of_lenses(sources), sources, strict=True):
            kept = None if folder is None else folder / name
            own_lens = named_lens(source, loaded)
            surveys[name] = survey(loaded, items, lens=own_lens, path=kept, **options)
        print_lenses(surveys, table_format, summary=summary, metric=metric, stride=stride)
        return
    result: Any = survey(loaded, items, lens=named_lens(sources[0], loaded), path=folder, **options)
    if json_path == STDOUT:
        from lens_recipes.views.files import survey_json

        write_for_programs(survey_json(result) + "\n")
    elif json_path is not None:
        result.save(json_path)
    if html is not None:
        result.page(html)
    if json_path != STDOUT:
        is_for_programs = table_format in ("tsv", "json") and not summary
        if saved is None or not is_for_programs:
            print_survey(result, table_format, summary=summary, metric=metric, by=by, stride=stride)
        if saved is not None:
            print_difference(result, saved, metric, table_format, stride)
    note_written([html, json_path])


SURVEY_EXAMPLES = f"""
Examples:

  lens-recipes survey capitals

  lens-recipes survey items.jsonl --lens linear --html survey.html --json survey.json

  lens-recipes survey items.jsonl --lens logit --lens linear --lens jacobian.safetensors

  lens-recipes survey capitals --json base.json

  lens-recipes survey capitals --edit "ablate L23H4 to mean" --metric logprob --compare base.json

  lens-recipes survey items.jsonl --shard 3/16 --folder shard-03

With several --lens, the table is pass@k: how often the answer is among the first k tokens of some
layer.
{EDIT_SHORT}

{EXIT_STATUS}
"""
