"""Files that earlier versions saved still open, print what they printed, and are saved again.

`tests/data` holds five results, each as `.json`, as `.npz`, and as `.txt` with what `print(result)`
and `print(result.summary())` gave when it was saved, a blank line between them; but for
links between layers, of which their certificates now say that they were not compared.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.results import load_result

DATA = Path(__file__).parent / "data"
NAMES = ["attribution_component", "attribution_token", "generation", "lens", "vectors"]

LATER_ARRAYS = ("model_entropy", "readable")  # which these files do not have

each_file = pytest.mark.parametrize("suffix", [".json", ".npz"])
each_result = pytest.mark.parametrize("name", NAMES)


def saved(name: str, suffix: str) -> Path:
    return (DATA / name).with_suffix(suffix)


def test_every_saved_result_is_opened_here():
    assert sorted(path.stem for path in DATA.glob("*.npz")) == NAMES


@each_result
@each_file
def test_a_saved_file_opens_as_the_result_that_it_was(name, suffix):
    path = saved(name, suffix)
    result_class = lr.Attribution if name.startswith("attribution") else lr.LensResult
    assert type(result_class.load(path)) is result_class
    assert type(load_result(path)) is result_class


@each_result
@each_file
def test_it_prints_what_it_printed(name, suffix):
    result = load_result(saved(name, suffix))
    if result.certificate is not None:  # its line would be longer, and have other breaks
        proof = dataclasses.replace(result.certificate, as_saved=False)
        result = dataclasses.replace(result, certificate=proof)
    printed = saved(name, ".txt").read_text(encoding="utf-8")
    assert f"{result}\n\n{result.summary()}\n" == printed


@each_result
@each_file
def test_it_is_saved_as_the_same_json_byte_for_byte(name, suffix, tmp_path):
    load_result(saved(name, suffix)).save(tmp_path / "again.json")
    content = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    for array_name in LATER_ARRAYS:
        content["shapes"].pop(array_name, None)
        content["arrays"].pop(array_name, None)
    again = json.dumps(content, ensure_ascii=False).encode()
    assert again == saved(name, ".json").read_bytes()


@each_result
@each_file
def test_it_is_saved_as_an_npz_with_the_same_arrays(name, suffix, tmp_path):
    load_result(saved(name, suffix)).save(tmp_path / "again.npz")
    with np.load(saved(name, ".npz")) as before, np.load(tmp_path / "again.npz") as after:
        assert [each for each in after.files if each not in LATER_ARRAYS] == before.files
        assert json.loads(str(after["meta"])) == json.loads(str(before["meta"]))
        for array_name in before.files:
            assert after[array_name].dtype == before[array_name].dtype, array_name
            np.testing.assert_array_equal(after[array_name], before[array_name], array_name)


CLAIMS = [
    {"max_logit_error": 1e6, "max_abs_logit": "Infinity"},
    {"max_logit_error": -5.0},
    {"max_abs_logit": -1.0},
    {"max_sum_error": -1e-9},
    {"max_kl": "certified"},
    {"max_kl": [0.0]},
    {"top1_agreement": 1.5},
    {"top1_agreement": True},
    {"tokens": 2.5},
    {"tokens": -1},
    {"tokens": True},
    {"links": "all"},
    {"max_link_layer": -1},
    {"changed_layers": [1.5]},
    {"unlinked_layers": "none"},
    {"dtype": "float32 <b>"},
    {"dtype": None},
]


@pytest.mark.parametrize("claim", CLAIMS, ids=repr)
def test_a_certificate_that_no_run_writes_is_damage(tmp_path, claim):
    content = json.loads((DATA / "lens.json").read_text())
    content["certificate"] |= claim
    path = tmp_path / "claim.json"
    path.write_text(json.dumps(content))
    with pytest.raises(lr.LensError, match=r"damaged: ValueError: .* of the certificate"):
        lr.LensResult.load(path)


@pytest.mark.parametrize("error", [float("nan"), float("inf")])
def test_a_certificate_that_failed_is_read_as_it_was(tmp_path, error):
    result = lr.LensResult.load(DATA / "lens.json")
    failed = dataclasses.replace(result.certificate, max_logit_error=error, max_kl=error)
    path = tmp_path / "failed.json"
    dataclasses.replace(result, certificate=failed).save(path)
    certificate = lr.LensResult.load(path).certificate
    assert repr(certificate) == repr(failed)
    assert not certificate.passed
