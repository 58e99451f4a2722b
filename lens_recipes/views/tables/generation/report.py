"""Print a whole generation: `str(result)`, and the report of the command line."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.text import Text

from lens_recipes.arrays.lens import LensArrays
from lens_recipes.caller import say
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.tables.generation.numbers import statistics_table, timing_table
from lens_recipes.views.tables.generation.steps import print_layers, print_steps
from lens_recipes.views.tables.grids import (
    WIDEST,
    console_text,
    print_title,
    string_console,
    truncate,
)
from lens_recipes.views.tables.selection import PROMPTS_SHOWN
from lens_recipes.views.tables.terminal import print_certificate, print_warning
from lens_recipes.views.words import ending, prompt_end


def generation_text(result: LensArrays) -> str:
    """Return `str(result)` of a generation: the responses, and a line for each step."""
    console = string_console(WIDEST)
    generation_table(result, console)
    return console_text(console)


def generation_table(result: LensArrays, console: Console, *, written: bool = False) -> None:
    """Print the responses of the first prompts, and a line for each of their steps.

    Args:
        result: What `generate_lens` returned.
        console: Where the table goes.
        written: Whether the user has seen the text of the responses already.
    """
    print_warning(result, console)
    for number, prompt_result in enumerate(itertools.islice(result, PROMPTS_SHOWN)):
        if number > 0:
            console.print()
        if not written:
            print_response(prompt_result, console)
        elif prompt_result.responses:
            print_ending(prompt_result, console)
            console.print()
        print_steps(prompt_result, console)
    left_out = len(result) - PROMPTS_SHOWN
    if left_out > 0:
        rest = say(python="print(result[i])", shell="--prompt N shows one")
        console.print(Text(f"\n… and {left_out} more prompts: {rest}"))
    print_certificate(result, console)


def generation_report(
    result: LensArrays, console: Console, *, show_top: int = 3, written: bool = False
) -> None:
    """Print all there is to say of a generation.

    That is the responses, every layer at every step, timing, statistics and the certificate.

    Args:
        result: What `generate_lens` returned; all its prompts are shown.
        console: Where the report goes, with colours if it has them.
        show_top: Tokens per layer; as many as the width takes.
        written: Whether the user has seen the text of the responses already.

    Raises:
        ValueError: The result holds no generated tokens.
    """
    if not result.tokens.generated.any():
        raise ValueError(
            "this result holds no generated tokens: pass what generate_lens() returned, "
            "or use table()."
        )
    print_warning(result, console)
    for prompt_result in result:
        if not written:
            print_response(prompt_result, console)
        elif prompt_result.responses:
            print_ending(prompt_result, console)
        print_layers(prompt_result, console, show_top=show_top)
    print_title(console, "Timing")
    console.print(timing_table(result))
    print_title(console, "Statistics")
    console.print(statistics_table(result))
    console.print()
    print_certificate(result, console)


def print_response(result: LensArrays, console: Console) -> None:
    """Print the end of one prompt, what the model wrote after it, and why it stopped.

    A result that is not complete, as `on_step` gets it, has no response yet.
    """
    prompt = truncate(prompt_end(result.prompts[0]), console.width, keep_end=True)
    console.print(Text(prompt, style="dim"))
    if result.responses:
        written = escape_terminal(result.responses[0].text)
        console.out(written, highlight=False)
        print_ending(result, console)


def print_ending(result: LensArrays, console: Console) -> None:
    """Print how much the model wrote after one prompt, and why it stopped."""
    console.print(Text(f"({ending(result)})", style="dim"))
