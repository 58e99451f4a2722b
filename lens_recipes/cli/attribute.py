"""`lens-recipes attribute`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.options import (
    EXIT_STATUS,
    JsonPath,
    ModelName,
    NoSpecialTokens,
    Offline,
    Positions,
    Precision,
    Prompts,
    Remote,
    load_model,
    parse_indices,
)
from lens_recipes.cli.outputs import (
    STDOUT,
    attribution_figure,
    check_outputs,
    prompts_of_figure,
    stdout_console,
    write_outputs,
)


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
    positions: Positions = "-1",
    show_top: Annotated[int, typer.Option(min=1, help="Parts shown per target.")] = 10,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a figure here: bars, for heads a grid, for tokens a map."),
    ] = None,
    offline: Offline = False,
    json_path: JsonPath = None,
    no_special_tokens: NoSpecialTokens = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Split a token's logit into what each layer, component, head or source token adds to it."""
    check_outputs(html, json_path)
    chosen_positions = parse_indices(positions, "--positions")

    from lens_recipes import attribution

    result = attribution(
        load_model(model, remote, dtype),
        prompts,
        target,
        against=against,
        unit=unit.value,
        at_layer=at_layer,
        positions=chosen_positions,
        add_special_tokens=not no_special_tokens,
    )
    if json_path != STDOUT:
        from lens_recipes.views.tables.table import render

        render(result, stdout_console(), show_top=show_top)
    figure = None
    if html is not None:
        figure = attribution_figure(result)
    n_targets = result.target_ids.shape[1]
    write_outputs(
        result,
        figure,
        html,
        json_path,
        offline=offline,
        n_prompts=prompts_of_figure(result),
        n_targets=n_targets,
    )


ATTRIBUTE_EXAMPLES = f"""
Examples:

  lens-recipes attribute "The capital of France is" --target " Paris" --against " London"

  lens-recipes attribute "The capital of France is" --target " Paris" --unit head \
--html heads.html --json heads.json

{EXIT_STATUS}
"""
