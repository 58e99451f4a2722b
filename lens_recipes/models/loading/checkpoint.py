"""From the name of a checkpoint, or of an adapter of one, to an nnsight model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from nnsight.modeling import peft
from nnsight.modeling.quantization import resolve_load_kwargs

from lens_recipes.caller import say
from lens_recipes.errors import LensError
from lens_recipes.models.images.processor import set_processor_reader
from lens_recipes.models.loading.adapter import Adapter, find_adapter
from lens_recipes.models.loading.checkpoint_kind import (
    has_own_class,
    is_multimodal,
    is_saved_whole,
    takes_images,
)
from lens_recipes.models.loading.checkpoint_size import bytes_of_weights, refuse_impossible_size
from lens_recipes.models.loading.processor import processor_of_checkpoint
from lens_recipes.models.loading.reading import (
    build_module,
    read_config,
    read_module,
    read_traceable,
)
from lens_recipes.models.loading.tokenizer import load_tokenizer
from lens_recipes.models.loading.wrap import wrap
from lens_recipes.models.weights.memory import memory_errors_in_words
from lens_recipes.models.weights.sharded import refuse_sharding
from lens_recipes.terminal import one_line

SMOLLM2 = "smollm2"  # the name of the embedded default

# Arguments that the config and the tokenizer must be told as well as the weights.
SHARED_ARGUMENTS = (
    "cache_dir",
    "code_revision",
    "force_download",
    "gguf_file",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


class Weights(NamedTuple):
    """Where a model's weights are.

    Attributes:
        source: Their hub id or folder.
        arguments: What they are loaded with.
        config: Their config.
        adapter: What is put on them, or None.
    """

    source: str
    arguments: dict[str, Any]
    config: Any
    adapter: Adapter | None


def load_checkpoint(source: str, tokenizer: Any, remote: bool, arguments: dict[str, Any]) -> Envoy:
    """Return an nnsight model of a checkpoint or an adapter; with `remote`, without its weights.

    Args:
        source: Its hub id or folder.
        tokenizer: The caller's, or None for the checkpoint's own.
        remote: Whether it is to run on a server.
        arguments: Of `from_pretrained`.

    Raises:
        LensError: as `load`.
    """
    if not remote:
        refuse_sharding(arguments)
    with _plain_errors(source):
        weights = _find_weights(source, arguments)
        tokenizer = tokenizer or load_tokenizer(source, _shared(arguments))
    with _plain_errors(weights.source):
        stored_bytes = None if remote else bytes_of_weights(weights.source)
        refuse_impossible_size(weights.source, weights.config, stored_bytes)
        if tokenizer is None and weights.adapter is not None:
            tokenizer = load_tokenizer(weights.source, _shared(weights.arguments))
        if tokenizer is None and remote:
            raise LensError(
                f"{source!r} has no tokenizer"
                + say(python=": pass one with load(..., tokenizer=...).", shell=".")
            )
        if tokenizer is None or (not remote and not _is_for_pipeline(weights)):
            model = _load_module(weights, tokenizer)
        else:
            model = _load_pipeline(weights, tokenizer, remote)
    if takes_images(weights.config):
        asked = _shared(weights.arguments)
        set_processor_reader(model, partial(processor_of_checkpoint, weights.source, asked))
    return model


def load_less() -> str:
    """Return how a user needs less memory for the weights, in words that begin a sentence."""
    return say(
        python="Load the model in half precision (dtype=torch.bfloat16), quantised "
        "(quantization_config=…), over several devices (device_map=…), or on a server "
        "(remote=True)",
        shell="Load the model in half precision (--dtype bfloat16), or run it on a server "
        "(--remote)",
    )


def _is_for_pipeline(weights: Weights) -> bool:
    """Return whether nnsight can load a model by itself.

    It takes the first device of a map for the inputs, and a disk is none. And its pipeline fails
    for a class that cannot generate, as one's own class may be.
    """
    if weights.arguments.get("device_map") is not None or has_own_class(weights.config):
        return False
    # For text it would take the class of the decoder alone, where there is one.
    is_whole = is_saved_whole(weights.config, weights.source)
    return is_whole == is_multimodal(weights.config, weights.source)


def _find_weights(source: str, arguments: dict[str, Any]) -> Weights:
    """Return where the weights of a checkpoint are; of an adapter, those of its model."""
    try:
        return Weights(source, arguments, _config(source, arguments), None)
    except (OSError, ValueError):  # it has no config.json, or none that names a model
        adapter = find_adapter(source, _shared(arguments))
        if adapter is None:
            raise
    arguments = adapter.base_arguments(arguments)
    with _plain_errors(adapter.base, owner=f"the adapter {source!r} is for {adapter.base!r}, but "):
        return Weights(adapter.base, arguments, _config(adapter.base, arguments), adapter)


def _config(source: str, arguments: dict[str, Any]) -> Any:
    """Return the caller's config, or a checkpoint's own."""
    if arguments.get("config") is not None:
        return arguments["config"]
    return read_config(source, _shared(arguments))


def _shared(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what config and tokenizer are told of the arguments for the weights."""
    return {name: arguments[name] for name in SHARED_ARGUMENTS if name in arguments}


