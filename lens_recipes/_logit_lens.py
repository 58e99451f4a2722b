"""`logit_lens()`: what a model would say if it stopped after each layer.

Idea: nostalgebraist, "interpreting GPT: the logit lens" (LessWrong, 2020).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import nnsight
import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from tqdm import tqdm

from ._anatomy import Anatomy, anatomy, plain_head
from .batches import Batch, cut
from .certificate import Certificate
from .display import prompt_text, token_texts
from .errors import LensError
from .models import context_length, dtype_of, exclusive, resolve_remote, tokenizer_of
from .provenance import provenance
from .readout import COPIES, PADDED, first_of, model_logits, readout, token_axis, unembed
from .result import LensResult, Site, Tokens
from .tokens import check_ids, encode, following, pick, pick_positions, target_ids

MAX_TRACKED = 32


def logit_lens(
    model: Envoy,
    prompts: Any,
    *,
    layers: int | slice | Sequence[int] | None = None,
    positions: Any = None,
    targets: Any = None,
    track: str | int | None = "top1",
    top_k: int = 5,
    apply_norm: bool = True,
    add_special_tokens: bool = True,
    max_bytes: int = 256 * 2**20,
    remote: bool | str | None = None,
    strict: bool = True,
) -> LensResult:
    """Decode the residual stream after every layer with the model's own final norm and unembedding.

    Args:
        model: What `load()` returns.
        prompts: One or several strings, lists of token ids or chats; a 2-D tensor of ids or a `BatchEncoding`.
            Any number: they are run in batches, and each gives the same numbers as alone.
        layers: None for all, an int, a slice or a list; negative from the end. They are read in ascending order.
        positions: The same forms, within each prompt, or a list of them, one per prompt. −1 alone is cheap: the
            model's head then runs on one position.
        targets: Tokens to follow, as strings or ids for all prompts, or one such list per prompt.
        track: Which tokens get a log-probability at every site: "top1" (all tokens that are top-1 at some site
            of that position, at most 32), an int n (the final layer's top n), or None.
        top_k: How many of the most likely tokens to keep.
        apply_norm: False reads the raw stream, without the final norm; the result is marked so.
        add_special_tokens: As in the tokenizer (BOS for models that want one).
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: None as the model was loaded, True or an address for an NDIF server, False for here.
        strict: False keeps a result whose certificate failed, marked, instead of raising.

    Returns:
        A `LensResult` with one `resid_post` site per layer.

    Raises:
        ValueError: an argument that does not fit the model or the prompts; the message says what would.
        LensError: a model that cannot be read this way, or whose last-layer lens is not its own output.

    Example:
        >>> result = logit_lens(load("smollm2"), "The capital of France is", targets=" Paris")
        >>> print(result)
    """
    started = time.perf_counter()
    layers, positions, targets = map(_listed, (layers, positions, targets))
    where = resolve_remote(model, remote)
    if model._module.training and not where:
        raise LensError("the model is in training mode, where dropout makes every run different: call model.eval().")
    with exclusive(model):
        parts = anatomy(model)
        tokenizer = tokenizer_of(model)
        _check_numbers(top_k, track, max_bytes, parts.vocab_size)
        encoded = encode(prompts, tokenizer, add_special_tokens=add_special_tokens)
        check_ids(encoded, parts.vocab_size, context_length(model))
        read = sorted(pick(layers, parts.n_layers, "layers", "this model"))
        picked = pick_positions(positions, encoded)
        wanted = target_ids(targets, len(encoded), tokenizer, parts.vocab_size)

        batches = cut(model, encoded, picked, parts, max_bytes, where)
        options = {"top_k": top_k, "track": track, "max_tracked": MAX_TRACKED, "max_bytes": max_bytes}
        found = [
            _run(model, parts, batch, read, apply_norm, wanted, options, where)
            for batch in tqdm(batches, "logit_lens", unit="batch", delay=2, leave=False, disable=len(batches) < 2)
        ]
    numbers = _in_prompt_order(found, [p for batch in batches for p in batch.token_prompts])
    certificate = _certificate(numbers, model)
    if strict:
        certificate.check()
    arguments = {
        "layers": layers, "positions": positions, "targets": targets, "apply_norm": apply_norm, "top_k": top_k,
        "track": track, "add_special_tokens": add_special_tokens, "max_bytes": max_bytes, "strict": strict,
    }  # fmt: skip
    tokens = _tokens(encoded, picked)
    texts = token_texts(tokenizer, _all_ids(encoded, numbers, wanted))
    return LensResult(
        sites=[Site(layer) for layer in read],
        tokens=replace(tokens, text=[texts[int(i)] for i in tokens.id]),
        prompts=[prompt_text(tokenizer, ids) for ids in encoded],
        top_ids=numbers["top_ids"],
        top_logprobs=numbers["top_logprobs"],
        entropy=numbers["entropy"],
        kl_to_final=numbers["kl"],
        logsumexp=numbers["logsumexp"],
        next_logprobs=numbers["wanted_logprobs"][..., -2],
        next_ranks=numbers["wanted_ranks"][..., -2],
        final_ids=numbers["final_ids"].astype(np.int32),
        model_logprobs=numbers["final_logprob"],
        final_logprobs=numbers["wanted_logprobs"][..., -1],
        final_ranks=numbers["wanted_ranks"][..., -1],
        target_ids=np.array(wanted, dtype=np.int32).reshape(len(encoded), -1),
        target_logits=numbers["wanted_logprobs"][..., :-2] + numbers["logsumexp"][..., None],
        target_logprobs=numbers["wanted_logprobs"][..., :-2],
        target_ranks=numbers["wanted_ranks"][..., :-2],
        tracked_ids=numbers["tracked_ids"],
        tracked_logprobs=numbers["tracked_logprobs"],
        texts=texts,
        certificate=certificate,
        provenance=provenance(model, "logit_lens", arguments, parts.vocab_size, where, time.perf_counter() - started),
    )


def _run(
    model: Envoy,
    parts: Anatomy,
    batch: Batch,
    layers: list[int],
    norm: bool,
    targets: list[list[int]],
    options: dict[str, Any],
    remote: bool | str,
) -> dict[str, np.ndarray]:
    """One batch, one trace: collect the stream of each layer, and reduce it where the model is.

    The block names only torch, nnsight, the model, plain values and the functions of `readout`, so it can travel.
    """
    visited = sorted({*layers, parts.n_layers - 1})
    reads = [(visited.index(layer), norm) for layer in layers]
    weight = None if remote else plain_head(model, parts)
    options = {**options, "n_sites": len(layers), "copies": COPIES if weight is None else 1}
    certified = (len(visited) - 1, True)  # the last layer through the norm: what the certificate checks
    if reads[-1] != certified:
        reads.append(certified)
    wanted = torch.tensor(
        [[*targets[p], next_id] for p, next_id in zip(batch.token_prompts, batch.next_ids, strict=True)]
    )
    rows, columns, kept, blocks, tail = batch.rows, batch.columns, batch.kept, parts.blocks, parts.tail
    inputs = dict(batch.inputs)
    if remote:
        nnsight.register("lens_recipes")  # the server does not have this package: its functions travel as source
        inputs["remote"] = remote
        tail = [(*step[:3], None) if step[0] == "call" else step for step in tail]  # its devices are not ours
    with torch.inference_mode(), model.trace(**inputs):
        streams = []
        for layer in visited:
            streams.append(first_of(model.get(f"{blocks}.{layer}").output)[rows, columns])
        logits = model_logits(model.output)
        numbers = nnsight.save(
            readout(streams, reads, partial(unembed, model, tail, weight, {}), logits, (rows, kept), wanted, **options)
        )
    return {name: value.numpy() for name, value in numbers.items()}


def _in_prompt_order(found: list[dict[str, np.ndarray]], token_prompts: list[int]) -> dict[str, np.ndarray]:
    """Batches end to end, then tokens by prompt; tracked tokens padded to the widest batch."""
    order = np.argsort(token_prompts, kind="stable")
    widest = max(part["tracked_ids"].shape[-1] for part in found)
    joined = {}
    for name in list(found[0]):
        parts = [part.pop(name) for part in found]
        if name in PADDED:
            parts = [
                np.pad(p, [(0, 0)] * (p.ndim - 1) + [(0, widest - p.shape[-1])], constant_values=PADDED[name])
                for p in parts
            ]
        axis = token_axis(name)
        joined[name] = np.concatenate(parts, axis).take(order, axis)
    return joined


def _certificate(numbers: dict[str, np.ndarray], model: Envoy) -> Certificate:
    return Certificate(
        max_logit_error=float(numbers["error"].max()),
        max_abs_logit=float(numbers["scale"].max()),
        max_kl=float(numbers["kl_last"].max()),
        top1_agreement=float(numbers["agrees"].mean()),
        tokens=len(numbers["error"]),
        dtype=str(dtype_of(model)).removeprefix("torch."),
    )


def _tokens(encoded: list[list[int]], picked: list[list[int]]) -> Tokens:
    after = [following(ids) for ids in encoded]
    spots = [(p, t, encoded[p][t], after[p][t]) for p in range(len(encoded)) for t in picked[p]]
    prompt, position, here, next_id = np.array(spots, dtype=np.int32).T
    return Tokens(prompt, position, here, next_id, np.zeros(len(spots), dtype=bool), [])


def _all_ids(encoded: list[list[int]], numbers: dict[str, np.ndarray], wanted: list[list[int]]) -> set[int]:
    ids = {i for row in (*encoded, *wanted) for i in row}
    return ids.union(*(np.unique(numbers[name]).tolist() for name in ("top_ids", "final_ids", "tracked_ids")))


def _listed(argument: Any) -> Any:
    """An iterable that can be read once, as a list that can be read again."""
    return list(argument) if isinstance(argument, Iterable) and not hasattr(argument, "__len__") else argument


def _check_numbers(top_k: Any, track: Any, max_bytes: Any, vocab: int) -> None:
    if type(top_k) is not int or not 1 <= top_k <= vocab:
        raise ValueError(f"top_k={top_k!r} must be a whole number from 1 to {vocab}, the size of the vocabulary.")
    if not (track is None or track == "top1" or (type(track) is int and 1 <= track <= vocab)):
        raise ValueError(f'track={track!r} must be "top1", None, or a number of tokens from 1 to {vocab}.')
    if type(max_bytes) is not int or max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes!r} must be a positive number of bytes.")
