"""Models and lenses on paper: shapes without numbers, of which a run can be prepared and estimated.

A run on a server is prepared without weights already. Here neither a name on the hub nor a
tokenizer is needed, nor a file of the lens.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from torch import Tensor, nn

from lens_recipes.arrays.used_lens import EMBEDDING
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import has_hub_id, on_meta, put_on_paper, tokenizer_of
from lens_recipes.models.loading.checkpoint import auto_class_of
from lens_recipes.models.loading.checkpoint_kind import is_multimodal
from lens_recipes.models.loading.checkpoint_size import refuse_impossible_size
from lens_recipes.models.loading.reading import build_module
from lens_recipes.models.structure.anatomy import anatomy
from lens_recipes.models.weights.offload import lacks_weights
from lens_recipes.run.run import RecipeRun
from lens_recipes.trace.transport import Affine

# Kinds of lenses that an estimate takes by their names: whether they have a bias, and a transport
# of the stream before block 0, as `fit_lens` gives them.
FITTED = {"linear": (True, True), "tuned": (True, True), "jacobian": (False, False)}

# The share of a transport's bytes that zstd leaves. On paper its numbers are float32, of which the
# sign and exponent alone can be said in fewer bits.
TRANSPORT_SHARE = 0.926


def is_skeleton(model: Any) -> bool:
    """Tell whether a model is but a shape that no server finds: a config, or one on meta."""
    if isinstance(model, transformers.PreTrainedConfig):
        return True
    if isinstance(model, Envoy):
        return on_meta(model) and not has_hub_id(model)
    return isinstance(model, nn.Module) and hasattr(model, "config") and lacks_weights(model)


def model_on_paper(model: Any) -> Envoy:
    """Return a model that a run can be prepared of and that never runs.

    Args:
        model: What `is_skeleton` is true of. Without a tokenizer its prompts are token ids.

    Raises:
        LensError: a config that no model can have, or of a model that no lens can read.
    """
    tokenizer = None
    if isinstance(model, transformers.PreTrainedConfig):
        name = type(model).__name__
        refuse_impossible_size(name, model)
        auto_class = auto_class_of(is_multimodal(model, name))
        module = build_module(auto_class, name, model, {}).eval()
        if isinstance(model.dtype, torch.dtype):
            module = module.to(model.dtype)
    elif isinstance(model, Envoy):
        module, tokenizer = model._module, tokenizer_of(model)
    else:
        module = model
    # nnsight sends no model without a tokenizer; a nameless one stands in while it is wrapped.
    paper = TransformersModel(module, tokenizer=tokenizer or _empty_tokenizer(), device="meta")
    paper.tokenizer = tokenizer
    put_on_paper(paper)
    return paper


def _empty_tokenizer() -> Any:
    """Return a tokenizer of one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


class LensOnPaper(Lens):
    """A lens of which the shapes are known, and no numbers: all of a transport are one zero."""

    def _find_not_finite(self) -> list[int]:
        """Return that its numbers can be read with."""
        return []

    def _make_digest(self) -> str:
        """Return what stands for a digest, as long as one."""
        return "0" * 16


def lens_on_paper(kind: str, model: Envoy) -> Lens:
    """Return a lens of the shapes that `fit_lens` gives of a model.

    Args:
        kind: One of `FITTED`.
        model: The model.
    """
    has_bias, has_embedding = FITTED[kind]
    parts = anatomy(model)
    layers = [layer for layer in parts.layers if layer != parts.last_layer]
    if has_embedding:
        layers = [EMBEDDING, *layers]
    transports = {}
    for layer in layers:
        bias = _zeros(parts.d_model) if has_bias else None
        transports[layer] = Affine(_zeros(parts.d_model, parts.d_model), bias)
    return LensOnPaper(kind, transports, source=f"a {kind} lens")


def _zeros(*shape: int) -> Tensor:
    """Return a tensor of this shape that takes four bytes."""
    return torch.zeros(1).expand(*shape)


def transport_tensors(run: RecipeRun[Any]) -> list[Tensor]:
    """Return the numbers of the transports that a run's plan holds, each tensor once."""
    tensors: dict[int, Tensor] = {}
    pending: list[Any] = [run.plan]
    while pending:
        value = pending.pop()
        if isinstance(value, Affine):
            for numbers in (value.weight, value.bias):
                if numbers is not None:
                    tensors[id(numbers)] = numbers
        elif isinstance(value, tuple | list):
            pending += value
    return list(tensors.values())


def transport_bytes(run: RecipeRun[Any]) -> int:
    """Return how many bytes the transports of a run take where it runs."""
    return sum(numbers.numel() * numbers.element_size() for numbers in transport_tensors(run))


def bytes_of_paper(run: RecipeRun[Any]) -> int:
    """Return the bytes that a job would also send were its lens not on paper, compressed."""
    n_bytes = 0.0
    for numbers in transport_tensors(run):
        own_bytes = numbers.numel() * numbers.element_size()
        if numbers.untyped_storage().nbytes() < own_bytes:
            n_bytes += TRANSPORT_SHARE * own_bytes
    return round(n_bytes)
