"""Whether a fitted lens is about the model: measured in a shell, and kept in the lens's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

TEXT_LENGTH = 25  # tokens of the texts that the model writes to be pushed after
LEAST = 4  # texts that an interval can be found over
SEED = 2  # of these texts: another one than those of fits and of quality

Alignment = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="N",
        help="Also measure whether the lens is about the model or about text, on N texts that the "
        "model writes (16 or more): what it announces of pushes, beside what they do.",
    ),
]


def with_alignment(lens: Any, model: Any, n_texts: int) -> Any:
    """Return a lens with the alignment that was measured on texts that the model writes.

    Raises:
        LensError, ValueError: it cannot be measured.
    """
    from lens_recipes import lens_alignment
    from lens_recipes.recipes.lenses.text.samples import own_rows

    rows = own_rows(model, n_texts, TEXT_LENGTH, SEED)
    return lens.with_alignment(lens_alignment(lens, model, [row.ids.tolist() for row in rows]))


def check_alignment(n_texts: int, *, is_measured: bool, option: str) -> None:
    """Refuse an alignment on too few texts, or one that has no quality to stand beside.

    Raises:
        typer.BadParameter: says how many are needed, or names the option that measures the quality.
    """
    if 0 < n_texts < LEAST:
        raise typer.BadParameter(
            f"an interval over {n_texts} texts says nothing: at least {LEAST}, and better 16.",
            param_hint="--alignment",
        )
    if n_texts > 0 and not is_measured:
        raise typer.BadParameter(
            f"it stands beside the quality of the lens: {option}.", param_hint="--alignment"
        )


def keep(path: Path, lens: Any) -> None:
    """Write a lens again with what was measured since, beside what its fit has kept there."""
    from lens_recipes.lenses.files.own import write_again

    write_again(path, lens.content)
