"""`lens-recipes fit`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lens_recipes.cli.common.options import (
    EXIT_STATUS,
    Precision,
    Remote,
    load_model,
    parse_indices,
)
from lens_recipes.cli.common.outputs import check_writable, note_written, write_for_programs
from lens_recipes.cli.lenses.alignment import Alignment, check_alignment, keep, with_alignment
from lens_recipes.terminal import escape_terminal


class Kind(StrEnum):
    """A kind of lens that is fitted."""

    linear = "linear"
    tuned = "tuned"
    jacobian = "jacobian"


def fit_command(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The lens, in .safetensors; a fit that was stopped there goes on.",
        ),
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help='Hub id, checkpoint folder, or "smollm2" (comes in a Python package).',
        ),
    ] = "smollm2",
    kind: Annotated[Kind, typer.Option(help="The kind of lens.")] = Kind.linear,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="A text file, or one with JSON in each line; default: what the model writes."
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Of JSON: the entry that is the text; default: text.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fit on about so many tokens; default: 20000, of a Jacobian lens 12800."
        ),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(help='Layers that get a transport: "all", or for example 0,3,-2 or 2:5.'),
    ] = "all",
    shard: Annotated[
        str | None,
        typer.Option(help="A part of the text, such as 3/16; lens-recipes merge joins the parts."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the text that the model writes.")] = 0,
    quality_tokens: Annotated[
        int, typer.Option(min=0, help="Measure the lens on so many tokens; 0 for not at all.")
    ] = 128,
    alignment: Alignment = 0,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only say how long it may take, and how large it is.")
    ] = False,
    dtype: Precision = None,
    remote: Remote = False,
) -> None:
    """Fit a lens: the map from the stream after each layer to the one that the model ends with."""
    check_lens_file(output)
    check_alignment(
        alignment, is_measured=quality_tokens > 0, option="--quality-tokens must be at least 1"
    )
    part = parse_shard(shard)
    chosen_layers = parse_indices(layers, "--layers")

    import lens_recipes as lr

    loaded = load_model(model, remote, dtype)
    options = {
        "kind": kind.value,
        "column": column,
        "tokens": tokens,
        "layers": chosen_layers,
        "shard": part,
        "seed": seed,
        "quality_tokens": quality_tokens,
    }
    if estimate:
        write_for_programs(f"{lr.estimate(lr.fit_lens, loaded, texts, **options)}\n")
        return
    lens = lr.fit_lens(loaded, texts, path=output, **options)
    if alignment:
        lens = with_alignment(lens, loaded, alignment)
        keep(output, lens)
    if lens.quality is not None:
        write_for_programs(f"{escape_terminal(str(lens.quality))}\n")
    note_written([output])


def check_lens_file(path: Path) -> None:
    """Refuse a name that is none of a lens, or cannot be written."""
    if path.suffix != ".safetensors":
        raise typer.BadParameter(f"{str(path)!r} must end in .safetensors.", param_hint="--output")
    check_writable(path, "--output")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Return "3/16" as two numbers.

    Raises:
        typer.BadParameter: it is something else.
    """
    if text is None:
        return None
    number, slash, count = text.partition("/")
    is_pair = bool(slash) and number.isascii() and number.isdigit() and count.isascii()
    if not (is_pair and count.isdigit() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(
            f"{text!r} is no part of a text: 3/16 is the third of sixteen.", param_hint="--shard"
        )
    return int(number), int(count)


FIT_EXAMPLES = f"""
Examples:

  lens-recipes fit smollm2 -o smollm2.safetensors --tokens 12000

  lens-recipes fit smollm2 -o smollm2.safetensors --tokens 12000 --alignment 16

  lens-recipes fit Qwen/Qwen3-0.6B -o qwen.safetensors --texts corpus.jsonl --column body

  lens-recipes fit smollm2 -o part-3.safetensors --texts corpus.txt --shard 3/16

The file holds the lens and what its fit added up. After Ctrl-C, or a crash, the same command goes
on. With --shard, each part is a command of its own, anywhere, and lens-recipes merge joins them.

{EXIT_STATUS}
"""
