"""Warn of a target that lacks the space before it: "Paris" is another token than " Paris"."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.arrays.lens import LensArrays


class Doubtful(NamedTuple):
    """A target without a space, where the word with one is a token, too."""

    prompt: int
    target: str
    column: int
    spaced_id: int


def space_warning(
    result: LensArrays, tokenizer: Any, prompts: list[str], targets: list[list[Any]]
) -> str:
    """Return one line about the first target that seems to lack its space; empty for none.

    Args:
        result: What the run gave for these prompts.
        tokenizer: The model's, or None.
        prompts: As they were given.
        targets: Of each prompt, as they were given.
    """
    doubtful = []
    for candidate in doubtful_targets(tokenizer, prompts, targets):
        if not is_better_without(result, candidate):
            doubtful.append(candidate)
    if not doubtful:
        return ""
    first = doubtful[0]
    spaced = f" {first.target}"
    where = ""
    if len(result) > 1:
        where = f" of prompt {first.prompt}"
    sentence = f'target "{first.target}"{where} has no leading space: {numbers(result, first)}.'
    if len({candidate.target for candidate in doubtful}) > 1:
        n_others = len({candidate.target for candidate in doubtful}) - 1
        others = "1 other target is" if n_others == 1 else f"{n_others} other targets are"
        sentence += f" ({others} like it.)"
    return f'{sentence} If you mean the word after the prompt, write "{spaced}".'


def doubtful_targets(
    tokenizer: Any, prompts: list[str], targets: list[list[Any]]
) -> Iterator[Doubtful]:
    """Yield the targets that have no space before them, though they could have one.

    After a prompt that ends in a space, no word has one of its own.
    """
    from lens_recipes.models.tokens.vocabulary import token_id

    if tokenizer is None:
        return
    for number, (prompt, prompt_targets) in enumerate(zip(prompts, targets, strict=True)):
        if prompt[-1:].isspace():
            continue
        for column, target in enumerate(prompt_targets):
            if not isinstance(target, str) or not target[:1].isalnum():
                continue
            spaced_id = token_id(tokenizer, f" {target}")
            if spaced_id is not None:
                yield Doubtful(number, target, column, spaced_id)


def is_better_without(result: LensArrays, candidate: Doubtful) -> bool:
    """Return whether the target as it was given is ranked above the word with a space."""
    place = end_of_prompt(result, candidate.prompt)
    if place is None:
        return False
    spaced_rank = rank_of_kept(result, place, candidate.spaced_id)
    rank = int(result.target_ranks[result.output_site, place, candidate.column])
    if spaced_rank is None:
        return rank < result.top_ids.shape[-1]
    return rank < spaced_rank


def numbers(result: LensArrays, candidate: Doubtful) -> str:
    """Return what the model says of the target and of the word with a space, as far as is known."""
    spaced = f'" {candidate.target}"'
    place = end_of_prompt(result, candidate.prompt)
    if place is None:
        return f"{spaced} is another token"
    rank = int(result.target_ranks[result.output_site, place, candidate.column])
    own = f'"{candidate.target}" has rank {rank}'
    spaced_rank = rank_of_kept(result, place, candidate.spaced_id)
    if spaced_rank is None:
        return f"{spaced} is another token, and {own} in the model's output"
    if spaced_rank == 0:
        return f"in this prompt {spaced} (rank 0) is the next word; {own}"
    return f"in this prompt {spaced} has rank {spaced_rank}; {own}"


def end_of_prompt(result: LensArrays, prompt: int) -> int | None:
    """Return the last token of a prompt on the token axis; None where the output is not known."""
    if result.output_site < 0:
        return None
    last_position = len(result.inputs[prompt]["input_ids"]) - 1
    tokens = result.tokens
    is_end = (tokens.prompt == prompt) & (tokens.position == last_position)
    places = np.flatnonzero(is_end)
    return int(places[0]) if len(places) else None


def rank_of_kept(result: LensArrays, place: int, token_id: int) -> int | None:
    """Return the rank of a token at the model's output, if it is among those that were kept."""
    kept = result.top_ids[result.output_site, place].tolist()
    return kept.index(token_id) if token_id in kept else None
