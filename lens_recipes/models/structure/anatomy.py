"""`anatomy()`: where a decoder keeps its parts, and how its last block becomes the logits.

Nothing here knows a model by name. A few tokens are run through the model (or, without weights,
their shapes alone) while it is recorded: which list of modules was walked from end to end (the
blocks), which modules and which elementwise operations turned the last block's output into the
logits (the *tail*: final norm, projections, unembedding, logit scale, softcap, casts). Replaying
the tail on another vector is the logit lens, with whatever this model does there. What cannot be
followed to the end is refused.
"""

from __future__ import annotations

import inspect
from typing import Any

from nnsight.intervention.envoy import Envoy
from torch import nn

from lens_recipes.errors import LensError
from lens_recipes.models.handle import (
    configured_positions,
    envoy_path,
    on_meta,
    refuse_inside_trace,
    text_config,
)
from lens_recipes.models.images.both_ways import (
    BothWays,
    find_both_ways,
    sees_later,
    stated_both_ways,
)
from lens_recipes.models.structure.block_list import (
    check_one_stream,
    check_shapes,
    find_block_list,
    is_chain,
)
from lens_recipes.models.structure.head_path import find_head_operations
from lens_recipes.models.structure.known import KnownModel, known_model
from lens_recipes.models.structure.links import find_links
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.structure.record.graph import Graph
from lens_recipes.models.structure.record.probe import (
    ForwardRecord,
    plain_ids,
    probe_prompts,
    record_forward,
)
from lens_recipes.trace.operations import ModuleCall

# What the name of such a part of a block begins or ends with, or its class contains.
ATTENTION_HINTS = ("attn", "attention", "mixer", "temporal")
MLP_HINTS = ("mlp", "feed_forward", "ffn", "moe", "ff", "fc")


def anatomy(model: Envoy) -> Anatomy:
    """Find blocks, attention, MLP, final norm and unembedding, and what follows the unembedding.

    Costs one forward pass over a few tokens, again when the model was changed; without weights
    (`remote=True`) no computation.

    Raises:
        LensError: the logits are not a function of the last block's output alone, position by
            position (encoder–decoders, several residual streams, unknown heads), or the model is
            not causal.

    Example:
        >>> print(anatomy(load("smollm2")))     # blocks: model.layers, final norm: model.norm, …
    """
    refuse_inside_trace(model)
    return anatomy_of(model, known_model(model))


def anatomy_of(model: Envoy, known: KnownModel) -> Anatomy:
    """Return the anatomy of a model of which this is known, and keep it there.

    Raises:
        LensError: as `anatomy`.
    """
    if known.anatomy is None:
        known.anatomy = _examine(model)
    return known.anatomy


