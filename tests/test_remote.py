"""The block runs where this package does not exist, and says the same."""

from __future__ import annotations

import threading
import traceback
from typing import NamedTuple

import numpy as np
import pytest
import strict_local
import tiny
import torch
from agreement import assert_same_lens

import lens_recipes as lr
from lens_recipes.trace.travel import new_named_tuple

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
    assert_same_lens(there, here, atol=2e-4)


def test_the_strict_simulation_is_strict(llama, monkeypatch):
    """A block that needs this package on the other side fails here, as it would there."""
    strict_local.install(monkeypatch, *NOT_THERE)
    with pytest.raises(ModuleNotFoundError), llama.trace("one prompt", remote="local"):  # noqa: PT012
        import lens_recipes

        names = lens_recipes.__all__.save()  # noqa: F841


class Pair(NamedTuple):
    """Two numbers."""

    left: int
    right: int = 2


def test_a_named_tuple_is_made_by_source_as_by_its_own():
    def new(*values, **named):
        return new_named_tuple(Pair, *values, **named)

    assert new(1) == Pair(1)
    assert new(1, right=3) == new(right=3, left=1) == Pair(1, 3)
    assert type(new(1)) is Pair
    for values, named in (((), {}), ((1, 2, 3), {}), ((1,), {"left": 1}), ((1,), {"top": 1})):
        with pytest.raises(TypeError):
            Pair(*values, **named)
        with pytest.raises(TypeError, match=r"Pair has the fields \('left', 'right'\)"):
            new(*values, **named)


def test_a_model_without_a_hub_id_is_not_sent(llama):
    with pytest.raises(lr.LensError, match="hub id"):
        lr.logit_lens(llama, "one prompt", remote=True)


def test_a_model_that_cannot_be_sent_is_not_rehearsed():
    """nnsight itself would run it here, as if nothing had been asked."""
    with pytest.raises(lr.LensError, match="tokenizer"):
        lr.logit_lens(lr.load(tiny.llama()), [5, 6, 7], remote="local")


@pytest.mark.parametrize(
    "options",
    [
        {"components": ("embed", "attn_out", "resid_mid", "mlp_out", "resid_post")},
        {"components": "head_out", "heads": [0, 3], "layers": [1, 2], "positions": -1},
    ],
    ids=["components", "heads"],
)
def test_components_on_a_server_without_this_package(llama, monkeypatch, options):
    here = lr.logit_lens(llama, "one prompt", targets=[260], **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.logit_lens(llama, "one prompt", targets=[260], remote="local", **options)
    assert there.certificate.max_block_error < 1e-5
    assert there.sites == here.sites
    assert_same_lens(there, here, atol=2e-4)


@pytest.mark.parametrize("unit", ["layer", "component", "head"])
@pytest.mark.parametrize("against", [270, "mean"])
def test_attribution_on_a_server_without_this_package(llama, monkeypatch, unit, against):
    here = lr.attribution(llama, "one prompt", [260, 261], unit=unit, against=against)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.attribution(
        llama, "one prompt", [260, 261], unit=unit, against=against, remote="local"
    )
    assert there.certificate.passed
    assert there.parts == here.parts
    for name in ("values", "total", "logit", "capped_logit"):
        np.testing.assert_allclose(
            getattr(there, name), getattr(here, name), atol=2e-4, err_msg=name
        )


def test_source_tokens_need_eager_attention_on_the_server(llama):
    with pytest.raises(lr.LensError, match=r'already runs eager.*unit="head" works'):
        lr.attribution(llama, "one prompt", [260], unit="token", remote="local")


def test_no_weight_is_touched_on_a_server(llama, monkeypatch):
    """A sandboxed server has none: the block calls modules, which alone may look at their weights and their types."""
    runs = {
        "attribution": lambda: lr.attribution(
            llama, "one prompt", [260], against="mean", unit="head", remote="local"
        ),
        "lens": lambda: lr.logit_lens(
            llama, "one prompt", components=("head_out", "mlp_out"), remote="local"
        ),
        "generation": lambda: lr.generate_lens(
            llama, "one prompt", max_new_tokens=3, remote="local"
        ),
    }
    for run in runs.values():
        run()  # what is examined once is not the block
    inside, touched = threading.local(), []
    call, look_up, listed = (
        torch.nn.Module.__call__,
        torch.nn.Module.__getattr__,
        torch.nn.Module.named_parameters,
    )

    def counted(self, *args, **kwargs):
        inside.depth = getattr(inside, "depth", 0) + 1
        try:
            return call(self, *args, **kwargs)
        finally:
            inside.depth -= 1

    def seen(self, name):
        if name in ("weight", "bias") and not getattr(inside, "depth", 0):
            touched.append((type(self).__name__, name))
        return look_up(self, name)

    def seen_all(self, *args, **kwargs):
        callers = [
            frame.filename for frame in traceback.extract_stack(limit=5)
        ]  # `generate` asks for its device
        if strict_local.running and any("/lens_recipes/" in name for name in callers):
            touched.append((type(self).__name__, "parameters"))
        return listed(self, *args, **kwargs)

    strict_local.install(monkeypatch, *NOT_THERE)
    monkeypatch.setattr(torch.nn.Module, "named_parameters", seen_all)
    monkeypatch.setattr(torch.nn.Module, "__call__", counted)
    monkeypatch.setattr(torch.nn.Module, "__getattr__", seen)
    for run in runs.values():
        run()
    assert not touched
    llama._module.lm_head.weight  # noqa: B018 - this is how it would show
    assert touched
