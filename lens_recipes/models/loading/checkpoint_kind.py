"""Tell from a checkpoint's config whether it is a language model that a lens can read."""

from __future__ import annotations

from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto import modeling_auto

from lens_recipes.errors import LensError

# Ends of the names of classes that are not trained to predict the next token.
OTHER_TRAINING = (
    "ForMaskedLM",
    "ForPreTraining",
    "Classification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)

# Types whose class for images and text cannot run, with what is in transformers 5.24: its forward
# reads a field that its decoder does not return.
BROKEN_WHOLE = ("llama4",)


def is_multimodal(config: Any, source: str) -> bool:
    """Return whether the decoder is inside a multimodal model.

    Raises:
        LensError: the checkpoint is neither a language model nor a multimodal model with one
            inside, or it was not trained to predict the next token.
    """
    model_type = type(config).model_type
    if getattr(config, "is_encoder_decoder", False):
        # transformers has a decoder-only class for some of them: half of the model, its
        # cross-attention idle.
        raise LensError(
            f"{source!r} is an encoder–decoder ({model_type!r}): its logits do not come from one "
            "residual stream. A lens needs a decoder-only model."
        )
    _refuse_other_training(config, source)
    _refuse_missing_unembedding(config, source)
    if model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return False
    if model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return True
    # A class of the checkpoint's own code, or one that the user's program has registered.
    own_classes = getattr(config, "auto_map", None) or {}
    if "AutoModelForCausalLM" in own_classes or type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return False
    if "AutoModelForImageTextToText" in own_classes:
        return True
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return True
    raise LensError(
        f"{source!r} is a {model_type!r} model; a lens needs a decoder that predicts the next "
        "token (a causal language model, or a multimodal model with one inside)."
    )


def is_saved_whole(config: Any, source: str) -> bool:
    """Return whether a checkpoint is a multimodal model, which is loaded with its image part.

    For some types transformers has a class of the decoder alone, too, and would take it for text:
    what the checkpoint was saved from says which is meant.

    Raises:
        LensError: as `is_multimodal`.
    """
    if is_multimodal(config, source):
        return True
    model_type = type(config).model_type
    whole_class = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    text_class = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if whole_class in (None, text_class) or model_type in BROKEN_WHOLE:
        return False
    return _saved_class(config) == whole_class


def takes_images(config: Any) -> bool:
    """Return whether a model of this config may be one that takes images."""
    if type(config).model_type in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return True
    return "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})


def has_own_class(config: Any) -> bool:
    """Return whether a model's class may be another than transformers' own."""
    is_own_config = not type(config).__module__.startswith("transformers.")
    return is_own_config or bool(getattr(config, "auto_map", None))


def _refuse_other_training(config: Any, source: str) -> None:
    """Raise LensError if the checkpoint was not trained to predict the next token.

    Its weights do not show that.
    """
    saved_class = _saved_class(config)
    reads_both_ways = getattr(config, "use_bidirectional_attention", None) is True
    if saved_class.endswith(OTHER_TRAINING) or reads_both_ways:
        raise LensError(
            f"{source!r} is a {saved_class or type(config).model_type}: it was not trained to "
            "predict the next token, and transformers gives it an unembedding of random numbers, "
            "or lets it read in both directions. A lens needs a causal language model."
        )


def _refuse_missing_unembedding(config: Any, source: str) -> None:
    """Raise LensError if the checkpoint lacks its unembedding and nothing stands in for it."""
    model_type = type(config).model_type
    saved_class = _saved_class(config)
    causal_class = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    multimodal_class = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    language_class = causal_class or multimodal_class
    if not language_class or saved_class in (causal_class, multimodal_class):
        return
    if saved_class != modeling_auto.MODEL_MAPPING_NAMES.get(model_type):
        return
    # A tied embedding stands in for the unembedding, unless there is more to the head, as in BERT's
    # kin.
    has_larger_head = model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if getattr(config, "tie_word_embeddings", False) and not has_larger_head:
        return
    raise LensError(
        f"{source!r} is a {saved_class}: it was saved without its unembedding, and transformers "
        "would put random numbers there. Load the checkpoint of the whole language model, a "
        f"{language_class}."
    )


def _saved_class(config: Any) -> str:
    """Return the class that a checkpoint was saved from, or nothing where it does not say."""
    architectures = getattr(config, "architectures", None) or [""]
    return architectures[0]
