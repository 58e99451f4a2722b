"""What tests/ asks of some families is true of every one."""

from __future__ import annotations

import pytest
import test_attribution
import test_components
import test_generation
import test_references
import tiny

GENERATION = (
    test_generation.test_any_family_writes_in_a_batch_what_it_writes_alone,
    test_generation.test_any_family_adds_up_at_every_step,
    test_generation.test_any_family_samples_what_the_same_seed_samples,
)
# What cannot be built depends on what else is installed, and says nothing of this library.
BUILT = [pair for pair, row in test_references._committed().items() if "| not built: " not in row]


# Each second row: all are walked where the table is written.
@pytest.mark.parametrize(("family", "cls"), sorted(set(BUILT) - set(test_references.PAIRS))[::2])
def test_the_row_is_what_the_library_does_now(family, cls):
    test_references.test_the_row_is_what_the_library_does_now(family, cls)


# Those of tests/tiny_images.py are compared in tests/.
@pytest.mark.parametrize(
    "family",
    sorted(
        set(test_references.image_families.FAMILIES) - set(test_references.image_families.BY_HAND)
    ),
)
def test_no_family_is_wrong_with_an_image(family):
    row = test_references.image_families.examine(family)
    assert row.verdict in ("certified", "refused", "not built"), row.reason


@pytest.mark.parametrize(
    "check", GENERATION, ids=lambda check: check.__name__.removeprefix("test_any_family_")
)
@pytest.mark.parametrize(
    "family", [family for family in tiny.FAMILIES if family not in test_generation.SOME]
)
def test_any_family(family, check):
    check(family)


# Without weights, a vector that the stream is multiplied by cannot be told from any other tensor.
@pytest.mark.parametrize(
    "family", sorted(set(tiny.FAMILIES) - {*test_components.SKELETONS, *test_components.SCALED})
)
def test_wiring_without_weights_is_the_same(family):
    test_components.test_wiring_without_weights_is_the_same(family)


@pytest.mark.parametrize("family", ["gpt2", "mixtral", "olmo2", "cohere"])
@pytest.mark.parametrize("unit", ["component", "head", "token"])
def test_attribution_in_half_precision(family, unit):
    test_attribution.test_half_precision(family, unit)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
@pytest.mark.parametrize("unit", test_attribution.UNITS)
def test_attribution_in_double_precision(family, unit):
    test_attribution.test_double_precision(family, unit)
