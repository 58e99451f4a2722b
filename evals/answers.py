"""What a candidate wrote, read with distrust: whatever is malformed is rejected with a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np


class Check(NamedTuple):
    """One assertion about an answer, and the numbers that decided it."""

    name: str
    passed: bool
    detail: str


class Rejected(Exception):
    """An answer that cannot be judged; `assertion` is the one that it fails."""

    def __init__(self, sentence: str, assertion: str = "answer") -> None:
        super().__init__(sentence)
        self.assertion = assertion


def _no_constant(name: str) -> NoReturn:
    raise Rejected(f"The answer holds {name}, which is no JSON: every number must be finite.")


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        Rejected: there is no file, no JSON, no object, or a NaN in it.
    """
    if not path.is_file():
        raise Rejected("The script ended without writing its answer.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"The answer is no JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict):
        raise Rejected(f"The answer is a {type(found).__name__}; wanted is an object with named entries.")
    return found


class Answer:
    """The entries of an answer, taken one by one in the form that the task asks for.

    Each method raises `Rejected` where the entry is missing or has another form.
    """

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries

    def entry(self, key: str) -> Any:
        if key not in self.entries:
            there = ", ".join(map(repr, self.entries)) or "nothing"
            raise Rejected(f"The answer lacks {key!r}; it holds {there}.")
        return self.entries[key]

    def numbers(self, key: str, *shape: int) -> np.ndarray:
        """Finite numbers of a shape, as float64."""
        return numbers(self.entry(key), shape, key)

    def ids(self, key: str, *shape: int) -> np.ndarray:
        """Whole numbers of a shape."""
        found = self.numbers(key, *shape)
        if (found != np.round(found)).any():
            raise Rejected(f"{key!r} holds {found[found != np.round(found)][0]}; wanted are whole numbers.")
        return found.astype(np.int64)

    def texts(self, key: str, count: int) -> list[str]:
        """So many strings."""
        found = self.entry(key)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise Rejected(f"{key!r} is {_short(found)}; wanted is a list of {count} strings.")
        if len(found) != count:
            raise Rejected(f"{key!r} has {len(found)} entries; wanted are {count}.")
        return found

    def text(self, key: str) -> str:
        """A string that is not empty."""
        found = self.entry(key)
        if not isinstance(found, str) or not found.strip():
            raise Rejected(f"{key!r} is {_short(found)}; wanted is a text.")
        return found

    def flag(self, key: str) -> bool:
        """True or false."""
        found = self.entry(key)
        if not isinstance(found, bool):
            raise Rejected(f"{key!r} is {_short(found)}; wanted is true or false.")
        return found

    def rows(self, key: str, count: int) -> list[list[Any]]:
        """So many lists, each of its own length."""
        found = self.entry(key)
        if not isinstance(found, list) or len(found) != count or not all(isinstance(row, list) for row in found):
            raise Rejected(f"{key!r} is {_short(found)}; wanted is a list of {count} lists.")
        return found


def numbers(value: Any, shape: tuple[int, ...], key: str) -> np.ndarray:
    """A nested list as an array of this shape.

    Raises:
        Rejected: it has another shape, or holds something else than finite numbers.
    """
    _check_shape(value, shape, key)
    return np.array(value, dtype=np.float64).reshape(shape)


def _check_shape(value: Any, shape: tuple[int, ...], key: str) -> None:
    if not shape:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        if not plain or abs(value) > 1e300 or not math.isfinite(value):
            raise Rejected(f"{key!r} holds {_short(value)} where a finite number is wanted.")
        return
    if not isinstance(value, list):
        raise Rejected(f"{key!r} holds {_short(value)} where a list of {shape[0]} is wanted.")
    if len(value) != shape[0]:
        raise Rejected(f"{key!r} has {len(value)} entries where {shape[0]} are wanted.")
    for entry in value:
        _check_shape(entry, shape[1:], key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


# -- assertions about numbers ------------------------------------------


def close(name: str, found: np.ndarray, expected: Any, atol: float = 2e-3) -> Check:
    """Every number is within `atol` (and a thousandth of its size) of what is expected."""
    expected = np.asarray(expected, dtype=np.float64)
    off = np.abs(found - expected) / (atol + 1e-3 * np.abs(expected))
    worst = np.unravel_index(off.argmax(), off.shape)
    where = f" at {[int(i) for i in worst]}" if off.ndim else ""
    detail = f"largest difference{where}: {found[worst]:.5g}, expected {expected[worst]:.5g}"
    return Check(name, bool(off.max() <= 1), detail)


def same(name: str, found: Any, expected: Any) -> Check:
    """Equal, entry by entry."""
    found, expected = _plain(found), _plain(expected)
    return Check(name, found == expected, f"{_short(found)}, expected {_short(expected)}")


def _plain(value: Any) -> Any:
    """Lists and Python's own numbers in the place of numpy's."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def ranked(name: str, found: np.ndarray, logprobs: np.ndarray, tokens: Any) -> Check:
    """Each rank [...] is how many of log-probabilities [..., vocab] are above the token's, here by `tokens` [...].

    A token that is as likely as the ranked one, up to rounding, may count or not.
    """
    tokens = np.broadcast_to(np.asarray(tokens), logprobs.shape[:-1])[..., None]
    own = np.take_along_axis(logprobs, tokens, axis=-1)
    least, most = (logprobs > own + 1e-4).sum(-1), (logprobs >= own - 1e-4).sum(-1) - 1  # itself
    off = np.argwhere((found < least) | (found > most))
    first = f"; {found[tuple(off[0])]}, expected {least[tuple(off[0])]}" if len(off) else ""
    return Check(name, not len(off), f"{len(off)} of {found.size} are wrong{first}")


def top(name: str, ids: np.ndarray, logprobs: np.ndarray) -> Check:
    """The ids [..., k] are the k most likely ones of log-probabilities [..., vocab], the most likely first.

    They are judged by their log-probability, so that two tokens that are equally likely may change places.
    """
    k = ids.shape[-1]
    ordered = np.sort(ids, axis=-1)
    if ids.min() < 0 or ids.max() >= logprobs.shape[-1]:
        return Check(name, False, f"id {ids.min()} or {ids.max()} is not in the vocabulary of {logprobs.shape[-1]}")
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        return Check(name, False, "an id is listed twice")
    best = -np.sort(-logprobs, axis=-1)[..., :k]
    wrong = (np.abs(np.take_along_axis(logprobs, ids, -1) - best) > 1e-3).any(-1)
    return Check(name, not wrong.any(), f"{int(wrong.sum())} of {wrong.size} lists are not the top {k}")
