"""The options that commands share, and the parsing of their values."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

EXIT_STATUS = "Exit status: 0 done, 1 the run failed, 2 wrong usage, 130 interrupted."


class WeightType(StrEnum):
    """A precision of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Prompts = Annotated[
    list[str],
    typer.Argument(metavar="PROMPT...", help="One or several prompts, each in quotation marks."),
]

ModelName = Annotated[
    str,
    typer.Option(
        "--model", "-m", help='Hub id, checkpoint folder, or "smollm2" (comes in a Python package).'
    ),
]

Precision = Annotated[
    WeightType | None,
    typer.Option("--dtype", help="Precision of the weights; default: the checkpoint's own."),
]

Remote = Annotated[
    bool, typer.Option("--remote", help="Run on an NDIF server; downloads no weights.")
]

FollowedTokens = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="A token to follow through the layers; repeat the option for more."
    ),
]

Components = Annotated[
    str,
    typer.Option(
        help="What to read, separated by commas: resid_post, resid_mid, attn_out, mlp_out, "
        "head_out, embed, …"
    ),
]

Positions = Annotated[
    str, typer.Option(help='Tokens of each prompt: "all", or for example -1, 0,3,-1 or 2:5.')
]

Html = Annotated[
    Path | None,
    typer.Option("--html", help="Write an interactive page of the result here; needs no network."),
]

Png = Annotated[
    Path | None,
    typer.Option("--png", help="Write a picture here, in .png or .svg; a browser draws it."),
]

LensSource = Annotated[
    list[str] | None,  # of which `only_lens` takes one: the last would win without a word
    typer.Option(
        "--lens",
        help='Read with this lens: a file that "lens-recipes fit" or another tool wrote, a hub id, '
        'or "linear", fitted on the model\'s own text once; default: the logit lens.',
    ),
]

LensSources = Annotated[
    list[str] | None,
    typer.Option(
        "--lens",
        help='Read with this lens: a file that "lens-recipes fit" or another tool wrote, a hub id, '
        '"linear", fitted on the model\'s own text once, or "logit", the default; repeat the '
        "option to see several side by side.",
    ),
]

Cdn = Annotated[
    bool,
    typer.Option(
        "--cdn",
        help="Write a small --html that needs a network: the figure alone, plotly.js from a CDN.",
    ),
]

# What earlier versions asked for, and every page now is.
Offline = Annotated[bool, typer.Option("--offline", hidden=True)]

AllLayers = Annotated[
    bool,
    typer.Option(
        "--all-layers",
        help="Of a generation: print every layer at every step, timing and statistics.",
    ),
]

Chat = Annotated[
    bool,
    typer.Option("--chat", help="PROMPT is a user's message: read it through the chat template."),
]

JsonPath = Annotated[
    str | None,
    typer.Option("--json", help="Write the whole result here; - for stdout, instead of the table."),
]


NoSpecialTokens = Annotated[
    bool,
    typer.Option(
        "--no-special-tokens",
        help="Read the text as it is: put no BOS before it, as for a text that has one.",
    ),
]


def parse_indices(text: str, option: str) -> Any:
    """Return what the recipes take for "all", "-1", "0,3,-1" or "2:5".

    Args:
        text: The value of the option.
        option: Its name, for the error.

    Returns:
        None for "all", a slice for a range, else a list of numbers.

    Raises:
        typer.BadParameter: The text is none of these.
    """
    if text == "all":
        return None
    try:
        if ":" in text:
            return parse_range(text)
        return [int(part) for part in text.split(",")]
    except (ValueError, TypeError):
        raise typer.BadParameter(
            f'{text!r} is not "all", a number, numbers like 0,3,-1, or a range like 2:5.',
            param_hint=option,
        ) from None


def parse_range(text: str) -> slice:
    """Return "2:5", ":5" or "::2" as a slice, or raise ValueError or TypeError."""
    bounds: list[int | None] = []
    for part in text.split(":"):
        bounds.append(int(part) if part.strip() else None)
    chosen = slice(*bounds)
    range(0)[chosen]  # raises where the step is 0
    return chosen


def parse_names(text: str) -> list[str]:
    """Return "attn_out, mlp_out" as a list."""
    names = [name.strip() for name in text.split(",")]
    return [name for name in names if name]


def as_chat(prompt: str) -> list[dict[str, str]]:
    """Return a chat in which the user says the prompt."""
    return [{"role": "user", "content": prompt}]


def load_model(name: str, remote: bool, precision: WeightType | None) -> Any:
    """Load the model that the options name."""
    from lens_recipes import load

    if not sys.stderr.isatty():
        # Progress bars are for a terminal; in a log they are one long line.
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    if precision is None:
        return load(name, remote=remote)
    return load(name, remote=remote, dtype=precision.value)
