"""`lens-recipes attribute`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.options import (
    EXIT_STATUS,
    Json,
    Model,
    Offline,
    Precision,
    Prompts,
    Remote,
    attribution_figure,
    check_outputs,
    index,
    loaded,
    output,
    write_outputs,
)

ATTRIBUTE_EXAMPLES = f"""
Examples:

  lens-recipes attribute "The capital of France is" --target " Paris" --against " London"

  lens-recipes attribute "The capital of France is" --target " Paris" --unit head --html heads.html --json heads.json

{EXIT_STATUS}
"""


class Unit(StrEnum):
    layer = "layer"
    component = "component"
    head = "head"
    token = "token"


def attribute_command(
    prompts: Prompts,
    target: Annotated[
        list[str], typer.Option(help="The token whose logit is explained; give it again for more.")
    ],
    model: Model = "smollm2",
    against: Annotated[
        str | None,
        typer.Option(
            help='Also subtract the same for this token, or "mean" for the mean of all tokens.'
        ),
    ] = None,
    unit: Annotated[Unit, typer.Option(help="What the logit is split into.")] = Unit.layer,
    at_layer: Annotated[
        int | None, typer.Option(help="Explain the lens's logit after this layer.")
    ] = None,
    positions: Annotated[
        str, typer.Option(help='"all", or like -1 or 0,3,-1 or 2:5, in each prompt.')
    ] = "-1",
    show_top: Annotated[int, typer.Option(min=1, help="Parts shown per target.")] = 10,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a figure here: bars, for heads a grid, for tokens a map."),
    ] = None,
    offline: Offline = False,
    json_path: Json = None,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Which part of the network wrote a token: its logit as a sum over layers, components, heads or tokens read."""
    check_outputs(html, json_path)
    where = index(positions, "--positions")

    from lens_recipes import attribution

    lm = loaded(model, remote, dtype)
    result = attribution(
        lm, prompts, target, against=against, unit=unit.value, at_layer=at_layer, positions=where
    )
    if json_path != "-":
        from lens_recipes.views.tables.table import render

        render(result, output(), show_top=show_top)
    figure = None if html is None else attribution_figure(result)
    write_outputs(result, figure, html, json_path, offline, targets=result.target_ids.shape[1])
