"""Turn items into token ids, find what cannot be asked, and choose the controls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lens_recipes.errors import LensError
from lens_recipes.models.handle import context_length, tokenizer_of
from lens_recipes.models.images.processor import image_token_id
from lens_recipes.models.structure.parts import Anatomy
from lens_recipes.models.tokens.vocabulary import token_text
from lens_recipes.recipes.survey.items import Item, LeftOut
from lens_recipes.recipes.survey.places import Place, ids_up_to
from lens_recipes.run.request.images.asked.chats import has_image_parts
from lens_recipes.run.request.images.encoded import are_ids, read_encoded_prompts
from lens_recipes.run.request.images.prompts import read_image_prompts
from lens_recipes.run.request.prompts import encode
from lens_recipes.run.request.selection import target_id

# Why an item is left out, for the ledger.
NOT_ONE_TOKEN = "the target is several tokens"
AGAINST_NOT_ONE_TOKEN = "what it is held against is several tokens"
UNKNOWN_ID = "the target is no id of this model"
AGAINST_UNKNOWN_ID = "what it is held against is no id of this model"
SAME_TOKENS = "the target and what it is held against share a token"
TOO_LONG = "the prompt is too long"
NO_SUCH_POSITION = "the prompt has no such position"
NOT_ENCODED = "the prompt cannot be encoded"
WRONG_ANSWER = "the model's own answer is another"

NEARBY_IDS = 256  # a random token is taken from so many on each side: frequent ids come first


class PreparedItem(NamedTuple):
    """An item as token ids.

    Attributes:
        item: As it was read.
        token_ids: Of the prompt.
        position: Which token of it is read, from 0.
        target_ids, against_ids: The spellings that are one token, each once.
        inputs: What the model is given beside each id of a prompt with images, by name.
    """

    item: Item
    token_ids: list[int]
    position: int
    target_ids: list[int]
    against_ids: list[int]
    inputs: dict[str, list[int]] | None = None


class Controls(NamedTuple):
    """What is asked in an answer's place, which the prompt should not favour.

    Attributes:
        shuffled: The spellings of another item's answer; empty where all others are the same.
        random: A token for each spelling that is one token, about as frequent as it; empty where
            there are none.
    """

    shuffled: list[int]
    random: list[int]


class ItemReader:
    """Turns the items of one survey into ids."""

    def __init__(self, model: Any, anatomy: Anatomy, *, add_special_tokens: bool) -> None:
        """Take the model's tokenizer and bounds."""
        self.model = model
        self.tokenizer = tokenizer_of(model)
        self.forward_options = anatomy.forward_options
        self.vocab_size = anatomy.vocab_size
        self.n_layers = anatomy.n_layers
        self.n_embeddings = anatomy.n_embeddings
        self.longest = anatomy.n_positions or context_length(model)
        self.add_special_tokens = add_special_tokens

    def prepare(self, item: Item) -> PreparedItem | LeftOut:
        """Return an item as ids, or why it cannot be asked."""
        prompt, position = item.prompt, item.position
        inputs: dict[str, list[int]] | None = None
        try:
            if item.images or has_image_parts([prompt]):
                token_ids, inputs = self.with_images(item)
            elif not isinstance(position, Place):
                token_ids = self.encoded(prompt)
        except (ValueError, LensError) as error:
            return left_out(item, NOT_ENCODED, str(error))
        if isinstance(position, Place):
            try:
                up_to = self.up_to(prompt, position)
                if inputs is None:
                    token_ids, position = up_to, -1
                else:
                    position = self.place_among_images(prompt, up_to, token_ids)
            except ValueError as error:
                return left_out(item, NO_SUCH_POSITION, str(error))
        if self.longest is not None and len(token_ids) > self.longest:
            detail = f"{len(token_ids)} tokens, and the model's context holds {self.longest}"
            return left_out(item, TOO_LONG, detail)
        if not -len(token_ids) <= position < len(token_ids):
            detail = f"position {position} of {len(token_ids)} tokens"
            return left_out(item, NO_SUCH_POSITION, detail)
        targets, reasons = self.spellings(item.target)
        if not targets:
            reason = NOT_ONE_TOKEN if has_text(item.target) else UNKNOWN_ID
            return left_out(item, reason, "; ".join(reasons))
        against, reasons = self.spellings(item.against)
        if item.against and not against:
            reason = AGAINST_NOT_ONE_TOKEN if has_text(item.against) else AGAINST_UNKNOWN_ID
            return left_out(item, reason, "; ".join(reasons))
        shared = sorted(set(targets) & set(against))
        if shared:
            return left_out(item, SAME_TOKENS, token_text(self.tokenizer, shared[0]))
        return PreparedItem(item, token_ids, position % len(token_ids), targets, against, inputs)

    def with_images(self, item: Item) -> tuple[list[int], dict[str, list[int]]]:
        """Return the ids of a prompt with images, and what the model is given beside each.

        The pixels are read again when the item is run, a few items at a time.

        Raises:
            ValueError, LensError: as `read_image_prompts`, or images within the prompt.
        """
        if not item.images:
            raise ValueError(
                'the prompt has parts for images: name these in "images", a path or a list'
            )
        prompts, images = [item.prompt], [list(item.images)]
        if are_ids(prompts):
            found = read_encoded_prompts(self.model, prompts, images, self.forward_options)
        else:
            found = read_image_prompts(
                self.model,
                prompts,
                images,
                self.tokenizer,
                add_special_tokens=self.add_special_tokens,
            )
        if len(found) > 1:
            raise ValueError(f"these are {len(found)} prompts: an item has one")
        return found[0].token_ids, found[0].inputs

    def place_among_images(self, prompt: str, up_to: list[int], token_ids: list[int]) -> int:
        """Return the position of a place in a prompt whose images have made it longer.

        Args:
            prompt: As it was written.
            up_to: Its ids up to the place, without images.
            token_ids: Its ids with them.

        Raises:
            ValueError: it stands between two images, or the text is cut otherwise beside them.
        """
        token = image_token_id(self.model)  # in a text, it may stand for a whole image
        if token not in up_to and token_ids[: len(up_to)] == up_to:  # before the first image
            return len(up_to) - 1
        after = self.encoded(prompt)[len(up_to) :]
        position = len(token_ids) - len(after) - 1
        is_there = token_ids[position + 1 :] == after and token_ids[position] == up_to[-1]
        if token not in after and is_there:  # after the last image
            return position
        raise ValueError("the place stands between images: give the position as a number")

    def up_to(self, prompt: Any, place: Place) -> list[int]:
        """Return the ids of a prompt up to a place.

        Raises:
            ValueError: there is no such place.
        """
        return ids_up_to(prompt, place, self.tokenizer, add_special_tokens=self.add_special_tokens)

    def encoded(self, prompt: Any) -> list[int]:
        """Return the ids of one prompt.

        Raises:
            ValueError: there are none, or the model does not have one of them.
        """
        if hasattr(prompt, "__len__") and not len(prompt):
            raise ValueError("the prompt has no tokens")
        rows = encode(prompt, self.tokenizer, add_special_tokens=self.add_special_tokens)
        if len(rows) > 1:
            raise ValueError(f"these are {len(rows)} prompts: an item has one")
        if not rows or not rows[0]:
            raise ValueError("the prompt has no tokens")
        token_ids = rows[0]
        for token in (min(token_ids), max(token_ids)):
            if not 0 <= token < self.n_embeddings:
                raise ValueError(f"the id {token} is unknown to this model")
        return token_ids

    def spellings(self, texts: Sequence[Any]) -> tuple[list[int], list[str]]:
        """Return the ids of the spellings that are one token, and why the others are none."""
        ids, reasons = [], []
        for text in texts:
            try:
                ids.append(target_id(text, self.tokenizer, self.vocab_size))
            except ValueError as error:
                reasons.append(str(error).removesuffix("."))
        return list(dict.fromkeys(ids)), reasons


