"""Text that the model itself writes, from nothing: seeded, at temperature 1, nothing cut off.

It needs no corpus and no network, and is what the model's own states are about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from nnsight.intervention.envoy import Envoy
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from lens_recipes.caller import argument, say
from lens_recipes.errors import LensError
from lens_recipes.lenses.digests import starts_with_bos
from lens_recipes.models.handle import exclusive, on_meta, text_config, tokenizer_of
from lens_recipes.recipes.lenses.text.rows import Row, distinct, make_row
from lens_recipes.trace.kernels import WRITTEN_ROWS

OWN_TEXT = "text that the model wrote"  # what records call it
ROWS_AT_ONCE = WRITTEN_ROWS  # that are written side by side


class InverseSampler(LogitsProcessor):
    """Draw the next token of each row with a generator of its own, and leave no other choice.

    The token is where the cumulated probability passes a uniform number, which is several times
    cheaper than what torch's multinomial draws, and leaves torch's own generators as they are.
    """

    def __init__(self, seed: int, forbidden: list[int]) -> None:
        """Begin with a seed, and with tokens that are never drawn."""
        self.generator = torch.Generator().manual_seed(seed)
        self.forbidden = forbidden

    def __call__(
        self, input_ids: Int[Tensor, "row position"], scores: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        """Return scores of which all but one of each row are −∞."""
        scores = scores.float().clone()
        scores[:, self.forbidden] = -math.inf
        cumulated = scores.softmax(-1).double().cumsum(-1)
        uniform = torch.rand(len(scores), 1, dtype=torch.float64, generator=self.generator)
        threshold = uniform.to(scores.device) * cumulated[:, -1:]
        drawn = torch.searchsorted(cumulated, threshold, right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -math.inf).scatter(-1, drawn, 0.0)


def write_rows(model: Envoy, n_rows: int, length: int, seed: int) -> Int[Tensor, "row position"]:
    """Return rows that the model writes, each of so many tokens with the first, which begins it.

    Args:
        model: The nnsight model, with its weights here.
        n_rows: How many, side by side.
        length: Of each, the token that begins a text included.
        seed: Of the sampler.

    Raises:
        LensError: the model cannot write, or has no token that begins a text.
    """
    module = writing_module(model)
    first = first_token(model)
    device = module.get_input_embeddings().weight.device
    begun = torch.full((n_rows, 1), first, dtype=torch.long, device=device)
    config = GenerationConfig(
        max_new_tokens=length - 1,
        do_sample=False,
        pad_token_id=first,
        eos_token_id=None,
        use_cache=True,
    )
    sampler = InverseSampler(seed, ending_tokens(model))
    with torch.no_grad(), own_config(module):
        written = module.generate(
            begun,
            attention_mask=torch.ones_like(begun),
            generation_config=config,
            logits_processor=LogitsProcessorList([sampler]),
        )
    return written.cpu()


def check_seed(seed: Any) -> None:
    """Refuse what is no seed of a text.

    Raises:
        ValueError: says what is one.
    """
    if type(seed) is not int or not 0 <= seed < 2**31:
        raise ValueError(f"{argument('seed', seed)} must be a whole number from 0 to 2³¹ − 1.")


def own_rows(model: Envoy, n_rows: int, length: int, seed: int) -> list[Row]:
    """Return rows that the model writes, as a tokenizer would give them; see `write_rows`."""
    refuse_elsewhere(model)
    with exclusive(model):
        written = write_rows(model, n_rows, length, seed)
    return rows_as_read(model, written)


def rows_as_read(model: Envoy, written: Int[Tensor, "row position"]) -> list[Row]:
    """Return what a model wrote as texts are read: with BOS only where its tokenizer puts one.

    A lens that was fitted with it is no better on texts without it, nor the other way round
    (SmolLM2), but for the first position, which a text without BOS has, too.
    """
    if not starts_with_bos(model):
        written = written[:, 1:]
    return list(distinct(make_row(row) for row in written))


def refuse_elsewhere(model: Envoy) -> None:
    """Raise LensError for a model that is on a server, where no text is written for a fit."""
    if on_meta(model):
        raise LensError(
            "a model on a server does not write text of its own to be read. "
            + say(
                python="Pass texts=: strings, a file, or a data set.",
                shell="Name a file with --texts.",
            )
        )


@contextmanager
def own_config(module: Any) -> Iterator[None]:
    """Have a model forget its checkpoint's settings of how to write, which `generate` would add."""
    before = module.generation_config
    module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        module.generation_config = before


def writing_module(model: Envoy) -> Any:
    """Return the module that writes.

    Raises:
        LensError: it cannot.
    """
    module = model._module
    can_generate = getattr(module, "can_generate", None)
    if can_generate is None or not can_generate():
        raise LensError(
            f"{type(module).__name__} cannot write text of its own to fit a lens on. "
            + say(python="Pass texts=.", shell="Name a file with --texts.")
        )
    return module


def first_token(model: Envoy) -> int:
    """Return the token that begins a text: BOS, or where there is none the one that ends one.

    Raises:
        LensError: there is neither.
    """
    config = text_config(model)
    for holder in (tokenizer_of(model), config):
        for name in ("bos_token_id", "eos_token_id"):
            token = getattr(holder, name, None)
            if isinstance(token, list) and token:
                token = token[0]
            if isinstance(token, int):
                return token
    raise LensError(
        "this model has no token that begins or ends a text, so it cannot write one from nothing. "
        + say(python="Pass texts=.", shell="Name a file with --texts.")
    )


def ending_tokens(model: Envoy) -> list[int]:
    """Return the tokens that end a text, which would leave rows of several lengths."""
    endings: set[int] = set()
    config = getattr(model._module, "generation_config", None)
    for holder in (tokenizer_of(model), text_config(model), config):
        tokens = getattr(holder, "eos_token_id", None)
        if isinstance(tokens, int):
            tokens = [tokens]
        endings.update(tokens or [])
    return sorted(endings)
