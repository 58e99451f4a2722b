"""Prompts to ids, positions to indices, ids to legible text."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

from lens_recipes.models.tokens.spelling import CHAR_OF_BYTE
from lens_recipes.models.tokens.vocabulary import token_text, token_texts
from lens_recipes.run import batches
from lens_recipes.run.request.encodings import read_encoding
from lens_recipes.run.request.prompts import encode
from lens_recipes.run.request.selection import (
    check_ids,
    pick_indices,
    pick_positions,
    target_ids,
)

FRANCE, FOX = "The capital of France", "The quick brown fox jumps over"
often = settings(deadline=None, derandomize=True, max_examples=50)


def encoded_ids(encoding):
    """The ids of an encoding's prompts, which need no argument beside them."""
    prompts = read_encoding(encoding, frozenset())
    assert not any(prompt.inputs for prompt in prompts)
    return [prompt.token_ids for prompt in prompts]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tiny_tokenizer()


@pytest.fixture(scope="module")
def with_bos():
    """The same tokenizer, but it adds BOS by itself, as Llama's and Gemma's do."""
    tokenizer = tiny.tiny_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tiny.BOS)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer of SentencePiece's kind: '▁' for a space, bytes as <0x..> where the vocabulary ends."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁Paris", "▁the", "Paris", "▁▁", "a", "é", "<0xZZ>", "Ġ"]
    core = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    wrapped.pieces = {piece: i for i, piece in enumerate(pieces)}
    return wrapped


# -- prompts to ids ----------------------------------------------------


def test_strings_are_encoded_one_by_one(tokenizer):
    ids = [tokenizer(text).input_ids for text in (FRANCE, FOX)]
    assert encode(FRANCE, tokenizer) == ids[:1]
    assert encode([FRANCE, FOX], tokenizer) == ids
    assert encode((FRANCE, FOX), tokenizer) == ids
    assert encode([np.str_(FRANCE), FOX], tokenizer) == ids
    assert encode([FRANCE], tokenizer) == ids[:1]


@pytest.mark.parametrize("dtype", [None, object], ids=str)
def test_an_array_of_strings_is_several_prompts(tokenizer, dtype):
    """Or of lists of ids; and without dimensions it is one."""
    expected = encode([FRANCE, FOX], tokenizer)
    assert encode(np.array([FRANCE, FOX], dtype=dtype), tokenizer) == expected
    assert encode(np.array(FRANCE, dtype=dtype), tokenizer) == expected[:1]
    ragged = np.empty(2, dtype=object)
    ragged[:] = expected
    assert encode(ragged, tokenizer) == expected


def test_a_generator_of_prompts_is_read_once(tokenizer):
    expected = encode([FRANCE, FOX], tokenizer)
    assert encode((text for text in (FRANCE, FOX)), tokenizer) == expected
    assert encode(iter(expected), tokenizer) == expected


@pytest.mark.parametrize(
    "ids",
    [
        [7, 8, 9],
        (7, 8, 9),
        [[7, 8, 9]],
        range(7, 10),
        np.array([7, 8, 9]),
        torch.tensor([7, 8, 9]),
        torch.tensor([[7, 8, 9]], dtype=torch.int32),
        np.array([[7, 8, 9]], dtype=np.uint16),
        list(np.array([7, 8, 9])),
        list(torch.tensor([7, 8, 9])),
        [torch.tensor([7, 8, 9])],
    ],
    ids=repr,
)
def test_one_prompt_of_ids_in_every_form(ids):
    encoded = encode(ids, None)
    assert encoded == [[7, 8, 9]]
    assert all(type(i) is int for i in encoded[0])


@pytest.mark.parametrize(
    "encoding",
    [
        BatchEncoding({"input_ids": [7, 8, 9]}),
        BatchEncoding({"input_ids": [[7, 8, 9]]}),
        {"input_ids": torch.tensor([[7, 8, 9]])},
    ],
    ids=repr,
)
def test_one_prompt_of_an_encoding_in_every_form(encoding):
    token_ids = encoded_ids(encoding)
    assert token_ids == [[7, 8, 9]]
    assert all(type(i) is int for i in token_ids[0])


