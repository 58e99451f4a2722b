"""Token lists become rectangular batches, cut so that each prompt gives the same numbers as alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.models.handle import dtype_of, text_config, tokenizer_of
from lens_recipes.models.structure.anatomy import Anatomy
from lens_recipes.run.prompts import next_ids
from lens_recipes.trace.operations import model_logits

MAX_TOKENS = 2048  # in one batch, padding included: enough to keep a processor busy


@dataclass(frozen=True)
class Batch:
    """Some prompts as one forward pass, and where the asked-for tokens are in it.

    Attributes:
        inputs: Keyword arguments of the trace: `input_ids [row, column]`, padded on the left, and the rest.
        rows, columns: Where each token is, `[token]`.
        kept: Its column in the model's logits, `[token]` (the head may have run on the last columns only).
        token_prompts: Its prompt, `[token]`.
        next_ids: The id that follows it, −1 at the end of a prompt, `[token]`.
    """

    inputs: dict[str, Any]
    rows: Int[Tensor, " token"]
    columns: Int[Tensor, " token"]
    kept: Int[Tensor, " token"]
    token_prompts: list[int]
    next_ids: list[int]

    def plain(self, asked: list[list[int]]) -> dict[str, Any]:
        """What the run needs, in values that can travel; `asked` are the ids that are followed for each prompt.

        The last one wanted is the id that follows.
        """
        ids = zip(self.token_prompts, self.next_ids, strict=True)
        return {
            "inputs": self.inputs,
            "where": (len(self.inputs["input_ids"]), self.rows, self.columns),
            "kept": (self.rows, self.kept),
            "wanted": torch.tensor([[*asked[prompt], next_id] for prompt, next_id in ids]),
        }


def make_batches(
    model: Envoy,
    encoded: list[list[int]],
    picked: list[list[int]],
    parts: Anatomy,
    max_bytes: int,
    remote: bool | str,
    *,
    pad: bool = True,
) -> list[Batch]:
    """Batches of similar length, each under a token budget and a budget for its logits.

    Prompts of different lengths share a batch where left padding changes nothing for this model; otherwise (and on
    a server, where that cannot be tried first, or without `pad`) each batch has one length.
    """
    can_pad = pad and not remote and may_pad(model, parts, encoded)
    bounds = rope_bounds(text_config(model))
    # Prompts of one sort may share a batch: one length, or where padding is harmless one side of each bound.
    sorts = [sum(len(ids) > bound for bound in bounds) if can_pad else len(ids) for ids in encoded]
    groups = group_prompts(
        [len(ids) for ids in encoded], picked, sorts, max_bytes // (4 * parts.vocab_size)
    )
    return [_batch(numbers, encoded, picked, parts) for numbers in groups]


def may_pad(model: Envoy, parts: Anatomy, encoded: list[list[int]]) -> bool:
    """Whether prompts of different lengths are there, and may share a batch."""
    return len({len(ids) for ids in encoded}) > 1 and padding_is_harmless(model, parts)


def rope_bounds(config: Any) -> set[int]:
    """Lengths at which a model changes its position encoding for *all* tokens of a batch (longrope)."""
    found: set[int] = set()
    parts = [config.to_dict() if hasattr(config, "to_dict") else {}]
    while parts:
        for key, value in parts.pop().items():
            if isinstance(value, dict):
                parts.append(value)
            elif key == "original_max_position_embeddings" and isinstance(value, int):
                found.add(value)
    return found


def group_prompts(
    lengths: list[int], picked: list[list[int]], sorts: list[int], max_logits: int
) -> Iterator[list[int]]:
    """Prompt numbers of each batch, shortest first. A prompt that is over a budget by itself is a batch by itself."""
    together: list[int] = []
    kept = 0
    for prompt in sorted(range(len(lengths)), key=lambda p: lengths[p]):
        length = lengths[prompt]
        most = max(kept, length - min(picked[prompt]))
        rows = len(together) + 1
        full = rows * length > MAX_TOKENS or rows * most > max_logits
        if together and (full or sorts[prompt] != sorts[together[-1]]):
            yield together
            together, most = [], length - min(picked[prompt])
        together, kept = [*together, prompt], most
    yield together


def left_padded(
    prompts: list[list[int]],
) -> tuple[Int[Tensor, "row column"], Int[Tensor, "row column"], list[int]]:
    """Ids and mask of some prompts side by side, and how many columns are padding before each."""
    width = max(map(len, prompts))
    pads = [width - len(ids) for ids in prompts]
    ids = torch.tensor([[0] * pad + ids for pad, ids in zip(pads, prompts, strict=True)])
    return ids, torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads]), pads


def _batch(
    group: list[int], encoded: list[list[int]], picked: list[list[int]], parts: Anatomy
) -> Batch:
    after = {p: next_ids(encoded[p]) for p in group}
    ids, mask, pads = left_padded([encoded[p] for p in group])
    width = ids.shape[1]
    spots = [(row, p, position) for row, p in enumerate(group) for position in picked[p]]
    columns = torch.tensor([pads[row] + position for row, _, position in spots])
    inputs: dict[str, Any] = {"input_ids": ids}
    if any(pads):
        inputs["attention_mask"] = mask
    if "use_cache" in parts.forward_options:
        inputs["use_cache"] = False
    kept = columns
    if "logits_to_keep" in parts.forward_options:
        first, asked = int(columns.min()), columns.unique()
        inputs["logits_to_keep"] = width - first
        kept = columns - first
        if len(asked) * 2 < width - first and not any(
            pads
        ):  # a few, far apart: nnsight does not pad beside a tensor
            inputs["logits_to_keep"] = asked
            kept = torch.searchsorted(asked, columns)
    return Batch(
        inputs=inputs,
        rows=torch.tensor([row for row, _, _ in spots]),
        columns=columns,
        kept=kept,
        token_prompts=[p for _, p, _ in spots],
        next_ids=[after[p][position] for _, p, position in spots],
    )


# -- padding -----------------------------------------------------------

_harmless: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def padding_is_harmless(model: Envoy, parts: Anatomy) -> bool:
    """Whether a prompt padded on the left gives what it gives alone: tried once per model, with a small run.

    Attention masks padding out; a recurrence that ignores the mask (RWKV, RecurrentGemma) reads it like text. A model
    without a tokenizer gets no position ids from nnsight, so it is never padded.
    """
    if tokenizer_of(model) is None:
        return False
    known = _harmless.get(model._module)
    if known is None:
        known = _harmless[model._module] = _try_padding(model, parts)
    return known


def _try_padding(model: Envoy, parts: Anatomy) -> bool:
    long = (list(parts.plain_ids) * 9)[:9]
    prompts = [long, long[2:7]]
    together = _batch([0, 1], prompts, [list(range(9)), list(range(5))], parts)
    alone = _batch([1], prompts, [[], list(range(5))], parts)
    with torch.inference_mode():
        try:
            padded = model_logits(model.trace(**together.inputs, trace=False))[1, -5:].float()
        except Exception:  # a model that cannot take a mask or position ids is not to be padded
            return False
        expected = model_logits(model.trace(**alone.inputs, trace=False))[0].float()
    allowed = 3e-2 if dtype_of(model) in (torch.bfloat16, torch.float16) else 1e-4
    return bool((padded - expected).abs().max() <= allowed * expected.abs().max())
