"""Small tokenizers of every kind that checkpoints have, built in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BatchEncoding,
    PreTrainedTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from lens_recipes.models.tokens.spelling import BYTE_OF_CHAR

TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def f(x):\n\treturn  x\n\nOne two, three four five.",
    "Le café est à côté. 日本語 😀 naïve",
    "The quick brown fox jumps over the lazy dog, and then the dog sleeps.",
)
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]

KINDS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {}


def kind(build: Callable[[], PreTrainedTokenizerBase]) -> Callable[[], PreTrainedTokenizerBase]:
    """Enter a builder into KINDS."""
    KINDS[build.__name__] = build
    return build


def wrapped(core: Tokenizer, **more: object) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers around a core."""
    settings = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | more
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **settings
    )


# -- the bytes of GPT-2 ------------------------------------------------


def byte_level_core(*, add_prefix_space: bool = False) -> Tokenizer:
    """Byte-level BPE, trained."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return core


@kind
def byte_level() -> PreTrainedTokenizerBase:
    """GPT-2, Llama 3, Qwen."""
    return wrapped(byte_level_core())


@kind
def byte_level_with_prefix() -> PreTrainedTokenizerBase:
    """A space before the first word."""
    return wrapped(byte_level_core(add_prefix_space=True))


@kind
def byte_level_with_sentencepiece_mark() -> PreTrainedTokenizerBase:
    """The mark of SentencePiece was added, which spells no space here."""
    tokenizer = wrapped(byte_level_core())
    tokenizer.add_tokens(["▁", "<|tool▁call|>"])
    return tokenizer


@kind
def byte_level_with_added_words() -> PreTrainedTokenizerBase:
    """Words were added that the tokens of bytes spell, too."""
    tokenizer = wrapped(byte_level_core())
    tokenizer.add_tokens([" capital", "é", "\n", "Ġthe", "#5", "  "])
    return tokenizer


@kind
def byte_level_split() -> PreTrainedTokenizerBase:
    """The bytes come after a split by a pattern, as in DeepSeek's and Qwen's."""
    core = byte_level_core()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return wrapped(core)


# -- SentencePiece -----------------------------------------------------


def sentencepiece_bpe_core(*, byte_fallback: bool) -> Tokenizer:
    """BPE over texts in which a space is ▁, as Llama 2 has it."""
    core = Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    special = SPECIAL + (BYTE_TOKENS if byte_fallback else [])
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 150,
        special_tokens=special,
        limit_alphabet=40,
        show_progress=False,
    )
    core.train_from_iterator([text.replace(" ", "▁") for text in TEXTS], trainer)
    return core


def with_ordinary_byte_tokens(core: Tokenizer) -> Tokenizer:
    """The byte tokens as ordinary tokens: a trainer makes them special."""
    state = json.loads(core.to_str())
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["content"] not in BYTE_TOKENS
    ]
    return Tokenizer.from_str(json.dumps(state))


@kind
def sentencepiece_bpe() -> PreTrainedTokenizerBase:
    """Without bytes: what the vocabulary lacks is unknown."""
    return wrapped(sentencepiece_bpe_core(byte_fallback=False))


@kind
def sentencepiece_bpe_with_bytes() -> PreTrainedTokenizerBase:
    """Llama 2: a line break is the byte 0A, behind a space that no one wrote."""
    return wrapped(with_ordinary_byte_tokens(sentencepiece_bpe_core(byte_fallback=True)))


@kind
def sentencepiece_bpe_with_added_words() -> PreTrainedTokenizerBase:
    """Gemma: line breaks and runs of spaces are tokens of their own, and bytes there are as well."""
    core = with_ordinary_byte_tokens(sentencepiece_bpe_core(byte_fallback=True))
    core.add_tokens([AddedToken("\n", normalized=False), AddedToken("▁▁▁", normalized=False)])
    core.add_tokens([AddedToken(" the", normalized=False)])
    return wrapped(core)


def unigram(*, byte_fallback: bool, prepend_scheme: str) -> PreTrainedTokenizerBase:
    """SentencePiece's other algorithm."""
    pieces = [*SPECIAL, "▁", "▁the", "the", "▁Paris", "▁capital", "▁▁", "\n", "·"]
    pieces += sorted({char for text in TEXTS[:2] for char in text if char not in " \n"})
    pieces += BYTE_TOKENS if byte_fallback else []
    scores = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    core = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=byte_fallback))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    metaspace = decoders.Metaspace(prepend_scheme=prepend_scheme)
    core.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace])
    return wrapped(core)


@kind
def unigram_always() -> PreTrainedTokenizerBase:
    """A space before every text."""
    return unigram(byte_fallback=False, prepend_scheme="always")


@kind
def unigram_first_with_bytes() -> PreTrainedTokenizerBase:
    """A space before the first word only."""
    return unigram(byte_fallback=True, prepend_scheme="first")


@kind
def unigram_never() -> PreTrainedTokenizerBase:
    """No space that no one wrote."""
    return unigram(byte_fallback=False, prepend_scheme="never")


# -- words -------------------------------------------------------------


@kind
def wordpiece() -> PreTrainedTokenizerBase:
    """BERT: lower case, and ## before what goes on with a word."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return wrapped(core)


@kind
def end_of_word() -> PreTrainedTokenizerBase:
    """GPT-1 and BioGPT: </w> after the end of a word."""
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>", fuse_unk=False))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return wrapped(core)


@kind
def whole_words() -> PreTrainedTokenizerBase:
    """One token a word."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return wrapped(core)


