"""`RunRecord`: what every result says of its run: lens, edits, and whether it is certified."""

from __future__ import annotations

from typing import Any

from lens_recipes.arrays.certificate import Certificate
from lens_recipes.arrays.edits.edit import Edit
from lens_recipes.arrays.edits.kinds import edit_from_json
from lens_recipes.arrays.used_lens import UsedLens, used_lens


class RunRecord:
    """What is read of a result's `provenance` and `certificate`.

    Attributes:
        certificate: The proof; None where there is none.
        provenance: Model, versions, arguments, seconds.
    """

    certificate: Certificate | None
    provenance: dict[str, Any]

    @property
    def lens(self) -> UsedLens:
        """The lens that this was read with; of an attribution, the one whose logit is explained."""
        return used_lens(self.provenance)

    @property
    def edits(self) -> list[Edit]:
        """The changes that were made while the model ran, in the order in which they were made."""
        return [edit_from_json(fields) for fields in self.provenance.get("edits", [])]

    @property
    def mark(self) -> str:
        """Return what every view must say beside the numbers; empty when nothing is wrong."""
        if self.certificate is None or self.certificate.passed:
            return ""
        return "NOT CERTIFIED"
