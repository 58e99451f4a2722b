"""Arrays that came back from a trace become a `LensResult`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Response, Site, Tokens
from lens_recipes.arrays.certificate import Certificate
from lens_recipes.models.handle import dtype_of
from lens_recipes.results import LensResult
from lens_recipes.run.prompts import next_ids
from lens_recipes.trace.buffers import PADDED, token_axis


def in_prompt_order(
    found: list[dict[str, np.ndarray]], token_prompts: list[int]
) -> dict[str, np.ndarray]:
    """Runs end to end, then tokens by prompt; tracked tokens padded to the widest run. Empties `found`."""
    order = np.argsort(token_prompts, kind="stable")
    widest = max(part["tracked_ids"].shape[-1] for part in found)
    joined = {}
    for name in list(found[0]):
        parts = [part.pop(name) for part in found]
        if name in PADDED:
            parts = [
                np.pad(
                    p,
                    [(0, 0)] * (p.ndim - 1) + [(0, widest - p.shape[-1])],
                    constant_values=PADDED[name],
                )
                for p in parts
            ]
        axis = token_axis(name)
        joined[name] = np.concatenate(parts, axis).take(order, axis)
    return joined


def certificate_of(numbers: dict[str, np.ndarray], model: Envoy) -> Certificate:
    """The certificate of a run's numbers, each `[token]`."""
    return Certificate(
        max_logit_error=float(numbers["error"].max()),
        max_abs_logit=float(numbers["scale"].max()),
        max_kl=float(numbers["kl_last"].max()),
        top1_agreement=float(numbers["agrees"].mean()),
        tokens=len(numbers["error"]),
        dtype=_coarser(dtype_of(model), float(numbers["eps"].max())),
        **{
            f"max_{name}_error": float(numbers[name].max())
            for name in ("block", "total", "head")
            if name in numbers
        },
    )


def _coarser(weights: torch.dtype, eps: float) -> str:
    """The precision that a run had: that of the weights here, or of the stream where it ran, if that is coarser."""
    known = {
        torch.finfo(dtype).eps: dtype
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    coarsest = known.get(max(torch.finfo(weights).eps, eps), weights)
    return str(coarsest).removeprefix("torch.")


def packed_tokens(
    encoded: list[list[int]], picked: list[list[int]], texts: dict[int, str]
) -> Tokens:
    """The token axis: the picked positions of all prompts."""
    after = [next_ids(ids) for ids in encoded]
    spots = [(p, t, encoded[p][t], after[p][t]) for p in range(len(encoded)) for t in picked[p]]
    prompt, position, here, next_id = np.array(spots, dtype=np.int32).T
    return Tokens(
        prompt,
        position,
        here,
        next_id,
        np.zeros(len(spots), dtype=bool),
        [texts[int(i)] for i in here],
    )


def all_ids(numbers: dict[str, np.ndarray], *lists: Iterable[Iterable[int]]) -> set[int]:
    """Every id that a result shows: those of a run, and those in lists of lists."""
    ids = {int(i) for rows in lists for row in rows for i in row}
    return ids.union(
        *(np.unique(numbers[name]).tolist() for name in ("top_ids", "final_ids", "tracked_ids"))
    )


def lens_result(
    numbers: dict[str, np.ndarray],
    sites: list[Site],
    tokens: Tokens,
    prompts: list[str],
    wanted: list[list[int]],
    texts: dict[int, str],
    certificate: Certificate,
    provenance: dict[str, Any],
    responses: list[Response] | None = None,
) -> LensResult:
    """A result out of what `readout` gave, its tokens in the order of `tokens`; `wanted` are the targets `[prompt]`."""
    logprobs, ranks = (
        numbers["wanted_logprobs"],
        numbers["wanted_ranks"],
    )  # targets, then next, then final
    return LensResult(
        sites=sites,
        tokens=tokens,
        prompts=prompts,
        top_ids=numbers["top_ids"],
        top_logprobs=numbers["top_logprobs"],
        entropy=numbers["entropy"],
        kl_to_final=numbers["kl"],
        logsumexp=numbers["logsumexp"],
        next_logprobs=logprobs[..., -2],
        next_ranks=ranks[..., -2],
        final_ids=numbers["final_ids"].astype(np.int32),
        model_logprobs=numbers["final_logprob"],
        final_logprobs=logprobs[..., -1],
        final_ranks=ranks[..., -1],
        target_ids=np.array(wanted, dtype=np.int32).reshape(len(prompts), -1),
        target_logits=logprobs[..., :-2] + numbers["logsumexp"][..., None],
        target_logprobs=logprobs[..., :-2],
        target_ranks=ranks[..., :-2],
        tracked_ids=numbers["tracked_ids"],
        tracked_logprobs=numbers["tracked_logprobs"],
        texts=texts,
        certificate=certificate,
        provenance=provenance,
        responses=responses or [],
    )
