"""A result or an attribution as a long-form pandas table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.attribution import AttributionArrays
from lens_recipes.arrays.lens import LensArrays
from lens_recipes.errors import LensError


def to_frame(result: LensArrays) -> Any:
    """See `LensResult.to_frame`."""
    pd = _pandas()
    return pd.concat([pd.DataFrame(columns) for columns in _columns(result)], ignore_index=True)


def attribution_frame(result: AttributionArrays) -> Any:
    """See `Attribution.to_frame`."""
    pd = _pandas()
    parts, tokens = result.parts, result.tokens
    part, token, target = np.indices(result.values.shape).reshape(3, -1)
    if result.sources:  # a shorter prompt has no such source
        lengths = np.array([len(texts) for texts in result.sources])
        source = np.array([-1 if p.source is None else p.source for p in parts])
        there = source[part] < lengths[tokens.prompt[token]]
        part, token, target = part[there], token[there], target[there]
    prompt = tokens.prompt[token]
    ids, other = result.target_ids[prompt, target], result.against_ids[prompt, target]
    names = {int(i): result.text(i) for i in np.unique(np.concatenate([ids, other])) if i >= 0}
    from_texts = ((result.sources[i], parts[p].source) for i, p in zip(prompt, part, strict=True))
    return pd.DataFrame(
        {
            "certified": result.certificate is not None and result.certificate.passed,
            "layer": pd.array([parts[p].layer for p in part], dtype="Int64"),
            "component": [parts[p].component for p in part],
            "head": pd.array([parts[p].head for p in part], dtype="Int64"),
            "source": pd.array([parts[p].source for p in part], dtype="Int64"),
            "source_text": [None if s is None else texts[s] for texts, s in from_texts]
            if result.sources
            else None,
            "prompt": prompt,
            "position": tokens.position[token],
            "input": [tokens.text[t] for t in token],
            "target": [names[int(i)] for i in ids],
            "target_id": ids,
            "against": [names.get(int(i), result.against) for i in other],
            "value": result.values[part, token, target],
        }
    )


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise LensError("to_frame() needs pandas: pip install 'lens-recipes[frames]'") from error
    return pd


def _columns(result: LensArrays) -> Iterator[dict[str, Any]]:
    proof = result.certificate
    certified = proof is not None and proof.passed and result.normed
    n_sites, n_tokens = result.entropy.shape
    site, token = np.indices((n_sites, n_tokens)).reshape(2, -1)
    parts: list[tuple[str, int, NDArray[Any], NDArray[Any], NDArray[Any] | None]] = [
        ("top", k, result.top_ids[..., k], result.top_logprobs[..., k], None)
        for k in range(result.top_ids.shape[-1])
    ]
    wide = (n_sites, n_tokens)
    parts.append(
        (
            "next",
            0,
            np.broadcast_to(result.tokens.next_id, wide),
            result.next_logprobs,
            result.next_ranks,
        )
    )
    parts.append(
        (
            "final",
            0,
            np.broadcast_to(result.final_ids, wide),
            result.final_logprobs,
            result.final_ranks,
        )
    )
    for k in range(result.target_ids.shape[-1]):
        ids = np.broadcast_to(result.target_ids[result.tokens.prompt, k], wide)
        parts.append(
            ("target", k, ids, result.target_logprobs[..., k], result.target_ranks[..., k])
        )
    for k in range(result.tracked_ids.shape[-1]):
        ids = np.broadcast_to(result.tracked_ids[:, k], wide)
        parts.append(("tracked", k, ids, result.tracked_logprobs[..., k], None))
    of_generation = {
        name: column
        for name in ("generated", "next_logprob", "sampler_logprob")
        if result.tokens.next_logprob is not None
        and (column := getattr(result.tokens, name)) is not None
    }
    for role, k, ids, logprobs, ranks in parts:
        flat, keep = ids.reshape(-1), ids.reshape(-1) >= 0
        s, t = site[keep], token[keep]
        yield {
            "certified": certified,
            "layer": [result.sites[i].layer for i in s],
            "component": [result.sites[i].component for i in s],
            "head": [result.sites[i].head for i in s],
            "prompt": result.tokens.prompt[t],
            "position": result.tokens.position[t],
            "input": [result.tokens.text[i] for i in t],
            **{name: column[t] for name, column in of_generation.items()},
            "entropy": result.entropy[s, t],
            "kl_to_final": result.kl_to_final[s, t],
            "role": role,
            "k": k,
            "id": flat[keep],
            "text": [result.text(i) for i in flat[keep]],
            "logprob": logprobs.reshape(-1)[keep],
            "prob": np.exp(logprobs.reshape(-1)[keep]),
            "rank": np.full(len(s), k if role == "top" else -1)
            if ranks is None
            else ranks.reshape(-1)[keep],
        }
