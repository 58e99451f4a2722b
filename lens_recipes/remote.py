"""What a traced block needs to run on a server that does not have this package."""

from __future__ import annotations

from typing import Any

import nnsight

from ._anatomy import Anatomy
from .tail import Step, anywhere


def destination(remote: bool | str) -> dict[str, Any]:
    """Keyword arguments of a trace that say where it runs; this package's functions then travel as source."""
    if not remote:
        return {}
    nnsight.register("lens_recipes")
    return {"remote": remote}


def tail_for(parts: Anatomy, remote: bool | str) -> list[Step]:
    """The way from the stream to the logits, there without the names of this machine's devices."""
    return anywhere(parts.tail) if remote else parts.tail
