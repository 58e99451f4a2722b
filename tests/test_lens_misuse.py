"""What a careless or hostile user makes of lenses: a sentence, and no number that is none."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tiny
import torch
from lenses import random_lens

import lens_recipes as lr
from lens_recipes.lenses.lens import Lens
from lens_recipes.trace.transport import Affine

IDS = tiny.random_ids(batch=1, length=7, seed=5)


def changed(lens: Lens, change) -> Lens:
    """A lens whose every transport is changed."""
    return dataclasses.replace(
        lens, transports={layer: change(each) for layer, each in lens.transports.items()}
    )


# -- lenses that were made up ------------------------------------------


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_lens_with_numbers_that_are_not_finite_reads_nothing_and_is_not_saved(number, tmp_path):
    model = tiny.shared("llama")
    lens = changed(random_lens(model), lambda each: each._replace(weight=each.weight * number))
    with pytest.raises(lr.LensError, match="NaN or infinite"):
        lr.logit_lens(model, IDS, lens=lens)
    with pytest.raises(lr.LensError, match="NaN or infinite"):
        lens.save(tmp_path / "lens.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_a_transport_makes_too_large_is_refused_and_has_no_rank():
    model = tiny.shared("llama")
    lens = changed(random_lens(model), lambda each: Affine(torch.full_like(each.weight, 3e38)))
    with pytest.raises(lr.LensError, match=r"resid_post of layer 0, position 0 of prompt 0.*dtype"):
        lr.logit_lens(model, IDS, targets=[7], lens=lens)


MADE_UP = {
    "dtype": lambda each: each._replace(weight=each.weight.long()),
    "complex": lambda each: each._replace(weight=each.weight.to(torch.complex64)),
    "no matrix": lambda each: each._replace(weight=each.weight[0]),
    "narrow bias": lambda each: each._replace(bias=each.bias[:5]),
    "bias with two axes": lambda each: each._replace(bias=each.bias[None]),
    "numpy": lambda each: each._replace(weight=each.weight.numpy()),
    "sparse": lambda each: each._replace(weight=each.weight.to_sparse()),
    "meta": lambda each: each._replace(weight=each.weight.to("meta")),
    "tuple": lambda each: (each.weight, each.bias),
    "nothing": lambda each: None,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_transports_that_are_none_are_refused_where_the_lens_is_made(name):
    lens = random_lens(tiny.shared("llama"))
    with pytest.raises(ValueError, match="of layer -1 is "):
        changed(lens, MADE_UP[name])


@pytest.mark.parametrize("layer", [-2, "0", True, 0.0])
def test_layers_are_numbers_of_streams(layer):
    affine = Affine(torch.eye(32))
    with pytest.raises(ValueError, match="a transport"):
        Lens("linear", {layer: affine})


@pytest.mark.parametrize("transports", [None, {}, []])
def test_a_lens_has_transports(transports):
    with pytest.raises(ValueError, match="at least one"):
        Lens("linear", transports)


def test_the_kind_of_a_lens_is_known():
    for kind in ("logit", "foo", None):
        with pytest.raises(ValueError, match="lenses are linear"):
            Lens(kind, {0: Affine(torch.eye(32))})


# -- what names a lens -------------------------------------------------


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path, monkeypatch):
    model = tiny.shared("llama")
    random_lens(model).save(tmp_path / "lens.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="empty name"):
        lr.logit_lens(model, IDS, lens="")


def test_what_is_no_lens_is_shown_in_few_words():
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match="is no lens") as raised:
        lr.logit_lens(model, IDS, lens=random_lens(model).transports)
    assert len(str(raised.value)) < 400


# -- texts -------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    """A model that reads strings."""
    return lr.load(
        tiny.llama(vocab_size=tiny.STRING_VOCAB, num_hidden_layers=2),
        tokenizer=tiny.tiny_tokenizer(),
    )


@pytest.mark.parametrize(
    "texts", [["\ud800 half a surrogate"], [[10**30, 5]]], ids=["surrogate", "huge id"]
)
def test_texts_that_no_tokenizer_has_are_refused_in_words(reader, texts):
    with pytest.raises(ValueError, match=r"no text that can be tokenised|is no token id"):
        lr.fit_lens(reader, texts, tokens=100)


def test_json_lines_in_another_encoding_are_refused_in_words(reader, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'{"text": "abc \xff"}\n')
    with pytest.raises(ValueError, match=r"texts.jsonl' is no text in UTF-8"):
        lr.fit_lens(reader, path, tokens=100)


def test_a_mark_of_the_byte_order_is_no_text(reader, tmp_path):
    lines = [json.dumps({"text": f"the cat sat on the mat {number}"}) for number in range(40)]
    plain, marked = tmp_path / "plain.jsonl", tmp_path / "marked.jsonl"
    plain.write_text("\n".join(lines), encoding="utf-8")
    marked.write_text("\n".join(lines), encoding="utf-8-sig")
    options = {"tokens": 300, "quality_tokens": 0, "layers": [0]}
    assert lr.fit_lens(reader, plain, **options).digest == (
        lr.fit_lens(reader, marked, **options).digest
    )


def test_a_file_of_one_endless_line_is_read_in_blocks(tmp_path):
    from lens_recipes.recipes.lenses.text.texts import BLOCK_CHARACTERS, text_blocks

    path = tmp_path / "text.txt"
    text = "a" * (5 * BLOCK_CHARACTERS) + "\nthe end"
    path.write_text(text)
    blocks = list(text_blocks(path))
    assert "".join(blocks) == text
    assert max(map(len, blocks)) <= 2 * BLOCK_CHARACTERS


# -- arguments of a fit ------------------------------------------------

ROWS = tiny.random_ids(40, 30, seed=3).tolist()
SMALL = {"tokens": 900, "quality_tokens": 0, "layers": [0, 1]}


@pytest.mark.parametrize(
    "options",
    [
        {"kind": []},
        {"kind": "tuned", "steps": 0},
        {"kind": "tuned", "steps": -1},
        {"kind": "tuned", "steps": 1.5},
        {"kind": "tuned", "tokens_per_step": 0},
        {"path": "lens.pt"},
        {"path": ""},
        {"path": b"lens.safetensors"},
        {"path": 3},
        {"path": "a\0b.safetensors"},
    ],
    ids=str,
)
def test_arguments_that_no_fit_can_use_are_refused_before_anything_is_computed(options, tmp_path):
    name = next(reversed(options))
    with pytest.raises(ValueError, match=rf"^{name}=.*must"):
        lr.fit_lens(tiny.shared("llama"), ROWS, **{**SMALL, **options})


def test_a_name_that_is_too_long_for_a_file_is_refused_in_words(tmp_path):
    with pytest.raises(lr.LensError, match="cannot write"):
        lr.fit_lens(
            tiny.shared("llama"), ROWS, path=tmp_path / ("x" * 300 + ".safetensors"), **SMALL
        )


def test_a_site_that_a_lens_lacks_is_named_once():
    model = tiny.shared("llama")
    lens = random_lens(model, layers=[0])
    with pytest.raises(ValueError, match=r"for head_out of layer 1\."):
        lr.logit_lens(model, IDS, layers=1, components="head_out", lens=lens)


# -- merging -----------------------------------------------------------


@pytest.fixture(scope="module")
def shards():
    """Fits on the two halves of a text."""
    model = tiny.shared("llama")
    return [lr.fit_lens(model, ROWS, shard=(number, 2), **SMALL) for number in (1, 2)]


def with_sum(lens: Lens, name: str, change) -> Lens:
    """A lens one of whose sums is changed, or left out."""
    sums = dict(lens.sums)
    sums[name] = change(sums[name])
    if sums[name] is None:
        del sums[name]
    return dataclasses.replace(lens, sums=sums)


DAMAGES = {
    "other shape": lambda value: value[:, :3],
    "not finite": lambda value: value * float("nan"),
    "left out": lambda value: None,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_sums_are_not_merged(shards, name):
    first, second = shards
    with pytest.raises(ValueError, match="damaged"):
        Lens.merge([with_sum(first, "a.xx", DAMAGES[name]), second])
    with pytest.raises(ValueError, match="damaged"):
        Lens.merge([first, with_sum(second, "b.xy", DAMAGES[name])])


def test_a_fit_of_which_only_the_rows_are_known_is_not_merged(shards):
    first, second = shards
    bare = dataclasses.replace(first, sums={"rows": first.sums["rows"]})
    with pytest.raises(ValueError, match="does not hold what its fit added up"):
        Lens.merge([bare, second])


def test_what_is_merged_are_lenses(shards):
    assert Lens.merge(shards[0]).digest == shards[0].digest  # one lens is its own merge
    for wrong in ("lens.safetensors", ["lens.safetensors"], [shards[0], None], 3):
        with pytest.raises(ValueError, match="among the lenses to merge"):
            Lens.merge(wrong)


def test_sums_of_a_file_that_was_changed_since_are_not_those_of_the_lens(shards, tmp_path):
    first, second = shards
    path, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    first.save(path, sums=True)
    second.save(other, sums=True)
    loaded = lr.load_lens(path)
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match="another lens is in"):
        Lens.merge([loaded, lr.load_lens(other)])
    path.unlink()
    with pytest.raises(ValueError, match="cannot be read any more"):
        Lens.merge([loaded, lr.load_lens(other)])


def test_a_merge_of_many_texts_can_be_saved_and_loaded(shards, tmp_path):
    named = []
    for number, lens in enumerate(shards):
        record = dataclasses.replace(lens.record, text=f"{number}" + "shard " * 150)
        named.append(dataclasses.replace(lens, record=record))
    merged = Lens.merge(named)
    merged.save(tmp_path / "lens.safetensors")
    assert lr.load_lens(tmp_path / "lens.safetensors").record == merged.record


def test_a_lens_is_not_saved_so_that_it_cannot_be_loaded(shards, tmp_path):
    record = dataclasses.replace(shards[0].record, model="m" * 2000)
    with pytest.raises(ValueError, match="cannot be saved"):
        dataclasses.replace(shards[0], record=record).save(tmp_path / "lens.safetensors")
    assert not list(tmp_path.iterdir())


# -- quality -----------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_result_of_a_lens_with_distances_that_are_not_finite_is_loaded_again(suffix, tmp_path):
    model = tiny.shared("llama")
    distances = [float("inf"), float("nan"), 1.0]
    quality = lr.LensQuality(
        [0, 1, 2], distances, [0.5] * 3, distances, [0.5] * 3, [distances, distances], 8, "text"
    )
    lens = dataclasses.replace(random_lens(model), quality=quality)
    result = lr.logit_lens(model, IDS, lens=lens)
    path = tmp_path / f"result.{suffix}"
    result.save(path)
    loaded = lr.LensResult.load(path)
    assert repr(loaded.lens) == repr(result.lens)
    assert loaded.summary() == result.summary()
    lr.lens_quality_figure(lens).to_json()
    lr.report(loaded, tmp_path / "report.html")


def test_a_measurement_on_a_few_tokens_is_distrusted():
    few = lr.LensQuality([0], [0.1], [1.0], [5.0], [0.0], [], 6, "a text")
    many = dataclasses.replace(few, n_tokens=256)
    assert "6 tokens only" in few.summary()
    assert "only" not in many.summary()
    model = tiny.shared("llama")
    lens = dataclasses.replace(random_lens(model), quality=few)
    assert "measured on 6 tokens only" in lr.logit_lens(model, IDS, layers=0, lens=lens).summary()


@pytest.mark.parametrize(
    "options", [{"tokens": 0}, {"tokens": 1.5}, {"tokens": True}, {"seed": -1}], ids=str
)
def test_numbers_that_measure_nothing_are_refused(options):
    model = tiny.shared("llama")
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{name}=.*must be a whole number"):
        lr.lens_quality(random_lens(model), model, **options)


def test_quality_takes_the_path_of_a_lens_and_nothing_that_is_none(tmp_path):
    model = tiny.shared("llama")
    lens = random_lens(model)
    path = tmp_path / "lens.safetensors"
    lens.save(path)
    assert lr.lens_quality(path, model, ROWS, tokens=40).kl == (
        lr.lens_quality(lens, model, ROWS, tokens=40).kl
    )
    for wrong in (None, "logit", 3, {}):
        with pytest.raises(ValueError, match="no lens to measure"):
            lr.lens_quality(wrong, model, ROWS)
    broken = changed(lens, lambda each: each._replace(weight=each.weight * float("nan")))
    with pytest.raises(lr.LensError, match="NaN"):
        lr.lens_quality(broken, model, ROWS)


@pytest.mark.parametrize("layer", [[1, 2], "embed", True, 1.0])
def test_vectors_stand_after_one_layer(layer):
    model = tiny.shared("llama")
    with pytest.raises(ValueError, match=r"^layer=.*must be one layer"):
        lr.decode_vectors(model, torch.ones(1, 32), lens=random_lens(model), layer=layer)


# -- results beside each other -----------------------------------------


def test_a_lens_in_the_place_of_a_result_is_named(tmp_path):
    model = tiny.shared("llama")
    lens = random_lens(model)
    result = lr.logit_lens(model, IDS)
    for wrong in (lens, "result.json", 3, [lens]):
        with pytest.raises(ValueError, match="beside= takes lens results"):
            lr.table(result, beside=wrong)
        with pytest.raises(ValueError, match="beside= takes lens results"):
            lr.report(result, tmp_path / "report.html", beside=wrong)
        with pytest.raises(TypeError, match="expected LensResult"):
            lr.seen_earlier(result, wrong)


def test_results_of_two_models_do_not_stand_beside_each_other():
    ours = lr.logit_lens(tiny.shared("llama"), IDS)
    theirs = lr.logit_lens(tiny.shared("gpt2"), IDS)
    with pytest.raises(ValueError, match="of different models"):
        lr.table(ours, beside=theirs)
    with pytest.raises(ValueError, match="of different models"):
        lr.seen_earlier(ours, theirs)


# -- saving ------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, "float32"], ids=str)
def test_a_lens_is_not_saved_in_numbers_that_are_none(dtype, tmp_path):
    lens = random_lens(tiny.shared("llama"), kind="jacobian", bias=False)
    with pytest.raises(ValueError, match="dtype="):
        lens.save(tmp_path / "lens.pt", format="jacobian", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_meant_wherever_a_lens_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    lens = random_lens(tiny.shared("llama"))
    lens.save("~/lens.safetensors")
    assert lr.load_lens("~/lens.safetensors").digest == lens.digest
    lr.fit_lens(tiny.shared("llama"), ROWS, path="~/fit.safetensors", **SMALL)
    assert (tmp_path / "fit.safetensors").exists()
    with pytest.raises(lr.LensError, match="no file or folder"):
        lr.load_lens("~nobody-of-this-name/lens.safetensors")


@pytest.mark.parametrize("path", [3, None, b"lens.safetensors"], ids=str)
def test_a_lens_is_saved_to_a_path(path):
    with pytest.raises(ValueError, match="saved to a path"):
        random_lens(tiny.shared("llama")).save(path)


# -- lenses that change ------------------------------------------------


def test_a_lens_that_was_changed_in_place_is_another_one():
    model = tiny.shared("llama")
    lens = random_lens(model)
    before = lr.logit_lens(model, IDS, lens=lens).lens.digest
    lens.transports[0].weight.mul_(2)
    after = lr.logit_lens(model, IDS, lens=lens).lens.digest
    assert after != before
    assert after == dataclasses.replace(lens).digest
    lens.transports[0].bias[0] = float("nan")
    with pytest.raises(lr.LensError, match=r"at layers \[0\]"):
        lr.logit_lens(model, IDS, lens=lens)


def test_transports_that_are_put_in_later_are_checked_as_well():
    model = tiny.shared("llama")
    transports = {0: Affine(torch.eye(32))}
    lens = Lens("linear", transports)
    transports[1] = "nothing"
    assert lens.layers == [0]
    lens.transports[1] = "nothing"
    with pytest.raises(ValueError, match="layer 1 is 'nothing'"):
        lr.logit_lens(model, IDS, lens=lens)


# -- in a shell --------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["attribute", "5 6 7", "--target", "8", "--at-layer", "1"],
        ["generate", "5 6 7", "--max-new-tokens", "1"],
    ],
    ids=lambda command: command[0],
)
def test_commands_with_one_lens_refuse_a_second_one(cli, command):
    status, _, err = cli(tiny.shared("llama"))(*command, "--lens", "a", "--lens", "b")
    assert status == 2
    assert "give it once" in err


def test_what_to_do_is_said_in_the_words_of_a_shell(cli, reader, tmp_path):
    out = str(tmp_path / "lens.safetensors")
    status, _, err = cli(reader)("fit", "-o", out, "--layers", "-1")
    assert status == 2
    assert "earlier layers, or all." in err
