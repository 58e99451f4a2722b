"""Write a lens in the format that is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from lens_recipes.errors import LensError
from lens_recipes.lenses.digests import tuned_lens_hash
from lens_recipes.lenses.files.checks import FLOATS
from lens_recipes.lenses.files.content import LensContent
from lens_recipes.lenses.files.jacobian import write_jacobian
from lens_recipes.lenses.files.own import SUFFIX, write_own
from lens_recipes.lenses.files.tuned import write_tuned

FORMATS = ("jacobian", "tuned")


def write_lens(
    path: str | os.PathLike[str],
    content: LensContent,
    *,
    format: str | None,
    sums: Mapping[str, Tensor] | None,
    dtype: torch.dtype | None,
    model: Envoy | None,
) -> None:
    """Write a lens: complete or not at all. See `Lens.save`.

    Raises:
        LensError, ValueError: as `Lens.save`.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a lens is saved to a path; received {type(path).__name__}")
    path = Path(os.path.expanduser(path))
    if format is not None and format not in FORMATS:
        raise ValueError(
            f"format={format!r} is unknown. Accepted: None (our own), "
            + ", ".join(map(repr, FORMATS))
        )
    if format is not None and sums is not None:
        raise ValueError(f"a file of the format {format!r} has no place for sums: leave out sums")
    if format != "jacobian" and dtype is not None:
        raise ValueError("dtype= is for format='jacobian'; other files keep the numbers' own")
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(map(str, FLOATS))}")
    if not content.transports:
        raise LensError("the lens has no transports, so there is nothing to save.")
    if format == "jacobian":
        write_jacobian(path, content, dtype or torch.float16)
    elif format == "tuned":
        if path.exists() and not path.is_dir():
            raise LensError(f"{str(path)!r} is a file, and a tuned lens is a folder: name another.")
        write_tuned(path, content, None if model is None else tuned_lens_hash(model))
    else:
        if path.suffix != SUFFIX:
            raise ValueError(f"{str(path)!r} does not end in {SUFFIX}, as the file of a lens does")
        write_own(path, content, sums)
