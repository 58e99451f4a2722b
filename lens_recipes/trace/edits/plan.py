"""Where and how a run is edited, as plain values that can travel to a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxtyping import Int
from torch import Tensor

from lens_recipes.trace.batch import TokenPlaces

PROOF = -1  # the key of what a model says of edited sites, among what edits take from other runs


class SiteEdit(NamedTuple):
    """What is done at one site of a batch.

    Attributes:
        rows, columns: Of the edited tokens, `[entry]`.
        change: From what is there to what is to be there (`changes.py`).
        when: In generation: "prompt", "written" or "both".
        code: The number of the site (`site_code`).
    """

    rows: Int[Tensor, " entry"]
    columns: Int[Tensor, " entry"]
    change: Any
    when: str
    code: float = -1.0


class SourceRead(NamedTuple):
    """What an edit takes from another run.

    Attributes:
        site: Which edit takes it.
        side, module, operations, columns: As of an `EditStep`.
        rows, token_columns: Where in the source's batch, `[entry]`.
        entries: Which entries of the edit take it, `[entry]`; None for the mean over all of them.
    """

    site: int
    side: str
    module: str
    operations: tuple[Any, ...]
    columns: tuple[int, ...] | None
    rows: Int[Tensor, " entry"]
    token_columns: Int[Tensor, " entry"]
    entries: Int[Tensor, " entry"] | None


class SourceBatch(NamedTuple):
    """One forward pass over prompts from which edits take something; nothing is edited in it.

    Attributes:
        inputs: As of a `LensBatch`.
        n_rows: Rows of the batch.
        reads: In the order in which the model runs.
    """

    inputs: dict[str, Any]
    n_rows: int
    reads: list[SourceRead]


class LayerEdits(NamedTuple):
    """The edits of one layer, and all tokens that any of them changes.

    Attributes:
        sites: The numbers of its edits.
        places: The tokens.
    """

    sites: list[int]
    places: TokenPlaces


class BatchEdits(NamedTuple):
    """What is done to one batch.

    Attributes:
        sites: Of each `EditStep`, by its number.
        sources: The runs from which edits copy.
        means: The runs over whose tokens means are taken; the same for all batches.
        padding: How many columns are padding before each row, `[row]`.
        layers: The edits by layer, which is the `at` of the steps that check them.
        probes: What asks the model to prove the sites (each an `EditProbe`), where it is not known.
        proof: What the model has said of them (an `EditProof`); None for nothing.
        kept_means: The means once they were taken: one object of all batches.
        more_tokens: How many tokens run through the model beside those of the batch.
        other_layers: Of each further run of the batch, the edits by layer.
        stretches: Where the model's own mask lets tokens see later ones: row, first column, and
            the one after the last.
    """

    sites: list[SiteEdit]
    sources: list[SourceBatch]
    means: list[SourceBatch]
    padding: Int[Tensor, " row"]
    layers: dict[int, LayerEdits]
    probes: Sequence[Any] = ()
    proof: Any = None
    kept_means: dict[int, Tensor] | None = None
    more_tokens: int = 0
    other_layers: Sequence[dict[int, LayerEdits]] = ()
    stretches: Sequence[tuple[int, int, int]] = ()
