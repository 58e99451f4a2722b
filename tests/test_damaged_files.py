"""A file whose fields are not what a run writes is refused, in a sentence that names the field and what it holds.

Each change below would otherwise have been found by a view, or by none. The numbers that a run writes although they look
odd are read as they are.
"""

from __future__ import annotations

import copy
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.results import load_result

DATA = Path(__file__).parent / "data"


@functools.cache
def content_of(name: str) -> str:
    return (DATA / f"{name}.json").read_text(encoding="utf-8")


def changed(name: str, place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A saved result in which one value is another."""
    content = json.loads(content_of(name))
    *parents, key = place
    parent = content
    for step in parents:
        parent = parent[step]
    parent[key] = copy.deepcopy(value)
    return content


def read(tmp_path: Path, content: dict[str, Any]) -> Any:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_result(path)


# Which file, where, what stands there now, and words of the sentence that refuses it.
ROWS = [
    ("lens", ("sites", 0), [0, "attn_out"], "expected are ['layer', 'component', 'head']"),
    ("lens", ("sites", 0), "resid_post", "is no site"),
    ("lens", ("sites", 0), [-1, "attn_out", None], "its layer is not"),
    ("lens", ("sites", 0), [True, "attn_out", None], "its layer is not"),
    ("lens", ("sites", 7), [10**6, "resid_post", None], "its layer is not"),
    ("lens", ("sites", 0), [None, "attn_out", None], "attn_out is not at such a place"),
    ("lens", ("sites", 0), [0, "attn_out", 1], "attn_out is not at such a place"),
    ("lens", ("sites", 0), [0, "head_out", None], "head_out is not at such a place"),
    ("lens", ("sites", 0), [0, "head_out", 2**31], "its head is not"),
    ("lens", ("sites", 0), [0, "<b>", None], "its component is none of embed, resid_pre"),
    ("lens", ("sites", 0), [0, ["attn_out"], None], "its component is not"),
    ("lens", ("sites", 1), [0, "attn_out", None], "there is a site twice"),
    ("lens", ("sites", 0), [1, "resid_pre", None], "layer by layer"),
    ("lens", ("sites", 7), [None, "vector", None], "layer by layer"),
    ("lens", ("sites",), [], "at least one site"),
    ("vectors", ("sites",), [[0, "vector", None]], "vector is not at such a place"),
    ("attribution_component", ("parts", 1), [0, "value_bias", 0, None], "value_bias is no part"),
    ("attribution_component", ("parts", 1), [0, "resid_post", None, None], "is none of layer"),
    ("attribution_component", ("parts", 1), [7, "attn_out", None, None], "after at_layer, which is 3"),
    ("attribution_component", ("parts", 1), [0, "mlp_out", None, None], "there is a part twice"),
    ("attribution_component", ("parts", -1), [3, "bias", None, None], "bias is not at such a place"),
    ("attribution_token", ("parts", 1), [0, "head_out", 0, 6], "in their order"),
    ("attribution_token", ("parts", 1), [0, "head_out", 0, None], "is not by token"),
    ("attribution_token", ("parts", 1), [0, "head_out", 0, 2**31], "its source is not"),
    ("attribution_token", ("parts", 7), [0, "mlp_out", None, 0], "mlp_out is not at such a place"),
]  # fmt: skip
FIELDS = [
    ("lens", ("prompts",), [], "prompts: there are none"),
    ("lens", ("prompts",), "the cat", "prompts: 'the cat' is no list"),
    ("lens", ("texts", "7"), 7, "texts: the texts hold 7"),
    ("lens", ("texts", "1_0"), "a", "texts: '1_0' is no id"),
    ("lens", ("texts", "-1"), "a", "texts: '-1' is no id"),
    ("lens", ("texts",), [], "texts: [] is no JSON object"),
    ("lens", ("responses",), [["a", "eos"], ["b", "eos"]], "responses: there are some"),
    ("generation", ("responses", 0, 1), "tired", "because of 'tired', expected is one of 'eos'"),
    ("generation", ("responses", 0), ["a"], "damaged"),
    ("lens", ("inputs",), [{"input_ids": [7]}], "inputs: there are 1, expected is one for each prompt"),
    ("lens", ("inputs",), [{}, {}], "inputs: there are no input_ids"),
    ("lens", ("inputs",), [{"input_ids": []}, {"input_ids": [7]}], "inputs: input_ids has an entry that is no whole number"),
    ("lens", ("inputs",), [{"input_ids": [7.0]}, {"input_ids": [7]}], "inputs: input_ids has an entry that is no whole number"),
    ("lens", ("inputs",), [{"input_ids": [7]}, {"input_ids": [-7]}], "inputs: input_ids has an entry below 0"),
    ("lens", ("inputs",), [{"input_ids": [7], "attention_mask": [1, 1]}, {}], "attention_mask has 2 entries for 1"),
    ("attribution_component", ("unit",), ["layer"], "unit: ['layer'] is unknown"),
    ("attribution_component", ("unit",), "layer", "attn_out, mlp_out is no part where the unit is 'layer'"),
    ("attribution_component", ("at_layer",), True, "at_layer: True is no layer"),
    ("attribution_component", ("at_layer",), -1, "at_layer: -1 is no layer"),
    ("attribution_component", ("sources",), [["a"], ["b"]], "sources: there are some, and the unit is 'component'"),
    ("attribution_token", ("sources",), [], "sources: there are none, and the unit is 'token'"),
    ("attribution_token", ("sources", 0), ["a"], "token_position: a token stands behind"),
    ("attribution_token", ("sources", 0), list("abcdefg"), "parts: a head has not one for each of 7"),
]  # fmt: skip
QUALITY = {"layers": [0, 1], "kl": [1.0, 0.5], "agreement": [0.5, 0.6], "logit_kl": [2.0, 1.0], "logit_agreement": [0, 0.1]}  # fmt: skip
LENS = {"kind": "linear", "source": "lens.safetensors", "digest": "3f2a", "layers": [-1, 0, 1], "quality": QUALITY}  # fmt: skip
FACTS = [
    ("lens", ("provenance",), [], "provenance: [] is no JSON object"),
    ("lens", ("provenance", "model"), 7, "its 'model' is 7, expected is a text"),
    ("lens", ("provenance", "revision"), [], "its 'revision' is []"),
    ("lens", ("provenance", "vocab_size"), "many", "its 'vocab_size' is 'many'"),
    ("lens", ("provenance", "vocab_size"), 10**400, "its 'vocab_size' is 1000"),
    ("lens", ("provenance", "arguments"), [], "its 'arguments' is []"),
    ("lens", ("provenance", "remote"), "no", "its 'remote' is 'no'"),
    ("lens", ("provenance", "versions"), {"torch": 2}, "its 'versions' is {'torch': 2}"),
    ("lens", ("provenance", "seconds"), "Infinity", "its 'seconds' is 'Infinity'"),
    ("lens", ("provenance", "seconds"), -1, "its 'seconds' is -1, expected is a number from 0"),
    ("lens", ("provenance", "seconds"), math.nan, "its 'seconds' is nan"),
    ("lens", ("provenance", "certificate"), None, "its 'certificate' is None"),
    ("generation", ("provenance", "generation"), None, "its 'generation' is None"),
    ("generation", ("provenance", "not_begun"), [None], "its 'not_begun' is [None]"),
    ("generation", ("provenance", "timings"), [], "its 'timings' is []"),
    ("generation", ("provenance", "timings", "decode_s"), "long", "its 'timings' is {"),
    ("lens", ("provenance", "lens"), [], "its 'lens' is []"),
    ("lens", ("provenance", "lens"), {"kind": "crystal"}, "the 'kind' of its lens is 'crystal', expected is one of 'logit'"),
    ("lens", ("provenance", "lens"), {"kind": ["linear"]}, "the 'kind' of its lens is ['linear']"),
    ("lens", ("provenance", "lens"), LENS | {"source": "x" * 5000}, "expected is a text of at most 4096"),
    ("lens", ("provenance", "lens"), LENS | {"digest": 7}, "the 'digest' of its lens is 7"),
    ("lens", ("provenance", "lens"), LENS | {"layers": [-2]}, "the 'layers' of its lens is [-2]"),
    ("lens", ("provenance", "lens"), LENS | {"layers": [0, 0]}, "expected is a list of different whole numbers"),
    ("lens", ("provenance", "lens"), LENS | {"layers": [True]}, "the 'layers' of its lens is [True]"),
    ("lens", ("provenance", "lens"), LENS | {"first_position": -1}, "the 'first_position' of its lens is -1"),
    ("lens", ("provenance", "lens"), LENS | {"quality": {}}, "the quality of its lens has no 'layers'"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"kl": [1.0]}}, "lists of different lengths, expected is 2 each"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"kl": [1.0, -0.5]}}, "the 'kl' of its lens's quality"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"kl": [1.0, math.nan]}}, "the 'kl' of its lens's quality"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"logit_kl": [1, 10**400]}}, "the 'logit_kl' of its lens's quality"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"agreement": [0.5, 1.5]}}, "the 'agreement' of its lens's quality"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"refit_kl": [[1.0]]}}, "lists of different lengths"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"refit_kl": 7}}, "the 'refit_kl' of its lens's quality"),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"text": None}}, "the 'text' of its lens's quality"),
    ("lens", ("certificate", "max_kl"), 10**400, "max_kl of the certificate"),
    ("lens", ("certificate", "changed_layers"), [10**6], "changed_layers of the certificate"),
]  # fmt: skip
NUMBERS = [
    ("lens", ("arrays", "top_ids", 0, 0, 0), -1, "top_ids holds -1, expected are numbers of at least 0"),
    ("lens", ("arrays", "top_ids", 0, 0, 0), 0.5, "top_ids does not hold whole numbers"),
    ("lens", ("arrays", "top_ids", 0, 0, 0), None, "top_ids does not hold whole numbers"),
    ("lens", ("arrays", "top_ids", 0, 0, 0), "7", "top_ids does not hold whole numbers"),
    ("lens", ("arrays", "top_ids", 0, 0, 0), 2**31, "top_ids holds numbers that are too large"),
    ("lens", ("arrays", "final_ranks", 0, 0), -2, "final_ranks holds -2"),
    ("lens", ("arrays", "final_ids", 0), -1, "final_ids holds -1, expected are ids from 0"),
    ("lens", ("arrays", "target_ids", 0, 0), -1, "target_ids holds -1"),
    ("lens", ("arrays", "tracked_ids", 0, 0), -2, "tracked_ids holds -2"),
    ("lens", ("arrays", "top_logprobs", 0, 0, 0), 710.0, "top_logprobs holds 710.0, expected are numbers of at most 0.1"),
    ("lens", ("arrays", "model_logprobs", 0), "Infinity", "model_logprobs holds inf"),
    ("lens", ("arrays", "entropy", 0, 0), -5.0, "entropy holds -5.0"),
    ("lens", ("arrays", "kl_to_final", 0, 0), "-Infinity", "kl_to_final holds -inf"),
    ("lens", ("arrays", "logsumexp", 0, 0), 1e39, "logsumexp holds numbers that are too large for float32"),
    ("lens", ("arrays", "token_id", 0), -1, "token_id holds -1, expected are ids from 0"),
    ("lens", ("arrays", "token_next_id", 0), -2, "token_next_id holds -2"),
    ("lens", ("arrays", "token_position", 0), -1, "token_position holds -1"),
    ("lens", ("arrays", "token_generated", 0), 1, "token_generated does not hold truth values"),
    ("lens", ("arrays", "token_prompt"), [0, 0, 0, 0], "token_prompt: a token belongs to a prompt"),
    ("lens", ("arrays", "token_prompt"), [0, 1, 0, 1], "the tokens do not come prompt after prompt"),
    ("lens", ("arrays", "token_prompt"), [1, 1, 1, 1], "expected are tokens of each"),
    ("lens", ("arrays", "token_prompt"), [0, 0, 1, 2], "not among the 2"),
    ("generation", ("arrays", "token_next_id", -1), -1, "a token that was written has no id"),
    ("generation", ("arrays", "token_next_logprob", -1), 1.0, "token_next_logprob holds 1.0"),
    ("generation", ("arrays", "token_generated"), [False] * 9, "responses: there are some"),
    ("vectors", ("arrays", "token_generated"), [True, True], "nothing was written after vectors"),
    ("attribution_component", ("arrays", "error", 0, 0), -1.0, "error holds -1.0"),
    ("attribution_component", ("arrays", "against_ids", 0, 0), -2, "against_ids holds -2"),
    ("attribution_component", ("arrays", "token_generated"), [True] * 21, "an attribution has no generated tokens"),
    ("attribution_token", ("arrays", "token_position", 0), 6, "token_position: a token stands behind"),
    ("lens", ("shapes", "entropy"), [4, 8], "entropy has the shape [4, 8], expected [8, 4]"),
    ("lens", ("shapes", "entropy"), [32], "entropy has the shape [32], expected [8, 4]"),
    ("lens", ("shapes",), {}, "not whole"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value", "words"), [*ROWS, *FIELDS, *FACTS, *NUMBERS])
def test_what_no_run_writes_is_damage(tmp_path, name, place, value, words):
    with pytest.raises(lr.LensError) as info:
        read(tmp_path, changed(name, place, value))
    assert words in str(info.value)
    assert "\n" not in str(info.value)


def no_predictions(content):
    content["arrays"]["top_ids"] = [[[]] * 4] * 8
    content["arrays"]["top_logprobs"] = [[[]] * 4] * 8
    content["shapes"] |= {"top_ids": [8, 4, 0], "top_logprobs": [8, 4, 0]}


def test_a_site_without_predictions_is_damage(tmp_path):
    content = json.loads(content_of("lens"))
    no_predictions(content)
    with pytest.raises(lr.LensError, match="top_ids holds no predictions"):
        read(tmp_path, content)


def test_an_attribution_without_targets_is_damage(tmp_path):
    content = json.loads(content_of("attribution_component"))
    for name, shape in content["shapes"].items():
        if not name.startswith("token_"):
            shape[-1] = 0
            content["arrays"][name] = np.zeros(shape).tolist()
    with pytest.raises(lr.LensError, match="there are no targets"):
        read(tmp_path, content)


ODD = [
    ("lens", ("arrays", "top_logprobs", 0, 0, 0), None),
    ("lens", ("arrays", "top_logprobs", 0, 0, 2), "-Infinity"),
    ("lens", ("arrays", "top_logprobs", 0, 0, 0), 1e-6),
    ("lens", ("arrays", "entropy", 0, 0), -1e-6),
    ("lens", ("arrays", "kl_to_final", 0, 0), "Infinity"),
    ("lens", ("arrays", "logsumexp", 0, 0), "-Infinity"),
    ("lens", ("arrays", "next_ranks", 0, 0), -1),
    ("lens", ("arrays", "tracked_ids", 0, 7), -1),
    ("lens", ("arrays", "token_position"), [5, 2, 0, 1]),  # as the caller named them
    ("lens", ("sites", 0), [0, "embed", None]),
    ("lens", ("provenance", "later"), {"a": [None, 1.5, "b"]}),
    ("lens", ("provenance", "revision"), "main"),
    ("lens", ("provenance", "lens"), {}),
    ("lens", ("provenance", "lens"), LENS | {"later": 1}),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"refit_kl": [[1.1, 0.6], [0.9, 0.4]], "later": 1}}),
    ("lens", ("provenance", "lens"), LENS | {"quality": QUALITY | {"kl": [1e-8, -1e-8]}}),
    ("attribution_component", ("provenance", "lens"), LENS | {"quality": None}),
    ("generation", ("responses",), []),  # one step, as `on_step` gets it
    ("generation", ("responses", 0, 1), "interrupted"),
    ("generation", ("provenance", "timings", "tokens_per_second"), None),
    ("attribution_component", ("parts", 0), [None, "embed", None, None]),
    ("attribution_component", ("against",), "the mean"),
    ("attribution_component", ("arrays", "values", 0, 0, 0), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "place", "value"), ODD)
def test_what_a_run_may_write_is_read(tmp_path, name, place, value):
    result = read(tmp_path, changed(name, place, value))
    assert str(result)
    assert result.summary()


WRONG_ARRAYS = [
    ("top_ids", lambda a: a.astype(np.int64) + 2**32, "too large"),
    ("top_ids", lambda a: a.astype(np.float32), "whole numbers"),
    ("top_ids", lambda a: a.astype(np.uint64) + np.uint64(2**63), "too large"),
    ("entropy", lambda a: a.astype(np.float64) + 1e300, "too large for float32"),
    ("token_generated", lambda a: a.astype(np.int8), "truth values"),
    ("token_id", lambda a: a[0], "shape"),
    ("token_id", lambda a: a[None], "shape"),
]


@pytest.mark.parametrize(("name", "change", "words"), WRONG_ARRAYS)
def test_an_array_of_other_numbers_is_not_rounded_nor_cut_off(tmp_path, name, change, words):
    with np.load(DATA / "lens.npz") as file:
        arrays = dict(file)
    arrays[name] = change(arrays[name])
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(lr.LensError, match=words):
        load_result(tmp_path / "a.npz")


def test_half_of_a_surrogate_pair_is_saved_and_read(tmp_path):
    result = read(tmp_path, changed("lens", ("prompts", 0), "a\ud800b"))
    for suffix in (".json", ".npz"):
        result.save(tmp_path / f"again{suffix}")
        assert load_result(tmp_path / f"again{suffix}").prompts == result.prompts
