"""What tells one model from another: digests of its unembedding and of its tokenizer."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor, nn

from lens_recipes.models.handle import on_meta, tokenizer_of
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.weights.offload import offloading_hook

N_ROWS = 256  # of the unembedding that are looked at, evenly spaced

# Dtypes into which one checkpoint may be loaded, with the signs of its numbers left as they are.
CAST_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

SAMPLE = "a"  # a text, to see what a tokenizer puts before it
ROWS_AT_ONCE = 2**12

Answer = TypeVar("Answer")

# What a tokenizer of one's own raises that has no such method, or another one.
UNASKABLE = (AttributeError, KeyError, NotImplementedError, TypeError, ValueError)

# -- the unembedding ---------------------------------------------------


def unembedding_digest(model: Envoy) -> str | None:
    """Return what tells a model's unembedding from that of any other model.

    It is a digest of the shape, and of the signs of 256 evenly spaced rows. A cast between float32,
    bfloat16 and float16 changes numbers but no sign, so one checkpoint has one digest in all of
    them. Training changes some of the many numbers near zero, whose signs then differ.

    None where the weights are not here, or are quantised.
    """
    weight = _unembedding(model)
    if weight is None or weight.dtype not in CAST_DTYPES:
        return None
    n_rows = min(N_ROWS, len(weight))
    rows = torch.linspace(0, len(weight) - 1, n_rows, dtype=torch.float64).round().long()
    signs = weight.detach()[rows.to(weight.device)].signbit().to("cpu", torch.uint8)
    hashed = hashlib.sha256(f"signs {tuple(weight.shape)}".encode())
    hashed.update(signs.numpy().tobytes())
    return hashed.hexdigest()[:16]


def tuned_lens_hash(model: Envoy) -> str | None:
    """Return what the package tuned-lens holds against a model: the SHA-256 of its unembedding.

    None where the weights are not here, or are quantised.
    """
    weight = _unembedding(model)
    if weight is None or weight.dtype not in CAST_DTYPES:
        return None
    hashed = hashlib.sha256()
    for rows in weight.detach().split(ROWS_AT_ONCE):
        hashed.update(rows.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return hashed.hexdigest()


def _unembedding(model: Envoy) -> Tensor | None:
    """Return the matrix of the unembedding; None where it is not here as plain numbers."""
    if on_meta(model):
        return None
    module = model.get(anatomy(model).unembed)._module
    weight: Any = getattr(module, "weight", None)
    is_plain = type(weight) in (Tensor, nn.Parameter) and weight.ndim == 2
    if not is_plain or weight.is_meta or offloading_hook(module) is not None:
        return None
    return weight


# -- the tokenizer -----------------------------------------------------

# Digests of vocabularies, with the number of tokens that they were made of: it takes a while to go
# through 250,000 tokens.
_vocabularies: weakref.WeakKeyDictionary[Any, tuple[int, str]] = weakref.WeakKeyDictionary()


def tokenizer_digest(model: Envoy) -> str | None:
    """Return what tells a model's tokenizer from any other: its vocabulary, and how texts begin.

    None where there is no tokenizer, or one that does not say.
    """
    return _asked(model, _tokenizer_digest)


def starts_with_bos(model: Envoy) -> bool | None:
    """Return whether a model's tokenizer puts the token for the beginning before each text.

    None where there is no tokenizer, or one that does not say.
    """
    return _asked(model, _puts_bos)


def _asked(model: Envoy, ask: Callable[[Any], Answer]) -> Answer | None:
    """Return what a model's tokenizer says; None without one, or where it does not say."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        return None
    try:
        return ask(tokenizer)
    except UNASKABLE:
        return None


def _tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of the vocabulary and of the tokens that are put before a text."""
    answers = [_vocabulary_digest(tokenizer), _ids_before(tokenizer)]
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:16]


def _puts_bos(tokenizer: Any) -> bool:
    """Return whether the token for the beginning is put before a text."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and _ids_before(tokenizer)[:1] == [bos]


def _vocabulary_digest(tokenizer: Any) -> str:
    """Return a digest of all tokens with their ids."""
    n_tokens = len(tokenizer)
    n_known, digest = _vocabularies.get(tokenizer, (None, ""))
    if n_known != n_tokens:
        hashed = hashlib.sha256()
        for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            text = token if isinstance(token, bytes) else str(token).encode(errors="replace")
            hashed.update(b"%d %d " % (number, len(text)) + text)
        digest = hashed.hexdigest()
        _vocabularies[tokenizer] = (n_tokens, digest)
    return digest


def _ids_before(tokenizer: Any) -> list[int]:
    """Return the tokens that are put before a text."""
    whole = list(tokenizer(SAMPLE).input_ids)
    bare = list(tokenizer(SAMPLE, add_special_tokens=False).input_ids)
    n_before = 0
    while n_before < len(whole) and whole[n_before : n_before + len(bare)] != bare:
        n_before += 1
    return whole[:n_before]
