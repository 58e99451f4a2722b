"""Every family writes with an edit what it writes with plain hooks; the few of `make test` stand for them."""

from __future__ import annotations

import pytest
import test_edits_generation
import tiny

FAMILIES = [
    family for family in tiny.FAMILIES if family != "mllama"
]  # text passes over its layer 1


@pytest.mark.parametrize("when", test_edits_generation.WHEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_that_is_changed_while_any_family_writes(family, when):
    test_edits_generation.test_a_stream_that_is_changed_while_any_family_writes(family, when)
