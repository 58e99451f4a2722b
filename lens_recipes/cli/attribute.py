"""`lens-recipes attribute`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from lens_recipes.cli.common.edits import EDIT_SHORT, EditOptions, edits_argument, parse_edits
from lens_recipes.cli.common.images import (
    ImagePositions,
    Images,
    check_images,
    image_files,
    images_argument,
    parse_positions,
    with_images,
)
from lens_recipes.cli.common.lenses import named_lens, only_lens
from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Cdn,
    Chat,
    Html,
    JsonPath,
    LensSource,
    ModelName,
    NoSpecialTokens,
    Offline,
    Png,
    Precision,
    Prompts,
    Remote,
    load_model,
)
from lens_recipes.cli.common.outputs import (
    STDOUT,
    check_distinct,
    check_outputs,
    check_picture,
    note_written,
    write_json,
)
from lens_recipes.cli.common.pages import write_views
from lens_recipes.cli.common.tables import (
    TableFormat,
    check_format,
    print_doubts,
    print_table,
)
from lens_recipes.cli.common.unquoted import warn_of_unquoted


class Unit(StrEnum):
    """What a logit is split into."""

    layer = "layer"
    component = "component"
    head = "head"
    token = "token"


def attribute_command(
    prompts: Prompts,
    target: Annotated[
        list[str],
        typer.Option(help="The token whose logit is explained; repeat the option for more."),
    ],
    model: ModelName = "smollm2",
    chat: Chat = False,
    image: Images = None,
    against: Annotated[
        str | None,
        typer.Option(
            help='Subtract the logit of this token, or with "mean" the mean of all logits.'
        ),
    ] = None,
    unit: Annotated[Unit, typer.Option(help="What the logit is split into.")] = Unit.layer,
    at_layer: Annotated[
        int | None, typer.Option(help="Explain the lens's logit after this layer.")
    ] = None,
    positions: ImagePositions = "-1",
    show_top: Annotated[int, typer.Option(min=1, help="Parts shown per target.")] = 10,
    table_format: Annotated[
        TableFormat | None, typer.Option("--format", help="Format of the table; default: text.")
    ] = None,
    html: Html = None,
    png: Png = None,
    cdn: Cdn = False,
    offline: Offline = False,
    json_path: JsonPath = None,
    no_special_tokens: NoSpecialTokens = False,
    lens: LensSource = None,
    edit: EditOptions = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Split a token's logit into what each layer, component, head or source token adds to it."""
    source = only_lens(lens)
    check_outputs(html, json_path)
    check_picture(png)
    check_distinct({**image_files(image), "--html": html, "--png": png, "--json": json_path})
    check_format(table_format, json_path)
    warn_of_unquoted(prompts)
    if against in target:
        raise typer.BadParameter(
            f"{against!r} is the --target as well: their difference is nothing.",
            param_hint="--against",
        )
    edits = parse_edits(edit)
    check_images(image, prompts)
    chosen_positions = parse_positions(positions)

    from lens_recipes import attribution

    language_model = load_model(model, remote, dtype)
    result = attribution(
        language_model,
        [with_images(prompt, image, chat=chat) for prompt in prompts],
        target,
        against=against,
        unit=unit.value,
        at_layer=at_layer,
        positions=chosen_positions,
        add_special_tokens=not no_special_tokens,
        lens=named_lens(source, language_model),
        **images_argument(image),
        **edits_argument(edits, language_model),
    )
    write_json(result, json_path)
    if json_path != STDOUT:
        print_table(result, table_format, show_top=show_top)
        print_doubts(result, table_format)
    write_views(result, html, png, cdn=cdn)
    note_written([html, png, json_path])


ATTRIBUTE_EXAMPLES = f"""
Examples:

  lens-recipes attribute "The capital of France is" --target " Paris" --against " London"

  lens-recipes attribute "The capital of France is" --target " Paris" --unit head \
--html heads.html --json heads.json

  lens-recipes attribute "What is this?" --chat --image dog.jpg --target " dog" --unit token \
--model Qwen/Qwen2.5-VL-3B-Instruct

{EDIT_SHORT}

{EXIT_STATUS}
"""
