"""`logit_lens()`: what a model would say if it stopped after each layer.

Idea: nostalgebraist, "interpreting GPT: the logit lens" (LessWrong, 2020).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import nnsight
import torch
from nnsight.intervention.envoy import Envoy

from lens_recipes.models.handle import (
    context_length,
    exclusive,
    refuse_training,
    resolve_remote,
    tokenizer_of,
)
from lens_recipes.models.structure.anatomy import anatomy, head_operations_for, plain_head
from lens_recipes.models.vocabulary import prompt_text, token_texts
from lens_recipes.results import LensResult
from lens_recipes.run.assemble import (
    all_ids,
    certificate_of,
    in_prompt_order,
    lens_result,
    packed_tokens,
)
from lens_recipes.run.batches import make_batches
from lens_recipes.run.prompts import (
    MAX_TRACKED,
    as_list,
    check_ids,
    check_numbers,
    encode,
    pick_positions,
    target_ids,
)
from lens_recipes.run.provenance import provenance
from lens_recipes.run.recipe import recipe
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import lens_schema
from lens_recipes.run.sites import component_names, sites_and_reads
from lens_recipes.trace.collect import collect, site_streams
from lens_recipes.trace.lens_head import COPIES, unembed
from lens_recipes.trace.operations import model_logits
from lens_recipes.trace.readout import readout


@recipe(
    narrow="Narrow positions (−1 is cheap), layers, components, top_k or track, "
    "pass fewer prompts at once"
)
def logit_lens(
    model: Envoy,
    prompts: Any,
    *,
    layers: int | slice | Sequence[int] | None = None,
    components: str | Sequence[str] = "resid_post",
    heads: Any = None,
    positions: Any = None,
    targets: Any = None,
    track: str | int | None = "top1",
    top_k: int = 5,
    apply_norm: bool = True,
    add_special_tokens: bool = True,
    max_bytes: int = 256 * 2**20,
    remote: bool | str | None = None,
    strict: bool = True,
) -> RecipeRun[LensResult]:
    """Decode the residual stream, or what is added to it, with the model's own final norm and unembedding.

    Args:
        model: What `load()` returns.
        prompts: One or several strings, lists of token ids or chats; a 2-D tensor of ids or a `BatchEncoding`.
            Any number: they are run in batches, and each gives the same numbers as alone.
        layers: None for all, an int, a slice or a list; negative from the end. They are read in ascending order.
        components: What is read of each layer, one or several: the stream "resid_pre", "resid_mid", "resid_post"; what
            a module adds to it, "attn_out", "mlp_out", "mixer_out" (state space), "other_out", as it is added, after
            any post-norm or multiplier; "head_out", each head's share of `attn_out`; "embed", the stream before layer
            0. With `layers=None`, layers that lack one are passed over.
        heads: For "head_out": None for all, the same forms as `layers`, or pairs [(layer, head), …].
        positions: The same forms as `layers`, within each prompt, or a list of them, one per prompt. −1 alone is cheap:
            the model's head then runs on one position.
        targets: Tokens to follow, as strings or ids for all prompts, or one such list per prompt.
        track: Which tokens get a log-probability at every site: "top1" (all tokens that are top-1 at some site
            of that position, at most 32), an int n (the final layer's top n), or None.
        top_k: How many of the most likely tokens to keep.
        apply_norm: False reads the raw stream, without the final norm; the result is marked so.
        add_special_tokens: As in the tokenizer (BOS for models that want one).
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: None as the model was loaded, True or an address for an NDIF server, False for here.
        strict: False keeps a result whose certificate failed, marked, instead of raising.

    Returns:
        A `LensResult` with one site per layer, component and head, in the order of the stream. Where parts of the
        stream were read, its certificate also says that they sum to the stream.

    Raises:
        ValueError: an argument that does not fit the model or the prompts, such as a component or a head that this
            model does not have; the message says what would.
        LensError: a model that cannot be read this way, whose last-layer lens is not its own output, or whose parts do
            not sum to its stream.

    Example:
        >>> result = logit_lens(load("smollm2"), "The capital of France is", targets=" Paris")
        >>> print(result)
    """
    started = time.perf_counter()
    layers, heads, positions, targets = map(as_list, (layers, heads, positions, targets))
    components = component_names(components)
    where = resolve_remote(model, remote)
    refuse_training(model, where)
    with exclusive(model):
        parts = anatomy(model)
        tokenizer = tokenizer_of(model)
        check_numbers(top_k, track, max_bytes, parts.vocab_size)
        encoded = encode(prompts, tokenizer, add_special_tokens=add_special_tokens)
        check_ids(encoded, parts.vocab_size, context_length(model))
        sites, reads = sites_and_reads(model, parts, layers, components, heads)
        picked = pick_positions(positions, encoded)
        wanted = target_ids(targets, len(encoded), tokenizer, parts.vocab_size)
        batches = make_batches(model, encoded, picked, parts, max_bytes, where)
    options = {
        "n_sites": len(sites), "top_k": top_k, "track": track, "max_tracked": MAX_TRACKED, "max_bytes": max_bytes,
    }  # fmt: skip
    arguments = {
        "layers": layers, "components": components, "heads": heads, "positions": positions, "targets": targets,
        "apply_norm": apply_norm, "top_k": top_k, "track": track, "add_special_tokens": add_special_tokens,
        "max_bytes": max_bytes, "strict": strict,
    }  # fmt: skip

    def finish(found: list[Arrays]) -> LensResult:
        numbers = in_prompt_order(found, [p for batch in batches for p in batch.token_prompts])
        certificate = certificate_of(numbers, model)
        if strict:
            certificate.check()
        texts = token_texts(tokenizer, all_ids(numbers, encoded, wanted))
        return lens_result(
            numbers,
            sites,
            packed_tokens(encoded, picked, texts),
            [prompt_text(tokenizer, ids) for ids in encoded],
            wanted,
            texts,
            certificate,
            provenance(
                model,
                "logit_lens",
                arguments,
                parts.vocab_size,
                where,
                time.perf_counter() - started,
            )
            | {"dtype": certificate.dtype},
        )

    return RecipeRun(
        model=model,
        recipe="logit_lens",
        remote=where,
        anatomy=parts,
        block=read_lens,
        shared={
            "reads": reads.plain(len(sites), apply_norm),
            "tail": head_operations_for(parts, where),
            "options": options,
        },
        batches=[batch.plain(wanted) for batch in batches],
        schemas=[
            lens_schema(options, sites, len(batch.rows), len(wanted[0]) + 1) for batch in batches
        ],
        finish=finish,
        arguments={"prompts": encoded, **arguments},
        local={"weight": None if where else plain_head(model, parts)},
    )


def read_lens(
    model: Any, shared: dict[str, Any], batch: dict[str, Any], weight: Any = None
) -> dict[str, torch.Tensor]:
    """One batch, one trace: collect the stream of each layer, and reduce it where the model is."""
    reads, options = (
        shared["reads"],
        {**shared["options"], "copies": COPIES if weight is None else 1},
    )
    to_logits = partial(unembed, model, shared["tail"], weight, {})
    with torch.inference_mode(), model.trace(**batch["inputs"]):
        vectors, errors = collect(
            model, reads["plan"], batch["where"], reads["n_slots"], options["max_bytes"]
        )
        streams = site_streams(model, vectors, reads["slots"], reads["heads"])
        logits = model_logits(model.output)
        numbers = readout(
            streams, reads["sites"], to_logits, logits, batch["kept"], batch["wanted"], **options
        )
        numbers = nnsight.save({**numbers, **errors})
    return numbers  # noqa: RET504 - a block does not return
