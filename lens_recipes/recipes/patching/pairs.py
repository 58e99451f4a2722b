"""Read the pairs of a patch map: clean and corrupt prompts, their answers, what stands for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lens_recipes.caller import argument, say
from lens_recipes.models.tokens.vocabulary import token_text
from lens_recipes.run.request.prompts import is_chat_turn, is_token_id, shortened
from lens_recipes.run.request.selection import pick_indices, target_id

TokenPairs = list[tuple[int, int]]  # (position in the source, position in the base)


class Answers(NamedTuple):
    """The two answers of each pair, as ids `[pair]`."""

    target: list[int]
    against: list[int]


class Columns(NamedTuple):
    """The columns of a map whose cells are positions.

    Attributes:
        names: What each is called: "3", "−1", "subject".
        tokens: Which tokens of each pair a column is, `[column][pair]`, as (clean, corrupt).
    """

    names: list[str]
    tokens: list[list[TokenPairs]]


def as_prompts(prompts: Any) -> list[Any]:
    """Return prompts as a list, also where there is one."""
    if isinstance(prompts, torch.Tensor | np.ndarray):
        prompts = prompts.tolist()
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return [prompts]
    is_one = len(prompts) > 0 and all(is_token_id(item) or is_chat_turn(item) for item in prompts)
    return [list(prompts)] if is_one else list(prompts)


def check_paired(clean: list[Any], corrupt: list[Any]) -> None:
    """Raise ValueError unless there is a corrupt prompt for each clean one."""
    if not clean or len(clean) != len(corrupt):
        raise ValueError(
            f"received {len(clean)} clean prompts and {len(corrupt)} corrupt ones: each clean "
            "prompt needs a corrupt one, in the same order."
        )


def read_answers(
    target: Any, against: Any, n_pairs: int, tokenizer: Any, vocab_size: int
) -> Answers:
    """Return the ids of the answers of each pair.

    Raises:
        ValueError: no single tokens, not as many as pairs, or twice the same token.
    """
    ids = {}
    for name, given in (("target", target), ("against", against)):
        if given is None:
            raise ValueError(
                f"{name}=None: a patch map needs two answers, the one of the clean prompt "
                "(target) and the one of the corrupt prompt (against)."
            )
        each = given
        if isinstance(given, torch.Tensor | np.ndarray):
            each = given.tolist()
        if isinstance(each, str) or not isinstance(each, Sequence):
            each = [each] * n_pairs
        if len(each) != n_pairs:
            raise ValueError(
                f"received {len(each)} tokens as {name} for {n_pairs} pairs: pass one for all, or "
                "one for each."
            )
        ids[name] = [target_id(token, tokenizer, vocab_size) for token in each]
    for pair, (one, other) in enumerate(zip(ids["target"], ids["against"], strict=True)):
        if one == other:
            text = token_text(tokenizer, one)
            raise ValueError(
                f"target and against of pair {pair} are the same token, {text!r} (id {one}): "
                "their difference is nothing. Name the answer of the clean prompt as target, and "
                "that of the corrupt prompt as against."
            )
    return Answers(ids["target"], ids["against"])


# -- which token stands for which --------------------------------------


def read_columns(
    align: Any,
    positions: Any,
    clean: list[list[int]],
    corrupt: list[list[int]],
    tokenizer: Any,
) -> Columns:
    """Return the columns of a map of positions.

    Args:
        align: None, "end", or spans by name.
        positions: Which of them.
        clean, corrupt: Ids `[pair][position]`.
        tokenizer: The model's, or None.

    Raises:
        ValueError: lengths that do not fit together, or spans that are not in a prompt.
    """
    if isinstance(align, Mapping):
        if positions is not None:
            raise ValueError(
                f"{argument('positions', positions)} cannot go with named spans: the spans "
                "are the positions."
            )
        return span_columns(align, clean, corrupt, tokenizer)
    if align is not None and align != "end":
        raise ValueError(
            f'align={shortened(align)} is unknown: accepted are None, "end", and spans by name, '
            'such as {"subject": (" France", " Spain")}.'
        )
    lengths = [min(len(one), len(other)) for one, other in zip(clean, corrupt, strict=True)]
    if align is None:
        refuse_unequal(clean, corrupt)
        length = lengths[0]
        chosen = pick_indices(positions, length, "positions", "each prompt")
        names = [str(position) for position in sorted(chosen)]
        tokens = [[[(position, position)] for _ in lengths] for position in sorted(chosen)]
        return Columns(names, tokens)
    length = min(lengths)
    chosen = pick_indices(positions, length, "positions", "the shortest prompt")
    names, tokens = [], []
    for position in sorted(chosen):
        from_end = length - position
        names.append(f"−{from_end}")
        pairs = zip(clean, corrupt, strict=True)
        tokens.append([[(len(one) - from_end, len(other) - from_end)] for one, other in pairs])
    return Columns(names, tokens)


def refuse_unequal(clean: list[list[int]], corrupt: list[list[int]]) -> None:
    """Raise ValueError if prompts have several lengths, so that positions mean several things."""
    for pair, (one, other) in enumerate(zip(clean, corrupt, strict=True)):
        if len(one) != len(other):
            raise ValueError(
                f"the prompts of pair {pair} have {len(one)} and {len(other)} tokens, so a "
                "position of one is not that of the other: pass prompts of one length, "
                f"{align_end()} to count tokens from the end, or {align_spans()} to name what "
                "stands for what."
            )
    lengths = sorted({len(one) for one in clean})
    if len(lengths) > 1:
        raise ValueError(
            f"the pairs have {', '.join(map(str, lengths))} tokens, so they have no positions in "
            f"common: pass {align_end()} to count tokens from the end, or {align_spans()} to name "
            "spans."
        )


def align_end() -> str:
    """Return how tokens are counted from the end, as the reader writes it."""
    return say(python='align="end"', shell="--align-end")


def align_spans() -> str:
    """Return how spans are named, as the reader writes it."""
    return say(
        python='align={"subject": (clean text, corrupt text), …}',
        shell='--span "subject=clean text|corrupt text"',
    )


def all_tokens(
    align: Any, positions: Any, clean: list[list[int]], corrupt: list[list[int]], tokenizer: Any
) -> list[TokenPairs]:
    """Return all tokens that a cell patches which is no position, `[pair]`.

    Raises:
        ValueError: as `read_columns`.
    """
    if align == "end" and positions is None:
        chosen = []
        for one, other in zip(clean, corrupt, strict=True):
            length = min(len(one), len(other))
            pairs = zip(range(len(one))[-length:], range(len(other))[-length:], strict=True)
            chosen.append(list(pairs))
        return chosen
    if align is None and positions is None:
        # Each pair has its own length, which no column has to fit.
        for pair in range(len(clean)):
            refuse_unequal([clean[pair]], [corrupt[pair]])
        return [[(position, position) for position in range(len(one))] for one in clean]
    columns = read_columns(align, positions, clean, corrupt, tokenizer)
    every = []
    for pair in range(len(clean)):
        found = {place for column in columns.tokens for place in column[pair]}
        every.append(sorted(found))
    return every


# -- spans -------------------------------------------------------------


def span_columns(
    align: Mapping[str, Any], clean: list[list[int]], corrupt: list[list[int]], tokenizer: Any
) -> Columns:
    """Return a column for each named span.

    A span that is longer in one of the prompts is aligned from its end.

    Raises:
        ValueError: no spans, one that is not as `align` takes it, or is not in its prompt.
    """
    if not align:
        raise ValueError("align={} names no span.")
    if tokenizer is None:
        raise ValueError(
            "spans are texts, and this model was loaded without a tokenizer: align by "
            'align="end", or load(..., tokenizer=...).'
        )
    names, tokens = [], []
    for name, given in align.items():
        texts = span_texts(name, given, len(clean))
        column = []
        for pair, (clean_text, corrupt_text) in enumerate(texts):
            source = find_span(clean_text, clean[pair], tokenizer, name, f"clean prompt {pair}")
            base = find_span(corrupt_text, corrupt[pair], tokenizer, name, f"corrupt prompt {pair}")
            width = min(len(source), len(base))
            column.append(list(zip(source[-width:], base[-width:], strict=True)))
        names.append(str(name))
        tokens.append(column)
    return Columns(names, tokens)


def span_texts(name: str, given: Any, n_pairs: int) -> list[tuple[str, str]]:
    """Return the text of a span in each pair's prompts, (clean, corrupt).

    Raises:
        ValueError: it is neither one text, a pair of texts, nor a list with one of them per pair.
    """
    if is_span(given):
        each = [given] * n_pairs
    elif isinstance(given, Sequence) and len(given) == n_pairs and all(map(is_span, given)):
        each = list(given)
    else:
        raise ValueError(
            f"align[{name!r}]={shortened(given)}: a span is a text that both prompts have, two "
            f"texts (clean, corrupt), or a list with one of these for each of {n_pairs} pairs."
        )
    texts = []
    for item in each:
        one, other = (item, item) if isinstance(item, str) else item
        texts.append((one, other))
    return texts


def span_name(name: str) -> str:
    """Return what a span is called, as the reader wrote it."""
    return say(python=f"align[{name!r}]", shell=f"--span {name}")


def is_span(item: Any) -> bool:
    """Tell whether something is a text, or a tuple of a clean and a corrupt text."""
    if isinstance(item, str):
        return True
    is_pair = isinstance(item, list | tuple) and len(item) == 2
    return is_pair and all(isinstance(text, str) for text in item)


def find_span(text: str, token_ids: list[int], tokenizer: Any, name: str, prompt: str) -> list[int]:
    """Return the positions of the tokens that a text is made of, at its only place in a prompt.

    Raises:
        ValueError: the prompt does not have it, or has it several times.
    """
    pieces = [token_text(tokenizer, token) for token in token_ids]
    whole = "".join(pieces)
    n_found = whole.count(text) if text else 0
    if n_found != 1:
        problem = "does not occur in" if n_found == 0 else f"occurs {n_found} times in"
        raise ValueError(
            f"{span_name(name)}: {text!r} {problem} {prompt}, {shortened(whole)}. Name a text that "
            "is there once."
        )
    start = whole.index(text)
    stop = start + len(text)
    positions = []
    begins = 0
    for position, piece in enumerate(pieces):
        ends = begins + len(piece)
        # A space that belongs to the token before or after does not make that token one of them.
        overlap = whole[max(begins, start) : min(ends, stop)]
        if overlap.strip():
            positions.append(position)
        begins = ends
    if not positions:
        raise ValueError(f"{span_name(name)}: {text!r} is only space in {prompt}.")
    return positions
