"""What no edit can be is refused in a sentence: what was received, what is accepted, what to do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tiny
import torch
from lenses import random_lens
from test_components import mixed_llama
from tokenizers.processors import TemplateProcessing

import lens_recipes as lr
from lens_recipes.arrays.edits.kinds import edit_from_json

PROMPTS = ["the quick brown fox", "The capital of France is"]
NAN = [float("nan")] * 32


def refusal(model, edits, prompts="the quick brown fox", **options) -> str:
    with pytest.raises((ValueError, lr.LensError)) as caught:
        lr.logit_lens(model, prompts, edits=edits, **options)
    message = str(caught.value)
    assert len(message) < 400, message
    assert "Traceback" not in message
    return message


# -- arguments that no model could take --------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lr.ablate(layer=1, component="q_out"), "'q_out' cannot be edited: accepted are"),
        (lambda: lr.ablate(layer=1, component=["attn_out"]), "cannot be edited: accepted are"),
        (lambda: lr.ablate(layer=1, component=None), "None cannot be edited"),
        (lambda: lr.ablate(layer=1, component=np.array(["a", "b"])), "cannot be edited"),
        (lambda: lr.ablate(layer=1, head=2), 'head=2 needs component="head_out"'),
        (lambda: lr.ablate(layer=1, component="attn_out", head=0), 'needs component="head_out"'),
        (lambda: lr.ablate(layer=1, component="embed"), "layer=1 cannot go with"),
        (lambda: lr.ablate(layer=1, to="median"), "to='median' is unknown: accepted are 'zero'"),
        (lambda: lr.ablate(layer=1, over=["text"]), 'over= needs to="mean" or to="resample"'),
        (lambda: lr.ablate(layer=1, when="later"), "when='later' is unknown: accepted are"),
        (lambda: lr.ablate(layer=1, when=True), "when=True is unknown"),
        (lambda: lr.steer(3, layer=1, scale=None), "scale=None must be a number"),
        (lambda: lr.steer(3, layer=1, scale="2"), "scale='2' must be a number"),
        (lambda: lr.steer(3, layer=1, scale=True), "scale=True must be a number"),
        (lambda: lr.steer(3, layer=1, scale=[1, 2]), "must be a number"),
        (lambda: lr.steer(3, layer=1, scale=np.ones(2)), "must be a number"),
        (lambda: lr.steer(3, layer=1, scale=float("inf")), "must be finite"),
        (lambda: lr.steer(3, layer=1, scale=10**400), "must be finite"),
        (lambda: lr.steer(1j * np.ones(32), layer=1), "direction has complex numbers"),
        (lambda: lr.steer(1j * torch.ones(32), layer=1), "direction has complex numbers"),
        (lambda: lr.ablate(layer=1, to=torch.ones(32, device="meta")), "to is on the device meta"),
        (lambda: lr.steer(3, layer=1, component="head_out"), "steer cannot go with"),
        (lambda: lr.steer(3, layer=1, normalize=False), "normalize=False needs a vector"),
        (lambda: lr.steer((3, 4), layer=1, normalize=False), "normalize=False needs a vector"),
        (lambda: lr.steer(NAN, layer=1, normalize=2), "normalize=2 must be True or False"),
        (lambda: lr.swap(3, 3), "same token"),
        (lambda: lr.swap(3, None), "b=None must be a token"),
        (lambda: lr.swap(3, 4, clamp="yes"), "clamp='yes' must be True or False"),
        (lambda: lr.swap(3, 4, component="attn_out"), "cannot be swapped"),
    ],
)
def test_arguments_that_no_model_could_take(make, words):
    with pytest.raises(ValueError, match="(?s)" + words.replace("(", r"\(")):
        make()


@pytest.mark.parametrize("wrong", ["x", [1], 3, lr.ablate, ["attn_out"], [None], object()])
def test_what_is_no_edit(llama, wrong):
    words = refusal(llama, wrong)
    assert "is no edit: accepted are what ablate(), patch(), steer() and swap() return" in words


def test_no_edits_are_no_edits(llama):
    for nothing in (None, [], ()):
        result = lr.logit_lens(llama, PROMPTS, edits=nothing)
        assert not result.edits
        assert result.certificate.max_edit_error is None


# -- arguments that do not fit a model or its prompts ------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lr.ablate(layer="3"), "layers must be None, an int, a slice or a list"),
        (lr.ablate(layer=1.5), "layers must be None, an int"),
        (lr.ablate(layer=True), "layers must be None, an int"),
        (lr.ablate(layer=9), "layers=9 is out of range: this model has layers 0 to 3"),
        (lr.ablate(layer=-5), "layers=-5 is out of range"),
        (lr.ablate(layer=[]), "layers is empty"),
        (lr.ablate(layer=slice(4, 9)), "selects nothing"),
        (lr.ablate(layer=1, component="mixer_out"), "has no mixer_out"),
        (lr.ablate(layer=1, component="other_out"), "has no other_out"),
        (lr.ablate(layer=1, component="head_out", head=4), "heads=4 is out of range"),
        (lr.ablate(layer=1, component="head_out", head="a"), "heads must be None, an int"),
        (lr.ablate(layer=1, component="head_out", head=(0, 9)), "heads=9 is out of range"),
        (lr.ablate(layer=1, positions=99), "positions=99 is out of range"),
        (lr.ablate(layer=1, positions="last"), "positions must be None, an int"),
        (lr.ablate(layer=1, positions=[[1], [2]]), "positions for 2 prompts, but there are 1"),
        (lr.ablate(layer=1, to=np.ones(7)), r"to is of the shape \[7\].*takes a vector \[32\]"),
        (lr.ablate(layer=1, to=np.ones((2, 32))), r"to is of the shape \[2, 32\]"),
        (lr.ablate(layer=1, to=NAN), "to has numbers that are NaN or infinite"),
        (lr.ablate(layer=1, to=None), "to=None is neither a token nor a vector"),
        (lr.ablate(layer=1, to=["a"]), "neither a token nor a vector"),
        (lr.ablate(layer=1, to=np.array(["a"])), "neither a token nor a vector"),
        (lr.steer(np.zeros(32), layer=1), "points nowhere"),
        (lr.steer([1e-60] * 32, layer=1, normalize=False), "points nowhere"),
        (
            lr.ablate(layer=1, component="head_out", head=0, to=np.ones(32)),
            r"shape \[32\].*takes a vector \[8\]",
        ),
        (lr.ablate(layer=1, to="resample"), "pass several prompts, or over="),
        (lr.ablate(layer=1, to="mean", over=[]), "over: received no prompts"),
        (lr.ablate(layer=1, to="mean", over=3), "over: received 3 as prompts"),
        (lr.ablate(layer=1, to="mean", over=[[4000]]), "over: prompt 0 has the id 4000"),
        (lr.patch(4, layer=1), "patch from prompt 4: there are prompts 0 to 0"),
        (lr.patch(-2, layer=1), "patch from prompt -2"),
        (lr.patch(True, layer=1), "the source of a patch: received True as prompts"),
        (lr.patch(None, layer=1), "the source of a patch: received None as prompts"),
        (lr.patch("", layer=1), "the source of a patch: prompt 0 is empty"),
        (lr.patch([[9999, 3]], layer=1, positions=0), "prompt 0 has the id 9999"),
        (lr.patch("one", layer=1), "the source has .* tokens, the prompt .* Name the positions"),
        (lr.patch(["a", "b"], layer=1), "patch has 2 sources for 1 prompts"),
        (
            lr.patch("one", layer=1, positions=[0, 1], source_positions=0),
            "1 source positions for 2 positions",
        ),
        (lr.patch("a", layer=1, positions=0, source_positions=50), "out of range"),
        (lr.steer(np.ones(7), layer=1), r"direction is of the shape \[7\]"),
        (lr.steer(NAN, layer=1), "direction has numbers that are NaN"),
        (lr.steer(None, layer=1), "direction=None is neither a token nor a vector"),
        (lr.steer(9999, layer=1), "target id 9999 is unknown"),
        (lr.steer("notonetoken", layer=1), "'notonetoken' is .* tokens for this model"),
        (lr.steer((7, 7), layer=1), "they are one token"),
        (lr.steer(7, layer=1, lens="no/such.safetensors"), "no/such"),
        (lr.steer(7, layer=1, lens=3), "is no lens"),
        (lr.swap(7, 9999), "target id 9999 is unknown"),
        (lr.ablate(layer=1, when="written"), "nothing is written here"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit(llama, edit, words):
    assert re.search("(?s)" + words, refusal(llama, edit)), refusal(llama, edit)


def test_two_edits_that_set_the_same_tokens(llama):
    one, other = lr.ablate(layer=1, positions=[0, 2]), lr.patch("the quick brown fox", layer=[1, 2])
    words = refusal(llama, [one, other])
    assert "two edits set resid_post of layer 1 at position 0 of prompt 0" in words
    one_stream = [lr.ablate(layer=1), lr.ablate(layer=2, component="resid_pre", positions=2)]
    assert "position 2 of prompt 0" in refusal(llama, one_stream)
    assert "Leave one out" in words
    both = [lr.ablate(component="embed"), lr.ablate(layer=0, component="resid_pre")]
    assert "two edits set" in refusal(llama, both)
    lr.logit_lens(llama, "the quick brown fox", edits=[one, lr.ablate(layer=1, positions=1)])
    lr.logit_lens(llama, "the quick brown fox", edits=[one, lr.steer(7, layer=1)])


def test_prompts_of_other_lengths_need_positions(llama):
    words = refusal(llama, lr.ablate(layer=1, to="resample"), prompts=PROMPTS)
    assert "Name the positions" in words
    named = lr.ablate(layer=1, to="resample", positions=[0, 1])
    assert lr.logit_lens(llama, PROMPTS, edits=named).certificate.passed
    assert "positions" in refusal(llama, lr.patch(1, layer=1), prompts=PROMPTS)


def test_a_model_without_a_tokenizer():
    model = tiny.shared("llama")
    ids = [[7, 8, 9]]
    assert "needs a tokenizer" in refusal(model, lr.ablate(layer=1, to="mean"), prompts=ids)
    assert "without a tokenizer" in refusal(model, lr.patch("text", layer=1), prompts=ids)
    assert "token id" in refusal(model, lr.steer(" Paris", layer=1), prompts=ids)
    edits = [lr.ablate(layer=1, to="mean", over=[[7, 8], [9, 10, 11]]), lr.steer(7, layer=2)]
    assert lr.logit_lens(model, ids, edits=edits).certificate.passed


def test_a_lens_of_another_model_or_without_the_layer(llama):
    of_another = random_lens(llama, layers=[0, 1, 2, 3, 4, 5, 6])
    words = refusal(lr.load(tiny.gpt2()), lr.steer(7, layer=1, lens=of_another), prompts=[[7, 8]])
    assert "layer" in words
    lens = random_lens(llama, layers=[0, 2])
    assert "no transport for resid_post of layer 1" in refusal(
        llama, lr.steer(7, layer=1, lens=lens)
    )
    assert lr.logit_lens(llama, "the fox", edits=lr.steer(7, layer=2, lens=lens)).certificate.passed


def test_what_is_copied_is_read_with_the_inputs_of_its_prompt():
    model = lr.load(tiny.for_text("llama"), tokenizer=tiny.tiny_tokenizer())
    rows = [[7, 8, 9, 10], [7, 8, 9, 10]]
    encoding = {"input_ids": rows, "position_ids": [[0, 1, 2, 3], [0, 2, 5, 9]]}
    own = lr.logit_lens(model, encoding)
    edited = lr.logit_lens(model, encoding, edits=lr.patch(0, layer=1))
    assert abs(own[0].entropy - own[1].entropy).max() > 1e-4
    np.testing.assert_allclose(edited[1].entropy[1], own[0].entropy[1], atol=1e-6)
    for edit in (
        lr.swap(7, 8, layers=1),
        lr.ablate(layer=1, to="resample"),
        lr.ablate(layer=1, positions=2),
    ):
        assert lr.logit_lens(model, encoding, edits=edit).certificate.passed


def test_blocks_that_cannot_be_read_are_edited_after_them():
    model = lr.load(mixed_llama())
    assert "cannot be read" in refusal(model, lr.ablate(layer=1, component="attn_out"), [[7, 8]])
    assert lr.logit_lens(model, [[7, 8]], edits=lr.ablate(layer=1)).certificate.passed


@pytest.mark.parametrize("family", ["doge", "bert_lm", "opt_350m", "minimax"])
def test_a_stream_that_is_normed_or_scaled_on_its_way(family):
    edit = lr.ablate(layer=1, component="resid_mid")
    words = refusal(tiny.shared(family), edit, [[7, 8, 9]])
    assert "passes through norms or is scaled on its way" in words
    assert "Edit attn_out or resid_post" in words


def test_layers_that_text_passes_over():
    model = tiny.shared("mllama")
    layers = lr.anatomy(model).layers
    over = next(n for n in range(lr.anatomy(model).n_layers) if n not in layers)
    assert "text prompt passes over" in refusal(model, lr.ablate(layer=over), [[7, 8]])
    assert lr.logit_lens(model, [[7, 8]], edits=lr.ablate()).certificate.passed


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "falcon_h1"])
def test_half_precision_is_certified_as_far_as_it_rounds(family, dtype):
    model = lr.load(tiny.FAMILIES[family]().to(getattr(torch, dtype)))
    components = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    edits = [lr.patch([7, 8, 9], component=name, positions=1) for name in components]
    for edit in (*edits, lr.steer(np.linspace(-1, 1, 32), layer=1)):
        certificate = lr.logit_lens(model, [[10, 11, 12]], edits=edit).certificate
        assert certificate.passed
        assert certificate.dtype == dtype
        assert certificate.edit_identity_error == 0


def test_numbers_beyond_the_range_of_a_dtype_fail():
    model = lr.load(tiny.llama().half())
    with pytest.raises(lr.LensError, match=r"at 1 do not hold .* range of its dtype"):
        lr.logit_lens(model, [[7, 8, 9]], edits=lr.ablate(layer=1, to=np.full(32, 1e6)))


# -- edits as JSON -----------------------------------------------------


def test_every_edit_is_the_same_after_json():
    edits = [
        lr.ablate(layer=range(1, 3), component="head_out", head=(0, 2), positions=slice(1, None)),
        lr.ablate(layer=np.int64(2), to=torch.linspace(-1, 1, 32), positions=np.array([0, 2])),
        lr.ablate(layer=(n for n in (1, 2)), to="mean", over=[[1, 2], [3]]),
        lr.patch(
            torch.tensor([[7, 8, 9]]), layer=1, positions=iter([0, 1]), source_positions=[1, 2]
        ),
        lr.patch([{"role": "user", "content": "hello"}], component="embed", positions=0),
        lr.steer((" a", 7), layer=1, scale=np.float32(0.5), positions=-1),
        lr.steer(np.linspace(-1, 1, 32), layer=1, normalize=False, when="written"),
        lr.swap("a", "b", layers={1, 2}, clamp=False, component="resid_pre"),
    ]
    for edit in edits:
        fields = json.loads(json.dumps(edit.to_json()))
        again = edit_from_json(fields)
        assert type(again) is type(edit)
        assert json.loads(json.dumps(again.to_json())) == fields
        assert str(again) == str(edit_from_json(fields))


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {},
        {"kind": "ablate", "no": 1},
        {"kind": "burn"},
        {"kind": ["ablate"]},
        {"kind": "steer", "direction": 3, "scale": "x"},
        {"kind": "swap", "a": 1},
        {"kind": "ablate", "to": {"float32": "!!!", "shape": [1]}},
        {"kind": "ablate", "to": {"float32": "AAAA", "shape": [9]}},
        {"kind": "ablate", "to": {"float32": 3, "shape": "x"}},
        {"kind": "ablate", "positions": {"slice": [1, 2, 3, 4]}},
    ],
)
def test_what_is_no_saved_edit(fields):
    with pytest.raises(ValueError, match=r".{10}"):
        edit_from_json(fields)


def test_special_tokens_are_those_of_the_prompts():
    """A source is encoded as the prompts are: with the tokenizer's own tokens, or without."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    model = lr.load(tiny.for_text("llama"), tokenizer=tokenizer)
    text, other = "the quick brown fox", "the quick brown dog"
    for add in (True, False):
        options = {"add_special_tokens": add, "positions": -1, "targets": [7, 8]}
        some = lr.patch(other, layer=0, positions=[0, 1, -1])
        assert lr.logit_lens(model, text, edits=some, **options).certificate.passed
        same = lr.logit_lens(model, text, edits=lr.patch(text, layer=0), **options)
        plain = lr.logit_lens(model, text, **options)
        np.testing.assert_allclose(same.target_logits, plain.target_logits, atol=1e-6)


def test_an_encoding_is_a_source_without_its_padding(llama):
    prompt, source = "the quick brown fox", "a lazy dog of old"
    encoding = llama.tokenizer([source], return_tensors="pt", padding="max_length", max_length=40)
    of_text = lr.logit_lens(llama, prompt, edits=lr.patch(source, layer=1, positions=-1))
    edited = lr.logit_lens(llama, prompt, edits=lr.patch(encoding, layer=1, positions=-1))
    np.testing.assert_array_equal(edited.final_logprobs, of_text.final_logprobs)
    assert edited.verify(llama).certificate.passed
    encoding["position_ids"] = encoding["input_ids"] * 0 + 3
    words = refusal(llama, lr.patch(encoding, layer=1, positions=-1))
    assert "accepted is one of ids and padding alone" in words
