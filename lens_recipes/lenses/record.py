"""`LensRecord`: what a lens was fitted on, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LensRecord:
    """What a lens was fitted on, and how. Whatever a file does not say is None or empty.

    Attributes:
        model, revision: The model's hub id or folder name, and the commit of its weights.
        n_layers: How many blocks the model has.
        unembedding: Digest of the model's unembedding, as `unembedding_digest` makes it.
        tokenizer: Digest of its tokenizer, as `tokenizer_digest` makes it.
        starts_with_bos: Whether each text began with the token for the beginning of a text.
        first_position: Positions before this one were never fitted.
        target_layer: The block whose output the lens maps to; the last one in every lens that can
            be read.
        text: What text it was fitted on, in words.
        n_prompts, n_tokens: How much of it.
        versions: Of the packages that fitted it.
        seed: Of the fit.
        settings: What else the fit was asked for, and what it chose, such as the ridge.
    """

    model: str | None = None
    revision: str | None = None
    n_layers: int | None = None
    unembedding: str | None = None
    tokenizer: str | None = None
    starts_with_bos: bool | None = None
    first_position: int = 0
    target_layer: int | None = None
    text: str = ""
    n_prompts: int | None = None
    n_tokens: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
