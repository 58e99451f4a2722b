"""On an accelerator the host does not wait for each layer, tile or chunk; and other kernels change no number.

No accelerator is here: `far_device.py` stands for one, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lens_recipes as lr
from lens_recipes.run.request.kernels import kernels_asked, with_kernels
from lens_recipes.trace import kernels
from lens_recipes.trace.kernels import CUDA, PROCESSOR, Kernels, kernels_for, on_cpu
from lens_recipes.trace.readout.readout import (
    ReadoutOptions,
    distinct_ids,
    logit_errors,
    tracked_ids,
)

HERE = Path(__file__).parent
# A lens waits once for its own numbers and once for those of its checks; the model's own forward waits, too.
OF_A_LENS, OF_AN_ATTRIBUTION, OF_A_STEP = 5, 7, 9
IDS = [[10, 11, 12, 13, 14, 15, 16, 17, 18, 10, 11]]


@pytest.fixture(scope="module")
def found():
    """What `waits_of_recipes.py` prints."""
    script = HERE / "waits_of_recipes.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_waits_grow_with_neither_layers_nor_tokens_nor_tiles(found):
    for name, cases in found["recipes"].items():
        base = cases["base"]["waits"]
        most = OF_AN_ATTRIBUTION if "attribution" in name else OF_A_LENS
        for case, counted in cases.items():
            assert counted["waits"] == base, (name, case, counted["lines"])
        assert 0 < base <= most, (name, cases["base"]["lines"])


def test_what_runs_there_gives_the_numbers_of_the_processor(found):
    for name, cases in found["recipes"].items():
        for case, counted in cases.items():
            assert counted["difference"] < 2e-5, (name, case)


def test_a_step_of_a_generation_waits_as_often_with_more_layers(found):
    few, many = found["steps"].values()
    assert few == many
    assert few[0] == few[1] <= OF_A_STEP


def test_tokens_that_cannot_be_said_are_asked_for_once(found):
    assert found["ruled out"]["difference"] < 2e-5
    assert found["ruled out"]["waits"] == 2  # the numbers, and those that were made again


# -- in this process ---------------------------------------------------


@pytest.mark.parametrize("columns", [64, 128, 2**20])
def test_other_kernels_change_no_number_by_more_than_rounding(llama, columns):
    expected = lr.logit_lens(llama, IDS, targets=[7])
    for chosen in (CUDA, PROCESSOR):
        with with_kernels(chosen._replace(tile_columns=columns, rows_at_once=7)):
            result = lr.logit_lens(llama, IDS, targets=[7])
            written = lr.generate_lens(llama, IDS, max_new_tokens=2, do_sample=False)
        np.testing.assert_array_equal(result.top_ids, expected.top_ids)
        np.testing.assert_array_equal(result.tracked_ids, expected.tracked_ids)
        for name in ("top_logprobs", "entropy", "kl_to_final", "tracked_logprobs"):
            ours, theirs = getattr(result, name), getattr(expected, name)
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5, err_msg=name)
        assert result.certificate.passed
        assert written.certificate.passed


def test_kernels_are_asked_for_in_one_block_of_one_thread(llama):
    seen: list[Kernels | None] = []
    with with_kernels(CUDA):
        run = lr.logit_lens.prepare(llama, IDS)
        other = threading.Thread(target=lambda: seen.append(kernels_asked()))
        other.start()
        other.join()
    assert run.plan.options.kernels is CUDA
    assert seen == [None]
    assert kernels_asked() is None
    assert lr.logit_lens.prepare(llama, IDS).plan.options.kernels is None


@pytest.mark.parametrize("columns", [0, 63, 1000])
def test_a_tile_is_some_groups_of_columns(columns):
    with (
        pytest.raises(ValueError, match="multiples of 64"),
        with_kernels(PROCESSOR._replace(tile_columns=columns)),
    ):
        pass


def test_each_kind_of_device_has_its_kernels():
    assert kernels_for(torch.device("cpu")) is PROCESSOR
    assert kernels_for(torch.device("cuda", 1)) is CUDA
    assert kernels_for(torch.device("mps")) is kernels.ACCELERATOR
    for chosen in (PROCESSOR, CUDA, kernels.ACCELERATOR):
        assert chosen.tile_columns % kernels.GROUP_COLUMNS == 0


class CountedOperations(TorchDispatchMode):
    """Counts what torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.n_run = 0

    def __torch_dispatch__(self, function, types, args=(), options=None):
        self.n_run += 1
        return function(*args, **(options or {}))


def test_on_an_accelerator_many_tokens_are_compared_with_as_few_launches_as_one():
    generator = torch.Generator().manual_seed(0)
    lens, own = torch.randn(2, 300, 50, generator=generator)
    own[7, 3] = lens[7, 3] = -torch.inf
    counted = {}
    for chosen in (PROCESSOR, CUDA):
        for n_tokens in (1, 300):
            with CountedOperations() as operations:
                found = logit_errors(lens[:n_tokens], own[:n_tokens], own, chosen)
            counted[chosen, n_tokens] = operations.n_run
        torch.testing.assert_close(found["error"], (lens - own).nan_to_num().abs().amax(-1))
    assert counted[CUDA, 300] == counted[CUDA, 1] <= counted[PROCESSOR, 300] / 50


@pytest.mark.parametrize("most", [1, 3, 9])
def test_distinct_ids_are_those_that_are_found_one_by_one(most):
    top1 = torch.randint(0, 5, (9, 40), generator=torch.Generator().manual_seed(0)).int()
    logits = torch.zeros(40, 8)
    options = ReadoutOptions(9, 1, "top1", most, 1)
    one_by_one = tracked_ids(top1, logits, options, PROCESSOR)
    together = distinct_ids(top1.flip(0).T, options.tracked)
    width = one_by_one.shape[1]
    assert together.dtype == one_by_one.dtype
    assert torch.equal(together[:, :width], one_by_one)
    assert (together[:, width:] == -1).all()


def test_what_is_here_already_is_not_copied():
    arrays = {"one": torch.ones(3), 2: torch.zeros(2, 2, dtype=torch.bool)}
    assert all(on_cpu(arrays)[name] is value for name, value in arrays.items())
