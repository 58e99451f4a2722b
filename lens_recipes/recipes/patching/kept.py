"""What is kept in this process from batch to batch: unpatched runs, and the caches of prefixes.

A cell changes nothing before its first token. So the tokens before it run once for each pair, and
all rows go on from their cache.
"""

from __future__ import annotations

import copy
from typing import Any

import nnsight
import torch
from torch import Tensor

from lens_recipes.recipes.lenses.estimators.graph import CACHE_OPTIONS, places_after
from lens_recipes.run.batches import same_logits
from lens_recipes.run.request.request import Request
from lens_recipes.trace.edits.cells import CellBatch, GroupValues
from lens_recipes.trace.operations import model_logits


class KeptRuns:
    """The unpatched runs and the cache of one group of pairs, which the next group replaces.

    Attributes:
        values: Of the group that runs, by its number.
    """

    def __init__(self, request: Request) -> None:
        """Begin before the first batch."""
        self.request = request
        self.values: dict[int, GroupValues] = {}
        self._cache: dict[int, dict[str, Any]] = {}

    def values_of(self, batch: CellBatch) -> GroupValues | None:
        """Return what the unpatched runs of a batch's pairs gave; None if they have not run."""
        if batch.group not in self.values:
            self.values.clear()
            self._cache.clear()
        return self.values.get(batch.group)

    def inputs_of(self, batch: CellBatch) -> dict[str, Any]:
        """Return what lets the rows of a batch go on from the tokens before them."""
        if not batch.n_before:
            return {}
        if batch.group not in self._cache:
            self._cache[batch.group] = cache_of(self.request, batch.base.inputs["input_ids"])
        ids = batch.inputs["input_ids"]
        return rows_after(self.request, self._cache[batch.group], batch.pairs, batch.n_before, ids)


def goes_on_from_cache(request: Request, prompts: list[list[int]]) -> bool:
    """Return whether this model goes on from a cache that was cut and repeated, as it should.

    It is tried on the longest prompt, once for each length: attention over a window or a recurrence
    has no cache that can be cut.
    """
    if request.remote:
        return False  # the cache would not be kept from batch to batch there
    longest = max(prompts, key=len)
    known = request.known.continues
    if len(longest) not in known:
        known[len(longest)] = len(longest) > 1 and try_cache(request, longest)
    return known[len(longest)]


def try_cache(request: Request, token_ids: list[int]) -> bool:
    """Run a prompt whole, and its second half from the cache of the first, and compare."""
    options = request.anatomy.forward_options
    if "use_cache" not in options or not options.intersection(CACHE_OPTIONS):
        return False
    ids = torch.tensor([token_ids], device="cpu")
    n_before = len(token_ids) // 2
    rest = ids[:, n_before:].expand(2, -1)
    try:
        cached = cache_of(request, ids)
        both = torch.zeros(2, dtype=torch.long, device="cpu")
        found = last_logits(request, rest, rows_after(request, cached, both, n_before, rest))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a family raises that cannot go on from a cache like this
        return False
    expected = last_logits(request, ids, {"use_cache": False})
    return same_logits(request.model, found, expected.expand_as(found))


def last_logits(request: Request, ids: Tensor, options: dict[str, Any]) -> Tensor:
    """Return the logits after the last token of each row, `[row, vocab]`."""
    with torch.no_grad():
        output = request.model.trace(input_ids=ids, trace=False, **options)
    return model_logits(output)[:, -1].float()


def cache_of(request: Request, ids: Tensor) -> dict[str, Any]:
    """Return the cache of all tokens but the last, by what the model calls it.

    Raises:
        ValueError: the model gives none.
    """
    with torch.no_grad(), request.model.trace(input_ids=ids[:, :-1], use_cache=True):
        output = nnsight.save(request.model.output)
    for option in CACHE_OPTIONS:
        cache = getattr(output, option, None)
        if cache is not None and option in request.anatomy.forward_options:
            return {option: cache}
    raise ValueError("the model gives no cache")


def rows_after(
    request: Request, cached: dict[str, Any], pairs: Tensor, n_before: int, ids: Tensor
) -> dict[str, Any]:
    """Return the options by which rows go on after the first tokens of their pairs.

    Args:
        request: The model.
        cached: What `cache_of` gave.
        pairs: Which row of the cache each row goes on from, `[row]`.
        n_before: After how many of its tokens.
        ids: Of the rows, from there on.
    """
    (option,) = cached
    cache = copy.deepcopy(cached[option])
    n_removed = cache.get_seq_length() - n_before
    if n_removed > 0:
        cache.crop(-n_removed)
    cache.batch_select_indices(pairs.to(request.model._module.device))
    if cache.get_seq_length() != n_before:
        raise ValueError("the cache cannot be cut")
    own = {option: cache, "use_cache": True}
    return own | places_after(own, ids, request.anatomy)
