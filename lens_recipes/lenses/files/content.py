"""`LensContent`: what a file of a lens holds, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.lenses.record import LensRecord
from lens_recipes.trace.transport import Affine


class LensContent(NamedTuple):
    """What a file of a lens holds, checked.

    Attributes:
        kind: "linear", "tuned", "jacobian" or "r".
        transports: From the number of a block to the transport of the stream after it.
        record: What it was fitted on, and how.
        quality: How well it was measured to transfer, or None.
        digest: What the file says that its numbers are; empty where it does not say.
    """

    kind: str
    transports: Mapping[int, Affine]
    record: LensRecord
    quality: LensQuality | None = None
    digest: str = ""