def has_text(spellings: Sequence[Any]) -> bool:
    """Tell whether one of the spellings is a text."""
    return any(isinstance(spelling, str) for spelling in spellings)


def left_out(item: Item, reason: str, detail: str) -> LeftOut:
    """Return an item as an entry of the ledger."""
    return LeftOut(item.number, item.id, reason, f"{item.place}: {detail.removesuffix('.')}")


# -- controls ----------------------------------------------------------


def choose_controls(
    items: Sequence[PreparedItem], tokenizer: Any, vocab_size: int, seed: int
) -> list[Controls]:
    """Return the controls of the items of one block.

    They depend on the items of the block alone, so that a survey in parts is the whole.

    Args:
        items: Of the block.
        tokenizer: The model's, or None.
        vocab_size: How many ids have a logit.
        seed: For the draws.
    """
    by_group: dict[str, list[int]] = {}
    for index, prepared in enumerate(items):
        by_group.setdefault(prepared.item.group, []).append(index)
    shuffled: dict[int, list[int]] = {}
    for members in by_group.values():
        shuffled.update(shuffled_targets(items, members, seed))
    controls = []
    for index, prepared in enumerate(items):
        tokens = random_tokens(prepared, tokenizer, vocab_size, seed)
        controls.append(Controls(shuffled[index], tokens))
    return controls


