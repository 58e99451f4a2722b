"""`dose()`: what an edit does over its scale, with the band of its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from nnsight.intervention.envoy import Envoy

from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import Steering
from lens_recipes.models.tokens.vocabulary import prompt_text, token_texts
from lens_recipes.recipes.edits.runs import MAX_BYTES, measure_runs
from lens_recipes.results import Dose
from lens_recipes.run.provenance import provenance
from lens_recipes.run.request.edits.controls import draw_controls, resolve_controls
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_edits
from lens_recipes.run.request.edits.resolve import edits_provenance, resolve_edits
from lens_recipes.run.request.request import Request
from lens_recipes.run.request.selection import as_argument

DEFAULT_STEPS = (0.0, 0.25, 0.5, 1.0, 2.0)  # times the edit's own scale
DEFAULT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def dose(
    model: Envoy,
    prompts: Any,
    edit: Edit,
    scales: Sequence[float] | None = None,
    *,
    images: Any = None,
    targets: Any = None,
    controls: int = 5,
    position: int = -1,
    add_special_tokens: bool = True,
    max_bytes: int = MAX_BYTES,
    remote: bool | str | None = None,
) -> Dose:
    """Measure what an edit does over its scale, beside controls at the same scales.

    Each scale is one run of the batch, and one for each control; the unedited run is shared.

    Args:
        model: What `load()` returns.
        prompts, images: As for `logit_lens`.
        edit: What `steer`, `swap`, `ablate` or `patch` returns.
        scales: Of `steer`, in the units of its own scale; None for 0 to twice that. Of the others,
            the share of the way from what is there to what the edit puts there, 0 to 1; None for
            quarters.
        targets: Tokens whose log-probability is followed, as for `logit_lens`. None: only KL.
        controls: How many, as for `logit_lens`: the same random directions, or the same random
            sites, at each scale.
        position: After which token of each prompt; −1 is the last.
        add_special_tokens, max_bytes, remote: As for `logit_lens`.

    Raises:
        ValueError: an argument that does not fit the model or the prompts.
        LensError: a model that cannot be read this way, or an edit that does not hold.

    Example:
        >>> curve = dose(model, prompts, steer(" Rome", layer=20), [0, 0.1, 0.3], targets=" Rome")
        >>> dose_figure(curve).show()
    """
    if not isinstance(edit, Edit):
        raise ValueError(
            f"edit={edit!r:.60} is no edit: accepted is what steer(), swap(), ablate() or patch() "
            "returns, one of them."
        )
    chosen = check_scales(edit, as_argument(scales))
    request = Request(
        model,
        prompts,
        positions=position,
        targets=targets,
        remote=remote,
        add_special_tokens=add_special_tokens,
        images=images,
    )
    resolved = resolve_edits(edit, model)[0]
    n_controls = resolve_controls(controls, [resolved])
    runs, names, n_sites, missing = dose_runs(request, resolved, chosen, n_controls)
    arrays = measure_runs(request, runs, "dose", max_bytes=max_bytes)
    logprobs = arrays["effect_target_logits"] - arrays["effect_logsumexp"][..., None]
    by_scale = logprobs[1:].reshape(len(chosen), 1 + len(names), *logprobs.shape[1:])
    kl = arrays["effect_kl"][1:].reshape(len(chosen), 1 + len(names), -1)
    ids = {token for row in request.target_ids for token in row}
    arguments = {"scales": list(chosen), "controls": controls, "position": position}
    record = provenance(
        model, "dose", arguments, request.anatomy.vocab_size, request.remote, request.seconds
    )
    return Dose(
        edit_fields=resolved.to_json(),
        scales=[float(scale) for scale in chosen],
        unit="scale" if isinstance(edit, Steering) else "share",
        prompts=[prompt_text(request.tokenizer, token_ids) for token_ids in request.token_ids],
        target_ids=[list(map(int, row)) for row in request.target_ids],
        texts=token_texts(request.tokenizer, ids),
        base_logprobs=logprobs[0].astype(np.float64),
        logprobs=by_scale[:, 0].astype(np.float64),
        control_logprobs=by_scale[:, 1:].astype(np.float64),
        kl=kl[:, 0].astype(np.float64),
        control_kl=kl[:, 1:].astype(np.float64),
        controls=names,
        n_sites=n_sites,
        missing=missing,
        provenance=record | edits_provenance([resolved]),
    )


def check_scales(edit: Edit, scales: Any) -> list[float]:
    """Return the scales, ascending and each once.

    Raises:
        ValueError: none, no numbers, or a share that is not between 0 and 1.
    """
    is_steering = isinstance(edit, Steering)
    if scales is None:
        if isinstance(edit, Steering):
            return sorted({step * edit.scale for step in DEFAULT_STEPS})
        return list(DEFAULT_SHARES)
    try:
        numbers = np.atleast_1d(np.asarray(scales, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"scales={scales!r:.60} must be numbers.") from None
    if numbers.ndim != 1 or numbers.size == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"scales={scales!r:.60} must be one or more finite numbers.")
    if not is_steering and (numbers.min() < 0 or numbers.max() > 1):
        raise ValueError(
            f"scales={scales!r:.60}: of {edit.kind} a scale is the share of the way to what is put "
            "there, from 0 to 1."
        )
    return sorted(set(numbers.tolist()))


def dose_runs(
    request: Request, edit: Edit, scales: list[float], n_controls: int
) -> tuple[list[list[PlannedEdit]], list[str], int | None, str]:
    """Return the runs of each scale, the edit's and its controls', and what the controls are."""
    runs: list[list[PlannedEdit]] = []
    names: list[str] = []
    n_sites, missing = None, ""
    first = 0
    for scale in scales:
        scaled = replace(edit, scale=scale) if isinstance(edit, Steering) else edit
        share = 1.0 if isinstance(edit, Steering) else scale
        planned = plan_edits([scaled], request.blocks, request.anatomy, first)
        first += len(planned)
        runs.append([item._replace(share=share) for item in planned])
        if n_controls == 0:
            continue
        beside = draw_controls(
            [scaled], planned, n_controls, request.blocks, request.anatomy, first
        )
        names = [control.name for control in beside.drawn]
        n_sites, missing = beside.n_sites, beside.missing
        for control in beside.drawn:
            first += len(control.planned)
            runs.append([with_share(item, share) for item in control.planned])
    return runs, names, n_sites, missing


def with_share(item: PlannedEdit, share: float) -> PlannedEdit:
    """Return a control with the share of its edit; a random move is as large as its edit was."""
    return item if isinstance(item.edit, Steering) else item._replace(share=share)
