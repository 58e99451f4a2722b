"""What the tests take for the same: near ties may change places, and nothing else may."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from agreement import assert_same_lens, assert_same_ranks, assert_top_ids, rank_bounds

import lens_recipes as lr

ORDERED = np.array([-1.0, -1.5, -1.5001, -1.5002, -3.0, -4.0])
ORDERED -= np.log(np.exp(ORDERED).sum())


@pytest.fixture(scope="module")
def expected(llama):
    return lr.logit_lens(llama, "the answer of a model", targets=[260, 261])


@pytest.fixture(scope="module")
def everything(llama):
    """The same, with whole distributions."""
    return lambda: lr.logit_lens(
        llama, "the answer of a model", targets=[260, 261], top_k=llama.config.vocab_size
    )


def changed(result, name, places, value):
    """A copy of a result in which one array says something else at some places."""
    array = getattr(result, name).copy()
    array[places] = value
    return dataclasses.replace(result, **{name: array})


def rounded(result, by=1e-6):
    """A copy of a result as another machine may give it."""
    return dataclasses.replace(result, top_logprobs=result.top_logprobs + np.float32(by))


def test_a_rank_may_move_as_far_as_there_are_tokens_within_rounding():
    assert rank_bounds(ORDERED, ORDERED[2], 1e-3) == (1, 3)
    assert rank_bounds(ORDERED, ORDERED[2], 1e-6) == (2, 2)
    assert rank_bounds(ORDERED, ORDERED[4], 1e-3) == (4, 4)
    assert rank_bounds(ORDERED, ORDERED[5], 1e-3) == (5, 5)
    for rank in (1, 2, 3):
        assert_same_ranks([rank], [2], ORDERED[[2]], ORDERED[None], 1e-3)
    for rank in (0, 4):
        with pytest.raises(AssertionError, match="allow 1 to 3"):
            assert_same_ranks([rank], [2], ORDERED[[2]], ORDERED[None], 1e-3)


def test_a_list_that_ends_above_a_token_allows_it_nothing():
    assert_same_ranks([4], [4], ORDERED[[4]], ORDERED[None, :3], 1e-3)
    with pytest.raises(AssertionError):
        assert_same_ranks([5], [4], ORDERED[[4]], ORDERED[None, :3], 1e-3)
    with pytest.raises(AssertionError):  # the fourth may be near
        assert_same_ranks([3], [2], ORDERED[[2]], ORDERED[None, :3], 1e-3)


def test_where_there_is_no_token_there_is_no_rank():
    assert_same_ranks([-1], [-1], [np.nan], ORDERED[None], 1e-3)
    with pytest.raises(AssertionError):
        assert_same_ranks([0], [-1], [np.nan], ORDERED[None], 1e-3)


def test_the_likeliest_tokens_may_change_places_where_they_are_as_likely():
    assert_top_ids([0, 1, 2], ORDERED, 1e-3)
    assert_top_ids([0, 3, 1], ORDERED, 1e-3)
    for wrong in ([1, 0, 2], [0, 1, 1], [0, 1, 4]):
        with pytest.raises(AssertionError):
            assert_top_ids(wrong, ORDERED, 1e-3)


def test_a_result_is_the_same_as_itself_and_as_one_that_is_rounded(expected):
    for other in (expected, rounded(expected)):
        assert_same_lens(other, expected, atol=1e-4)


RANKS = ["next_ranks", "final_ranks", "target_ranks"]


@pytest.mark.parametrize("name", RANKS)
def test_a_wrong_rank_is_refused(expected, everything, name):
    """By one: none of the tokens of this small vocabulary is within a millionth of another."""
    place = (1, 2, 0)[: getattr(expected, name).ndim]
    wrong = rounded(changed(expected, name, place, getattr(expected, name)[place] + 1))
    with pytest.raises(AssertionError, match=name):
        assert_same_lens(wrong, expected, atol=1e-4, everything=everything)


@pytest.mark.parametrize("name", RANKS)
def test_a_rank_beside_a_near_tie_is_not(expected, everything, name):
    """With a rounding as large as the gap to the next token."""
    place = (1, 2, 0)[: getattr(expected, name).ndim]
    logprob = getattr(expected, name.replace("ranks", "logprobs"))[place]
    below = everything().top_logprobs[1, 2]
    gap = float((logprob - below[below < logprob])[0])
    beside = changed(expected, name, place, getattr(expected, name)[place] + 1)
    assert_same_lens(rounded(beside, gap), expected, atol=2 * gap, everything=everything)
    with pytest.raises(AssertionError, match=name):
        assert_same_lens(rounded(beside, gap / 100), expected, atol=2 * gap, everything=everything)


def test_a_wrong_id_is_refused(expected, everything):
    swapped = expected.top_ids[1, 2, [1, 0]]
    other = next(token for token in range(50) if token not in expected.top_ids[1, 2])
    for place, value in (((1, 2, slice(0, 2)), swapped), ((1, 2, 4), other)):
        with pytest.raises(AssertionError, match="top_ids"):
            assert_same_lens(changed(expected, "top_ids", place, value), expected, atol=1e-4)
    with pytest.raises(AssertionError, match="final_ids"):
        assert_same_lens(changed(expected, "final_ids", 2, other), expected, atol=1e-4)
    wrong = rounded(changed(expected, "tracked_ids", (2, 0), other))
    with pytest.raises(AssertionError, match="tracked_ids"):
        assert_same_lens(wrong, expected, atol=1e-4, everything=everything)


def test_a_wrong_number_is_refused(expected):
    for name in ("entropy", "target_logprobs", "tracked_logprobs", "final_logprobs"):
        off = dataclasses.replace(expected, **{name: getattr(expected, name) + np.float32(1e-3)})
        with pytest.raises(AssertionError, match=name):
            assert_same_lens(off, expected, atol=1e-4)