def test_several_prompts_of_ids_need_no_equal_lengths():
    expected = [[7, 8, 9], [10]]
    assert encode(expected, None) == expected
    assert encode([np.array(row) for row in expected], None) == expected
    assert encode([torch.tensor(row) for row in expected], None) == expected
    assert encode(torch.tensor([[7, 8], [9, 10]]), None) == [[7, 8], [9, 10]]
    assert encode(np.array([[7, 8], [9, 10]]), None) == [[7, 8], [9, 10]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tensors", [None, "pt", "np"])
def test_masked_tokens_of_an_encoding_are_dropped(side, tensors):
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.padding_side = side
    padded = tokenizer([FRANCE, FOX], padding=True, return_tensors=tensors)
    assert isinstance(padded, BatchEncoding)
    assert len(padded["input_ids"][0]) == len(padded["input_ids"][1])
    assert encoded_ids(padded) == encode([FRANCE, FOX], tokenizer)


def test_an_encoding_without_padding_may_be_ragged(tokenizer):
    ragged = tokenizer([FRANCE, FOX])
    assert encoded_ids(ragged) == encode([FRANCE, FOX], tokenizer)
    ragged.pop("attention_mask")
    assert encoded_ids(ragged) == encode([FRANCE, FOX], tokenizer)


def test_special_tokens_are_added_as_the_tokenizer_does_and_can_be_left_out(with_bos, tokenizer):
    plain = encode(FRANCE, tokenizer)[0]
    assert encode(FRANCE, with_bos) == [[tiny.BOS, *plain]]
    assert encode([FRANCE, FOX], with_bos)[1][0] == tiny.BOS
    assert encode(FRANCE, with_bos, add_special_tokens=False) == [plain]


def test_a_chat_has_the_bos_of_its_template_and_no_second_one(with_bos, tokenizer):
    chat = [{"role": "user", "content": "One two"}]
    written = "<s>user: One two</s>\nassistant:"
    expected = [tiny.BOS, *tokenizer("user: One two").input_ids, tiny.EOS]
    expected += tokenizer("\nassistant:").input_ids
    assert with_bos(written).input_ids == [tiny.BOS, *expected]  # a naive call doubles it
    for either in (with_bos, tokenizer):
        assert encode(chat, either) == [expected]
        assert encode(tuple(chat), either) == [expected]


def test_a_turn_that_calls_a_tool_needs_no_content():
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}:"
        "{% if message['tool_calls'] %}{{ message['tool_calls'][0]['function']['name'] }}"
        "{% else %}{{ message['content'] }}{% endif %};{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    chat = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "name": "weather", "content": "two"},
    ]
    expected = tokenizer("user:One;assistant:weather;tool:two;").input_ids
    assert encode(chat, tokenizer) == encode([chat], tokenizer) == [expected]


def test_several_chats_are_several_prompts(with_bos):
    one = [{"role": "user", "content": "One"}]
    two = [*one, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"}]
    both = encode([one, two], with_bos)
    assert both == [encode(one, with_bos)[0], encode(two, with_bos)[0]]
    assert [ids.count(tiny.BOS) for ids in both] == [1, 1]
    assert encode([one], with_bos) == both[:1]


@often
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=4))
def test_any_text_is_encoded_as_the_tokenizer_alone_does(texts):
    tokenizer = tiny.tiny_tokenizer()
    assert encode(texts, tokenizer) == [tokenizer(text).input_ids for text in texts]


@often
@given(
    st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
)
def test_padding_is_undone_whatever_the_ids(prompts, side):
    """Also where a real token has the id of the padding."""
    width = max(map(len, prompts))
    rows, masks = [], []
    for prompt in prompts:
        gap = [0] * (width - len(prompt))
        rows.append(gap + prompt if side == "left" else prompt + gap)
        masks.append([*gap, *[1] * len(prompt)] if side == "left" else [*[1] * len(prompt), *gap])
    encoding = BatchEncoding(
        {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}
    )
    assert encoded_ids(encoding) == prompts


