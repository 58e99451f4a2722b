"""`attribution()`: how much each layer, component, head, or token read adds to the logit of a target.

Idea: direct logit attribution, as in Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021), and
Wang et al., "Interpretability in the Wild" (2022).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import nnsight
import numpy as np
import torch
from nnsight.intervention.envoy import Envoy
from torch import nn

from lens_recipes.arrays.attribution import UNITS
from lens_recipes.errors import LensError
from lens_recipes.models.handle import (
    context_length,
    exclusive,
    refuse_training,
    resolve_remote,
    tokenizer_of,
)
from lens_recipes.models.structure.anatomy import Anatomy, anatomy, head_operations_for
from lens_recipes.models.structure.blocks import attention_of, residual_blocks
from lens_recipes.models.structure.head_path import split_at_unembedding
from lens_recipes.models.structure.parts import Block
from lens_recipes.models.vocabulary import prompt_text, token_texts
from lens_recipes.recipes.attribution.parts import groups_of, name_parts, spread
from lens_recipes.results import Attribution
from lens_recipes.run.assemble import certificate_of, packed_tokens
from lens_recipes.run.batches import Batch, make_batches
from lens_recipes.run.prompts import (
    as_list,
    check_ids,
    check_numbers,
    encode,
    pick_positions,
    target_ids,
)
from lens_recipes.run.provenance import provenance
from lens_recipes.run.recipe import recipe
from lens_recipes.run.run import Arrays, RecipeRun, run_locally
from lens_recipes.run.schema import attribution_schema
from lens_recipes.run.sites import heads_of, refuse_broken
from lens_recipes.trace.attribution.decompose import certificate_arrays, decompose
from lens_recipes.trace.collect import collect
from lens_recipes.trace.operations import model_logits


@recipe(narrow="Narrow positions, targets or unit, pass fewer prompts at once")
def attribution(
    model: Envoy,
    prompts: Any,
    targets: Any,
    *,
    against: Any = None,
    unit: str = "layer",
    at_layer: int | None = None,
    positions: Any = -1,
    add_special_tokens: bool = True,
    max_bytes: int = 256 * 2**20,
    remote: bool | str | None = None,
    strict: bool = True,
) -> RecipeRun[Attribution]:
    """Split the logit of a target into what each part of the model adds to it (direct logit attribution).

    The final norm, and for heads and tokens every norm between them and the stream, is held at its value of this run;
    then the logit is linear in the stream, and the stream is a sum. What a part does by changing what later parts do
    is not counted: a real ablation gives other numbers.

    Args:
        model: What `load()` returns.
        prompts: As for `logit_lens`.
        targets: One or several tokens, as strings or ids for all prompts, or one such list per prompt.
        against: Also subtract the share in the logit of another token: a token, a list of one per prompt, lists as for
            targets, or "mean" for the mean over the vocabulary. A logit alone says little: adding the same to all
            logits changes nothing.
        unit: "layer" (all that a block adds), "component" (attention, MLP, …), "head" (attention by head, the rest by
            component), or "token" (each head by the token that it reads).
        at_layer: Explain the lens's logit after this block instead of the model's own.
        positions: As for `logit_lens`; −1 explains what is predicted after the last token.
        add_special_tokens, max_bytes, remote, strict: As for `logit_lens`. `unit="token"` runs with eager attention,
            which is switched back afterwards, and not on a server.

    Returns:
        An `Attribution`: `values.sum(0)` is its `logit`, and `capped_logit` is the model's own (compared with it in the
        certificate).

    Raises:
        ValueError: an argument that does not fit the model or the prompts.
        LensError: the model's blocks are no sums, its heads cannot be told apart, or the parts do not sum to the logit.

    Example:
        >>> who = attribution(load("smollm2"), "The capital of France is", " Paris", against=" London", unit="head")
        >>> print(who)
    """
    started = time.perf_counter()
    prompts, targets, against = (as_list(argument) for argument in (prompts, targets, against))
    mean = isinstance(against, str) and against == "mean"
    where = resolve_remote(model, remote)
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown; accepted are {', '.join(map(repr, UNITS))}.")
    refuse_training(model, where)
    eager = partial(_eager, model) if unit == "token" and not where else contextlib.nullcontext
    with exclusive(model), eager():
        parts, blocks = anatomy(model), residual_blocks(model)
        tokenizer = tokenizer_of(model)
        encoded = encode(prompts, tokenizer, add_special_tokens=add_special_tokens)
        check_ids(encoded, parts.vocab_size, context_length(model))
        picked = pick_positions(positions, encoded)
        wanted = target_ids(targets, len(encoded), tokenizer, parts.vocab_size)
        if not wanted[0]:
            raise ValueError(
                "attribution needs targets: one or several tokens whose logit is to be explained."
            )
        minus = _against_ids(against, wanted, tokenizer, parts.vocab_size)
        layer = parts.n_layers - 1 if at_layer is None else _layer(at_layer, parts.n_layers)
        check_numbers(1, None, max_bytes, parts.vocab_size)
        blocks = _checked(blocks[: layer + 1], unit, parts.family, bool(where))
        asked = [w + (m if isinstance(m, list) else []) for w, m in zip(wanted, minus, strict=True)]
        batches = make_batches(model, encoded, picked, parts, max_bytes, where, pad=unit != "token")
    n, longest = len(wanted[0]), max(len(ids) for ids in encoded)
    arguments = {
        "targets": targets, "against": against, "unit": unit, "at_layer": at_layer, "positions": positions,
        "add_special_tokens": add_special_tokens, "max_bytes": max_bytes, "strict": strict,
    }  # fmt: skip

    def finish(found: list[Arrays]) -> Attribution:
        values = [spread(part.pop("values"), blocks, unit, longest) for part in found]
        numbers = _in_prompt_order(
            values, found, [p for batch in batches for p in batch.token_prompts]
        )
        final = {
            name: _minus(numbers[name], n, against) for name in ("values", "logit", "capped_logit")
        }
        total = final["values"].sum(0, dtype=np.float64)
        error = np.abs(total - final["logit"])
        certificate = replace(certificate_of(numbers, model), max_sum_error=_relative(error, final))
        if strict:
            certificate.check()
        texts = token_texts(tokenizer, {i for row in (*encoded, *asked) for i in row})
        seconds = time.perf_counter() - started
        return Attribution(
            unit=unit,
            at_layer=layer,
            parts=name_parts(blocks, unit, longest),
            tokens=packed_tokens(encoded, picked, texts),
            prompts=[prompt_text(tokenizer, ids) for ids in encoded],
            sources=[[texts[i] for i in ids] for ids in encoded] if unit == "token" else [],
            total=total.astype(np.float32),
            error=error.astype(np.float32),
            target_ids=np.array(wanted, dtype=np.int32),
            against_ids=np.array(
                [m if isinstance(m, list) else [-1] * n for m in minus], dtype=np.int32
            ),
            against="" if against is None else "mean" if mean else "token",
            texts=texts,
            certificate=certificate,
            provenance=provenance(model, "attribution", arguments, parts.vocab_size, where, seconds)
            | {"dtype": certificate.dtype},
            **{name: array.astype(np.float32) for name, array in final.items()},
        )

    n_parts, n_columns = len(name_parts(blocks, unit, longest)) - 1, len(asked[0]) + mean
    run = RecipeRun(
        model=model,
        recipe="attribution",
        remote=where,
        anatomy=parts,
        block=split_logits,
        shared={"mean": mean, "max_bytes": max_bytes, "tail": head_operations_for(parts, where)},
        batches=[{**batch.plain(asked), **_plan(blocks, unit, parts, batch)} for batch in batches],
        schemas=[attribution_schema(n_parts, len(batch.rows), n_columns) for batch in batches],
        finish=finish,
        arguments={"prompts": encoded, **arguments},
        local={"weight": None if where else _target_rows(model, parts)},
    )
    run.here = partial(_here, run, eager)
    return run


def _here(
    run: RecipeRun[Any], eager: Callable[[], contextlib.AbstractContextManager[None]]
) -> list[Arrays]:
    with eager():
        return run_locally(run)


def _plan(blocks: list[Block], unit: str, parts: Anatomy, batch: Batch) -> dict[str, Any]:
    """What is read for a batch, into which of `n_slots` vectors, and the groups of parts that they make."""
    plan, groups, n_slots = groups_of(blocks, unit, parts, batch)
    last = f"{parts.blocks}.{parts.n_layers - 1}"
    if len(blocks) < parts.n_layers:
        plan, n_slots = [*plan, ("read", "out", last, (), (n_slots,), None)], n_slots + 1
    explained, final = plan_slot(plan, f"{parts.blocks}.{len(blocks) - 1}"), plan_slot(plan, last)
    return {
        "plan": plan,
        "groups": groups,
        "n_slots": n_slots,
        "explained": explained,
        "final": final,
    }


def split_logits(
    model: Any, shared: dict[str, Any], batch: dict[str, Any], weight: Any = None
) -> dict[str, torch.Tensor]:
    """One batch, one trace: read the parts, and take them through the frozen tail where the model is."""
    ids, mean, max_bytes, whole_tail = (
        batch["wanted"][:, :-1],
        shared["mean"],
        shared["max_bytes"],
        shared["tail"],
    )
    tail = split_at_unembedding(whole_tail)
    with torch.inference_mode(), model.trace(**batch["inputs"]):
        vectors, errors = collect(model, batch["plan"], batch["where"], batch["n_slots"], max_bytes)
        streams = (vectors[batch["final"]], vectors[batch["explained"]])
        numbers = decompose(
            model, tail, weight, streams[1], batch["groups"], vectors, ids, mean, max_bytes
        )
        logits = model_logits(model.output)
        capped = numbers["capped_logit"]
        proof = certificate_arrays(
            model, whole_tail, streams, logits, batch["kept"], capped, ids, mean, max_bytes
        )
        numbers = nnsight.save({**numbers, **errors, **proof})
    return numbers  # noqa: RET504 - a block does not return


def _in_prompt_order(
    values: list[np.ndarray], found: list[dict[str, np.ndarray]], token_prompts: list[int]
) -> dict[str, np.ndarray]:
    """Batches end to end, tokens by prompt; what the tail adds by itself (the bias) becomes the last part."""
    order = np.argsort(token_prompts, kind="stable")
    joined = {
        name: np.concatenate([part[name] for part in found]).take(order, 0) for name in found[0]
    }
    parts = np.concatenate(values, 1).take(order, 1)
    joined["values"] = np.concatenate([parts, joined.pop("constant")[None]])
    return joined


def plan_slot(plan: list[tuple], path: str) -> int:
    """Where the output of a module goes."""
    return next(
        slots[0] for _, side, at, _, slots, _ in plan if (side, at) == ("out", path) and slots
    )


def _checked(blocks: list[Block], unit: str, family: str, remote: bool) -> list[Block]:
    """The blocks, if their parts can be told."""
    for layer, block in enumerate(blocks):
        refuse_broken(block, layer, family)
    if unit in ("layer", "component"):
        return blocks
    attending = [
        (layer, block) for layer, block in enumerate(blocks) if "attn_out" in block.components
    ]
    if not attending:
        raise LensError(
            f'{family} has no attention up to layer {len(blocks) - 1}, so no heads: unit="layer" and "component" work.'
        )
    for layer, block in attending:
        heads = heads_of(block, layer, family)
        if unit == "token" and heads.weights is None:
            why = (
                "attention weights cannot be read there, unless the server already runs eager attention"
                if remote else f"the attention weights and values of layer {layer} are not given by any module"
            )  # fmt: skip
            raise LensError(f'{family}: unit="token" is not possible: {why}. unit="head" works.')
    return blocks


@contextlib.contextmanager
def _eager(model: Envoy) -> Iterator[None]:
    """Attention that shows its weights, for a while: switched back whatever happens.

    Not by `set_attn_implementation`, which leaves out older families that ask their config all the same.
    """
    before = attention_of(model._module)
    try:
        for config, _ in before:
            config._attn_implementation_internal = "eager"
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _target_rows(model: Envoy, parts: Anatomy) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Weight and bias of a plain local unembedding, of which only the targets' rows are read; else None."""
    head = model._module.get_submodule(parts.unembed)
    plain = (
        type(head) is nn.Linear
        and type(head.weight) is nn.Parameter
        and head.weight.device.type != "meta"
    )
    changed = head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook")
    cut = any(step[0] == "keep" for step in parts.tail)  # the mean is not that of all rows
    return (head.weight, head.bias) if plain and not changed and not cut else None


