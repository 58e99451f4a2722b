"""A generation as text: what was written, at which layer each token was decided, where the time went."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.arrays.generation import Step, quartiles, settled_at, settling, statistics, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.text import escape_terminal, visible_token
from lens_recipes.views.tables.grids import WIDEST, console_text, empty_grid, string_console
from lens_recipes.views.tables.lens import one_token
from lens_recipes.views.tables.selection import PROMPTS_SHOWN
from lens_recipes.views.tables.terminal import print_certificate, print_warning
from lens_recipes.views.words import ending, percentage, probability, prompt_end, side_by_side

STEPS_SHOWN = 40  # by str(result), of each prompt

WIDE = 24  # characters of a written token

# The entries of `result.timings` in words, in the order in which they happen.
SECONDS = {
    "load_s": "load the model", "tokenise_s": "tokenise", "prefill_s": "prefill: the prompt, and the first token",
    "decode_s": "decode: all later tokens", "decode_per_token_s": "  for each token", "lens_s": "lens",
    "text_s": "ids to text",
}  # fmt: skip


def generation_text(result: LensArrays) -> str:
    """`str(result)` of a generation: the responses and a line for each step, as plain text."""
    console = string_console(WIDEST)
    print_warning(result, console)
    for number, one in zip(range(PROMPTS_SHOWN), result, strict=False):
        if number:
            console.print()
        response(one, console)
        overview(one, console)
    if len(result) > PROMPTS_SHOWN:
        console.print(Text(f"\n… and {len(result) - PROMPTS_SHOWN} more prompts: print(result[i])"))
    print_certificate(result, console)
    return console_text(console)


def generation_report(
    result: LensArrays, console: Console, *, show_top: int = 3, written: bool = False
) -> None:
    """All there is to say of a generation: responses, every layer at every step, timing, statistics, certificate.

    Args:
        result: What `generate_lens` returned; all its prompts are shown.
        console: Where it goes, with colours if it has them.
        show_top: Tokens per layer; as many as the width takes.
        written: Whether the text itself has been shown already.

    Raises:
        ValueError: a result without generation.
    """
    if not result.tokens.generated.any():
        raise ValueError(
            "this result holds no generated tokens: pass what generate_lens() returned, or use table()."
        )
    print_warning(result, console)
    for one in result:
        if not written:
            response(one, console)
        elif one.responses:
            console.print(Text(f"({ending(one)})", style="dim"))
        analysis(one, console, show_top=show_top)
    _title(console, "Timing")
    console.print(timing_table(result))
    _title(console, "Statistics")
    console.print(statistics_table(result))
    console.print()
    print_certificate(result, console)


def _title(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def response(one: LensArrays, console: Console) -> None:
    """What the model wrote after one prompt, and why it stopped."""
    console.print(Text(prompt_end(one.prompts[0]), style="dim"), soft_wrap=True)
    if one.responses:
        console.out(escape_terminal(one.responses[0].text), highlight=False)
        console.print(Text(f"({ending(one)})", style="dim"))


# -- steps -------------------------------------------------------------


def overview(one: LensArrays, console: Console, most: int = STEPS_SHOWN) -> None:
    """A line for each of the first steps of one prompt."""
    every = steps(one)
    sampled, others = _was_sampled(every), [step for step in every[:most] if not step.first_choice]
    grid = empty_grid()
    grid.add_column("step", justify="right")
    grid.add_column("wrote", no_wrap=True)
    for name in (
        "p",
        *(("sampler's p",) if sampled else ()),
        *(("settled at", "margin") if settling(one) else ()),
    ):
        grid.add_column(name, justify="right", no_wrap=True)
    if others:
        grid.add_column("first choice", no_wrap=True)
    for step in every[:most]:
        numbers = [
            probability(step.logprob),
            *([probability(step.sampler_logprob)] if sampled else []),
        ]
        numbers += [settled_at(one, step), _nats(step.margin)] if settling(one) else []
        instead = (
            []
            if step.first_choice
            else [f"{visible_token(step.answer, WIDE)} {probability(step.answer_logprob)}"]
        )
        grid.add_row(
            str(step.number),
            Text(visible_token(step.wrote, WIDE)),
            *map(Text, [*numbers, *instead]),
        )
    console.print(grid)
    if len(every) > most:
        console.print(Text(f"… and {len(every) - most} more steps: result.to_frame()"))


def analysis(one: LensArrays, console: Console, *, show_top: int = 3) -> None:
    """Step by step of one prompt, what every layer would write; layers that say the same share a line.

    Args:
        one: A result of one prompt.
        console: Where it goes.
        show_top: Tokens per layer; as many as the width takes.
    """
    every = steps(one)
    several, sampled = len(side_by_side(one.sites)) > 1, _was_sampled(every)
    _title(console, "Layer by layer")
    if settling(one) and not several:
        console.print(
            Text("(a line for several layers has the numbers of the last of them)", style="dim")
        )
    for step in every:
        console.print()
        console.print(_step(one, step, sampled), soft_wrap=True)
        one_token(
            one,
            console,
            step.token,
            1 if several else show_top,
            list(range(len(one.sites))),
            merge=True,
        )


def _step(one: LensArrays, step: Step, sampled: bool) -> Text:
    """One step in a sentence."""
    t = step.token
    after = f"after {visible_token(one.tokens.text[t], WIDE)} at position {one.tokens.position[t]}"
    line = Text(f"step {step.number}, {after}: wrote ")
    line.append(
        visible_token(step.wrote, WIDE), "bold green" if step.first_choice else "bold yellow"
    )
    line.append(f"  p {probability(step.logprob)}")
    if sampled:
        line.append(f", sampler's {probability(step.sampler_logprob)}")
    if step.first_choice:
        line.append(", the model's first choice")
    else:
        line.append(", not the model's first choice: ")
        line.append(visible_token(step.answer, WIDE), "bold green")
        line.append(f" p {probability(step.answer_logprob)}")
    if settling(one):
        line.append(f", {_settled(one, step)}")
    return line


def _settled(one: LensArrays, step: Step) -> str:
    if step.site < 0:
        return "not top-1 at the last layer read"
    ahead = "" if math.isnan(step.margin) else f", {step.margin:.2f} nats ahead"
    return f"settled at {settled_at(one, step)}{ahead}"


def _was_sampled(every: list[Step]) -> bool:
    """Whether the sampler's probabilities are others than the model's."""
    return any(abs(step.sampler_logprob - step.logprob) > 1e-6 for step in every)


def _nats(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


# -- timing and statistics ---------------------------------------------


def timing_table(result: LensArrays) -> Table:
    """All of `result.timings` with units, and how long the whole call took."""
    timings = result.timings
    grid = _pairs()
    for name, words in SECONDS.items():
        if name in timings:
            grid.add_row(words, duration(timings[name]))
    grid.add_row("the whole run, without loading", duration(result.provenance.get("seconds")))
    for name, words in (("input_tokens", "tokens read"), ("output_tokens", "tokens written")):
        grid.add_row(words, f"{timings.get(name) or 0}")
    speed = timings.get("tokens_per_second")
    grid.add_row(
        "speed: prefill, decode and lens", "–" if speed is None else f"{speed:.3g} tokens/s"
    )
    return grid


def duration(seconds: float | None) -> str:
    """Seconds in a unit that suits them.

    >>> duration(1.2345), duration(0.0678), duration(0.0000123), duration(None)
    ('1.23 s', '67.8 ms', '0.0123 ms', '–')
    """
    if seconds is None:
        return "–"
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{seconds * 1000:.3g} ms"


def statistics_table(result: LensArrays) -> Table:
    """What a researcher asks first of a generation, all prompts together."""
    found, line = statistics(result), settling(result)
    n = found.tokens
    grid = _pairs()
    grid.add_row("tokens written", str(n))
    if line:
        last, first = result.sites[line[-1]], result.sites[line[0]]
        where = (
            f"of {first}–{last}"
            if last.component == "resid_post"
            else f"of the {last.component} of the layers"
        )
        grid.add_row(
            "first choice settled at layer",
            f"{quartiles(found.layers)} {where}" if len(found.layers) else "nowhere",
        )
        grid.add_row("… only at the last layer read", percentage(found.last, n))
        if len(found.layers) < n:
            grid.add_row("… not by then", percentage(n - len(found.layers), n))
        grid.add_row(
            "its margin there, median",
            "–" if math.isnan(found.margin) else f"{found.margin:.2f} nats",
        )
    if found.changes is not None and found.entropy is not None:
        grid.add_row("changes of top-1 over the layers", quartiles(found.changes))
        grid.add_row("mean entropy at the last layer", f"{found.entropy:.2f} nats")
    grid.add_row("written, but not first choice", percentage(found.not_first, n))
    grid.add_row("mean p of a written token", f"{found.probability:.3f}")
    if abs(found.sampler_probability - found.probability) > 1e-6:
        grid.add_row("… as the sampler had it", f"{found.sampler_probability:.3f}")
    grid.add_row("perplexity of what was written", f"{found.perplexity:.3g}")
    return grid


def _pairs() -> Table:
    grid = empty_grid(header=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    return grid
