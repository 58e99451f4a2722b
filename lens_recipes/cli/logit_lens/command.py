"""`lens-recipes logit-lens`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from lens_recipes.arrays.metrics import METRICS
from lens_recipes.arrays.metrics.followed import ROLES
from lens_recipes.cli.common.edits import (
    EDIT_HELP,
    Controls,
    EditOptions,
    check_controls,
    edits_argument,
    parse_edits,
)
from lens_recipes.cli.common.images import (
    ImagePositions,
    Images,
    check_images,
    image_files,
    images_argument,
    parse_positions,
    with_images,
)
from lens_recipes.cli.common.lenses import named_lens
from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Cdn,
    Chat,
    Components,
    FollowedTokens,
    Html,
    JsonPath,
    LensSources,
    ModelName,
    NoSpecialTokens,
    Offline,
    Png,
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
    check_page,
    check_picture,
    note_written,
    write_json,
)
from lens_recipes.cli.common.pages import write_page, write_views
from lens_recipes.cli.common.tables import (
    TableFormat,
    check_format,
    print_doubts,
    print_table,
)
from lens_recipes.cli.common.unquoted import warn_of_unquoted
from lens_recipes.cli.logit_lens.prompt_file import PromptLine, read_prompt_file
from lens_recipes.cli.logit_lens.spaces import space_warning
from lens_recipes.terminal import escape_terminal

# What the colours of the heatmap show.
Metric = StrEnum(  # type: ignore[misc]
    "Metric", {name: name for name, metric in METRICS.items() if metric.in_shell}
)
PROBABILITY = Metric("prob")


class Asked(NamedTuple):
    """The prompts of a run, and the targets of each.

    Attributes:
        prompts: As they were given.
        targets: `[prompt][target]`; the same for all where they were given by `--target`.
        lines: The lines of the file that they are from; empty where there is no file.
    """

    prompts: list[str]
    targets: list[list[Any]]
    lines: list[PromptLine]


def logit_lens_command(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT...", help="One or several prompts, each in quotation marks."
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Read prompts, each with its own target, from a .jsonl, .csv or .tsv.",
        ),
    ] = None,
    model: ModelName = "smollm2",
    chat: Chat = False,
    image: Images = None,
    target: FollowedTokens = None,
    positions: ImagePositions = "all",
    layers: Annotated[
        str, typer.Option(help='Layers: "all", or for example -1, 0,3,-1 or 2:5.')
    ] = "all",
    components: Components = "resid_post",
    heads: Annotated[
        str, typer.Option(help='With --components head_out: "all", or for example 0,3.')
    ] = "all",
    show_top: Annotated[int, typer.Option(min=1, help="Predictions shown per layer.")] = 5,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table; default: text.")
    ] = None,
    html: Html = None,
    png: Png = None,
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="What colours the heatmap of --png, default: prob. With --html, that page is "
            "the heatmap alone."
        ),
    ] = None,
    of: Annotated[
        str | None, typer.Option(help='Whose metric: "next", "final", "target" or one target.')
    ] = None,
    cdn: Cdn = False,
    offline: Offline = False,
    page: Annotated[
        Path | None,
        typer.Option("--report", help="Write the page of --html here, too, whatever --metric is."),
    ] = None,
    json_path: JsonPath = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Read the stream without the final norm.")
    ] = False,
    no_special_tokens: NoSpecialTokens = False,
    lens: LensSources = None,
    edit: EditOptions = None,
    controls: Controls = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Decode the residual stream after every layer, or what is added to it."""
    check_outputs(html, json_path)
    check_picture(png)
    check_distinct(
        {
            "FILE": prompt_file,
            **image_files(image),
            "--html": html,
            "--png": png,
            "--report": page,
            "--json": json_path,
        }
    )
    if page is not None:
        check_page(page, "--report")
    check_format(table_format, json_path)
    lenses: list[str | None] = [*lens] if lens else [None]
    check_lenses(lenses, table_format, json_path, html, metric)
    asked = read_prompts(prompts, prompt_file, target)
    check_metric(metric, of, asked)
    edits = parse_edits(edit)
    check_controls(controls, edits)
    check_images(image, asked.prompts, prompt_file)
    chosen_positions = parse_positions(positions)
    chosen_layers = parse_indices(layers, "--layers")
    chosen_heads = parse_indices(heads, "--heads")
    chosen_components = parse_names(components)

    from lens_recipes import logit_lens

    language_model = load_model(model, remote, dtype)
    tokenizer = getattr(language_model, "tokenizer", None)
    check_file_targets(asked, prompt_file, tokenizer)
    inputs = [with_images(prompt, image, chat=chat) for prompt in asked.prompts]
    results = []
    for source in lenses:
        result = logit_lens(
            language_model,
            inputs,
            targets=asked.targets if asked.lines else target,
            top_k=show_top,
            apply_norm=not raw,
            positions=chosen_positions,
            add_special_tokens=not no_special_tokens,
            layers=chosen_layers,
            heads=chosen_heads,
            components=chosen_components,
            lens=named_lens(source, language_model),
            controls=controls,
            **images_argument(image),
            **edits_argument(edits, language_model),
        )
        results.append(result)
    result, *beside = results
    write_json(result, json_path)
    if json_path != STDOUT:
        from lens_recipes.arrays.batch.outcomes import is_batch

        # Several components stand side by side, each with its top prediction. Several prompts have
        # a row each, which has room for one.
        is_text = table_format in (None, TableFormat.text, TableFormat.markdown)
        has_layers = len(chosen_components) == 1 and not (is_text and is_batch(result))
        n_shown = show_top if has_layers and not beside else None
        print_table(result, table_format, show_top=n_shown, beside=beside or None)
        print_doubts(result, table_format, beside=beside)
    if not chat:
        warning = space_warning(result, tokenizer, asked.prompts, asked.targets)
        if warning:
            print(escape_terminal(f"warning: {warning}"), file=sys.stderr)
    figure = figure_options(metric, of)
    write_views(result, html, png, figure=figure, options=figure, cdn=cdn, beside=beside)
    if page is not None:
        write_page(result, page, beside=beside)
    note_written([html, png, json_path, page])


