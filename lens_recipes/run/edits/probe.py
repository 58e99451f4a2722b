"""Have a model itself prove that edits at some sites change what they say and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lens_recipes.arrays.axes import Site
from lens_recipes.arrays.edits.site_code import site_code
from lens_recipes.models.handle import exclusive
from lens_recipes.models.images.both_ways import TYPES
from lens_recipes.run.batches import one_batch
from lens_recipes.run.request.edits.layers import as_index, layer_edits
from lens_recipes.run.request.edits.planned import PlannedEdit, plan_site
from lens_recipes.run.request.request import Request
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.changes import AddDirection, KeepAsIs
from lens_recipes.trace.edits.plan import BatchEdits, SiteEdit
from lens_recipes.trace.edits.probe import (
    CHANGED_COLUMN,
    NOT_ASKED,
    EditProbe,
    EditProof,
    SiteProof,
    ask_model,
    worst_of,
)
from lens_recipes.trace.kernels import PROBE_ROWS

N_TOKENS = 4  # of each row
ROWS_AT_ONCE = PROBE_ROWS


class EditProofs:
    """What the model of a request says of the edited sites, or the probes that ask it.

    Attributes:
        known: What it says; `NOT_ASKED` where it is asked on a server.
        probes: What a server is to ask.
    """

    def __init__(self, request: Request, planned: Sequence[PlannedEdit]) -> None:
        """Ask a model that is here, once for each site as long as it stays as it is."""
        self.known: EditProof = NOT_ASKED
        self.probes: list[EditProbe] = []
        asked = probed_sites(planned)
        if request.remote:
            self.probes = probes_of(request, list(asked.values()))
            return
        proofs = request.known.edit_proofs
        missing = [item for code, item in asked.items() if code not in proofs]
        if missing:
            probes = probes_of(request, missing)
            with exclusive(request.model):
                for probe in probes:
                    proofs.update(ask_model(request.model, probe))
        of_sites: dict[float, SiteProof] = {code: proofs[code] for code in asked}
        self.known = worst_of(of_sites)


def probed_sites(planned: Sequence[PlannedEdit]) -> dict[float, PlannedEdit]:
    """Return the sites about which a model is asked, by their numbers.

    Of the heads of a layer that is one: all of them are columns of one tensor.
    """
    chosen: dict[Site, PlannedEdit] = {}
    for item in planned:
        chosen.setdefault(item.site._replace(head=None), item)
    return {site_code(item.site): item for item in chosen.values()}


def probes_of(request: Request, sites: list[PlannedEdit]) -> list[EditProbe]:
    """Return the probes about some sites, each with some of them."""
    probes = []
    for start in range(0, len(sites), ROWS_AT_ONCE):
        probes.append(probe_of(request, sites[start : start + ROWS_AT_ONCE]))
    return probes


def probe_of(request: Request, sites: list[PlannedEdit]) -> EditProbe:
    """Return a probe about some sites: a row for each, and one without an edit."""
    anatomy = request.anatomy
    n_rows = len(sites) + 1
    prompt = (list(anatomy.plain_ids) * N_TOKENS)[:N_TOKENS]
    nothing: list[list[int]] = [[]] * n_rows
    batch = one_batch(request.model, anatomy, [prompt] * n_rows, [[-1]] * n_rows, nothing)
    inputs = dict(batch.inputs)
    if anatomy.is_prefix:  # what is written after a prompt is read left to right
        inputs[TYPES] = torch.ones_like(inputs["input_ids"])
    rows = torch.arange(n_rows, device="cpu").repeat_interleave(N_TOKENS)
    columns = torch.arange(N_TOKENS, device="cpu").repeat(n_rows)
    planned = []
    for number, item in enumerate(sites):
        planned.append(plan_site(item.edit, item.site, number, request.blocks, anatomy))
    read, plan = request.sites(None, ["resid_post"], edits=planned)
    n_before = []
    for item in sites:
        assert item.site.layer is not None
        n_before.append(
            sum(site.layer < item.site.layer for site in read if site.layer is not None)
        )
    return EditProbe(
        inputs=inputs,
        places=TokenPlaces(n_rows, rows, columns),
        steps=plan.steps,
        n_slots=plan.n_slots,
        n_before=n_before,
        kept=edits_of_rows(planned, n_rows, anatomy.d_model, is_changed=False),
        changed=edits_of_rows(planned, n_rows, anatomy.d_model, is_changed=True),
        head_operations=request.head_operations,
        codes=[site_code(item.site) for item in sites],
    )


def edits_of_rows(
    planned: Sequence[PlannedEdit], n_rows: int, d_model: int, *, is_changed: bool
) -> BatchEdits:
    """Return the edit of each row at its own site."""
    edits = []
    for row, item in enumerate(planned):
        columns = [CHANGED_COLUMN] if is_changed else list(range(N_TOKENS))
        width = d_model if item.columns is None else len(item.columns)
        change: Any = KeepAsIs()
        if is_changed:
            # No norm takes it for nothing, as it would a vector of ones.
            change = AddDirection(torch.linspace(-1, 1, width, device="cpu"), 1.0, True)
        rows = as_index([row] * len(columns))
        edits.append(SiteEdit(rows, as_index(columns), change, "prompt"))
    padding = as_index([0] * n_rows)
    return BatchEdits(edits, [], [], padding, layer_edits(planned, edits, n_rows))
