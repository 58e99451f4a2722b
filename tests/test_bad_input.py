"""Whatever a caller gets wrong: one clear sentence with what was received and what is accepted."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import tiny
import torch
from transformers import BatchEncoding

import lens_recipes as lr

TEXT = "The capital of France is"
CHAT = [{"role": "user", "content": "One"}]


def is_one_clear_message(error):
    """A ValueError or LensError itself, with words a reader can act on and nothing of the machine inside."""
    message = str(error)
    assert type(error) in (ValueError, lr.LensError), repr(error)
    assert "\n" not in message
    assert len(message.split()) >= 5
    assert len(message) < 700
    assert "Traceback" not in message
    assert "object at 0x" not in message
    assert not re.match(r"\w+Error", message)
    return message


# -- logit_lens() ------------------------------------------------------

# (what is wrong, arguments, words of the message)
WRONG = [
    ("no prompts", {"prompts": []}, ["no prompts", "at least one"]),
    ("no rows", {"prompts": torch.zeros(0, 4, dtype=torch.long)}, ["no prompts", "at least one"]),
    ("empty string", {"prompts": ""}, ["prompt 0 is empty"]),
    ("one of several is empty", {"prompts": ["One", ""]}, ["prompt 1 is empty"]),
    ("no ids", {"prompts": [[]]}, ["prompt 0 is empty"]),
    (
        "a tensor of no columns",
        {"prompts": torch.zeros(2, 0, dtype=torch.long)},
        ["prompt 0 is empty"],
    ),
    (
        "everything masked",
        {"prompts": BatchEncoding({"input_ids": [[7, 8]], "attention_mask": [[0, 0]]})},
        ["prompt 0 is empty"],
    ),
    ("an empty encoding", {"prompts": BatchEncoding({"input_ids": []})}, ["prompt 0 is empty"]),
    ("None", {"prompts": None}, ["None", "strings", "token ids"]),
    ("a number", {"prompts": 3.5}, ["3.5", "strings", "token ids"]),
    ("bytes", {"prompts": b"One"}, ["b'One'", "strings"]),
    ("a mixture", {"prompts": ["One", [7, 8]]}, ["'One'", "All of one sort"]),
    ("a dict", {"prompts": {"text": "One"}}, ["'text'", "strings"]),
    ("floats", {"prompts": [1.5, 2.5]}, ["1.5", "token ids"]),
    ("a float tensor", {"prompts": torch.ones(1, 3)}, ["float32", "whole numbers"]),
    (
        "a 3-D tensor",
        {"prompts": torch.ones(1, 2, 3, dtype=torch.long)},
        ["[1, 2, 3]", "two dimensions"],
    ),
    ("a chat without content", {"prompts": [{"role": "user"}]}, ["'role'", "content"]),
    ("an id too large", {"prompts": [7, 320]}, ["320", "position 1", "0 to 319"]),
    ("an id far too large", {"prompts": [7, 2**70]}, [str(2**70), "0 to 319"]),
    ("an id below 0", {"prompts": [[7], [8, -1]]}, ["prompt 1", "-1", "0 to 319"]),
    ("layer", {"layers": 4}, ["layers=4", "0 to 3"]),
    ("negative layer", {"layers": [-5]}, ["layers=-5", "−4"]),
    ("no layers", {"layers": []}, ["layers", "empty"]),
    ("empty slice of layers", {"layers": slice(4, None)}, ["layers", "0 to 3"]),
    ("layers as a word", {"layers": "last"}, ["layers", "'last'", "int", "slice"]),
    ("layer as a float", {"layers": 1.0}, ["layers", "1.0", "int"]),
    ("layers as floats", {"layers": [1.0]}, ["layers", "1.0", "int"]),
    ("layer as a bool", {"layers": True}, ["layers", "True", "int"]),
    ("position", {"positions": 99}, ["positions=99", "prompt 0"]),
    (
        "position in one of two",
        {"prompts": [[7, 8, 9], [7]], "positions": 2},
        ["positions=2", "prompt 1"],
    ),
    ("empty slice", {"positions": slice(50, None)}, ["positions", "prompt 0"]),
    ("no positions", {"positions": []}, ["positions", "empty"]),
    (
        "target of several tokens",
        {"targets": " Zanzibar"},
        ["' Zanzibar'", "tokens", "A target is one"],
    ),
    ("empty target", {"targets": ""}, ["''", "0 tokens"]),
    ("unknown target id", {"targets": 320}, ["320", "0 to 319"]),
    ("negative target id", {"targets": [-1]}, ["-1", "0 to 319"]),
    ("target as a float", {"targets": 5.5}, ["5.5", "a string or a token id"]),
    ("targets as floats", {"targets": [5.5]}, ["5.5", "a string or a token id"]),
    ("target as a bool", {"targets": True}, ["True", "a string or a token id"]),
    ("target lists for other prompts", {"targets": [[7], [8]]}, ["1 lists", "one flat list"]),
    (
        "target lists of two lengths",
        {"prompts": [[7], [8]], "targets": [[7], [8, 9]]},
        ["2 lists of one length"],
    ),
    ("targets half nested", {"targets": [[7], 8]}, ["targets per prompt", "one flat list"]),
    ("top_k of 0", {"top_k": 0}, ["top_k=0", "1 to 320"]),
    ("top_k above the vocabulary", {"top_k": 321}, ["top_k=321", "1 to 320"]),
    ("top_k as a float", {"top_k": 5.0}, ["top_k=5.0", "whole number"]),
    ("track as a word", {"track": "top2"}, ["track='top2'", "top1", "None"]),
    ("track 0", {"track": 0}, ["track=0", "1 to 320"]),
    ("track above the vocabulary", {"track": 321}, ["track=321", "1 to 320"]),
    ("track as a bool", {"track": True}, ["track=True", "top1"]),
    ("no memory", {"max_bytes": 0}, ["max_bytes=0", "positive"]),
    ("memory as a word", {"max_bytes": "1 GB"}, ["max_bytes='1 GB'", "bytes"]),
]


@pytest.mark.parametrize(("arguments", "words"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_argument_is_told_in_one_sentence(llama, arguments, words):
    with pytest.raises(Exception) as error:  # noqa: PT011 - which exception it is, is what is tested
        lr.logit_lens(llama, **{"prompts": TEXT, **arguments})
    message = is_one_clear_message(error.value)
    assert isinstance(error.value, ValueError)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompts": TEXT}, ["without a tokenizer", "token ids", "tokenizer="]),
        ({"prompts": CHAT}, ["without a tokenizer", "token ids"]),
        ({"prompts": [7, 8], "targets": " Paris"}, ["a token id", "' Paris'"]),
    ],
    ids=["text", "chat", "target"],
)
def test_a_model_without_a_tokenizer_asks_for_ids(arguments, words):
    with pytest.raises(ValueError, match="token id") as error:
        lr.logit_lens(lr.load(tiny.llama()), **arguments)
    assert all(word in is_one_clear_message(error.value) for word in words)


def test_a_chat_for_a_tokenizer_without_a_template_is_told():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = None
    model = lr.load(tiny.llama(vocab_size=tiny.STRING_VOCAB), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="no chat template") as error:
        lr.logit_lens(model, CHAT)
    is_one_clear_message(error.value)


def test_a_chat_that_the_template_refuses_is_told():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    model = lr.load(tiny.llama(vocab_size=tiny.STRING_VOCAB), tokenizer=tokenizer)
    with pytest.raises(Exception, match="roles must alternate") as error:
        lr.logit_lens(model, CHAT)
    is_one_clear_message(error.value)


@pytest.mark.parametrize(
    "model", ["smollm2", None, torch.nn.Linear(2, 2)], ids=["name", "None", "module"]
)
def test_a_model_that_load_did_not_make_is_told(model):
    with pytest.raises(lr.LensError, match=r"recipes take what load\(\) returns") as error:
        lr.logit_lens(model, [7, 8])
    is_one_clear_message(error.value)


@pytest.mark.parametrize("family", ["mpt", "rwkv", "openai_gpt", "opt", "bloom"])
@pytest.mark.filterwarnings("ignore:Module .* has a submodule named 'output'")
def test_a_prompt_beyond_the_context_is_told_or_read(family):
    """Families write their context length in different words, and some have none."""
    model = tiny.shared(family)
    try:
        assert lr.logit_lens(model, [7] * 70, positions=-1).certificate.passed
    except (ValueError, lr.LensError) as error:
        message = is_one_clear_message(error)
        assert "70" in message
        assert "64" in message


# -- load() ------------------------------------------------------------


def nothing_there(tmp_path):
    return "/no/such/folder"


def empty_folder(tmp_path):
    return tmp_path


def foreign_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def broken_config(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    return tmp_path


def unknown_kind(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    return tmp_path


def without_weights(tmp_path):
    tiny.llama().config.save_pretrained(tmp_path)
    return tmp_path


def truncated_weights(tmp_path):
    tiny.llama().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return tmp_path


def a_file(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"no model")
    return tmp_path / "model.bin"


def encoder_decoder(tmp_path):
    tiny.t5().save_pretrained(tmp_path)
    return tmp_path


NO_MODEL = [
    (nothing_there, ["/no/such/folder", "there is no folder"]),
    (empty_folder, ["holds no model", "Accepted"]),
    (foreign_folder, ["holds no model", "Accepted"]),
    (broken_config, ["holds no model", "Accepted"]),
    (unknown_kind, ["no-such-model"]),
    (without_weights, ["holds no model", "Accepted"]),
    (truncated_weights, ["holds no model", "Accepted"]),
    (a_file, ["model.bin", "Accepted"]),
    (encoder_decoder, ["'t5'", "decoder"]),
    (lambda tmp_path: "someone/no-such-model", ["someone/no-such-model", "hub", "Accepted"]),
    (lambda tmp_path: "no-such-model", ["no-such-model", "hub", "Accepted"]),
    (lambda tmp_path: "not a name!", ["not a name!", "Accepted"]),
    (lambda tmp_path: 7, ["int", "hub id", "checkpoint folder"]),
    (lambda tmp_path: None, ["NoneType", "hub id"]),
    (lambda tmp_path: torch.nn.Linear(2, 2), ["Linear", "PreTrainedModel"]),
    (lambda tmp_path: type(tiny.llama()), ["PreTrainedModel"]),
]


@pytest.mark.parametrize(("source", "words"), NO_MODEL, ids=lambda p: getattr(p, "__name__", "·"))
def test_what_is_no_model_is_told_in_one_sentence(source, words, tmp_path):
    with pytest.raises(Exception) as error:  # noqa: PT011 - which exception it is, is what is tested
        lr.load(source(tmp_path))
    message = is_one_clear_message(error.value)
    assert isinstance(error.value, lr.LensError)
    for word in words:
        assert word in message


# -- files -------------------------------------------------------------


@pytest.fixture(scope="module")
def result(llama):
    return lr.logit_lens(llama, [[7, 8], [9]], targets=11)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: b"\x00" + whole[1:],
        lambda whole: b"no result",
        lambda whole: "naïve".encode("latin-1"),
    ],
    ids=["empty", "half", "one byte short", "first byte", "foreign", "not UTF-8"],
)
def test_a_damaged_file_is_told(result, tmp_path, suffix, damage):
    path = tmp_path / f"result{suffix}"
    result.save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(lr.LensError) as error:
        lr.LensResult.load(path)
    assert path.name in is_one_clear_message(error.value)


def rewritten(change):
    """A damage to the JSON of a result, keeping it JSON."""

    def damage(path):
        whole = json.loads(path.read_text())
        change(whole)
        path.write_text(json.dumps(whole))

    return damage


DAMAGES = {
    "another format": (lambda w: w.update(format="someone/else"), ["someone/else"]),
    "another version": (lambda w: w.update(version=99), ["99", "reads 1"]),
    "no format": (lambda w: w.pop("format"), ["not a lens result"]),
    "an array less": (lambda w: w["arrays"].pop("entropy"), ["entropy"]),
    "no arrays": (lambda w: w.pop("arrays"), ["lens result"]),
    "no shapes": (lambda w: w.pop("shapes"), ["lens result"]),
    "another shape": (lambda w: w["shapes"].update(entropy=[1, 1]), ["lens result"]),
    "transposed": (lambda w: w["shapes"].update(entropy=w["shapes"]["entropy"][::-1]), ["entropy"]),
    "a site less": (lambda w: w["sites"].pop(), ["expected"]),
    "sites of numbers": (lambda w: w.update(sites=[0, 1, 2, 3]), ["lens result"]),
    "a prompt less": (lambda w: w["prompts"].pop(), ["expected"]),
    "words in an array": (lambda w: w["arrays"].update(entropy="high"), ["lens result"]),
    "text where ids are": (
        lambda w: w["arrays"]["final_ids"].__setitem__(0, "one"),
        ["lens result"],
    ),
    "an id too large": (lambda w: w["arrays"]["final_ids"].__setitem__(0, 2**40), ["lens result"]),
    "texts as a list": (lambda w: w.update(texts=["a"]), ["lens result"]),
    "a certificate of something": (lambda w: w.update(certificate={"good": True}), ["lens result"]),
    "a certificate as a list": (lambda w: w.update(certificate=[1]), ["lens result"]),
    "no certificate": (lambda w: w.pop("certificate"), ["certificate"]),
    "a position less": (
        lambda w: (
            w["arrays"]["token_position"].pop(),
            w["shapes"]["token_position"].__setitem__(0, w["shapes"]["token_position"][0] - 1),
        ),
        ["position"],
    ),
    "a text less": (lambda w: w["token_text"].pop(), ["text"]),
    "a token of a prompt that is not there": (
        lambda w: w["arrays"]["token_prompt"].__setitem__(0, 5),
        ["prompt"],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_json_that_is_not_what_it_says_is_told(result, tmp_path, name):
    change, words = DAMAGES[name]
    path = tmp_path / "result.json"
    result.save(path)
    rewritten(change)(path)
    with pytest.raises(lr.LensError) as error:
        lr.LensResult.load(path)
    message = is_one_clear_message(error.value)
    assert path.name in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}"])
def test_a_foreign_json_is_told(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(lr.LensError, match="lens result") as error:
        lr.LensResult.load(path)
    is_one_clear_message(error.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"weights": np.zeros(3)},
        {"meta": np.array("[]")},
        {"meta": np.array("{}")},
        {"meta": np.array("no JSON")},
        {"meta": np.zeros(3)},
        {"meta": np.array({"format": "lens-recipes/result"}, dtype=object)},
    ],
    ids=["no meta", "a list", "empty", "no JSON", "numbers", "a pickle"],
)
def test_a_foreign_npz_is_told_and_no_pickle_is_read(tmp_path, arrays):
    path = tmp_path / "other.npz"
    np.savez(path, **arrays, allow_pickle=True)
    with pytest.raises(lr.LensError, match="lens result") as error:
        lr.LensResult.load(path)
    is_one_clear_message(error.value)


def test_an_npz_with_other_shapes_is_told(result, tmp_path):
    path = tmp_path / "result.npz"
    result.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["entropy"] = arrays["entropy"].T
    np.savez(path, **arrays)
    with pytest.raises(lr.LensError, match="entropy") as error:
        lr.LensResult.load(path)
    is_one_clear_message(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(lr.LensError, match="there is no file") as error:
        lr.LensResult.load(tmp_path / "none.json")
    is_one_clear_message(error.value)


def test_a_folder_in_place_of_a_file_is_told(result, tmp_path):
    folder = tmp_path / "folder.json"
    folder.mkdir()
    for call in (lr.LensResult.load, result.save):
        with pytest.raises(lr.LensError, match=r"folder\.json") as error:
            call(folder)
        is_one_clear_message(error.value)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("suffix", ["", ".pkl", ".txt", ".JSON.gz"])
def test_another_suffix_is_told(result, tmp_path, suffix):
    for call in (lr.LensResult.load, result.save):
        with pytest.raises(ValueError, match=r"\.json or \.npz") as error:
            call(tmp_path / f"result{suffix}")
        is_one_clear_message(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_path_that_cannot_be_written_is_told(result, tmp_path, suffix):
    places = [tmp_path / "no" / "folder", tmp_path / "a file"]
    places[1].write_text("in the way")
    if os.geteuid() != 0:
        places.append(tmp_path / "locked")
        places[-1].mkdir(mode=0o500)
    for place in places:
        with pytest.raises(lr.LensError, match="cannot write") as error:
            result.save(place / f"result{suffix}")
        assert f"result{suffix}" in is_one_clear_message(error.value)


def test_a_prompt_of_a_result_that_is_not_there_is_told(result):
    with pytest.raises(IndexError, match="prompt 2 is out of range: the result holds 2"):
        result[2]
