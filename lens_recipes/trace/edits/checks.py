"""Prove that edits took effect: the model goes on with what they put there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_recipes.trace.attribution.freeze import to_float32
from lens_recipes.trace.batch import TokenPlaces
from lens_recipes.trace.edits.apply import EditPass, relative_error
from lens_recipes.trace.plan import EditStep, ReadStep
from lens_recipes.trace.read_step import read
from lens_recipes.trace.sum_check import SumCheck


class EditChecks:
    """Reads, at the edited tokens, what the model made of the edits of each layer.

    The stream before the block, and what the block was made to add, must sum to the stream after
    it; and a stream that was set must be the one that the model goes on with.
    """

    def __init__(self, edits: EditPass, max_bytes: int) -> None:
        """Begin before the model runs.

        Args:
            edits: What makes the edits.
            max_bytes: Bound on what a check holds at once.
        """
        self.edits = edits
        self.max_bytes = max_bytes
        self.sums: dict[int, SumCheck] = {}

    def follow_edits(
        self, steps: Sequence[ReadStep | EditStep], places: TokenPlaces
    ) -> list[Tensor]:
        """Make edits as the model runs, and prove each; return what other steps read at tokens."""
        found = []
        for step in steps:
            if isinstance(step, EditStep):
                self.edits.follow(step)
            elif step.at is None:
                found.append(read(self.edits.model, step, places))
            else:
                self.follow(step)
        self.edits.set_streams.clear()
        return found

    def follow(self, step: ReadStep) -> None:
        """Take one more step that proves the edits of a layer."""
        assert step.at is not None
        places = self.edits.places_at(step.at)
        if places is None:
            return
        value = read(self.edits.model, step, places)
        if step.role == "next":
            self.compare_stream(step, value, places)
            return
        if step.at not in self.sums:
            self.sums[step.at] = SumCheck(self.edits.model, self.max_bytes)
        self.sums[step.at].follow(step, value)

    def compare_stream(self, step: ReadStep, taken: Tensor, places: TokenPlaces) -> None:
        """Compare the stream that edits have set with the one that the model goes on with."""
        assert step.at is not None
        grid = self.edits.set_streams.pop(step.at, None)
        if grid is None:
            return
        there = places.on(grid.device)
        expected = grid[there.rows, there.columns]
        if step.factor != 1:
            expected = to_float32(expected) * step.factor
        site = self.edits.set_by[step.at]
        self.edits.note(site, places.rows, relative_error(taken, expected))

    def errors(self, rows: Int[Tensor, " token"]) -> dict[str, Float[Tensor, " token"]]:
        """Return what the certificate says of the edits, for tokens in these rows.

        Returns:
            "edit": the largest relative error of each token's row, and "edit_site": the number of
            the site where that is. "edit_identity", "edit_cone" and "edit_worst" are those of an
            `EditProof`; −1 where the model was not asked.
        """
        for layer, check in self.sums.items():
            places = self.edits.places_at(layer)
            error = check.errors.get("block")
            if places is not None and error is not None:
                site = self.edits.edits.layers[layer].sites[0]
                self.edits.note(site, places.rows, error)
        self.edits.prove()
        proof = self.edits.proof
        if proof is None:
            proof = torch.full((3,), -1.0, dtype=torch.float32, device="cpu")
        errors = {"edit": self.edits.row_errors[rows], "edit_site": self.edits.row_codes[rows]}
        for name, value in zip(("edit_identity", "edit_cone", "edit_worst"), proof, strict=True):
            errors[name] = value.repeat(len(rows))
        return errors
