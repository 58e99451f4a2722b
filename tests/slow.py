"""Which cases of a test `make test` runs, and which wait for `make test-full`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the cases of a test; all but the quick ones are marked as slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
