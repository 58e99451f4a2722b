"""The block runs where this package does not exist, and says the same."""

from __future__ import annotations

import numpy as np
import pytest
import strict_local

import lens_recipes as lr
from lens_recipes.result import AXES

# What the recipe may need here, and a server may lack.
NOT_THERE = ("lens_recipes", "jaxtyping", "plotly", "platformdirs", "rich", "tqdm", "typer")


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": -1, "layers": [0, 2], "track": None}, {"track": 3, "apply_norm": False}],
    ids=["all", "last", "raw"],
)
def test_a_server_without_this_package_gives_the_same_result(llama, monkeypatch, options):
    prompts, targets = ["one prompt", "and another, longer one"], [[260], [261]]
    here = lr.logit_lens(llama, prompts, targets=targets, **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.logit_lens(llama, prompts, targets=targets, remote="local", **options)
    assert there.certificate.passed
    assert there.provenance["remote"] is True
    for name in AXES:
        np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=2e-4, err_msg=name)


def test_the_strict_simulation_is_strict(llama, monkeypatch):
    """A block that needs this package on the other side fails here, as it would there."""
    strict_local.install(monkeypatch, *NOT_THERE)
    with pytest.raises(ModuleNotFoundError), llama.trace("one prompt", remote="local"):  # noqa: PT012
        import lens_recipes

        names = lens_recipes.__all__.save()  # noqa: F841


def test_a_model_without_a_hub_id_is_not_sent(llama):
    with pytest.raises(lr.LensError, match="hub id"):
        lr.logit_lens(llama, "one prompt", remote=True)
