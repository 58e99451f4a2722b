"""What edits do to a model's own logits: the same batch without edits, and with controls.

The unedited logits of the tokens that are read are kept; each further run is compared with them and
goes, so that no two edited runs are held at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import nnsight
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.batch import LensBatch, split_inputs
from lens_recipes.trace.edits.apply import EditPass
from lens_recipes.trace.edits.checks import EditChecks
from lens_recipes.trace.edits.plan import BatchEdits, LayerEdits
from lens_recipes.trace.kernels import on_cpu
from lens_recipes.trace.operations import Operation, model_logits, slices
from lens_recipes.trace.plan import EditStep, ReadStep

LARGE_ARRAYS = 4  # arrays as large as the logits that a comparison holds at once


class OwnLogits(NamedTuple):
    """What the unedited model said after the tokens that are read.

    Attributes:
        logits: `[token, vocab]`.
        ids: The ids that are followed at each token, `[token, followed]`: the targets, and last the
            model's own answer.
        numbers: What `compare_logits` makes of them.
    """

    logits: Float[Tensor, "token vocab"]
    ids: Int[Tensor, "token followed"]
    numbers: dict[str, Tensor]


def unedited_run(model: Any, batch: LensBatch, max_bytes: int) -> OwnLogits:
    """Run a batch without edits, and keep its logits where the model is."""
    logits = one_pass(model, batch, read_logits, batch)
    answers = logits.argmax(-1, keepdim=True).cpu()
    ids = torch.cat([batch.requested_ids[:, :-1], answers], -1)
    return OwnLogits(logits, ids, compare_logits(logits, logits, ids, max_bytes))


class EditedRun(NamedTuple):
    """One run of a batch with edits.

    Attributes:
        steps: Those that make the edits and those that prove them, as the model runs.
        layers: The edits by layer.
    """

    steps: Sequence[ReadStep | EditStep]
    layers: dict[int, LayerEdits]


class RunTools(NamedTuple):
    """What all edited runs of a batch take.

    Attributes:
        sources: What `read_sources` read for the edits.
        head_operations, weight, max_bytes: As for `EditPass`.
    """

    sources: dict[int, Tensor]
    head_operations: Sequence[Operation]
    weight: Any
    max_bytes: int


def edited_runs(
    model: Any,
    runs: Sequence[EditedRun],
    batch: LensBatch,
    own: OwnLogits,
    tools: RunTools,
    norms: dict[int, Tensor],
) -> list[dict[str, Tensor]]:
    """Run a batch with each of several lists of edits, and compare it with the unedited run.

    Args:
        model: The nnsight model.
        runs: They.
        batch: Of the prompts, with all edits.
        own: The unedited run.
        tools: What each run takes.
        norms: How far the edits of earlier runs went, by site; those of these runs are added.

    Returns:
        Of each run what `compare_logits` makes of it, and what `EditChecks` says of its edits.
    """
    compared = []
    for run in runs:
        edits = EditPass(model, batch.edits._replace(layers=run.layers), *tools, norms)
        numbers, changed = one_pass(model, batch, edit_and_compare, run.steps, edits, batch, own)
        norms.update(changed)
        compared.append(numbers)
    return compared


def one_pass(model: Any, batch: LensBatch, read: Callable[..., Any], *values: Any) -> Any:
    """Run a batch as the lens does, and return what `read(model, *values)` gives inside the trace.

    In batches of the same shape, what is not edited has the same bits.
    """
    if not batch.one_invoke_each:
        with torch.no_grad(), model.trace(**batch.inputs):
            found = nnsight.save(read(model, *values))
    else:
        prompts, options = split_inputs(batch.inputs)
        with torch.no_grad(), model.trace(**options) as tracer:
            for prompt in prompts:
                with tracer.invoke(**prompt):
                    pass
            with tracer.invoke():
                found = nnsight.save(read(model, *values))
    return found


def read_logits(model: Any, batch: LensBatch) -> Float[Tensor, "token vocab"]:
    """Return the model's own logits at the tokens that are read."""
    logits = model_logits(model.output)
    rows, columns = batch.places.rows.to(logits.device), batch.logit_columns.to(logits.device)
    return logits[rows, columns].clone()


