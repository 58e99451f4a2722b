"""What a model wrote after one prompt, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from lens_recipes.arrays.generation import Step, quartiles, statistics, steps
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.arrays.sites import site_label
from lens_recipes.views.summaries.ranks import describe_ranks
from lens_recipes.views.summaries.trust import before_cannot
from lens_recipes.views.words import ending, percentage, probability

STEPS_NAMED = 5

TEXT_WIDTH = 200  # characters of what was written


def describe_generation(result: LensArrays, number: int) -> Iterator[str]:
    """Yield what was written after one prompt, and how the model came to write it.

    The lines say how the text ended, at which layers its tokens settled, which tokens were not
    the model's first choice, and how the targets' ranks move at the last step.

    Args:
        result: A result of one prompt.
        number: Which prompt it is.
    """
    all_steps = steps(result)
    if result.responses:
        text = _shorten(repr(result.responses[0].text))
        yield f"prompt {number}: wrote {text} ({ending(result)})"
    else:
        text = "".join(step.wrote for step in all_steps)
        yield f"prompt {number}: wrote {_shorten(repr(text))}"
    yield from _describe_settling(result, all_steps)
    yield from _describe_other_choices(all_steps)
    last_token = all_steps[-1].token
    for target_index, target_id in enumerate(result.target_ids[0]):
        ranks = describe_ranks(result, last_token, target_index)
        yield f"  target {result.text(target_id)!r}, at the last step: {ranks}"


def _describe_settling(result: LensArrays, all_steps: list[Step]) -> Iterator[str]:
    """Yield at which layers the first choices settled, and which of them did so last."""
    stats = statistics(result)
    if len(stats.layers) == 0:
        return
    only_last = percentage(stats.last, stats.tokens)
    yield (
        f"  the model's first choice settled at layer {quartiles(stats.layers)}, "
        f"{only_last} only at the last layer read"
    )
    settled_steps = [step for step in all_steps if step.site >= 0]
    settled_steps.sort(key=lambda step: (-step.site, step.margin))
    named = []
    for step in settled_steps[:STEPS_NAMED]:
        place = site_label(result.sites[step.site])
        verb = "" if step.is_dated else "first read at "
        named.append(f"step {step.number} {step.answer!r} ({verb}{place})")
    yield f"  settled latest, and by the smallest margin: {', '.join(named)}"
    n_undated = sum(not step.is_dated for step in settled_steps)
    if n_undated > 0:
        share = percentage(n_undated, len(settled_steps))
        yield f"  {share} may have settled earlier: {before_cannot(result)}"


def _describe_other_choices(all_steps: list[Step]) -> Iterator[str]:
    """Yield how many tokens were not the model's first choice, and the least likely of them."""
    other_choices = [step for step in all_steps if not step.first_choice]
    if not other_choices:
        return
    other_choices.sort(key=lambda step: step.logprob)
    named = []
    for step in other_choices[:STEPS_NAMED]:
        written = probability(step.logprob)
        answer = f"{step.answer!r} {probability(step.answer_logprob)}"
        named.append(f"step {step.number} {step.wrote!r} (p {written}; {answer})")
    share = percentage(len(other_choices), len(all_steps))
    yield f"  not the model's first choice: {share}, least likely {', '.join(named)}"


def _shorten(text: str) -> str:
    """Return the beginning of a text."""
    if len(text) <= TEXT_WIDTH:
        return text
    return text[: TEXT_WIDTH - 1] + "…"
