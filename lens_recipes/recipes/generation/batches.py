"""Cut a request into batches of prompts that are continued together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from nnsight.intervention.envoy import Envoy
from nnsight.modeling.transformers import TransformersModel

from lens_recipes.models.handle import envoy_path, exclusive, text_config
from lens_recipes.recipes.generation.padding import can_write_padded
from lens_recipes.recipes.generation.sampling import GenerationSettings
from lens_recipes.run.batches import (
    MAX_TOKENS,
    given_beside_ids,
    group_prompts,
    left_padded,
    rope_bounds,
)
from lens_recipes.run.request.request import Request
from lens_recipes.trace.edits.plan import BatchEdits
from lens_recipes.trace.generation.plan import GenerationBatch

MAX_CACHED = 8 * MAX_TOKENS  # tokens of a batch in the cache, those to come included


class PromptGroup(NamedTuple):
    """The numbers of some prompts, and the batch that they make."""

    prompts: list[int]
    batch: GenerationBatch


def make_generation_batches(
    request: Request,
    settings: GenerationSettings,
    include_prompt: bool,
    max_bytes: int,
    edits: Callable[[list[int], list[int]], BatchEdits] | None = None,
) -> list[PromptGroup]:
    """Return the batches of a request.

    Args:
        request: What is asked for.
        settings: How the model is to generate.
        include_prompt: Whether all tokens of the prompts are read, not only the last.
        max_bytes: Bound on the logits of one step.
        edits: From the prompts of a batch, and the padding before each, to what is done to it; None
            for nothing.
    """
    groups = []
    for number, prompts in enumerate(prompt_groups(request, settings, include_prompt, max_bytes)):
        # Each batch has a seed of its own, or all would be sampled with the same numbers.
        seed = None if settings.seed is None else settings.seed + number
        batch = one_batch(request, prompts, include_prompt, seed)
        if edits is not None:
            batch = batch._replace(edits=edits(prompts, batch.padding.tolist()))
        groups.append(PromptGroup(prompts, batch))
    return groups


def prompt_groups(
    request: Request, settings: GenerationSettings, include_prompt: bool, max_bytes: int
) -> list[list[int]]:
    """Return the prompt numbers of each batch.

    They are few enough for the cache, and padded only where that changes nothing.
    """
    model, vocab_size = request.model, request.anatomy.vocab_size
    new_tokens = settings.max_new_tokens
    lengths = [len(token_ids) for token_ids in request.token_ids]
    final_lengths = [length + new_tokens for length in lengths]
    with exclusive(model):
        pads = settings.pads_are_harmless and not request.remote and can_write_padded(request)
    bounds = rope_bounds(text_config(model))
    crosses_bound = any(length > bound for bound in bounds for length in final_lengths)
    buckets = [0] * len(lengths) if pads and not crosses_bound else list(lengths)
    for number in range(len(lengths)):
        if given_beside_ids(request, number):
            buckets[number] = -1 - number  # with what it is given beside its ids, by itself
    most_rows = MAX_CACHED // max(final_lengths)
    if request.remote and settings.changes_scores:  # a server keeps those of all steps
        most_rows = min(most_rows, max_bytes // (4 * vocab_size * new_tokens))
    most_rows = max(1, most_rows)
    first_read = [[first_position(token_ids, include_prompt)] for token_ids in request.token_ids]
    max_logits = max_bytes // (4 * vocab_size)
    groups = []
    for prompts in group_prompts(lengths, first_read, buckets, max_logits):
        for start in range(0, len(prompts), most_rows):
            groups.append(prompts[start : start + most_rows])
    return groups


def first_position(ids: list[int], include_prompt: bool) -> int:
    """Return the first position of a prompt that is read."""
    return 0 if include_prompt else len(ids) - 1


def one_batch(
    request: Request, prompts: list[int], include_prompt: bool, seed: int | None
) -> GenerationBatch:
    """Return some prompts as one batch."""
    token_ids = [request.token_ids[prompt] for prompt in prompts]
    padded = left_padded(token_ids)
    width = padded.ids.shape[1]
    rows, columns = [], []
    for row, prompt_ids in enumerate(token_ids):
        start = padded.padding[row] + first_position(prompt_ids, include_prompt)
        for column in range(start, width):
            rows.append(row)
            columns.append(column)
    inputs: dict[str, Any] = {"input_ids": padded.ids, "attention_mask": padded.mask}
    forward = type(decoder_module(request.model)._module).forward
    takes_logits_to_keep = "logits_to_keep" in inspect.signature(forward).parameters
    if len(rows) > len(prompts) and takes_logits_to_keep:
        inputs["logits_to_keep"] = 0  # of the whole prompt
    target_ids = [request.target_ids[prompt] for prompt in prompts]
    beside = given_beside_ids(request, prompts[0])
    inputs.update(beside)
    return GenerationBatch(
        inputs=inputs,
        padding=torch.tensor(padded.padding, device="cpu"),
        first_tokens=(torch.tensor(rows, device="cpu"), torch.tensor(columns, device="cpu")),
        target_ids=torch.tensor(target_ids, dtype=torch.long, device="cpu"),
        seed=seed,
        one_invoke_each=isinstance(request.model, TransformersModel) and not beside,
    )


def decoder_path(model: Envoy) -> str:
    """Return where the module is that `generate` calls.

    That is the model itself, "", or a module inside an adapter's wrapper.
    """
    module = model._module
    decoder = module.get_base_model() if hasattr(module, "get_base_model") else module
    path = next(path for path, child in module.named_modules() if child is decoder)
    return envoy_path(path)


def decoder_module(model: Envoy) -> Envoy:
    """Return the module that `generate` calls."""
    path = decoder_path(model)
    return model.get(path) if path else model
