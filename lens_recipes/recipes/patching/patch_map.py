"""`patch_map()`: which layer, position or head carries an answer, by copying it cell by cell.

Activation patching (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022): one vector of the run of
one prompt is put into the run of another, and the share of the answer that it brings along is
measured. Heimersheim and Nanda 2024 say how to read it. By gradients it is attribution patching
(Nanda 2023; Syed et al. 2023), an approximation of the first order.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.patch_map import (
    AT_LAYER,
    DIRECTIONS,
    METHODS,
    METRICS,
    is_metric,
    layer_of_metric,
)
from lens_recipes.caller import advised, argument, say
from lens_recipes.errors import LensError
from lens_recipes.lenses.lens import Lens
from lens_recipes.models.handle import exclusive
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.recipes.patching.batches import CellBatches, Prepared
from lens_recipes.recipes.patching.cells import plan_cells
from lens_recipes.recipes.patching.finish import MapRequest, finish
from lens_recipes.recipes.patching.gradient import run_gradient
from lens_recipes.recipes.patching.kept import KeptRuns, goes_on_from_cache
from lens_recipes.recipes.patching.pairs import as_prompts, check_paired, read_answers
from lens_recipes.results import PatchMap
from lens_recipes.run.recipe import recipe
from lens_recipes.run.request.images.asked.chats import has_image_parts
from lens_recipes.run.request.lenses import lens_provenance, recorded_lens, resolve_lens
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.sites import pick_layers
from lens_recipes.run.run import RecipeRun
from lens_recipes.run.schema import ArraySpec, Schema
from lens_recipes.trace.edits.cells import N_NUMBERS, CellPlan, trace_cells
from lens_recipes.trace.kernels import LOGIT_BYTES
from lens_recipes.trace.transport import IDENTITY, Transport


@recipe(
    narrow="Narrow layers or positions, or pass fewer pairs at once",
    narrow_options="Narrow --layers or --positions",
)
def patch_map(
    model: Envoy,
    clean: Any,
    corrupt: Any,
    target: Any,
    against: Any,
    *,
    unit: str = "resid_post",
    layers: Any = None,
    positions: Any = None,
    direction: str = "denoise",
    metric: Any = "logit_diff",
    lens: Any = None,
    align: Any = None,
    method: str = "exact",
    verify: int = 0,
    keep_all: bool = False,
    add_special_tokens: bool = True,
    max_bytes: int = LOGIT_BYTES,
    remote: bool | str | None = None,
    strict: bool = True,
) -> RecipeRun[PatchMap]:
    """Copy each cell of one run into another, one at a time, and measure what it brings along.

    What a cell recovers is (patched − corrupt) / (clean − corrupt) of the metric at the last
    position: 0 is no effect, 1 all of it. It can be below 0 or above 1, and cells do not sum to 1.

    Args:
        model: What `load()` returns.
        clean: One prompt or several: text, ids or chats.
        corrupt: The same prompts with another answer, in the same order.
        target: The answer to the clean prompt, a token: one for all pairs, or one for each.
        against: The answer to the corrupt prompt, likewise.
        unit: What a cell is. "resid_pre", "resid_mid", "resid_post" (the stream), "attn_out",
            "mlp_out" or "mixer_out" (what is added to it) at one position of one layer; "head_out",
            one head, or "layer_component", all that a block adds of one kind, at all positions
            together.
        layers: As for `logit_lens`.
        positions: Which tokens of each prompt, in the forms of `logit_lens`; None for all. Of heads
            and components, those that are patched together.
        direction: "denoise" puts the clean run's vectors into the corrupt run: which cells are
            enough. "noise" puts the corrupt run's into the clean run: which cells are needed; the
            recovery is then what of the effect the cell takes away.
        metric: "logit_diff" (target − against), "logprob" or "prob" of the target, or its "rank"
            (recovery on the scale of log10(rank + 1)). A layer, or its `Site`: the logit difference
            that a lens reads in the stream after it, at the last position. Which pairs are left
            out and which cells flip an answer is told by the model's own output all the same.
        lens: By which a layer is read, as for `logit_lens`; None for the logit lens.
        align: Which token stands for which where prompts differ in length. None: they must not.
            "end": counted from the end. {"subject": (" France", " Great Britain"), …}: spans of
            text, which are then the columns; one text where both prompts have it, a list of pairs
            where each pair has its own. Spans of other widths are aligned from their end.
        method: "exact", or "gradient": an approximation by two forward passes and one backward, in
            this process only; it is marked in every view.
        verify: With "gradient": run the so many largest cells exactly, and give the correlation.
        keep_all: True keeps pairs where the model does not prefer the clean answer in the clean
            run, or prefers it in the corrupt run. By default they are left out and listed.
        add_special_tokens: As in the tokenizer.
        max_bytes: Bound on the memory for logits, here or on the server.
        remote: As for `logit_lens`.
        strict: False keeps a map whose proof failed.

    Returns:
        A `PatchMap`: recoveries of each pair, their mean, standard error, bootstrap interval, and
        the share of pairs whose answer each cell flips.

    Raises:
        ValueError: an argument that does not fit the model or the prompts.
        LensError: a site that cannot be edited in this model, no pair in which the model prefers
            the answers as it should, or a proof that failed.

    Example:
        >>> pair = ("The capital of France is", "The capital of Spain is")
        >>> found = patch_map(load("smollm2"), *pair, " Paris", " Madrid")
        >>> print(found.summary())
        >>> patch_heatmap(found).show()
    """
    check_choice("direction", direction, DIRECTIONS)
    check_choice("method", method, METHODS)
    check_verify(verify, method)
    if type(max_bytes) is not int or max_bytes <= 0:
        raise ValueError(f"max_bytes={max_bytes!r} must be a positive number of bytes.")
    clean_prompts, corrupt_prompts = as_prompts(clean), as_prompts(corrupt)
    check_paired(clean_prompts, corrupt_prompts)
    if has_image_parts([*clean_prompts, *corrupt_prompts]):
        raise ValueError(
            "a map of prompts with images is not made: pass texts or ids. For one patch between "
            "two images: logit_lens(model, prompts, images=…, edits=patch(0, …))."
        )
    request = Request(
        model,
        [*clean_prompts, *corrupt_prompts],
        remote=remote,
        add_special_tokens=add_special_tokens,
    )
    if request.anatomy.is_prefix:
        raise LensError(
            f"{request.anatomy.family} reads its prompt both ways, so a cell reaches earlier "
            "positions, too: a map needs a model that reads left to right. logit_lens(edits="
            "[patch(…)]) makes one patch."
        )
    n_pairs = len(clean_prompts)
    if len(request.token_ids) != 2 * n_pairs:
        raise ValueError("clean and corrupt prompts must be of one sort: texts, ids or chats.")
    clean_ids, corrupt_ids = request.token_ids[:n_pairs], request.token_ids[n_pairs:]
    answers = read_answers(target, against, n_pairs, request.tokenizer, request.anatomy.vocab_size)
    is_noise = direction == "noise"
    metric = read_metric(metric, request.anatomy)
    lens_layer = layer_of_metric(metric)
    chosen_lens, transport = read_lens(request, lens, lens_layer)
    cells = plan_cells(request, unit, layers, positions, align, clean_ids, corrupt_ids)
    source, base = (corrupt_ids, clean_ids) if is_noise else (clean_ids, corrupt_ids)
    maker = CellBatches(request, cells, source, base, answers, max_bytes, is_noise, lens_layer)
    asked = MapRequest(
        unit, metric, direction, method, cells, clean_ids, corrupt_ids, answers, keep_all, strict
    )
    if method == "gradient":
        return gradient_run(request, maker, asked, verify, metric)
    with exclusive(model):
        from_cache = goes_on_from_cache(request, base)
    prepared = maker.prepare(from_cache=from_cache)
    return RecipeRun(
        request=request,
        traced=trace_cells,
        plan=CellPlan(request.head_operations, max_bytes, transport),
        batches=prepared.batches,
        schemas=schemas_of(prepared),
        finish=partial(finish, asked, prepared),
        arguments={
            "clean": clean_prompts,
            "corrupt": corrupt_prompts,
            "metric": metric,
            "lens": recorded_lens(chosen_lens),
        },
        about=lens_provenance(chosen_lens),
        local={"kept": KeptRuns(request)},
    )


def gradient_run(
    request: Request, maker: CellBatches, asked: MapRequest, verify: int, metric: str
) -> RecipeRun[PatchMap]:
    """Return the run of an approximation.

    Raises:
        ValueError: a metric without a gradient.
        LensError: it is to run on a server.
    """
    if request.remote:
        raise LensError(
            f"{advised('method', 'gradient')} takes a backward pass, which a server does not run "
            f"for a stranger: load the model here, or use {advised('method', 'exact')}."
        )
    if metric not in ("logit_diff", "logprob"):
        raise ValueError(
            f"{argument('metric', metric)} has no gradient that says much: with "
            f"{advised('method', 'gradient')} accepted are 'logit_diff' and 'logprob'."
        )
    from_cache = False
    if verify:
        with exclusive(request.model):
            from_cache = goes_on_from_cache(request, maker.base)
    prepared = maker.prepare(with_proof=False)
    return RecipeRun(
        request=request,
        traced=trace_cells,
        plan=CellPlan(request.head_operations, maker.max_bytes),
        batches=prepared.batches,
        schemas=schemas_of(prepared),
        finish=partial(finish, asked, prepared),
        run_here=partial(run_gradient, maker, asked, prepared, verify, from_cache),
        runs_remotely=False,
    )


def schemas_of(prepared: Prepared) -> list[Schema]:
    """Return which arrays each batch gives."""
    schemas = []
    for batch in prepared.batches:
        n_rows, n_pairs = len(batch.pairs), len(batch.answers)
        arrays = {
            "rows": ArraySpec("float32", (n_rows, N_NUMBERS)),
            "error": ArraySpec("float32", (n_rows,)),
            "source": ArraySpec("float32", (n_pairs, N_NUMBERS)),
            "base": ArraySpec("float32", (n_pairs, N_NUMBERS)),
        }
        schemas.append(Schema(arrays))
    return schemas


def check_choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """Raise ValueError unless an argument is one of these words."""
    if value not in accepted:
        names = ", ".join(map(repr, accepted))
        raise ValueError(f"{argument(name, value)} is unknown: accepted are {names}.")


def read_metric(metric: Any, anatomy: Anatomy) -> str:
    """Return the name of a metric; of a layer, "logit_diff at layer 20".

    Raises:
        ValueError: it is none, or the model has no such layer.
    """
    if isinstance(metric, Site):
        if metric.component != "resid_post" or metric.layer is None:
            raise ValueError(
                f"metric={metric!r}: a lens reads the stream after a layer, Site(layer)."
            )
        metric = metric.layer
    if isinstance(metric, int | np.integer) and not isinstance(metric, bool):
        (layer,) = pick_layers(int(metric), anatomy)
        return f"{AT_LAYER}{layer}"
    if not isinstance(metric, str) or not is_metric(metric):
        names = ", ".join(map(repr, METRICS))
        raise ValueError(
            f"{argument('metric', metric)} is unknown: accepted are {names}"
            + say(python=", and a layer, whose lens is read.", shell=".")
        )
    return metric


def read_lens(request: Request, lens: Any, layer: int | None) -> tuple[Lens | None, Transport]:
    """Return the lens that reads a layer, and its transport there.

    Raises:
        ValueError: no such layer, or a lens without a layer that it reads.
    """
    if layer is None:
        if lens is not None:
            raise ValueError("lens= reads the layer that metric= names: pass metric=20, say.")
        return None, IDENTITY
    chosen = resolve_lens(lens, request.model)
    _, plan = request.sites(layer, ["resid_post"], lens=chosen)
    return chosen, plan.sites[0].transport


def check_verify(verify: Any, method: str) -> None:
    """Raise ValueError unless `verify` is a number of cells of an approximation."""
    if type(verify) is not int or verify < 0:
        raise ValueError(f"verify={verify!r} must be a number of cells, from 0.")
    if verify and method != "gradient":
        raise ValueError(
            f"{argument('verify', verify)} runs cells of an approximation exactly: it goes with "
            f"{advised('method', 'gradient')}; {advised('method', 'exact')} runs all of them."
        )