def test_ids_and_lengths_that_fit_exactly_are_accepted():
    check_ids([[0, 9] * 2, [9]], n_embeddings=10, n_positions=4)
    check_ids([[0] * 100], n_embeddings=1, n_positions=None)
    with pytest.raises(ValueError, match=r"prompt 1 has the id 10 at position 2; .* 0 to 9"):
        check_ids([[1], [0, 0, 10]], n_embeddings=10, n_positions=4)
    with pytest.raises(ValueError, match=r"prompt 0 is 5 tokens .* holds 4"):
        check_ids([[0] * 5], n_embeddings=10, n_positions=4)


# -- positions and layers ----------------------------------------------


@often
@given(st.integers(1, 20), st.integers(-25, 25))
def test_an_int_picks_what_python_picks(length, index):
    try:
        expected = [list(range(length))[index]]
    except IndexError:
        with pytest.raises(ValueError, match=rf"={index} is out of range: here"):
            pick_indices(index, length, "positions", "here")
    else:
        assert pick_indices(index, length, "positions", "here") == expected
        assert pick_indices(np.int64(index), length, "positions", "here") == expected
        assert pick_indices([index], length, "positions", "here") == expected


@often
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.slices(n + 3))))
def test_a_slice_picks_what_python_picks(case):
    length, what = case
    expected = list(range(length))[what]
    if expected:
        assert pick_indices(what, length, "layers", "here") == expected
    else:
        with pytest.raises(ValueError, match="selects nothing"):
            pick_indices(what, length, "layers", "here")


@often
@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.integers(-n, n - 1), min_size=1, max_size=9))
    )
)
def test_a_list_picks_what_python_picks_once_each_and_in_its_order(case):
    length, what = case
    expected = list(dict.fromkeys(list(range(length))[i] for i in what))
    for form in (what, tuple(what), np.array(what), torch.tensor(what), iter(what)):
        assert pick_indices(form, length, "layers", "here") == expected


