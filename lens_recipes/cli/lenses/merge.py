"""`lens-recipes merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.common.options import EXIT_STATUS
from lens_recipes.cli.common.outputs import note_written, write_for_programs
from lens_recipes.cli.lenses.alignment import Alignment, check_alignment, with_alignment
from lens_recipes.cli.lenses.fit import check_lens_file
from lens_recipes.terminal import escape_terminal


def merge_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="What lens-recipes fit wrote, on disjoint texts."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The lens, in .safetensors.")],
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Measure the lens on this model, on text that the model writes."
        ),
    ] = None,
    alignment: Alignment = 0,
) -> None:
    """Merge fits on disjoint texts, such as the shards of one, into the fit on all of them."""
    check_lens_file(output)
    check_alignment(alignment, is_measured=measure is not None, option="--measure MODEL")

    from lens_recipes import Lens, lens_quality, load, load_lens

    lens = Lens.merge(load_lens(file) for file in files)
    lens.save(output, sums=True)
    note_written([output])
    if measure is not None:
        model = load(measure)
        measured = lens.with_quality(lens_quality(lens, model))
        if alignment:
            measured = with_alignment(measured, model, alignment)
        measured.save(output, sums=True)
        write_for_programs(f"{escape_terminal(str(measured.quality))}\n")


MERGE_EXAMPLES = f"""
Example:

  lens-recipes merge part-1.safetensors part-2.safetensors part-3.safetensors -o lens.safetensors

It is exactly the fit on all texts, and can be merged again. No model is needed, unless the lens is
to be measured: --measure MODEL.

{EXIT_STATUS}
"""
