"""A result: its views, its files and its table of rows."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import zipfile

import numpy as np
import pytest
import tiny
from certificates import CERTIFICATES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import lens_recipes as lr
from lens_recipes.arrays.certificate import is_certified
from lens_recipes.arrays.lens import AXES
from lens_recipes.views.files import result_file as files

PROMPTS = ["The capital of France is", "One two", "A model reads the prompt"]
SUFFIXES = [".json", ".npz"]


@pytest.fixture(scope="module")
def result(llama):
    return lr.logit_lens(llama, PROMPTS, targets=[" the", 7])


def assert_equal(one, other):
    """Equal to the bit, types and shapes included."""
    for name in AXES:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype, name
        assert a.shape == b.shape, name
        assert a.tobytes() == b.tobytes() or (np.isnan(a) == np.isnan(b)).all(), name
        np.testing.assert_array_equal(a, b, err_msg=name)
    for column in dataclasses.fields(lr.Tokens):
        a, b = getattr(one.tokens, column.name), getattr(other.tokens, column.name)
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)
        if column.name != "text" and a is not None:
            assert a.dtype == b.dtype
    for name in ("sites", "prompts", "responses", "texts", "provenance"):
        assert getattr(one, name) == getattr(other, name), name
        assert type(getattr(one, name)) is type(getattr(other, name))
    assert repr(one.certificate) == repr(other.certificate)  # repr: NaN is not equal to itself


def through_a_file(result, path):
    result.save(path)
    return lr.LensResult.load(path)


# -- files -------------------------------------------------------------

KINDS = {
    "plain": {},
    "targets": {"targets": [" the", 7]},
    "nothing tracked": {"track": None},
    "one layer, one position": {"layers": [-1], "positions": -1, "targets": [[1], [2], [3]]},
    "raw stream": {"apply_norm": False, "layers": slice(1, 3)},
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_comes_back_from_a_file_as_it_was(llama, tmp_path, kind, suffix):
    before = lr.logit_lens(llama, PROMPTS, **KINDS[kind])
    after = through_a_file(before, tmp_path / f"result{suffix}")
    assert_equal(before, after)
    assert (after.mark, after.normed) == (before.mark, before.normed)
    says = str(before.certificate).replace("certified: ", "as saved, not checked here: ")
    assert str(after.certificate) == says
    assert [f.name for f in tmp_path.iterdir()] == [f"result{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_prompts_view_can_be_saved_too(result, tmp_path, suffix):
    for number in range(3):
        assert_equal(result[number], through_a_file(result[number], str(tmp_path / f"one{suffix}")))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_result_with_nan_everywhere_can_be_saved(tmp_path, suffix):
    module = tiny.llama()
    module.model.norm.weight[0] = math.nan
    before = lr.logit_lens(lr.load(module), [7, 8], strict=False, targets=9)
    after = through_a_file(before, tmp_path / f"result{suffix}")
    assert_equal(before, after)
    assert "NOT CERTIFIED" in after.mark


IDS = st.integers(0, 2**31 - 1)
IDS_OR_NONE = st.integers(-1, 2**31 - 1)
LOGPROBS = st.floats(max_value=0, width=32) | st.just(math.nan)
NATS = st.floats(min_value=0, width=32) | st.just(math.nan)


def numbers_of(name):
    """The numbers that a run may write into an array."""
    if name in ("top_ids", "target_ids", "final_ids"):
        return IDS
    if name.endswith(("_ids", "_ranks")):
        return IDS_OR_NONE
    if name.endswith("logprobs"):
        return LOGPROBS
    return NATS if name in ("entropy", "kl_to_final", "model_entropy") else st.floats(width=32)


@st.composite
def results(draw):
    """A result of any sizes, zero included where there may be none, with any floats and texts."""
    sizes = {axis: draw(st.integers(1, 3)) for axis in ("site", "prompt", "k")}
    sizes["token"] = sizes["prompt"] + draw(st.integers(0, 2))
    sizes |= {axis: draw(st.integers(0, 2)) for axis in ("target", "m")}
    fields = {}
    for name, axes in AXES.items():
        shape = tuple(sizes[axis] for axis in axes)
        dtype = np.int32 if name.endswith(("_ids", "_ranks")) else np.float32
        fields[name] = draw(arrays.arrays(dtype, shape, elements=numbers_of(name)))
    text = st.text(st.characters(codec="utf-8"), max_size=6)
    n = sizes["token"]
    tokens = {
        name: draw(arrays.arrays(np.int32, n, elements=st.integers(0, 99)))
        for name in ("position", "id", "next_id")
    }
    return lr.LensResult(
        sites=[
            draw(
                st.sampled_from(
                    [lr.Site(layer), lr.Site(layer, "head_out", 9), lr.Site(layer, "mlp_out")]
                )
            )
            for layer in range(sizes["site"])
        ],
        tokens=lr.Tokens(
            prompt=np.sort(np.arange(n, dtype=np.int32) % sizes["prompt"]),
            generated=np.full(n, draw(st.booleans())),
            text=[draw(text) for _ in range(n)],
            **tokens,
        ),
        prompts=[draw(text) for _ in range(sizes["prompt"])],
        texts=draw(st.dictionaries(st.integers(0, 10**6), text, max_size=3)),
        certificate=draw(st.none() | CERTIFICATES),
        provenance={
            "model": draw(text),
            "arguments": {"targets": draw(st.lists(text, max_size=2))},
        },
        **fields,
    )


@settings(deadline=None, derandomize=True, max_examples=40)
@given(results())
def test_any_result_comes_back_from_both_sorts_of_file_as_it_was(tmp_path_factory, before):
    folder = tmp_path_factory.mktemp("any")
    for suffix in SUFFIXES:
        assert_equal(before, through_a_file(before, folder / f"result{suffix}"))
        assert_strict_json(folder / "result.json")


def assert_strict_json(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_json_is_strict_readable_and_versioned(result, tmp_path):
    result.save(tmp_path / "result.json")
    whole = assert_strict_json(tmp_path / "result.json")
    assert whole["format"] == "lens-recipes/result"
    assert whole["version"] == 1
    assert whole["prompts"] == PROMPTS
    assert set(AXES) <= set(whole["arrays"])
    last = result.tokens.next_id.tolist().index(-1)
    assert whole["arrays"]["next_logprobs"][0][last] is None  # NaN
    assert whole["provenance"]["arguments"]["targets"] == [" the", 7]


def test_the_npz_holds_no_pickle(result, tmp_path):
    result.save(tmp_path / "result.npz")
    with zipfile.ZipFile(tmp_path / "result.npz") as file:
        assert file.testzip() is None
        assert set(AXES) <= {name.removesuffix(".npy") for name in file.namelist()}
    with np.load(tmp_path / "result.npz", allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_a_write_that_fails_leaves_the_old_file_or_none(
    result, tmp_path, monkeypatch, suffix, error
):
    path = tmp_path / f"result{suffix}"
    write_text = files.Path.write_text

    def half_a_text(self, text, **kwargs):
        write_text(self, text[: len(text) // 2], **kwargs)
        raise error

    def half_an_npz(file, **kwargs):
        file.write(b"PK\x03\x04")
        raise error

    for there_before in (False, True):
        if there_before:
            result[0].save(path)
        whole = path.read_bytes() if there_before else None
        with monkeypatch.context() as patch:
            patch.setattr(files.Path, "write_text", half_a_text)
            patch.setattr(files.np, "savez_compressed", half_an_npz)
            expected = lr.LensError if isinstance(error, OSError) else type(error)
            with pytest.raises(
                expected, match="No space left" if expected is lr.LensError else None
            ):
                result.save(path)
        left = [path.name] if there_before else []
        assert [f.name for f in tmp_path.iterdir()] == left
        assert not there_before or path.read_bytes() == whole


def test_a_file_is_replaced_whole_and_readable_by_others(result, tmp_path):
    path = tmp_path / "result.json"
    result.save(path)
    result[1].save(path)
    assert_equal(result[1], lr.LensResult.load(path))
    other = tmp_path / "plain"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize(
    "arguments",
    [
        {"positions": slice(-2, None)},
        {"positions": range(2)},
        {"positions": np.array([0, -1])},
        {"layers": (0, -1)},
        {"layers": np.int64(1)},
        {"layers": {0, 1}},
        {"targets": {7, 8}},
        {"targets": {7: "a", 8: "b"}.keys()},
        {"targets": np.array([7, 8])},
    ],
    ids=repr,
)
def test_whatever_sort_of_argument_was_accepted_can_be_saved(llama, tmp_path, arguments):
    before = lr.logit_lens(llama, PROMPTS, **arguments)
    for suffix in SUFFIXES:
        assert_equal(before, through_a_file(before, tmp_path / f"result{suffix}"))


# -- views -------------------------------------------------------------


def test_one_prompts_view_is_what_running_it_alone_gives(llama, result):
    for number, prompt in enumerate(PROMPTS):
        alone = lr.logit_lens(llama, prompt, targets=[" the", 7])
        view = result[number]
        assert len(view) == 1
        assert view.prompts == alone.prompts
        assert view.tokens.text == alone.tokens.text
        assert (view.tokens.prompt == 0).all()
        m = alone.tracked_ids.shape[1]  # the view keeps the width of the widest prompt
        assert (view.tracked_ids[:, m:] == -1).all()
        for name in AXES:
            seen, expected = getattr(view, name), getattr(alone, name)
            seen = seen[..., :m] if name.startswith("tracked") else seen
            assert seen.dtype == expected.dtype, name
            np.testing.assert_allclose(seen, expected, atol=1e-4, rtol=1e-4, err_msg=name)
        assert {int(i) for i in alone.texts} <= set(view.texts)
        assert view.certificate == result.certificate


def test_a_result_has_a_length_and_can_be_walked(result):
    assert len(result) == 3
    assert [view.prompts for view in result] == [[prompt] for prompt in PROMPTS]
    assert [view.prompts[0] for view in (result[-1], result[-3])] == [PROMPTS[2], PROMPTS[0]]
    assert sum(len(view.tokens) for view in result) == len(result.tokens)
    for number in (3, -4):
        with pytest.raises(IndexError, match=rf"prompt {number} .* holds 3"):
            result[number]
    assert_equal(result[1][0], result[1])


def test_every_id_of_a_result_has_a_text(result):
    ids = [result.tokens.id, result.tokens.next_id, result.top_ids, result.final_ids]
    ids += [result.target_ids, result.tracked_ids]
    for token in np.unique(np.concatenate([i.reshape(-1) for i in ids])):
        assert token < 0 or int(token) in result.texts
    assert result.text(result.tokens.id[0]) == result.tokens.text[0]
    assert result.text(10**6) == "#1000000"


def test_arrays_have_the_axes_they_are_said_to_have(result):
    sizes = {"site": 4, "token": len(result.tokens), "prompt": 3, "k": 5, "target": 2}
    sizes["m"] = result.tracked_ids.shape[1]
    for name, axes in AXES.items():
        array = getattr(result, name)
        assert array.shape == tuple(sizes[axis] for axis in axes), name
        assert array.dtype == (np.int32 if name.endswith(("_ids", "_ranks")) else np.float32), name
        assert type(array) is np.ndarray


def test_numbers_of_a_result_agree_with_each_other(result):
    spots = np.arange(len(result.tokens))
    np.testing.assert_allclose(
        result.target_logits, result.target_logprobs + result.logsumexp[..., None], rtol=1e-6
    )
    np.testing.assert_array_equal(result.final_ids, result.top_ids[-1, :, 0])
    np.testing.assert_allclose(result.final_logprobs[-1], result.model_logprobs, atol=1e-5)
    assert (result.final_ranks[-1] == 0).all()
    np.testing.assert_allclose(result.kl_to_final[-1], 0, atol=1e-5)
    top = result.final_ranks == 0
    np.testing.assert_array_equal(top, result.top_ids[..., 0] == result.final_ids)
    np.testing.assert_array_equal(np.isnan(result.next_logprobs[0]), result.tokens.next_id < 0)
    np.testing.assert_array_equal(result.next_ranks[0] == -1, result.tokens.next_id < 0)
    assert (np.diff(result.top_logprobs, axis=-1) <= 0).all()
    assert len(spots) == len(result.tokens.text)


# -- what is read off it -----------------------------------------------


def with_ranks(result, ranks):
    """The first tokens of a result with the given ranks of the final answer, [site, token]."""
    ranks = np.array(ranks, dtype=np.int32)
    return dataclasses.replace(result, final_ranks=ranks, sites=result.sites[: len(ranks)])


def test_settled_is_where_the_answer_becomes_top_1_and_stays(result):
    ranks = np.array(
        [
            [0, 0, 5, 3, 0],
            [0, 1, 4, 0, 0],
            [0, 0, 0, 2, 0],
            [0, 0, 0, 0, 1],
        ]
    )
    assert with_ranks(result, ranks).settled().tolist() == [0, 2, 2, 3, -1]
    assert with_ranks(result, ranks[:1]).settled().tolist() == [0, 0, -1, -1, 0]
    for token, site in enumerate(result.settled()):
        assert (result.top_ids[site:, token, 0] == result.final_ids[token]).all()
        assert site == 0 or result.top_ids[site - 1, token, 0] != result.final_ids[token]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_certificate_passes_up_to_its_tolerance_and_never_with_a_nan(dtype):
    certificate = lr.Certificate(0.0, 20.0, 0.0, 1.0, 5, dtype)
    allowed = certificate.tolerance
    assert 0 < allowed <= 1.0
    assert dataclasses.replace(certificate, max_logit_error=allowed).passed
    for error in (allowed * 1.01, math.nan, math.inf):
        bad = dataclasses.replace(certificate, max_logit_error=error)
        assert not bad.passed
        assert "NOT CERTIFIED" in str(bad)
        with pytest.raises(lr.LensError, match="Likely cause"):
            bad.check()
    assert not dataclasses.replace(certificate, max_abs_logit=math.nan).passed
    certificate.check()


def test_every_view_shows_the_mark(result):
    failed = dataclasses.replace(
        result, certificate=dataclasses.replace(result.certificate, max_logit_error=5.0)
    )
    raw = dataclasses.replace(
        result, provenance={**result.provenance, "arguments": {"apply_norm": False}}
    )
    assert result.mark == ""
    assert is_certified(result)
    assert not is_certified(dataclasses.replace(result, certificate=None))
    assert not is_certified(failed)
    assert not is_certified(raw)
    for marked, word in ((failed, "NOT CERTIFIED"), (raw, "not applied")):
        assert word in marked.mark
        for view in (str(marked), marked.summary(), str(marked[0])):
            assert word in view


# -- rows --------------------------------------------------------------

COLUMNS = [
    "certified",
    "layer",
    "component",
    "head",
    "prompt",
    "position",
    "input",
    "entropy",
    "kl_to_final",
]
COLUMNS += ["readable", "role", "k", "id", "text", "logprob", "prob", "rank"]
COLUMNS += ["fitted", "lens", "lens_source", "lens_digest", "edits"]


def test_the_frame_has_a_row_for_every_number(result):
    frame = result.to_frame()
    assert list(frame.columns) == COLUMNS
    n_sites, n_tokens, k = result.top_ids.shape
    assert frame["role"].value_counts().to_dict() == {
        "top": n_sites * n_tokens * k,
        "final": n_sites * n_tokens,
        "next": n_sites * (n_tokens - len(PROMPTS)),
        "target": n_sites * n_tokens * 2,
        "tracked": n_sites * int((result.tracked_ids >= 0).sum()),
    }
    assert frame["certified"].all()
    assert frame["prob"].between(0, 1).all()
    assert not frame[["logprob", "entropy", "kl_to_final", "id"]].isna().any().any()
    assert set(frame["component"]) == {"resid_post"}
    assert set(frame["layer"]) == {0, 1, 2, 3}


def test_the_frames_values_are_those_of_the_arrays(result):
    frame = result.to_frame()
    generator = np.random.default_rng(0)
    arrays = {
        "next": (result.next_logprobs[..., None], result.next_ranks[..., None]),
        "final": (result.final_logprobs[..., None], result.final_ranks[..., None]),
        "target": (result.target_logprobs, result.target_ranks),
        "top": (result.top_logprobs, None),
        "tracked": (result.tracked_logprobs, None),
    }
    for _, row in frame.iloc[generator.choice(len(frame), 200, replace=False)].iterrows():
        here = (result.tokens.prompt == row["prompt"]) & (result.tokens.position == row["position"])
        token = int(np.flatnonzero(here)[0])
        site, k = result.sites.index(lr.Site(row["layer"])), row["k"]
        logprobs, ranks = arrays[row["role"]]
        assert row["logprob"] == logprobs[site, token, k]
        assert row["prob"] == pytest.approx(math.exp(row["logprob"]))
        assert row["entropy"] == result.entropy[site, token]
        assert row["kl_to_final"] == result.kl_to_final[site, token]
        assert row["input"] == result.tokens.text[token]
        assert row["text"] == result.texts[row["id"]]
        if ranks is not None:
            assert row["rank"] == ranks[site, token, k]
        if row["role"] == "top":
            assert (row["id"], row["rank"]) == (result.top_ids[site, token, k], k)
        if row["role"] == "target":
            assert row["id"] == result.target_ids[row["prompt"], k]
        if row["role"] == "next":
            assert row["id"] == result.tokens.next_id[token]


def test_a_frame_without_targets_and_tracked_tokens_has_no_such_rows(llama):
    frame = lr.logit_lens(llama, [7], track=None, top_k=1).to_frame()
    assert list(frame.columns) == COLUMNS
    assert set(frame["role"]) == {"top", "final"}  # one token: nothing follows
    assert len(frame) == 8


def test_a_frame_without_pandas_says_how_to_get_it(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(lr.LensError, match=r"pip install 'lens-recipes\[frames\]'"):
        result.to_frame()