def _examine(model: Envoy) -> Anatomy:
    """Run the model once, and find its parts in the record."""
    module = model._module
    family = type(module).__name__
    config = getattr(module, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise LensError(
            f"{family} is an encoder–decoder: its logits do not come from one residual stream. "
            "A logit lens needs a decoder-only model."
        )
    options = frozenset(inspect.signature(module.forward).parameters)
    config_of_text = text_config(model)
    vocab_size = getattr(config_of_text, "vocab_size", None) or 2
    token_ids = plain_ids(config, vocab_size)
    record = record_forward(module, token_ids, options, meta=on_meta(model))
    block_list = find_block_list(module, record)
    blocks = list(block_list.blocks.values())
    if on_meta(model):
        both_ways = stated_both_ways(config_of_text, options)
    else:
        both_ways = find_both_ways(module, probe_prompts(token_ids), options)
    _check_causal(family, record, both_ways)
    check_shapes(family, record, block_list)
    blocks_follow = is_chain(record, block_list)
    if not blocks_follow:
        graph = Graph(module)
        again = record_forward(module, token_ids, options, meta=on_meta(model), graph=graph)
        check_one_stream(family, graph, again, block_list)
    operations = find_head_operations(module, record, blocks[-1])
    calls = [operation for operation in operations if isinstance(operation, ModuleCall)]
    norms = [call.path for call in calls if call.is_norm]
    return Anatomy(
        family=family,
        n_layers=block_list.length,
        layers=tuple(block_list.blocks),
        is_chain=blocks_follow,
        d_model=record.outputs[blocks[-1]].shape[-1],
        vocab_size=record.logits.shape[-1],
        n_embeddings=_count_embeddings(module, record),
        n_positions=_count_positions(module, config_of_text, record),
        blocks=block_list.path,
        embed=_find_embedding(module, record),
        attention=_find_part(blocks[0], record, ATTENTION_HINTS),
        mlp=_find_part(blocks[0], record, MLP_HINTS),
        norm=norms[-1] if norms else None,
        unembed=calls[-1].path,
        links=find_links(module, record, block_list, operations),
        tail=operations,
        forward_options=options,
        plain_ids=token_ids,
        both_ways=both_ways,
    )


# -- parts -------------------------------------------------------------


def _find_embedding(module: nn.Module, record: ForwardRecord) -> str | None:
    """Return the path of the first embedding that ended."""
    paths = {child: envoy_path(path) for path, child in module.named_modules()}
    for embedding in _embeddings(record):
        return paths[embedding]
    return None


def _embeddings(record: ForwardRecord) -> list[nn.Embedding]:
    """Return the embeddings that ran, the one of the tokens first."""
    return [called for called in record.calls if isinstance(called, nn.Embedding)]


def _token_embedding(module: nn.Module, record: ForwardRecord) -> nn.Embedding | None:
    """Return the embedding of the tokens: the one that the model names, else the first that ran."""
    embeddings = _embeddings(record)
    try:
        named = module.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        named = None
    if named in embeddings:
        return named
    return embeddings[0] if embeddings else None


def _count_embeddings(module: nn.Module, record: ForwardRecord) -> int:
    """Return how many tokens a prompt may be made of."""
    embedding = _token_embedding(module, record)
    if embedding is None:
        return record.logits.shape[-1]
    return embedding.num_embeddings


def _count_positions(module: nn.Module, config: Any, record: ForwardRecord) -> int | None:
    """Return how many tokens the model can hold; None where it computes positions as they come.

    A table of positions ends. Rotations do not: a config only says how far they were trained. Where
    there is neither, the config's number is believed.
    """
    n_configured = configured_positions(config)
    if n_configured is None:
        return None
    lengths = []
    of_tokens = _token_embedding(module, record)
    for table in _embeddings(record):
        is_of_types = table.num_embeddings < n_configured
        if table is not of_tokens and not is_of_types:
            lengths.append(table.num_embeddings - _first_position(table))
    if lengths:
        return min(lengths)
    if any(hasattr(called, "inv_freq") for called in record.calls):
        return None
    return n_configured


def _first_position(table: nn.Embedding) -> int:
    """Return the row of the first token in a table of positions."""
    if table.padding_idx is not None:  # RoBERTa: rows up to that of the padding are left out
        return table.padding_idx + 1
    return getattr(table, "offset", 0)  # OPT and BART


def _find_part(block: nn.Module, record: ForwardRecord, hints: tuple[str, ...]) -> str | None:
    """Return the path of the outermost module in a block that a hint names.

    Only modules that ran are looked at, and no norms.
    """
    for path, child in block.named_modules():
        class_name = type(child).__name__.lower()
        module_name = path.rpartition(".")[2].lower()
        is_part = path != "" and child in record.inputs
        if not is_part or "norm" in class_name or "norm" in module_name:
            continue
        for hint in hints:
            if module_name.startswith(hint) or module_name.endswith(hint) or hint in class_name:
                return envoy_path(path)
    return None


# -- what a lens needs -------------------------------------------------


def _check_causal(family: str, record: ForwardRecord, both_ways: BothWays | None) -> None:
    """Check that the model reads left to right: the two prompts differ in the last token alone.

    One whose own mask lets a prompt see itself, and not what is written after it, is read: its last
    token predicts. A model without weights gives no numbers to compare.
    """
    if record.logits.device.type == "meta" or not sees_later(record.logits):
        return
    if both_ways is not None and both_ways.is_prefix:
        return
    raise LensError(
        f"{family} is not causal: a later token changes the prediction at an earlier "
        "position, so 'what the model predicts next' is not defined. A lens needs a model that "
        "reads left to right."
    )
