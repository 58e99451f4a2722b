"""An attribution: its views, its files, its frame and its figures. No model: the numbers are made up here."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import sys
import warnings

import numpy as np
import pytest
from certificates import CERTIFICATES
from hostile import HOSTILE, assert_inert
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_recipes.arrays.attribution import AXES
from lens_recipes.arrays.axes import Part, Site, Tokens
from lens_recipes.arrays.certificate import Certificate, is_certified
from lens_recipes.arrays.text import visible_token
from lens_recipes.errors import LensError
from lens_recipes.results import Attribution, LensResult
from lens_recipes.views.figures.attribution.bars import attribution_bars
from lens_recipes.views.figures.attribution.maps import head_grid, source_map
from lens_recipes.views.figures.attribution.numbers import LogitFormat
from lens_recipes.views.tables.table import table
from lens_recipes.views.words import signed

UNITS = ("layer", "component", "head", "token")
SUFFIXES = (".json", ".npz")
PROMPTS = [["The", " capital", " of", " France", " is"], ["<script>", " $x$", "\n"], ["שלום"]]
GOOD = Certificate(1e-6, 20.0, 1e-8, 1.0, 5, "float32")
BAD = dataclasses.replace(GOOD, max_logit_error=5.0)


def parts_of(unit, layers, heads, sources):
    """The parts of a small made-up model; layer 1 has one head less than the others."""
    parts = [Part(None, "embed")]
    for layer in range(layers):
        here = range(heads - (layer == 1))
        if unit == "layer":
            parts.append(Part(layer, "layer"))
            continue
        if unit == "component":
            parts.append(Part(layer, "attn_out"))
        elif unit == "head":
            parts += [Part(layer, "head_out", head) for head in here]
        else:
            parts += [
                Part(layer, "head_out", head, source) for head in here for source in range(sources)
            ]
            parts += [Part(layer, "value_bias", head) for head in here]
        parts += [Part(layer, "attn_bias")] if unit in ("head", "token") else []
        parts.append(Part(layer, "mlp_out"))
    return [*parts, Part(None, "bias")]


def attribution(
    unit="head",
    prompts=PROMPTS,
    *,
    targets=2,
    layers=3,
    heads=4,
    softcap=None,
    certificate=GOOD,
    every=1,
    seed=0,
):
    """A made-up attribution, as the recipe would give it: no values where a prompt has no such source."""
    random = np.random.default_rng(seed)
    longest = max(map(len, prompts))
    parts = parts_of(unit, layers, heads, longest)
    spots = [
        (p, s)
        for p, texts in enumerate(prompts)
        for s in range((len(texts) - 1) % every, len(texts), every)
    ]
    words = {
        text: i for i, text in enumerate(dict.fromkeys([t for texts in prompts for t in texts]))
    }
    texts = {i: text for text, i in words.items()}
    names = [" Paris", " London", " Rome", "<b>", "$y$", "שלום"]
    texts |= {900 + i: name for i, name in enumerate(names)}
    values = random.standard_t(2, (len(parts), len(spots), targets)).astype(np.float32) / 4
    for i, part in enumerate(parts):
        for j, (_, position) in enumerate(spots):
            if part.source is not None and part.source > position:
                values[i, j] = 0
    total = values.sum(0)
    logit = total + np.float32(1e-5)
    target_ids = 900 + np.stack(
        [(np.arange(targets) + p) % len(names) for p in range(len(prompts))]
    ).astype(np.int32)
    against_ids = np.full_like(target_ids, 901)
    against_ids[:, 1:] = -1
    column = {
        name: np.zeros(len(spots), np.int32) for name in ("prompt", "position", "id", "next_id")
    }
    for j, (p, position) in enumerate(spots):
        following = prompts[p][position + 1 : position + 2]
        column["prompt"][j], column["position"][j] = p, position
        column["id"][j] = words[prompts[p][position]]
        column["next_id"][j] = words[following[0]] if following else -1
    return Attribution(
        unit=unit,
        at_layer=layers - 1,
        parts=parts,
        tokens=Tokens(
            **column,
            generated=np.zeros(len(spots), bool),
            text=[prompts[p][position] for p, position in spots],
        ),
        prompts=["".join(texts) for texts in prompts],
        sources=[list(texts) for texts in prompts] if unit == "token" else [],
        values=values,
        total=total,
        logit=logit,
        capped_logit=softcap * np.tanh(logit / softcap) if softcap else logit.copy(),
        error=np.abs(total - logit),
        target_ids=target_ids,
        against_ids=against_ids,
        against="the mean",
        texts=texts,
        certificate=certificate,
        provenance={"model": "made/up<b>", "arguments": {"unit": unit}},
    )


def assert_equal(one, other):
    """Equal to the bit, types and shapes included."""
    for name in AXES:
        a, b = getattr(one, name), getattr(other, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        np.testing.assert_array_equal(a, b, err_msg=name)
        assert a.tobytes() == b.tobytes() or np.isnan(a).any(), name
    for column in dataclasses.fields(Tokens):
        a, b = getattr(one.tokens, column.name), getattr(other.tokens, column.name)
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)
        assert column.name == "text" or a is None or a.dtype == b.dtype
    for name in (
        "unit",
        "at_layer",
        "parts",
        "prompts",
        "sources",
        "against",
        "texts",
        "provenance",
    ):
        a, b = getattr(one, name), getattr(other, name)
        assert a == b, name
        assert type(a) is type(b), name
    assert all(type(part) is Part for part in other.parts)
    assert repr(one.certificate) == repr(other.certificate)  # repr: NaN is not equal to itself


def through_a_file(result, path):
    result.save(path)
    return Attribution.load(path)


# -- files -------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("unit", UNITS)
def test_an_attribution_comes_back_from_a_file_as_it_was(tmp_path, unit, suffix):
    before = attribution(unit, softcap=30.0)
    assert_equal(before, through_a_file(before, tmp_path / f"a{suffix}"))
    assert_equal(before[2], through_a_file(before[2], str(tmp_path / f"one{suffix}")))
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"a{suffix}", f"one{suffix}"]


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    st.sampled_from(UNITS),
    st.integers(1, 2),
    st.lists(st.floats(width=32), min_size=1, max_size=8),
    st.none() | CERTIFICATES,
    st.text(st.characters(codec="utf-8"), max_size=5),
)
def test_any_attribution_comes_back_from_both_sorts_of_file(
    tmp_path_factory, unit, targets, numbers, proof, text
):
    folder = tmp_path_factory.mktemp("any")
    before = attribution(unit, [["a", text], [text]], targets=targets, certificate=proof)
    for name in ("values", "total", "logit", "error"):
        array = getattr(before, name)
        array[...] = np.resize(np.array(numbers, np.float32), array.shape)
    np.abs(before.error, out=before.error)
    for suffix in SUFFIXES:
        assert_equal(before, through_a_file(before, folder / f"a{suffix}"))
    json.loads(
        (folder / "a.json").read_text(encoding="utf-8"),
        parse_constant=lambda name: pytest.fail(name),
    )


NO_ERRORS = ("links", "max_link_layer", "worst_edit")
SUMS = [
    field.name
    for field in dataclasses.fields(Certificate)
    if field.default is None and field.name not in NO_ERRORS
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("value", [None, 0.25, math.nan, math.inf])
def test_an_optional_number_of_the_certificate_keeps_nan_apart_from_not_measured(
    tmp_path, value, suffix
):
    assert {"max_block_error", "max_total_error", "max_head_error"} <= set(SUMS)
    proof = dataclasses.replace(GOOD, max_kl=math.nan, links=3, **dict.fromkeys(SUMS, value))
    after = through_a_file(attribution(certificate=proof), tmp_path / f"a{suffix}").certificate
    assert repr(after) == repr(proof)
    assert (
        after.passed == proof.passed == (value is None)
    )  # a NaN fails, and still does after a file


def test_a_file_older_than_the_optional_numbers_can_be_read(tmp_path):
    result = attribution()
    result.save(tmp_path / "a.json")
    whole = json.loads((tmp_path / "a.json").read_text())
    for name in SUMS:
        whole["certificate"].pop(name, None)  # of links nothing is written where none was compared
    (tmp_path / "a.json").write_text(json.dumps(whole))
    assert Attribution.load(tmp_path / "a.json").certificate == result.certificate


def lens_result():
    made = attribution()
    n = len(made.tokens)
    ids, numbers = np.zeros((1, n, 1), np.int32), np.zeros((1, n, 1), np.float32)
    return LensResult(
        sites=[Site(0)],
        tokens=made.tokens,
        prompts=made.prompts,
        **dict.fromkeys(("top_ids", "target_ranks"), ids),
        **dict.fromkeys(
            ("top_logprobs", "target_logits", "target_logprobs", "tracked_logprobs"), numbers
        ),
        **dict.fromkeys(
            ("entropy", "kl_to_final", "logsumexp", "next_logprobs", "final_logprobs"),
            numbers[..., 0],
        ),
        **dict.fromkeys(("next_ranks", "final_ranks"), ids[..., 0]),
        final_ids=ids[0, :, 0],
        model_logprobs=numbers[0, :, 0],
        model_entropy=numbers[0, :, 0],
        target_ids=np.zeros((3, 1), np.int32),
        tracked_ids=ids[0],
        texts={0: "a"},
        certificate=GOOD,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_file_of_the_other_sort_is_told_with_its_reader(tmp_path, suffix):
    lens, parts = tmp_path / f"lens{suffix}", tmp_path / f"parts{suffix}"
    lens_result().save(lens)
    attribution().save(parts)
    assert LensResult.load(lens).sites == [Site(0)]
    assert len(Attribution.load(parts)) == 3
    with pytest.raises(
        LensError,
        match=r"is not an attribution but a lens result: read it with lr\.LensResult\.load",
    ):
        Attribution.load(lens)
    with pytest.raises(
        LensError,
        match=r"is not a lens result but an attribution: read it with lr\.Attribution\.load",
    ):
        LensResult.load(parts)


DAMAGES = {
    "another format": (
        lambda w: w.update(format="someone/else"),
        ["not an attribution", "someone/else"],
    ),
    "a list for a format": (lambda w: w.update(format=[1]), ["not an attribution"]),
    "another version": (lambda w: w.update(version=99), ["version 99", "reads 1"]),
    "a part less": (lambda w: w["parts"].pop(), ["values", "expected"]),
    "a part of words": (lambda w: w["parts"][0].__setitem__(0, "first"), ["no part", "layer"]),
    "a part without a name": (
        lambda w: w["parts"][0].__setitem__(1, None),
        ["no part", "component"],
    ),
    "a part too long": (lambda w: w["parts"][0].append(1), ["damaged"]),
    "an array less": (lambda w: w["arrays"].pop("capped_logit"), ["capped_logit"]),
    "transposed": (lambda w: w["shapes"].update(total=w["shapes"]["total"][::-1]), ["total"]),
    "no unit": (lambda w: w.pop("unit"), ["unit"]),
    "a unit that is none": (lambda w: w.update(unit="planet"), ["planet", "'head'"]),
    "a layer in words": (lambda w: w.update(at_layer="last"), ["at_layer", "'last'"]),
    "a prompt's sources less": (lambda w: w["sources"].pop(), ["sources"]),
    "sources as texts": (lambda w: w.update(sources=["a", "b", "c"]), ["sources"]),
    "sources of numbers": (lambda w: w["sources"][0].__setitem__(0, 1), ["texts"]),
    "no against": (lambda w: w.update(against=None), ["against"]),
    "a certificate less": (lambda w: w["certificate"].pop("max_kl"), ["max_kl"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_json_that_is_not_what_it_says_is_told(tmp_path, name):
    change, words = DAMAGES[name]
    path = tmp_path / "a.json"
    attribution("token").save(path)
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    with pytest.raises(LensError) as error:
        Attribution.load(path)
    assert all(word in str(error.value) for word in ["a.json", *words]), str(error.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_broken_missing_or_misnamed_file_is_told(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    result = attribution()
    result.save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1], b"\x00" + whole[1:], b"[]"):
        path.write_bytes(damaged)
        with pytest.raises(LensError, match="not an attribution, or not whole"):
            Attribution.load(path)
    with pytest.raises(LensError, match="there is no file"):
        Attribution.load(tmp_path / f"none{suffix}")
    for call in (Attribution.load, result.save):
        with pytest.raises(ValueError, match=r"\.json or \.npz"):
            call(tmp_path / "a.pkl")
    with pytest.raises(LensError, match="cannot write"):
        result.save(tmp_path / "no" / f"a{suffix}")


# -- one prompt --------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_one_prompts_view_has_its_own_tokens_targets_and_sources(unit):
    result = attribution(unit)
    assert len(result) == 3
    assert [one.prompts for one in result] == [[prompt] for prompt in result.prompts]
    for number, one in enumerate(result):
        here = result.tokens.prompt == number
        assert one.tokens.text == PROMPTS[number]
        assert (one.tokens.prompt == 0).all()
        np.testing.assert_array_equal(one.total, result.total[here])
        np.testing.assert_allclose(one.values.sum(0), one.total, atol=1e-4)
        np.testing.assert_array_equal(one.target_ids, result.target_ids[number : number + 1])
        assert one.values.shape == (len(one.parts), len(one.tokens), 2)
        kept = [p for p, part in enumerate(result.parts) if part in one.parts]
        np.testing.assert_array_equal(one.values, result.values[kept][:, here])
        lost = [part for part in result.parts if part not in one.parts]
        assert all(part.source is not None and part.source >= len(PROMPTS[number]) for part in lost)
        assert len(lost) == (
            11 * (5 - len(PROMPTS[number])) if unit == "token" else 0
        )  # 4 + 3 + 4 heads
        assert one.sources == ([PROMPTS[number]] if unit == "token" else [])
    assert_equal(result[1], result[1][0])
    assert_equal(result[-1], result[2])
    with pytest.raises(IndexError, match=r"prompt 3 .* holds 3"):
        result[3]
    with pytest.raises(TypeError, match="whole number"):
        result["one"]


def test_a_target_is_named_with_what_it_is_compared_to():
    result = attribution()
    assert result.target_name(0, 0) == "·Paris − ·London"
    assert result.target_name(0, 1) == "·London − the mean"
    plain = dataclasses.replace(
        result, against="", against_ids=np.full_like(result.against_ids, -1)
    )
    assert plain.target_name(2, 1) == "<b>"


# -- largest parts, heads ----------------------------------------------


def test_the_top_parts_are_the_largest_of_either_sign():
    result = attribution("token")
    top = result.top(7, prompt=1, position=0, target=1)
    one = result[1]
    sizes = np.sort(np.abs(one.values[:, 0, 1]))[::-1]
    assert [abs(value) for _, value in top] == sizes[:7].tolist()
    assert {value < 0 for _, value in top} == {True, False}
    assert all(one.values[one.parts.index(part), 0, 1] == value for part, value in top)
    assert len(result.top(None)) == len(result.top(10**6)) == len(result[0].parts)
    one.values[5, 0, 1] = math.nan
    one.values[3, 0, 1] = -math.inf
    (first, nan), (second, infinite) = sorted(
        one.top(2, position=0, target=1), key=lambda pair: pair[1] != pair[1]
    )[::-1]
    assert math.isnan(nan)
    assert (first, second, infinite) == (one.parts[5], one.parts[3], -math.inf)


@pytest.mark.parametrize("unit", UNITS)
def test_the_layers_the_embedding_and_the_biases_are_the_whole(unit):
    result = attribution(unit)
    layers, added = result.by_layer(prompt=1, position=0, target=1)
    assert layers == [0, 1, 2]
    one = result[1]
    rest = [p for p, part in enumerate(one.parts) if part.component in ("embed", "bias")]
    total = one.values[:, 0, 1].sum()
    assert added.sum() + one.values[rest, 0, 1].sum() == pytest.approx(total, abs=1e-4)


def test_a_component_by_layer_is_its_parts():
    result = attribution("component")
    layers, added = result.by_layer("mlp_out", target=1)
    mine = [p for p, part in enumerate(result.parts) if part.component == "mlp_out"]
    assert layers == [result.parts[p].layer for p in mine]
    np.testing.assert_allclose(added, result[0].values[mine, -1, 1], rtol=1e-6)
    with pytest.raises(
        ValueError, match="component='mlp' is not in this result; its parts are embed, attn_out"
    ):
        result.by_layer("mlp")


@pytest.mark.parametrize("unit", ["head", "token"])
def test_the_grid_holds_each_heads_whole_write(unit):
    result = attribution(unit)
    layers, grid = result.grid(1, -2, 1)
    assert layers == [0, 1, 2]
    assert grid.shape == (3, 4)
    assert np.isnan(grid).sum() == 1
    assert np.isnan(grid[1, 3])  # the head that layer 1 lacks
    one = result[1]
    for layer in layers:
        for head in range(4 - (layer == 1)):
            mine = [
                p for p, part in enumerate(one.parts) if (part.layer, part.head) == (layer, head)
            ]
            assert len(mine) == (
                1 if unit == "head" else 3 + 1
            )  # the sources of prompt 1, and the bias of the values
            assert grid[layer, head] == pytest.approx(one.values[mine, -2, 1].sum(), abs=1e-5)


def test_a_grid_of_infinities_is_no_warning():
    result = attribution("token")
    mine = [p for p, part in enumerate(result.parts) if (part.layer, part.head) == (0, 0)][:2]
    result.values[mine, :, :] = np.array([math.inf, -math.inf])[:, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(result.grid()[1][0, 0])


def test_a_heads_sources_are_its_parts_in_the_order_of_the_prompt():
    result = attribution("token")
    for prompt, tokens in enumerate(PROMPTS):
        added = result.by_source(2, 3, prompt=prompt, position=0)
        one = result[prompt]
        assert added.shape == (len(tokens),) == (len(one.sources[0]),)
        for source, value in enumerate(added):
            assert value == one.values[one.parts.index(Part(2, "head_out", 3, source)), 0, 0]
    with pytest.raises(
        ValueError, match=r"no head 3 in layer 1 of this result; its last is \(2, 3\)"
    ):
        result.by_source(1, 3)
    with pytest.raises(ValueError, match='unit="token"'):
        attribution("head").by_source(0, 0)


@pytest.mark.parametrize("unit", ["layer", "component"])
def test_a_grid_without_heads_says_which_unit_has_them(unit):
    with pytest.raises(ValueError, match=f'unit={unit!r}.*unit="head" or unit="token"'):
        attribution(unit).grid()
    with pytest.raises(ValueError, match="heads"):
        dataclasses.replace(attribution(unit), unit="head").grid()  # a model without attention


WRONG = {
    "prompt": ({"prompt": 3}, ["prompt=3", "3 prompts", "-3 to 2"]),
    "token": (
        {"prompt": 1, "position": 5},
        ["position=5", "3 tokens", "-3 to 2", "not a position"],
    ),
    "target": ({"target": -3}, ["target=-3", "2 targets", "·Paris − ·London"]),
    "a text": ({"target": " Paris"}, ["target=' Paris'", "whole number"]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("view", ["top", "grid", attribution_bars, head_grid, source_map])
def test_a_wrong_prompt_token_or_target_says_what_is_accepted(view, name):
    result = attribution("token")
    arguments, words = WRONG[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        getattr(result, view)(**arguments) if isinstance(view, str) else view(result, **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_no_targets_and_no_parts_asked_for_are_told():
    with pytest.raises(ValueError, match="there are no targets"):
        attribution(targets=0).top()
    for call in (lambda: attribution().top(0), lambda: attribution_bars(attribution(), top=0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            call()


# -- rows --------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_the_rows_of_the_frame_sum_to_the_totals(unit):
    result = attribution(unit)
    frame = result.to_frame()
    columns = [
        "certified",
        "layer",
        "component",
        "head",
        "source",
        "source_text",
        "prompt",
        "position",
        "input",
    ]
    columns += [
        "target",
        "target_id",
        "against",
        "value",
        "lens",
        "lens_source",
        "lens_digest",
        "edits",
    ]
    assert list(frame.columns) == columns
    assert len(frame) == sum(one.values.size for one in result)
    sums = frame.groupby(["prompt", "position", "target_id"])["value"].sum()
    assert len(sums) == result.total.size
    for (prompt, position, target), value in sums.items():
        token = np.flatnonzero(
            (result.tokens.prompt == prompt) & (result.tokens.position == position)
        )[0]
        k = result.target_ids[prompt].tolist().index(target)
        assert value == pytest.approx(result.total[token, k], abs=1e-4)
    assert frame["certified"].all()
    assert str(frame["layer"].dtype) == "Int64"
    assert set(frame["layer"].dropna()) == {0, 1, 2}


def test_the_rows_of_the_frame_say_what_the_arrays_say():
    result = attribution("token", certificate=BAD)
    frame = result.to_frame()
    assert not frame["certified"].any()
    seen = 0
    for row in frame.sample(200, random_state=0).itertuples():
        nothing = {
            name: None
            if getattr(row, name) is frame["layer"].dtype.na_value
            else getattr(row, name)
            for name in ("layer", "head", "source")
        }
        part = result.parts.index(
            Part(nothing["layer"], row.component, nothing["head"], nothing["source"])
        )
        token = np.flatnonzero(
            (result.tokens.prompt == row.prompt) & (result.tokens.position == row.position)
        )[0]
        k = result.target_ids[row.prompt].tolist().index(row.target_id)
        assert row.value == result.values[part, token, k]
        assert row.input == PROMPTS[row.prompt][row.position]
        assert row.target == result.texts[row.target_id]
        assert row.against == (" London" if k == 0 else "the mean")
        if nothing["source"] is not None:
            assert row.source_text == PROMPTS[row.prompt][row.source]
            seen += 1
    assert seen > 50


def test_a_frame_without_pandas_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(LensError, match=r"pip install 'lens-recipes\[frames\]'"):
        attribution().to_frame()


# -- texts -------------------------------------------------------------


def test_the_table_has_the_largest_parts_and_their_sums():
    result = attribution("head", softcap=30.0)
    text = str(result)
    for number, one in enumerate(result):
        block = text.split("after token")[1 + number].splitlines()
        for k in range(2):
            for part, value in result.top(10, prompt=number, target=k):
                assert any(f"{part} " in line and signed(value) in line for line in block), part
            total = next(line for line in block if line.startswith("total"))
            assert signed(one.total[-1, k]) in total
            others = next(line for line in block if line.startswith("all the others (9)"))
            shown = [value for _, value in result.top(10, prompt=number, target=k)]
            rest = float(others.split(")")[1 + k].split()[0])
            assert sum(shown) + rest == pytest.approx(one.total[-1, k], abs=0.006)
    for word in (
        "·Paris − ·London",
        "all the others",
        "the softcap takes away",
        "after the softcap",
        "error",
        "certified",
    ):
        assert word in text
    assert "softcap" not in str(attribution("head"))
    assert "others" not in str(attribution("layer"))
    assert "NOT CERTIFIED" not in text


def test_only_three_prompts_are_in_the_table_and_the_others_are_counted():
    result = attribution("layer", [["a"], ["b"], ["c"], ["d"], ["e"]])
    text = table(result, max_prompts=3)
    assert text.count("after token") == 3
    assert "and 2 more prompts" in text
    assert "layer 2" in text


def test_many_targets_stand_in_grids_below_each_other():
    text = str(attribution("layer", [["a"]], targets=6))
    assert text.count("the logit ") == 6
    assert len([line for line in text.splitlines() if line.startswith("part")]) == 2


@pytest.mark.parametrize("unit", UNITS)
def test_the_summary_has_both_signs_the_kinds_and_what_to_distrust(unit):
    result = attribution(unit, softcap=30.0, layers=9)
    text = result.summary()
    one = result[0]
    values = one.values[:, -1, 0]
    best, worst = one.parts[int(values.argmax())], one.parts[int(values.argmin())]
    name = (lambda part: f"layer {part.layer}") if unit == "layer" else str
    helping, hurting = (
        next(line for line in text.splitlines() if word in line) for word in ("helping", "hurting")
    )
    assert f"helping most: {name(best)}" in helping
    assert f"hurting most: {name(worst)}" in hurting
    assert f"the logit of ·Paris − ·London is {signed(one.logit[-1, 0])}" in text
    assert f"embed {signed(values[0])}" in text
    kinds = next(line for line in text.splitlines() if "sum of each kind" in line)
    assert all(kind in kinds for kind in {part.component for part in one.parts})
    assert ("read most from: token" in text) == (unit == "token")
    assert text.splitlines()[-1].startswith("distrust: direct effects only")
    assert text.count("distrust:") == 1
    assert "one prompt is one observation" in result[0].summary()
    assert "nothing to compare with" in dataclasses.replace(result, certificate=None).summary()


def test_the_share_of_the_top_parts_is_theirs():
    result = attribution("component", [["a"]], targets=1)
    values = result.values[:, 0, 0]
    values[:] = 0
    values[:8] = [4, 3, 2, 1, -1, -2, -3, -4]
    assert "these 6 give +0.00 of the total" in result.summary()
    assert "much else cancels" not in result.summary()
    many = attribution("head", [["a"]], targets=1, layers=6)
    many.values[:] = 1
    assert "; much else cancels" in many.summary()


def test_every_view_shows_the_mark():
    result = attribution("token", certificate=BAD)
    assert result.mark == "NOT CERTIFIED"
    assert not is_certified(result)
    assert attribution("token").mark == ""
    assert is_certified(attribution("token"))
    assert "distrust: NOT CERTIFIED" in result.summary()
    figures = [
        view(result).layout.title.subtitle.text
        for view in (attribution_bars, head_grid, source_map)
    ]
    for view in (str(result), repr(result), result.summary(), *figures, str(result[1])):
        assert "NOT CERTIFIED" in view
    for view in (attribution_bars, head_grid, source_map):
        assert ", certified" in view(attribution("token")).layout.title.subtitle.text
        assert (
            "ertified"
            not in view(attribution("token", certificate=None)).layout.title.subtitle.text
        )
    assert (
        repr(attribution("layer")[0])
        == "Attribution(made/up<b>, by layer: 1 prompt, 5 tokens, 5 parts, 2 targets)"
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.0])
def test_nothing_breaks_on_numbers_that_are_none(unit, number):
    result = attribution(unit)
    result.values[::2] = number
    result.values[1] = math.inf
    for array in (result.total, result.logit, result.capped_logit, result.error):
        array[:] = number
    assert str(result)
    assert "nan" in result.summary() or not math.isnan(number)
    assert len(result.to_frame()) == sum(one.values.size for one in result)
    views = [
        attribution_bars,
        *([head_grid] if unit in ("head", "token") else []),
        *([source_map] * (unit == "token")),
    ]
    for view in views:
        figure = view(result)
        trace = figure.data[0]
        drawn = trace.x if view is attribution_bars else trace.z
        assert not np.isinf(drawn).any()
        assert "Infinity" not in figure.to_json()


# -- figures -----------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("top", [None, 1, 3, 10**4])
def test_the_bars_sum_to_the_total_and_hold_embedding_and_bias(unit, top):
    result = attribution(unit, layers=9)
    for place in ({"prompt": 0}, {"prompt": 1, "position": 0, "target": 1}):
        figure = attribution_bars(result, top=top, **place)
        trace, names = figure.data[0], list(figure.layout.yaxis.ticktext)
        one, token, k = (
            result[place.get("prompt", 0)],
            place.get("position", -1),
            place.get("target", 0),
        )
        assert sum(trace.x) == pytest.approx(one.total[token, k], abs=1e-4)
        assert {"embed", "bias"} <= set(names)
        assert len(names) == len(set(names)) == len(trace.x) == len(trace.marker.color)
        rest = len(one.parts) - 2 - (top or (100 if unit == "layer" else 20))
        assert (f"all the others ({rest})" in names) == (rest > 0)
        assert any("others" in name for name in names) == (rest > 0)
        assert len(names) == len(one.parts) if rest <= 0 else len(one.parts) - rest + 1
        subtitle = figure.layout.title.subtitle.text
        shown_total = LogitFormat.fit(np.array(trace.x)).write(one.total[token, k])
        assert f"after layer {one.at_layer}: {shown_total}" in subtitle
        for value, color in zip(trace.x, trace.marker.color, strict=True):
            assert color in ("#9a9a9a", "#2166ac" if value >= 0 else "#c8501e")
        low, high = figure.layout.xaxis.range
        assert low < min(trace.x)
        assert high > max(trace.x)


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 0.2, 1.0, 1e4, 1e9])
def test_the_numbers_of_one_figure_are_written_alike(scale):
    result = attribution("head")
    result.values[:] *= scale
    result.values[0] = 0
    texts = list(attribution_bars(result, top=8, prompt=0).data[0].text)
    colorbar = head_grid(result).data[0].colorbar
    for numbers in (texts, list(colorbar.ticktext)):
        assert "-" not in "".join(numbers)
        tails = [text.split(".")[1] for text in numbers if text.strip("0.")]
        assert len({len(tail.split("e")[0]) for tail in tails}) == 1
        assert len({"e" in tail for tail in tails}) == 1
    largest = max(np.abs(attribution_bars(result, top=8, prompt=0).data[0].x))
    shown = max(abs(float(text.replace("−", "-"))) for text in texts)
    assert shown == pytest.approx(largest, rel=0.006)


def test_a_number_that_rounds_to_zero_has_no_sign_and_its_hover_says_what_it_is():
    result = attribution("component")
    result.values[:] = 3.0
    result.values[1] = -0.0012
    figure = attribution_bars(result, prompt=0)
    (place,) = [row for row, value in enumerate(figure.data[0].x) if abs(value) < 1]
    assert figure.data[0].text[place] == "0.00"
    assert "−0.0012 logits" in figure.data[0].customdata[place]


def test_the_logit_stands_once_below_the_title_unless_it_is_not_the_sum():
    result = attribution("component")
    result.values[0] = 3  # two decimals
    result.total[:] = result.logit[:] = result.capped_logit[:] = 12.84
    assert attribution_bars(result, prompt=0).layout.title.subtitle.text.count("12.84") == 1
    result.capped_logit[:] = 11.5
    assert (
        "+12.84; +11.50 after the softcap"
        in attribution_bars(result, prompt=0).layout.title.subtitle.text
    )
    result.total[:] = 12.5
    subtitle = attribution_bars(result, prompt=0).layout.title.subtitle.text
    assert "all parts after layer 2: +12.50; the logit: +12.84; +11.50 after the" in subtitle


@pytest.mark.parametrize("view", [attribution_bars, head_grid, source_map])
def test_the_prompt_is_quoted_below_the_title(view):
    result = attribution("token", [["The", " capital", " of"], [" x"] * 300])
    assert "“\u2068The capital of\u2069”, after token 2" in view(result).layout.title.subtitle.text
    figure = view(result, prompt=1)
    first_line = figure.layout.title.subtitle.text.split("<br>")[0]
    assert "…" in first_line
    assert len(first_line) * 6 < figure.layout.width


def test_a_map_is_as_large_as_its_cells_and_both_ends_of_its_scale_have_numbers():
    sizes = []
    for n_layers, n_heads in ((6, 12), (6, 24), (12, 24)):
        figure = head_grid(attribution("head", layers=n_layers, heads=n_heads))
        layout = figure.layout
        cells_height = layout.height - layout.margin.t - layout.margin.b
        sizes.append((layout.width, cells_height))
        trace = figure.data[0]
        assert (min(trace.colorbar.tickvals), max(trace.colorbar.tickvals)) == (
            trace.zmin,
            trace.zmax,
        )
        ends = [trace.colorbar.ticktext[0], trace.colorbar.ticktext[-1]]
        assert [float(end.replace("−", "-")) for end in ends] == pytest.approx(
            [trace.zmin, trace.zmax], abs=0.006
        )
        assert cells_height <= 24 * max(n_layers, 5)
        assert layout.width <= 220 + 50 * n_heads
        assert layout.width > 8 * len(html.unescape(layout.title.text))
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]
    assert sizes[1][1] < sizes[2][1]


def test_bars_stand_by_size_or_in_the_order_of_the_model():
    heads = attribution_bars(attribution("head")[0], top=5).data[0].x
    own = np.abs(heads[:-1]).tolist()
    assert own == sorted(own, reverse=True)
    model = [f"layer {layer}" for layer in range(30)]
    layers = attribution_bars(attribution("layer", layers=30)[0])
    assert list(layers.layout.yaxis.ticktext) == ["embed", *model, "bias"]
    few = attribution_bars(attribution("component")[0])
    assert list(few.layout.yaxis.ticktext)[1:4] == ["0.attn_out", "0.mlp_out", "1.attn_out"]
    many = np.abs(attribution_bars(attribution("component", layers=30)[0]).data[0].x[:-1]).tolist()
    assert many == sorted(many, reverse=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_colours_of_a_map_are_the_same_to_both_sides_of_zero(sign):
    result = attribution("token")
    result.values[:] = sign * np.abs(result.values) - 0.1  # nearly all of one sign
    for figure in (head_grid(result), source_map(result), source_map(result, head=2)):
        trace = figure.data[0]
        assert trace.zmin == -trace.zmax
        assert trace.zmax == pytest.approx(np.nanmax(np.abs(trace.z)))
        stops = dict(trace.colorscale)
        assert (stops[0], stops[1]) == ("#c8501e", "#2166ac")
        assert stops[0.5] == "#fafafa"
    zeros = attribution("head")
    zeros.values[:] = 0
    assert head_grid(zeros).data[0].zmax > 0


@pytest.mark.parametrize("unit", ["head", "token"])
def test_the_head_grid_is_the_grid_with_places_by_size(unit):
    result = attribution(unit)
    layers, grid = result.grid(1, 0, 1)
    figure = head_grid(result, prompt=1, position=0, target=1)
    trace = figure.data[0]
    np.testing.assert_array_equal(trace.z, grid)
    assert list(figure.layout.yaxis.ticktext)[::-1] == [str(layer) for layer in layers]
    row, head = divmod(int(np.nanargmax(np.abs(grid))), 4)
    assert "number 1 of 11 heads" in trace.customdata[row][head]
    assert f"layer {row}, head {head}" in trace.customdata[row][head]
    assert trace.text[row][head] != ""
    assert trace.customdata[1][3] == "layer 1 has no head 3"
    places = [
        cell.split("number ")[1].split()[0]
        for line in trace.customdata
        for cell in line
        if "number" in cell
    ]
    assert sorted(map(int, places)) == list(range(1, 12))


@pytest.mark.parametrize("head", [None, 0, 3])
def test_the_source_map_sums_heads_and_leaves_out_what_comes_later(head):
    result = attribution("token")
    z = source_map(result, position=2, target=1, head=head).data[0].z
    assert z.shape == (3, 3)  # token 2 does not see tokens 3 and 4
    one = result[0]
    for layer in range(3):
        for source in range(3):
            mine = [
                p
                for p, part in enumerate(one.parts)
                if (part.layer, part.source) == (layer, source) and head in (None, part.head)
            ]
            if head == 3 and layer == 1:
                assert np.isnan(z[layer, source])
            else:
                assert z[layer, source] == pytest.approx(one.values[mine, 2, 1].sum(), abs=1e-5)
    figure = source_map(result, position=2, target=1, head=head)
    note = figure.layout.title.subtitle.text.split("in this map: ")[1].split("<br>")[0]
    assert float(note.replace("−", "-")) == pytest.approx(np.nansum(z), abs=0.006)
    assert [label.split("<br>")[0] for label in figure.layout.xaxis.ticktext] == [
        "The",
        "·capital",
        "·of",
    ]


def test_a_map_of_another_unit_or_head_says_what_is_accepted():
    with pytest.raises(ValueError, match=r"unit='head'.*unit=\"token\""):
        source_map(attribution("head"))
    with pytest.raises(ValueError, match=r"head=4 .* accepted are 0, 1, 2, 3"):
        source_map(attribution("token"), head=4)
    with pytest.raises(ValueError, match=r"unit='layer'.*unit=\"head\""):
        head_grid(attribution("layer"))


@pytest.mark.parametrize("view", [attribution_bars, head_grid, source_map])
def test_hostile_texts_are_shown_as_they_are_written(view):
    result = attribution("token", [HOSTILE], targets=3)
    result.texts.update({900: "</script>", 901: "<img>", 902: "$z$"})
    result = dataclasses.replace(result, against="<i>mean</i> $m$")
    result.provenance["model"] = "<u>model</u>$"
    for target in range(3):
        figure = view(result, target=target)
        assert_inert(figure)
        assert "&lt;u&gt;model&lt;/u&gt;&#36;" in figure.layout.title.subtitle.text
        assert (
            result.target_name(0, target) == html.unescape(figure.layout.title.text).split(": ")[0]
        )


def test_tokens_that_read_right_to_left_turn_nothing_else_round():
    result = attribution("token", [["שלום", " a"]])
    result.texts[900] = "שלום"
    figure = source_map(result)
    assert figure.layout.xaxis.ticktext[0].startswith("\u2068שלום\u2069")
    assert figure.layout.title.text.startswith("\u2068שלום\u2069 − ")
    labels = attribution_bars(result, top=10**4).layout.yaxis.ticktext
    assert "0.head_out.0←0 \u2068שלום\u2069" in labels


def test_labels_are_the_words_of_the_tokens():
    long = [f" word{i}" for i in range(400)]
    figure = source_map(attribution("token", [long], layers=2, heads=2, every=400))
    assert len(figure.layout.xaxis.ticktext) <= 150
    for tick, label in zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True):
        assert label == visible_token(long[tick])
    deep = head_grid(attribution("head", layers=126, heads=128))
    assert len(deep.layout.yaxis.ticktext) <= 44
    assert deep.layout.yaxis.ticktext[0] == "125"
    assert attribution_bars(attribution(), title="mine").layout.title.text == "mine"


def test_top_of_one_component_and_one_sign():
    result = attribution("component")
    every = result.top(10**6)
    for component in ("attn_out", "mlp_out"):
        for sign in (1, -1):
            found = result.top(10**6, component=component, sign=sign)
            assert found == [(p, v) for p, v in every if p.component == component and v * sign > 0]
    with pytest.raises(
        ValueError, match="component='head_out' is not in this result; its parts are"
    ):
        result.top(component="head_out")
    with pytest.raises(ValueError, match="sign=2 must be"):
        result.top(sign=2)