def _load_module(weights: Weights, tokenizer: Any) -> Envoy:
    """Load a model with transformers alone, and wrap it."""
    source, arguments, config, adapter = weights
    auto_class = auto_class_of(is_saved_whole(config, source))
    module = read_module(auto_class, source, resolve_load_kwargs(arguments)).eval()
    if adapter is not None:
        peft.attach(module, adapter.source)
    return wrap(module, tokenizer, revision=arguments.get("revision"))


def _load_pipeline(weights: Weights, tokenizer: Any, remote: bool) -> Envoy:
    """Load a model with nnsight, which makes a pipeline of it."""
    source, arguments, config, adapter = weights
    task = "text-generation"
    if is_multimodal(config, source) and remote:
        # The weights are found under either task; a skeleton only under its own, which wants the
        # processor too.
        task = "image-text-to-text"
    of_nnsight = {
        "task": task,
        "tokenizer": tokenizer,
        "dispatch": not remote,
        "peft": None if adapter is None else adapter.source,
    }
    if task == "image-text-to-text":
        # nnsight cannot guess it where there are no weights. Text goes without one.
        with contextlib.suppress(LensError):
            of_nnsight["processor"] = processor_of_checkpoint(source, _shared(arguments))
    return read_traceable(source, {**arguments, **of_nnsight})


def skeleton(source: str, *, trust_remote_code: bool = False) -> Envoy:
    """Return a model without weights, out of a checkpoint's config alone: to be looked at, not run.

    Raises:
        LensError: as `load`.
    """
    arguments = {"trust_remote_code": trust_remote_code}
    with _plain_errors(source):
        config = _config(source, arguments)
        refuse_impossible_size(source, config)
        auto_class = auto_class_of(is_multimodal(config, source))
        return NNsight(build_module(auto_class, source, config, arguments).eval())


def auto_class_of(multimodal: bool) -> Any:
    """Return the class of transformers that builds a language model from its config."""
    if multimodal:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


@contextlib.contextmanager
def _plain_errors(source: str, owner: str = "") -> Iterator[None]:
    """Say in one sentence what transformers says in twenty lines.

    Args:
        source: What is loaded.
        owner: What it is loaded for, to begin the sentence with.
    """
    try:
        with memory_errors_in_words(load_less()):
            yield
    except LensError:
        raise
    except Exception as error:  # from transformers, safetensors, the hub or the network
        if Path(source).is_dir():
            problem = f"the folder {source!r} holds no model that transformers can load"
        elif Path(source).is_file():
            problem = f"{source!r} is a file, and what is loaded is its folder"
        elif source.startswith(("/", ".", "~")) or source.count("/") > 1:
            problem = f"there is no folder {source!r}"
        else:
            problem = (
                f"{source!r} is no local folder, and no model of that name could be had from "
                "the hub"
            )
        reason = one_line(str(error), 300)
        raise LensError(
            f"{owner}{problem}. Accepted: a hub id, a checkpoint folder, {SMOLLM2!r}. "
            f"The reason given is {type(error).__name__}: {reason}"
        ) from error
