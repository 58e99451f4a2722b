"""Print the steps of a generation: a line for each, or every layer of each."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from lens_recipes.arrays.generation import Step, settled_at, settling, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import visible_token
from lens_recipes.caller import say
from lens_recipes.views.groups import side_by_side
from lens_recipes.views.summaries.trust import before_cannot
from lens_recipes.views.tables.grids import empty_grid, print_note, print_title
from lens_recipes.views.tables.lens.predictions import print_predictions
from lens_recipes.views.tables.lens.rows import UNREADABLE_MARK
from lens_recipes.views.words import probability

MAX_STEPS = 40  # of each prompt in `str(result)`

TOKEN_WIDTH = 24  # characters of a written token

# A sampler's probability that is this close to the model's (nats) is the model's, but for rounding.
SAME_LOGPROB = 1e-6

FIRST_CHOICE_STYLE = "bold green"

OTHER_CHOICE_STYLE = "bold yellow"


# -- a line for each step ----------------------------------------------


def print_steps(result: LensArrays, console: Console, max_steps: int = MAX_STEPS) -> None:
    """Print a line for each of the first steps of one prompt, and how many are left out."""
    all_steps = steps(result)
    shown_steps = all_steps[:max_steps]
    sampled = _was_sampled(all_steps)
    grid = empty_grid()
    grid.add_column("step", justify="right")
    grid.add_column("wrote", no_wrap=True)
    grid.add_column("p", justify="right", no_wrap=True)
    if sampled:
        grid.add_column("sampler's p", justify="right", no_wrap=True)
    if settling(result):
        grid.add_column("settled at", justify="right", no_wrap=True)
        grid.add_column("margin", justify="right", no_wrap=True)
    if not all(step.first_choice for step in shown_steps):
        grid.add_column("first choice", no_wrap=True)
    for step in shown_steps:
        grid.add_row(*_step_cells(result, step, sampled))
    console.print(grid)
    if not all(step.is_dated for step in shown_steps):
        print_note(console, f"{UNREADABLE_MARK}: first read there, {before_cannot(result)}")
    left_out = len(all_steps) - len(shown_steps)
    if left_out > 0:
        rest = say(python="result.to_frame()", shell="--all-layers shows all")
        console.print(Text(f"… and {left_out} more steps: {rest}"))


def _step_cells(result: LensArrays, step: Step, sampled: bool) -> Iterator[Text]:
    """Yield the cells of one step; the last only where the step was not the first choice."""
    yield Text(str(step.number))
    yield Text(visible_token(step.wrote, TOKEN_WIDTH))
    yield Text(probability(step.logprob))
    if sampled:
        yield Text(probability(step.sampler_logprob))
    if settling(result):
        mark = "" if step.is_dated else f" {UNREADABLE_MARK}"
        yield Text(settled_at(result, step) + mark)
        yield Text("–" if math.isnan(step.margin) else f"{step.margin:.2f}")
    if not step.first_choice:
        answer = visible_token(step.answer, TOKEN_WIDTH)
        yield Text(f"{answer} {probability(step.answer_logprob)}")


# -- every layer of each step ------------------------------------------


def print_layers(result: LensArrays, console: Console, *, show_top: int = 3) -> None:
    """Print what every layer would write at each step of one prompt.

    Neighbouring layers that would write the same share a line.

    Args:
        result: A result of one prompt.
        console: Where it goes.
        show_top: Tokens per layer; as many as the width takes. Where several components stand side
            by side, each shows one.
    """
    all_steps = steps(result)
    sampled = _was_sampled(all_steps)
    several_components = len(side_by_side(result.sites)) > 1
    print_title(console, "Layer by layer")
    if several_components:
        show_top = 1
    elif settling(result):
        note = "(2–3: the same top token at layers 2 and 3, with the numbers of layer 3)"
        console.print(Text(note, style="dim"))
    all_sites = list(range(len(result.sites)))
    for step in all_steps:
        console.print()
        console.print(_step_sentence(result, step, sampled))
        print_predictions(result, console, step.token, show_top, all_sites, merge=True)


def _step_sentence(result: LensArrays, step: Step, sampled: bool) -> Text:
    """Return what happened at one step, in a sentence with colours.

    Example: "step 2, after ·Paris at position 5: wrote .  p 0.404, the model's first choice,
    settled at layer 27, 1.53 nats ahead".
    """
    last_token = visible_token(result.tokens.text[step.token], TOKEN_WIDTH)
    position = result.tokens.position[step.token]
    sentence = Text(f"step {step.number}, after {last_token} at position {position}: wrote ")
    written_style = FIRST_CHOICE_STYLE if step.first_choice else OTHER_CHOICE_STYLE
    sentence.append(visible_token(step.wrote, TOKEN_WIDTH), written_style)
    sentence.append(f"  p {probability(step.logprob)}")
    if sampled:
        sentence.append(f", sampler's {probability(step.sampler_logprob)}")
    if step.first_choice:
        sentence.append(", the model's first choice")
    else:
        sentence.append(", not the model's first choice: ")
        sentence.append(visible_token(step.answer, TOKEN_WIDTH), FIRST_CHOICE_STYLE)
        sentence.append(f" p {probability(step.answer_logprob)}")
    if settling(result):
        sentence.append(f", {_where_settled(result, step)}")
    return sentence


def _where_settled(result: LensArrays, step: Step) -> str:
    """Return where the model's first choice settled, and by how many nats it led there."""
    if step.site < 0:
        return "not top-1 at the last layer read"
    verb = "settled" if step.is_dated else "first read"
    place = f"{verb} at {settled_at(result, step)}"
    if math.isnan(step.margin):
        return place
    return f"{place}, {step.margin:.2f} nats ahead"


def _was_sampled(all_steps: list[Step]) -> bool:
    """Check whether the sampler's probabilities differ from the model's.

    They do not where it neither scaled nor cut the distribution, and a NaN is no difference.
    """
    return any(abs(step.sampler_logprob - step.logprob) > SAME_LOGPROB for step in all_steps)
