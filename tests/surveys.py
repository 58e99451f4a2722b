"""Items for surveys of small models, and what it means that two surveys are the same."""

from __future__ import annotations

import numpy as np

from lens_recipes.arrays.survey.arrays import SURVEY_AXES


def items_of(n: int, vocab_size: int = 101, seed: int = 0, longest: int = 12) -> list[dict]:
    """Items of ids: several spellings, something they are held against, groups and clusters."""
    rng = np.random.default_rng(seed)
    items = []
    for number in range(n):
        prompt = rng.integers(6, vocab_size, rng.integers(1, longest)).tolist()
        words = rng.permutation(np.arange(6, vocab_size)).tolist()
        n_spellings = int(rng.integers(1, 4))
        item = {"prompt": prompt, "target": words[:n_spellings], "group": "ab"[number % 2]}
        if number % 3:
            item["against"] = words[5 : 5 + number % 3]
        if number % 5:
            item["cluster"] = f"template {rng.integers(0, 9)}"
        if number % 7 == 6:
            item["position"] = -int(rng.integers(1, len(prompt) + 1))
        items.append(item)
    return items


def assert_same(one, other) -> None:
    """The same to the last bit, but for the seconds that it took."""
    for name in SURVEY_AXES:
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    for name in ("sites", "names", "left_out", "texts", "certificate"):
        assert getattr(one, name) == getattr(other, name), name
    mine, theirs = dict(one.provenance), dict(other.provenance)
    mine.pop("seconds"), theirs.pop("seconds")
    assert mine == theirs
