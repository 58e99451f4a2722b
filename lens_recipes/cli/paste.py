"""`lens-recipes paste`: a script that needs this package no more, on stdout or in a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.options import EXIT_STATUS, Model, check_place, index, note_written
from lens_recipes.recipes.paste.names import RECIPES

PASTE_EXAMPLES = f"""
Examples:

  lens-recipes paste first-lens --model Qwen/Qwen3-8B > lens.py

  lens-recipes paste attribution --model google/gemma-2-2b --output parts.py

  lens-recipes paste remote --model meta-llama/Llama-3.1-70B --layers 40:

Recipes: {", ".join(f"{name} ({what})" for name, what in RECIPES.items())}. Prompt and targets are constants at the top
of the script.

{EXIT_STATUS}
"""

Recipe = StrEnum("Recipe", {name: name for name in RECIPES})  # type: ignore[misc]


def paste_command(
    recipe: Annotated[
        Recipe, typer.Argument(metavar="RECIPE", help="One of those below.", show_choices=False)
    ],
    model: Model = "smollm2",
    remote: Annotated[
        bool, typer.Option("--remote", help="The script runs on an NDIF server.")
    ] = False,
    layers: Annotated[
        str, typer.Option(help='What it decodes: "all", or like -1 or 0,3,-1 or 2:5.')
    ] = "all",
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the script here, not to stdout.")
    ] = None,
) -> None:
    """Print a short script for one model, from its config alone, that needs only nnsight and torch."""
    if file is not None:
        check_place(file, "--output")
    chosen = index(layers, "--layers")

    from lens_recipes import paste

    text = paste(recipe.value, model, remote=remote, layers=chosen)
    if file is None:
        print(text, end="")
    else:
        file.write_text(text, encoding="utf-8")
        note_written((file,))