@kind
def with_bos() -> PreTrainedTokenizerBase:
    """Llama 2 with the beginning that it writes before every text."""
    core = with_ordinary_byte_tokens(sentencepiece_bpe_core(byte_fallback=True))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return wrapped(core)


# -- tokenizers without a core of the library `tokenizers` -------------


class Tekken:
    """What mistral-common's `Tekkenizer` does: bytes after special tokens, and � where they are no text."""

    def __init__(self) -> None:
        self.special = [*SPECIAL, "[INST]", "[/INST]"]
        words = [b" the", b" capital", b" \xf0\x9f", b"\xf0\x9f", b"\xe6\x97", b"\n\n", b"<s>"]
        self.bytes = [*(bytes([byte]) for byte in range(256)), *words]
        self.n_words = len(self.special) + len(self.bytes)

    def is_special(self, token: int) -> bool:
        return token < len(self.special)

    def id_to_byte_piece(self, token: int) -> bytes:
        return b"" if self.is_special(token) else self.bytes[token - len(self.special)]

    def id_to_piece(self, token: int) -> str:
        if self.is_special(token):
            return self.special[token]
        return self.id_to_byte_piece(token).decode(errors="replace")

    def encode(self, text: str, bos: bool) -> list[int]:
        raw = text.encode()
        ids = [self.special.index("<s>")] if bos else []
        while raw:
            longest = max((piece for piece in self.bytes if raw.startswith(piece)), key=len)
            ids.append(len(self.special) + self.bytes.index(longest))
            raw = raw[len(longest) :]
        return ids

    def decode(self, ids: list[int], keep_special: bool) -> str:
        raw = b""
        for token in ids:
            is_kept = keep_special and self.is_special(token)
            raw += self.special[token].encode() if is_kept else self.id_to_byte_piece(token)
        return raw.decode(errors="replace")


class MistralCommon(PreTrainedTokenizerBase):
    """A stand-in for transformers' `MistralCommonBackend`, as its 5.23 is: the same methods, names and refusals."""

    padding_side = "left"
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 - as in transformers
    SPECIAL_TOKENS_ATTRIBUTES = ["bos_token", "eos_token", "unk_token", "pad_token"]  # noqa: RUF012

    def __init__(self) -> None:
        self.core = Tekken()
        self.tokenizer = SimpleNamespace(instruct_tokenizer=SimpleNamespace(tokenizer=self.core))
        super().__init__(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")

    @property
    def all_special_ids(self) -> list[int]:
        return list(range(len(self.core.special)))

    @property
    def vocab_size(self) -> int:
        return self.core.n_words

    def __len__(self) -> int:
        return self.vocab_size

    def added_tokens_decoder(self) -> None:  # a method, unlike every other tokenizer's
        raise NotImplementedError

    def get_chat_template(self, chat_template: Any = None, tools: Any = None) -> str:
        raise NotImplementedError

    def get_vocab(self) -> dict[str, int]:
        """Lossy: one token of all that are shown as �."""
        return {self.core.id_to_piece(token): token for token in reversed(range(len(self)))}

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        if isinstance(ids, int):
            return self.core.id_to_piece(ids)
        return [self.core.id_to_piece(token) for token in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, str):
            return self.get_vocab().get(tokens, self.core.special.index("<unk>"))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def __call__(self, text: Any, add_special_tokens: bool = True, **options: Any) -> BatchEncoding:
        unknown = set(options) - {"padding", "truncation", "max_length", "return_tensors"}
        if unknown:
            raise ValueError(f"Kwargs {unknown} are not supported by `MistralCommonBackend`.")
        ids = self.core.encode(text, bos=add_special_tokens) if isinstance(text, str) else text
        encoding = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        return BatchEncoding(encoding, tensor_type=options.get("return_tensors"))

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        return self.core.decode(list(token_ids), keep_special=not skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        tools: Any = None,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Ids, with control tokens that no text can give: not a template's text read again."""
        if add_generation_prompt and conversation[-1]["role"] == "assistant":
            raise ValueError(
                "The last message in the conversation is already an assistant message."
            )
        ids = [self.core.special.index("<s>")]
        for message in conversation:
            inside = self.core.encode(message["content"], bos=False)
            ids += [self.core.special.index("[INST]"), *inside, self.core.special.index("[/INST]")]
        if not tokenize:
            return self.core.decode(ids, keep_special=True)
        return self(ids) if return_dict else ids


@kind
def mistral_common() -> PreTrainedTokenizerBase:
    """Tekken, as AutoTokenizer gives it once mistral-common is installed."""
    return MistralCommon()


class BytePieces(PreTrainedTokenizerFast):
    """A tokenizer whose tokens are bytes, as the code in Qwen-1's folder has them."""

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        piece = super().convert_ids_to_tokens(ids)
        if piece is None or ids in self.added_tokens_decoder:
            return piece
        return bytes(BYTE_OF_CHAR[char] for char in piece)


@kind
def byte_pieces() -> PreTrainedTokenizerBase:
    """tiktoken, in Python."""
    core = byte_level_core()
    return BytePieces(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


class Characters(PreTrainedTokenizer):
    """A tokenizer in Python: a token for each character."""

    def __init__(self, **settings: Any) -> None:
        pieces = [*SPECIAL, *sorted(set("".join(TEXTS)) - {"😀"})]
        self.ids = {piece: number for number, piece in enumerate(pieces)}
        self.pieces = pieces
        super().__init__(unk_token="<unk>", bos_token="<s>", eos_token="</s>", **settings)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        return self.ids | self.added_tokens_encoder

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return self.pieces[index]


@kind
def python_characters() -> PreTrainedTokenizerBase:
    """ByT5's and CANINE's kind: no core, and characters."""
    return Characters()
