"""A patch map on a real server, for callers that it trusts and for strangers: the one that is made here."""

from __future__ import annotations

import numpy as np

import lens_recipes as lr

PAIR = ("The capital of France is", "The capital of Spain is")
ANSWERS = (" Paris", " Madrid")


def test_a_map_of_a_server_is_the_one_that_is_made_here(any_server, client, here):
    model = client(any_server, "smollm2")
    options = {"layers": [0, 20, 23, 29]}
    for unit in ("resid_post", "head_out"):
        said = lr.estimate(lr.patch_map, model, *PAIR, *ANSWERS, unit=unit, **options)
        assert said.jobs == 1
        there = lr.patch_map(model, *PAIR, *ANSWERS, unit=unit, **options)
        mine = lr.patch_map(here("smollm2"), *PAIR, *ANSWERS, unit=unit, **options)
        np.testing.assert_allclose(there.values, mine.values, atol=2e-3)
        np.testing.assert_allclose(there.mean, mine.mean, atol=1e-3)
        assert there.proof.site_error < 1e-5
        assert there.provenance["remote"] is True
