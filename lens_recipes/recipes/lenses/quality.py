"""`lens_quality()`: how far a lens can be believed on a model, measured layer by layer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.used_lens import EMBEDDING, LensQuality
from lens_recipes.caller import argument, parameter
from lens_recipes.errors import LensError
from lens_recipes.lenses.digests import starts_with_bos
from lens_recipes.lenses.lens import Lens
from lens_recipes.lenses.load import load_lens
from lens_recipes.models.lens_head import plain_head
from lens_recipes.models.weights.quantised import cause_in_quantisation
from lens_recipes.recipes.lenses.streams import read_steps
from lens_recipes.recipes.lenses.text.rows import ROW_LENGTH, Row, digest_of
from lens_recipes.recipes.lenses.text.samples import OWN_TEXT, check_seed, own_rows
from lens_recipes.recipes.lenses.text.texts import read_texts, rows_of_texts
from lens_recipes.recipes.logit_lens import LensPlan, trace_lens
from lens_recipes.run.assemble import certificate_of
from lens_recipes.run.batches import make_batches
from lens_recipes.run.recipe import perform, recipe
from lens_recipes.run.request.lenses import LOGIT_LENS, recorded_lens
from lens_recipes.run.request.prompts import shortened
from lens_recipes.run.request.request import Request
from lens_recipes.run.run import Arrays, RecipeRun
from lens_recipes.run.schema import CERTIFICATE, lens_schema
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.plan import ReadPlan, SiteRead, StreamLinks
from lens_recipes.trace.readout.buffers import token_axis
from lens_recipes.trace.readout.readout import ReadoutOptions
from lens_recipes.trace.transport import Transport

MAX_BYTES = LOGIT_BYTES  # of logits
SAMPLE_LENGTH = 65  # of the rows that are written to measure a lens, with the first token
NO_LINKS = StreamLinks([], [])


class TokensToRead(NamedTuple):
    """Some rows, and which positions of each are read.

    Attributes:
        token_ids: `[row][position]`.
        positions: `[row][token]`.
    """

    token_ids: list[list[int]]
    positions: list[list[int]]


@recipe(
    narrow="Measure fewer tokens (tokens=…), or a lens of fewer layers",
    narrow_options="Measure fewer --tokens",
)
def lens_quality(
    lens: Lens | str | os.PathLike[str],
    model: Envoy,
    texts: Any = None,
    *,
    tokens: int = 256,
    column: str | None = None,
    seed: int = 1,
    remote: bool | str | None = None,
    max_bytes: int = MAX_BYTES,
) -> RecipeRun[LensQuality]:
    """Measure on text how near a lens comes to a model's own output, beside the logit lens.

    It finds a lens that was fitted on another revision, with another beginning of the text or under
    a wrong forward pass: such a lens is no better than the logit lens.

    Args:
        lens: What `fit_lens` or `load_lens` returns, or a path or a hub id for `load_lens`.
        model: What `load()` returns.
        texts: What `fit_lens` takes; it should be text that the lens was not fitted on. None for
            what the model writes by itself, with this seed.
        tokens: How many tokens are read. Every layer is decoded at each: the cost is about that of
            twice as many forward passes as there are layers.
        column: Which entry of a data set's rows is its text.
        seed: Of the model's own text.
        remote: None as the model was loaded, True or an address for an NDIF server.
        max_bytes: Bound on the memory for logits, here or on the server.

    Returns:
        A `LensQuality`, with a number for each layer of the lens that this model has.

    Raises:
        ValueError: texts that are none, or a lens that has no layer of this model.
        LensError: a lens of another width; a model that cannot be read, or that cannot write.

    Example:
        >>> quality = lens_quality(lens, model, ["Some text that the lens has never seen. …"])
        >>> print(quality.kl, quality.logit_kl)
    """
    request = Request(model, remote=remote)
    lens = as_lens(lens)
    check_numbers(tokens, seed)
    layers = layers_of(lens, request)
    if texts is None:
        n_rows = -(-tokens // (SAMPLE_LENGTH - 1))
        rows = own_rows(model, n_rows, SAMPLE_LENGTH, seed)
        words = OWN_TEXT
    else:
        read = read_texts(texts, column)
        with_bos = bool(starts_with_bos(model))
        found = rows_of_texts(read.items, request.tokenizer, ROW_LENGTH, with_bos)
        rows = rows_with_tokens(found, lens.record.first_position, tokens)
        words = read.words
    chosen = tokens_to_read(rows, lens.record.first_position, tokens)
    run = measuring(model, layers, [lens.transports], chosen, remote=remote, max_bytes=max_bytes)
    run.finish = partial(finish, layers, words)
    run.arguments = {
        "lens": recorded_lens(lens),
        "texts": digest_of(rows),
        "tokens": tokens,
    }
    return run


def as_lens(lens: Any) -> Lens:
    """Return the lens that is to be measured, whether or not it belongs to the model.

    Raises:
        ValueError: it is none.
        LensError: it cannot be loaded, or its numbers are not finite.
    """
    if isinstance(lens, str | os.PathLike) and lens != LOGIT_LENS:
        lens = load_lens(lens)
    if not isinstance(lens, Lens):
        raise ValueError(
            f"{parameter('lens')} is {shortened(lens)}, which is no lens to measure: pass what "
            "load_lens() or fit_lens() returns. The logit lens is measured beside it."
        )
    if lens.not_finite:
        raise LensError(
            f"the {lens.name} {lens.source!r} holds NaN or infinite numbers at layers "
            f"{lens.not_finite}: nothing can be measured."
        )
    return lens


def check_numbers(tokens: Any, seed: Any) -> None:
    """Refuse numbers that nothing can be measured with.

    Raises:
        ValueError: names the argument and what it may be.
    """
    if type(tokens) is not int or tokens < 1:
        raise ValueError(f"{argument('tokens', tokens)} must be a whole number from 1.")
    check_seed(seed)


def layers_of(lens: Lens, request: Request) -> list[int]:
    """Return the streams of a lens that a model has and that are not the final one.

    Raises:
        LensError: the lens is of another width.
        ValueError: there is none.
    """
    anatomy = request.anatomy
    if lens.d_model != anatomy.d_model:
        raise LensError(
            f"the lens is for vectors of {lens.d_model} numbers, and this model's have "
            f"{anatomy.d_model}: it belongs to another model."
        )
    here = {EMBEDDING, *anatomy.layers} - {anatomy.last_layer}
    layers = [layer for layer in lens.layers if layer in here]
    if not layers:
        raise ValueError(
            f"the lens has layers {lens.layers}, of which this model's {anatomy.n_layers} blocks "
            "have none before the last."
        )
    return layers


def rows_with_tokens(rows: Iterable[Row], first_position: int, n_tokens: int) -> list[Row]:
    """Return the first rows that have so many tokens to read, or all that there are."""
    first = max(1, first_position)
    taken = []
    missing = n_tokens
    for row in rows:
        n_readable = len(row.ids) - first
        if n_readable > 0:
            taken.append(row)
            missing -= n_readable
        if missing <= 0:
            break
    return taken


def tokens_to_read(rows: Sequence[Row], first_position: int, n_tokens: int) -> TokensToRead:
    """Return which tokens of some rows are read: about as many of each, spread over its length.

    Those that were not fitted are left out, and the first token of a row, which has nothing before
    it.

    Raises:
        ValueError: the rows are too short.
    """
    first = max(1, first_position)
    long_enough = [row for row in rows if len(row.ids) > first]
    token_ids, positions = [], []
    missing = n_tokens
    for number, row in enumerate(long_enough):
        n_rows_left = len(long_enough) - number
        n_readable = len(row.ids) - first
        share = min(n_readable, -(-missing // n_rows_left))
        if share < 1:
            continue
        spread = [first + (2 * place + 1) * n_readable // (2 * share) for place in range(share)]
        token_ids.append(row.ids[: spread[-1] + 1].tolist())
        positions.append(spread)
        missing -= share
    if not positions:
        raise ValueError(
            f"there is no text to measure the lens on: it needs a text of at least {first + 1} "
            "tokens."
        )
    return TokensToRead(token_ids, positions)


def measure(
    model: Envoy,
    layers: list[int],
    lenses: Sequence[Mapping[int, Transport]],
    chosen: TokensToRead,
    words: str,
    *,
    remote: bool | str | None = None,
) -> LensQuality:
    """Return what a lens is worth on some tokens, and two refits of it; all in one pass.

    Args:
        model: What `load()` returns.
        layers: The streams; `EMBEDDING` is the one before block 0.
        lenses: The transports of the lens, and perhaps those of two refits, of all these layers.
        chosen: Which tokens.
        words: What text they are of.
        remote: Where it runs.

    Raises:
        LensError: the last layer's lens is not the model's own output.
    """
    run = measuring(model, layers, lenses, chosen, remote=remote)
    run.finish = partial(finish, layers, words)
    run.recipe = "lens_quality"
    return perform(run)


def measuring(
    model: Envoy,
    layers: list[int],
    lenses: Sequence[Mapping[int, Transport]],
    chosen: TokensToRead,
    *,
    remote: bool | str | None = None,
    max_bytes: int = MAX_BYTES,
) -> RecipeRun[LensQuality]:
    """Return the run that decodes streams with the logit lens and with several lenses.

    Its `finish` is that of the caller.
    """
    request = Request(model, chosen.token_ids, positions=chosen.positions, remote=remote)
    steps = read_steps(request, [*layers, request.anatomy.last_layer])
    reads = []
    for slot, layer in enumerate(layers):
        reads.append(SiteRead(slot))
        for transports in lenses:
            reads.append(SiteRead(slot, transport=transports[layer]))
    options = ReadoutOptions(len(reads), 1, None, 0, max_bytes)
    reads.append(SiteRead(len(layers)))  # the certificate's
    plan = ReadPlan(steps, len(steps), reads, NO_LINKS)
    batches, _ = make_batches(request, max_bytes)
    schemas = []
    for batch in batches:
        schemas.append(lens_schema(options, [], 0, len(batch.places.rows), 1))
    return RecipeRun(
        request=request,
        traced=trace_lens,
        plan=LensPlan(plan, request.head_operations, options),
        batches=batches,
        schemas=schemas,
        finish=partial(finish, layers, ""),
        local={"weight": None if request.remote else plain_head(model, request.anatomy)},
    )


def finish(
    layers: list[int], words: str, run: RecipeRun[LensQuality], batches: list[Arrays]
) -> LensQuality:
    """Return the means over all tokens.

    Raises:
        LensError: the last layer's lens is not the model's own output.
    """
    numbers = {}
    for name in ("kl", "top_ids", "final_ids", *CERTIFICATE):
        axis = token_axis(name)
        numbers[name] = np.concatenate([batch[name] for batch in batches], axis)
    certificate_of(numbers, run.model, NO_LINKS).check(partial(cause_in_quantisation, run.model))
    # [layer × lens] becomes [lens][layer]; the logit lens is the first.
    agrees = numbers["top_ids"][:, :, 0] == numbers["final_ids"]
    kl = numbers["kl"].astype(np.float64).mean(-1).reshape(len(layers), -1).T.tolist()
    agreement = agrees.mean(-1).reshape(len(layers), -1).T.tolist()
    return LensQuality(
        layers=layers,
        kl=kl[1],
        agreement=agreement[1],
        logit_kl=kl[0],
        logit_agreement=agreement[0],
        refit_kl=kl[2:],
        n_tokens=len(numbers["final_ids"]),
        text=words,
    )