# -- before the run ----------------------------------------------------


def read_prompts(prompts: list[str] | None, file: Path | None, target: list[str] | None) -> Asked:
    """Return the prompts of the command line or of the file, and their targets.

    Raises:
        typer.BadParameter: there are none, or of both.
        ValueError: the file has a mistake.
    """
    shared = list(target or [])
    if file is None:
        if not prompts:
            raise typer.BadParameter(
                'there is no PROMPT. Give one in quotation marks, like "The capital of France '
                'is", or a file of them with --prompts FILE.',
                param_hint="PROMPT...",
            )
        warn_of_unquoted(prompts)
        return Asked(prompts, [shared] * len(prompts), [])
    if prompts:
        raise typer.BadParameter(
            f"there is a file of prompts, and {prompts[0]!r} as well: leave one out.",
            param_hint="--prompts",
        )
    lines = read_prompt_file(file, needs_targets=not shared)
    targets = [shared or line.targets for line in lines]
    return Asked([line.prompt for line in lines], targets, lines)


def check_lenses(
    lenses: list[str | None],
    table_format: TableFormat | None,
    json_path: str | None,
    html: Path | None,
    metric: Metric | None,
) -> None:
    """Refuse what can show one lens alone, where there are several."""
    if len(lenses) < 2:
        return
    if json_path is not None:
        raise typer.BadParameter(
            "a file holds the result of one lens: give --lens once, or leave --json out.",
            param_hint="--json",
        )
    if table_format not in (None, TableFormat.text, TableFormat.markdown):
        raise typer.BadParameter(
            "several lenses stand side by side in text and markdown: give --lens once.",
            param_hint="--format",
        )
    if html is not None and metric is not None:
        raise typer.BadParameter(
            "with it, --html is the heatmap of one lens: leave --metric out for the page that "
            "switches between lenses, or give --lens once.",
            param_hint="--metric",
        )


def check_file_targets(asked: Asked, file: Path | None, tokenizer: Any) -> None:
    """Refuse a target of a file that is not one token, with its line.

    Raises:
        ValueError: it is not; the message shows which tokens it is.
    """
    from lens_recipes.run.request.selection import id_of_text

    for line in asked.lines:
        for target in line.targets:
            if not isinstance(target, str):
                continue
            try:
                id_of_text(target, tokenizer)
            except ValueError as error:
                raise ValueError(f"{file}: line {line.number}: {error}") from None


def check_metric(metric: Metric | None, of: str | None, asked: Asked) -> None:
    """Refuse an `--of` that is nobody's, or that does not go with the metric."""
    known = [target for targets in asked.targets for target in targets]
    if of == "target" and not known:
        raise typer.BadParameter(
            '"target" is each prompt\'s own target: add --target.', param_hint="--of"
        )
    if of not in (None, *ROLES, *known):
        raise typer.BadParameter(
            f'{of!r} is neither "next" nor "final" nor "target" nor a target.', param_hint="--of"
        )
    about = METRICS[metric or PROBABILITY].about
    if about == "token" and of is None:
        raise typer.BadParameter(
            'this metric needs --of: "next", "final", "target", or a target.',
            param_hint="--metric",
        )
    if about == "all" and of is not None:
        raise typer.BadParameter(
            "this metric is about all tokens at once: leave --of out.", param_hint="--metric"
        )


def figure_options(metric: Metric | None, of: str | None) -> dict[str, Any] | None:
    """Return the options of the heatmap; None where none was given."""
    if metric is None and of is None:
        return None
    return {"metric": (metric or PROBABILITY).value, "of": of}


LOGIT_LENS_EXAMPLES = f"""
Examples:

  lens-recipes logit-lens "The capital of France is" --target " Paris"

  lens-recipes logit-lens "2 + 2 =" --model Qwen/Qwen3-0.6B --positions -1 --html lens.html

  lens-recipes logit-lens --prompts facts.jsonl --positions -1 --format tsv > facts.tsv

  lens-recipes logit-lens "Name three colours." --chat --png lens.png

  lens-recipes logit-lens "What is this?" --chat --image dog.jpg --model \
Qwen/Qwen2.5-VL-3B-Instruct --positions image

  lens-recipes logit-lens "The capital of France is" --lens logit --lens lens.safetensors \
--report lenses.html

  lens-recipes logit-lens "The capital of France is" --edit "ablate L23H4" --positions -1

  lens-recipes logit-lens --positions -1 -- "-5 + 5 ="

  lens-recipes logit-lens "The capital of France is" --components attn_out,mlp_out --positions -1

  lens-recipes logit-lens "Hello" --layers 10:20 --json - | jq .texts

  lens-recipes logit-lens "The Eiffel Tower is in" --model meta-llama/Llama-3.1-70B --remote \
--positions -1

A line of facts.jsonl is like {{"prompt": "The capital of France is", "target": " Paris"}}, or has
"targets" with a list; a .csv or .tsv has the columns prompt and target. A target is one token, most
often with the space before it.
{EDIT_HELP}
{EXIT_STATUS}
"""