def shuffled_targets(
    items: Sequence[PreparedItem], members: list[int], seed: int
) -> dict[int, list[int]]:
    """Return for each item of a group the answer of another one; empty where there is none.

    The group is put in a random order, and each takes the next answer that is not its own, of
    another prompt: a prompt of which several things are asked favours all of them.
    """
    first = items[members[0]].item
    order = generator_of(seed, "shuffle", first.group, first.number).permutation(members).tolist()
    taken: dict[int, list[int]] = {}
    for place, index in enumerate(order):
        own = set(items[index].target_ids)
        taken[index] = []
        for step in range(1, len(order)):
            other = items[order[(place + step) % len(order)]]
            is_same_prompt = other.token_ids == items[index].token_ids
            if not is_same_prompt and not own & set(other.target_ids):
                taken[index] = other.target_ids
                break
    return taken


def random_tokens(prepared: PreparedItem, tokenizer: Any, vocab_size: int, seed: int) -> list[int]:
    """Return as many tokens as the answer has spellings, each near the id of one of them.

    Ids are in order of frequency. One token in the place of several spellings would have fewer
    chances than they have.
    """
    draws = generator_of(seed, "random", prepared.item.id, prepared.item.number)
    taken = {*prepared.target_ids, *prepared.against_ids}
    found: list[int] = []
    for spelling in prepared.target_ids:
        token = random_token(spelling, taken, tokenizer, vocab_size, draws)
        if token >= 0:
            found.append(token)
            taken.add(token)
    return found


def random_token(
    answer: int, taken: set[int], tokenizer: Any, vocab_size: int, draws: np.random.Generator
) -> int:
    """Return a token near another one's id, and none of those that are taken; −1 for none.

    Like the other it begins with a space, or does not.
    """
    nearby = np.arange(max(0, answer - NEARBY_IDS), min(vocab_size, answer + NEARBY_IDS + 1))
    candidates = [int(token) for token in draws.permutation(nearby) if int(token) not in taken]
    if not candidates:
        return -1
    begins_with_space = token_text(tokenizer, answer).startswith(" ")
    for token in candidates[:64]:
        if token_text(tokenizer, token).startswith(" ") == begins_with_space:
            return token
    return candidates[0]


def generator_of(*what: Any) -> np.random.Generator:
    """Return random numbers that are the same wherever the same is asked for."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