# -- targets -----------------------------------------------------------


def _against_ids(
    against: Any, wanted: list[list[int]], tokenizer: Any, vocab: int
) -> list[list[int] | None]:
    """What is subtracted for each prompt and target, or None for nothing and for the mean."""
    if against is None or (isinstance(against, str) and against == "mean"):
        return [None] * len(wanted)
    if isinstance(against, set | dict):
        raise ValueError(
            f'against={against!r} has no order: pass one token, a list of one per prompt, or "mean".'
        )
    if hasattr(against, "tolist"):
        against = against.tolist()
    if isinstance(against, Sequence) and not isinstance(against, str):
        against = list(against)
    if isinstance(against, list) and not any(isinstance(item, list | tuple) for item in against):
        if len(against) != len(wanted):
            raise ValueError(
                f"against={against!r} has {len(against)} tokens, but there are {len(wanted)} prompts: pass one token "
                'for all of them, a list of one per prompt, or "mean".'
            )
        against = [[item] for item in against]
    ids = target_ids(against, len(wanted), tokenizer, vocab)
    n = len(wanted[0])
    if len(ids[0]) not in (1, n):
        raise ValueError(
            f"against has {len(ids[0])} tokens per prompt for {n} targets: pass one, or one per target."
        )
    return [row * n if len(row) == 1 else row for row in ids]


def _minus(array: np.ndarray, n: int, against: Any) -> np.ndarray:
    """Targets minus what they are held against; the columns are targets, then those (or one mean)."""
    return array[..., :n] if against is None else array[..., :n] - array[..., n:]


def _relative(error: np.ndarray, final: dict[str, np.ndarray]) -> float:
    largest = np.maximum(np.abs(final["values"]).max(0), np.abs(final["logit"]))
    return float((error / np.maximum(largest, 1e-30)).max())


def _layer(at_layer: Any, n_layers: int) -> int:
    if isinstance(at_layer, bool) or not isinstance(at_layer, int | np.integer):
        raise ValueError(
            f"at_layer={at_layer!r} must be one layer, a whole number: 0 to {n_layers - 1}, or None."
        )
    if not -n_layers <= at_layer < n_layers:
        raise ValueError(
            f"at_layer={at_layer} is out of range: this model has layers 0 to {n_layers - 1}."
        )
    return int(at_layer) % n_layers
