"""`lens-recipes paste`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.common.options import EXIT_STATUS, ModelName, parse_indices
from lens_recipes.cli.common.outputs import check_writable, note_written, write_for_programs
from lens_recipes.recipes.paste.names import SCRIPTS

Recipe = StrEnum("Recipe", {recipe: recipe for recipe in SCRIPTS})  # type: ignore[misc]


def paste_command(
    recipe: Annotated[
        Recipe, typer.Argument(metavar="RECIPE", help="One of those below.", show_choices=False)
    ],
    model: ModelName = "smollm2",
    remote: Annotated[
        bool, typer.Option("--remote", help="The script runs on an NDIF server.")
    ] = False,
    layers: Annotated[
        str,
        typer.Option(help='Layers that it decodes: "all", or for example -1, 0,3,-1 or 2:5.'),
    ] = "all",
    lens: Annotated[
        Path | None,
        typer.Option(
            "--lens",
            help="For first-lens: the .safetensors file of a lens, with which the script reads.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the script to this file, not to stdout."),
    ] = None,
) -> None:
    """Print a short script for one model, made from its config: it needs only nnsight and torch."""
    if file is not None:
        check_writable(file, "--output")
    chosen_layers = parse_indices(layers, "--layers")

    from lens_recipes import paste

    script = paste(recipe.value, model, remote=remote, layers=chosen_layers, lens=lens)
    if file is None:
        write_for_programs(script)
    else:
        from lens_recipes.views.files import write_text

        write_text(file, script)
        note_written([file])


RECIPE_LIST = ", ".join(f"{recipe} ({purpose})" for recipe, purpose in SCRIPTS.items())

PASTE_EXAMPLES = f"""
Examples:

  lens-recipes paste first-lens --model Qwen/Qwen3-8B > lens.py

  lens-recipes paste attribution --model google/gemma-2-2b --output parts.py

  lens-recipes paste first-lens --model smollm2 --lens lens.safetensors

  lens-recipes paste remote --model meta-llama/Llama-3.1-70B --layers 40:

Recipes: {RECIPE_LIST}. Prompt and targets are constants at the top of the script.

{EXIT_STATUS}
"""