def edit_and_compare(
    model: Any,
    steps: Sequence[ReadStep | EditStep],
    edits: EditPass,
    batch: LensBatch,
    own: OwnLogits,
) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Make edits as the model runs, and compare its logits; return also how far the edits went."""
    checks = EditChecks(edits, edits.max_bytes)
    checks.follow_edits(steps, batch.places)
    numbers = compare_logits(own.logits, read_logits(model, batch), own.ids, edits.max_bytes)
    return numbers | checks.errors(batch.places.rows), edits.norms


def worst_errors(runs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the largest error of the edits of some runs, and its site, `[token]`; a NaN stays."""
    errors, sites = runs[0]["edit"], runs[0]["edit_site"]
    for run in runs[1:]:
        is_worse = ~(run["edit"] <= errors) & ~errors.isnan()
        sites = torch.where(is_worse, run["edit_site"], sites)
        errors = errors.maximum(run["edit"])
    return {"edit": errors, "edit_site": sites}


def compare_logits(
    own: Float[Tensor, "token vocab"],
    logits: Float[Tensor, "token vocab"],
    ids: Int[Tensor, "token followed"],
    max_bytes: int,
) -> dict[str, Tensor]:
    """Return what an edited run says, and how far it is from the unedited one, on the CPU.

    Args:
        own: Logits of the unedited run.
        logits: Those of the edited run; the same tensor for the unedited run itself.
        ids: Which logits are kept.
        max_bytes: Bound on what the comparison holds at once.

    Returns:
        "kl": KL(unedited ‖ edited) in nats, `[token]`; "logits" of the ids, `[token, followed]`;
        "logsumexp" and "top_ids", `[token]`; "difference", the largest of any two logits,
        `[token]`.
    """
    n_tokens, vocab = own.shape
    at_once = max_bytes // (LARGE_ARRAYS * 4 * vocab)
    parts = []
    for some in slices(n_tokens, at_once):
        base, edited = own[some].float(), logits[some].to(own.device).float()
        base_logprobs, logprobs = base.log_softmax(-1), edited.log_softmax(-1)
        terms = base_logprobs.exp() * (base_logprobs - logprobs)
        # A token that the model cannot say, of logit −∞ in both runs, adds nothing.
        kl = terms.masked_fill(base_logprobs == -torch.inf, 0.0).sum(-1).clamp(min=0)
        is_equal = base == edited
        difference = torch.where(is_equal, 0.0, (base - edited).abs()).amax(-1)
        part = {
            "kl": kl,
            "logits": edited.gather(-1, ids[some].to(edited.device)),
            "logsumexp": edited.logsumexp(-1),
            "top_ids": edited.argmax(-1).int(),
            "difference": difference,
        }
        parts.append(part)
    return on_cpu({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def effect_arrays(
    batch: LensBatch, own: OwnLogits, runs: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the arrays of the unedited run and of the edited ones, `[run, token, …]`."""
    every = [own.numbers, *runs]
    logits = torch.stack([run["logits"] for run in every])
    is_outside = outside_the_cone(batch.edits, batch.places.rows, batch.places.columns)
    outside = runs[0]["difference"].masked_fill(~is_outside, torch.nan)
    return {
        "effect_kl": torch.stack([run["kl"] for run in every]),
        "effect_target_logits": logits[..., :-1].clone(),
        "effect_answer_logits": logits[..., -1].clone(),
        "effect_logsumexp": torch.stack([run["logsumexp"] for run in every]),
        "effect_top_ids": torch.stack([run["top_ids"] for run in every]),
        "effect_outside": outside,
    }


def outside_the_cone(
    edits: BatchEdits, rows: Int[Tensor, " token"], columns: Int[Tensor, " token"]
) -> Tensor:
    """Return which tokens stand before all that is edited in their prompt, `[token]`.

    The model is causal: no edit can change what it says there. Where its own mask lets tokens see
    later ones, such as those of one image, an edit of one reaches back to the first of them.
    """
    first = torch.full((len(edits.padding),), torch.iinfo(torch.long).max, device="cpu")
    for site in edits.sites:
        if site.when != "written":  # controls are at the positions of what they control
            first.scatter_reduce_(0, site.rows, site.columns, "amin")
    for row, start, end in edits.stretches:
        if start <= first[row] < end:
            first[row] = start
    return columns < first[rows]