def test_positions_are_one_selection_for_all_prompts_or_one_for_each():
    prompts = [[7, 8, 9], [7, 8, 9, 10]]
    for positions, expected in [
        ([0, -1], [[0, 2], [0, 3]]),
        (np.array([0, -1]), [[0, 2], [0, 3]]),
        (torch.tensor(1), [[1], [1]]),
        ([np.array([0, 1]), np.array([3])], [[0, 1], [3]]),
        ([torch.tensor([0, 1]), torch.tensor([3])], [[0, 1], [3]]),
        ([range(2), (3,)], [[0, 1], [3]]),
        (([0], slice(1, 3)), [[0], [1, 2]]),
        (np.array([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
        (torch.tensor([[0, 1], [2, 3]]), [[0, 1], [2, 3]]),
    ]:
        assert pick_positions(positions, prompts) == expected, positions


@pytest.mark.parametrize("truths", [[True], np.array([True]), torch.tensor([True])], ids=repr)
def test_truth_values_are_no_indices_and_no_ids(truths):
    """A mask would be read as the positions 0 and 1."""
    with pytest.raises(ValueError, match="list of ints"):
        pick_indices(truths, 3, "positions", "here")
    with pytest.raises(ValueError, match="token ids"):
        encode(truths, None)
    with pytest.raises(ValueError, match="token id"):
        target_ids(truths, 1, None, 300)


def test_none_picks_all():
    assert pick_indices(None, 3, "layers", "here") == [0, 1, 2]


@often
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.booleans(),
    st.integers(1, 200),
    st.booleans(),
)
def test_every_prompt_is_in_one_batch_that_keeps_its_budget(
    lengths, can_pad, max_logits, all_positions
):
    picked = [list(range(n)) if all_positions else [n - 1] for n in lengths]
    groups = list(
        batches.group_prompts(
            lengths, picked, [0] * len(lengths) if can_pad else lengths, max_logits
        )
    )
    assert sorted(prompt for group in groups for prompt in group) == list(range(len(lengths)))
    for group in groups:
        kept = max(lengths[p] - min(picked[p]) for p in group)
        assert len(group) == 1 or len(group) * kept <= max_logits
        assert can_pad or len({lengths[p] for p in group}) == 1


# -- targets -----------------------------------------------------------


def test_targets_are_strings_or_ids_for_all_prompts_or_for_each(tokenizer):
    the = tokenizer(" the").input_ids[0]
    of = tokenizer(" of").input_ids[0]
    for targets, expected in [
        (None, [[], []]),
        ([], [[], []]),
        (" the", [[the], [the]]),
        (7, [[7], [7]]),
        (np.int32(7), [[7], [7]]),
        (torch.tensor(7), [[7], [7]]),
        ([" the", 7], [[the, 7], [the, 7]]),
        ((" the", " of"), [[the, of], [the, of]]),
        (np.array([7, 8]), [[7, 8], [7, 8]]),
        (torch.tensor([7, 8]), [[7, 8], [7, 8]]),
        ([[" the"], [" of"]], [[the], [of]]),
        ([(" the", 8), [7, " of"]], [[the, 8], [7, of]]),
        (np.array([[7], [8]]), [[7], [8]]),
        (torch.tensor([[7], [8]]), [[7], [8]]),
        ([[], []], [[], []]),
    ]:
        assert target_ids(targets, 2, tokenizer, 300) == expected, targets
    assert target_ids([7, 8], 2, None, 300) == [[7, 8], [7, 8]]


def test_a_target_of_several_tokens_shows_them_and_what_to_pass(tokenizer):
    ids = tokenizer(" Zanzibar").input_ids
    pieces = [token_text(tokenizer, i) for i in ids]
    assert len(ids) > 1
    with pytest.raises(ValueError, match="A target is one token") as error:
        target_ids(" Zanzibar", 1, tokenizer, 300)
    message = str(error.value)
    assert str(pieces) in message
    assert f"{len(ids)} tokens" in message
    assert f"{pieces[0]!r} (id {ids[0]})" in message
    with pytest.raises(ValueError, match="a string that is not empty"):
        target_ids("", 1, tokenizer, 300)


def test_a_target_has_no_bos_of_its_own(with_bos):
    the = with_bos(" the", add_special_tokens=False).input_ids
    assert target_ids(" the", 1, with_bos, 300) == [the]


def test_an_unknown_target_id_is_refused(tokenizer):
    for target in (-1, 300, 2**40):
        with pytest.raises(ValueError, match=rf"{target} is unknown: .* 0 to 299"):
            target_ids(target, 1, tokenizer, 300)
    assert target_ids([0, 299], 1, tokenizer, 300) == [[0, 299]]


def test_a_sentencepiece_target_is_found_by_its_exact_text(sentencepiece):
    pieces = sentencepiece.pieces
    assert target_ids(" Paris", 1, sentencepiece, 300) == [[pieces["▁Paris"]]]
    assert target_ids("Paris", 1, sentencepiece, 300) == [[pieces["Paris"]]]
    assert target_ids("a", 1, sentencepiece, 300) == [[pieces["a"]]]
    with pytest.raises(ValueError, match="A target is one token"):
        target_ids(" a", 1, sentencepiece, 300)


# -- ids to text -------------------------------------------------------


def test_byte_level_tokens_are_shown_as_their_text(tokenizer):
    def shown(text):
        return [token_text(tokenizer, i) for i in tokenizer(text).input_ids]

    assert shown(" the") == [" the"]
    assert shown("\n") == ["\n"]
    assert shown("\t") == ["\t"]
    assert shown(" ") == [" "]
    assert shown("\x00\x7f") == ["\x00", "\x7f"]
    assert shown("é") == ["⟨C3⟩", "⟨A9⟩"]
    assert shown("😀") == ["⟨F0⟩", "⟨9F⟩", "⟨98⟩", "⟨80⟩"]
    assert shown("Ġ") == ["⟨C4⟩", "⟨A0⟩"]  # the letter, not the sign for a space


def test_whole_characters_in_a_byte_level_token_are_shown_beside_broken_ones():
    written = {
        "😀": "😀",
        "é!": "é!",
        " 日本": " 日本",
        "日本": "日本",
    }
    tokens = ["".join(CHAR_OF_BYTE[b] for b in text.encode()) for text in written]
    broken = ["".join(CHAR_OF_BYTE[b] for b in raw) for raw in (b" \xf0\x9f", b"a\xffb", b"\x80")]
    vocabulary = {t: i for i, t in enumerate([*tokens, *broken, "Ġ"])}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    shown = [token_text(tokenizer, i) for i in range(len(vocabulary))]
    assert shown == [*written.values(), " ⟨F0⟩⟨9F⟩", "a⟨FF⟩b", "⟨80⟩", " "]


def test_special_and_added_tokens_are_shown_as_they_are_written(tokenizer):
    assert [token_text(tokenizer, i) for i in (tiny.PAD, tiny.BOS, tiny.EOS)] == [
        "<pad>",
        "<s>",
        "</s>",
    ]
    added = tiny.tiny_tokenizer()
    added.add_tokens(["<|tool call|>", "été", " ▁x", "Ġ!"])
    for text in ("<|tool call|>", "été", " ▁x", "Ġ!"):
        assert token_text(added, added.convert_tokens_to_ids(text)) == text


def test_an_id_without_a_token_is_shown_as_its_number(tokenizer, sentencepiece):
    assert token_text(tokenizer, 5000) == "#5000"
    assert token_text(sentencepiece, 5000) == "#5000"
    assert token_text(None, 7) == "#7"


def test_sentencepiece_tokens_are_shown_as_their_text(sentencepiece):
    pieces = sentencepiece.pieces
    expected = {
        "▁Paris": " Paris",
        "▁": " ",
        "▁▁": "  ",
        "Paris": "Paris",
        "é": "é",
        "<0x0A>": "\n",
        "<0x20>": "⟨20⟩",  # " " is the token "▁"
        "<0x41>": "A",
        "<0xF0>": "⟨F0⟩",
        "<0x9F>": "⟨9F⟩",
        "<0xZZ>": "<0xZZ>",
        "<s>": "<s>",
        "<unk>": "<unk>",
        "Ġ": "Ġ",
    }
    assert {piece: token_text(sentencepiece, pieces[piece]) for piece in expected} == expected
    emoji = sentencepiece("😀").input_ids
    assert "".join(token_text(sentencepiece, i) for i in emoji) == " ⟨F0⟩⟨9F⟩⟨98⟩⟨80⟩"


def test_texts_are_made_once_for_every_id_and_never_for_padding(tokenizer):
    assert token_texts(tokenizer, [7, -1, 7, np.int32(8)]) == {
        7: token_text(tokenizer, 7),
        8: token_text(tokenizer, 8),
    }


def spoken_bytes(text):
    """The bytes that displayed text stands for."""
    parts = re.split(r"⟨([0-9A-F]{2})⟩", text)
    return b"".join(bytes([int(p, 16)]) if n % 2 else p.encode() for n, p in enumerate(parts))


@often
@given(st.text(st.characters(codec="utf-8", exclude_characters="⟨⟩"), max_size=20))
def test_the_displayed_tokens_of_any_text_are_its_bytes(text):
    tokenizer = tiny.tiny_tokenizer()
    shown = [token_text(tokenizer, i) for i in tokenizer(text).input_ids]
    assert b"".join(map(spoken_bytes, shown)) == text.encode()


def test_smollm2s_tokens_are_the_bytes_of_the_text(smollm2):
    text = "Le café — 日本語 😀\n\tdef f(x):  return x"
    shown = [token_text(smollm2.tokenizer, i) for i in smollm2.tokenizer(text).input_ids]
    assert b"".join(map(spoken_bytes, shown)) == text.encode()
    assert "�" not in "".join(shown)
