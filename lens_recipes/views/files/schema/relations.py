"""How the fields of a file belong together, beyond the lengths of their axes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_recipes.arrays.axes import Part, Tokens
from lens_recipes.arrays.lens import output_entropy
from lens_recipes.arrays.sites import are_vectors
from lens_recipes.models.components import WRITES

Arrays = dict[str, NDArray[Any]]
Fields = dict[str, Any]

WRITES_BUT_ATTENTION = tuple(name for name in WRITES if name != "attn_out")

# What a logit is split into, for each unit; with any of them, edits of the stream are parts, too.
ALWAYS = ("embed", "edit", "bias")
COMPONENTS_OF_UNIT = {
    "layer": (*ALWAYS, "layer"),
    "component": (*ALWAYS, *WRITES),
    "head": (*ALWAYS, "head_out", "attn_bias", *WRITES_BUT_ATTENTION),
    "token": (*ALWAYS, "head_out", "value_bias", "attn_bias", *WRITES_BUT_ATTENTION),
}


def check_lens(fields: Fields, tokens: Tokens, arrays: Arrays) -> None:
    """Check that a lens result is that of vectors, or of prompts, or of prompts that go on.

    Raises:
        ValueError: fields do not belong together.
    """
    _check_prompts(tokens, len(fields["prompts"]))
    if arrays["top_ids"].shape[2] == 0:
        raise ValueError("top_ids holds no predictions, expected is at least one at each site")
    if are_vectors(fields["sites"]):
        _check_vectors(fields, tokens)
        return
    _check_ids("token_id", tokens.id)
    _check_ids("final_ids", arrays["final_ids"])
    if tokens.generated.any():
        _check_generated(tokens, len(fields["prompts"]))
    elif fields["responses"]:
        raise ValueError("responses: there are some, and no token is generated")


def entropy_of_last_layer(fields: Fields, arrays: Arrays) -> NDArray[np.float32]:
    """Return the entropy of the model's own output, `[token]`, for a file that lacks it."""
    return output_entropy(fields["sites"], arrays["kl_to_final"], arrays["entropy"])


def check_attribution(fields: Fields, tokens: Tokens, arrays: Arrays) -> None:
    """Check that the parts of an attribution are those of its unit, layer and prompts.

    Raises:
        ValueError: fields do not belong together.
    """
    _check_prompts(tokens, len(fields["prompts"]))
    _check_ids("token_id", tokens.id)
    if tokens.generated.any():
        raise ValueError("token_generated: an attribution has no generated tokens")
    if arrays["values"].shape[2] == 0:
        raise ValueError("values: there are no targets, expected is at least one")
    _check_parts(fields["parts"], fields["unit"], fields["at_layer"])
    if fields["unit"] == "token":
        _check_sources(fields["sources"], fields["parts"], tokens)
    elif fields["sources"]:
        raise ValueError(f"sources: there are some, and the unit is {fields['unit']!r}")
    for places, inputs in zip(fields["places"], fields["inputs"], strict=False):
        if len(places) != len(inputs["input_ids"]):
            raise ValueError(
                f"places: there are {len(places)} for {len(inputs['input_ids'])} positions"
            )


# -- tokens ------------------------------------------------------------


def _check_prompts(tokens: Tokens, n_prompts: int) -> None:
    """Check that there are tokens of each prompt, prompt after prompt."""
    first_prompt, last_prompt = tokens.prompt[:1], tokens.prompt[-1:]
    steps = np.diff(tokens.prompt)
    is_first = len(first_prompt) == 1 and first_prompt[0] == 0
    is_last = len(last_prompt) == 1 and last_prompt[0] == n_prompts - 1
    if not (is_first and is_last and ((steps == 0) | (steps == 1)).all()):
        raise ValueError(
            f"token_prompt: a token belongs to a prompt that is not among the {n_prompts}, or the "
            "tokens do not come prompt after prompt; expected are tokens of each"
        )


def _check_ids(name: str, ids: NDArray[np.int32]) -> None:
    """Check that each of some ids is that of a token."""
    if (ids < 0).any():
        raise ValueError(f"{name} holds {ids.min()}, expected are ids from 0")


def _check_vectors(fields: Fields, tokens: Tokens) -> None:
    """Check that vectors have no tokens of a run."""
    if len(fields["prompts"]) != 1:
        raise ValueError("prompts: vectors have one that stands for them all")
    if tokens.generated.any() or fields["responses"]:
        raise ValueError("token_generated: nothing was written after vectors")


def _check_generated(tokens: Tokens, n_prompts: int) -> None:
    """Check that the model wrote at least one token after each prompt, and which ones."""
    written = tokens.generated
    if len(np.unique(tokens.prompt[written])) != n_prompts:
        raise ValueError("token_generated: after some prompts something was written, not after all")
    if (tokens.next_id[written] < 0).any():
        raise ValueError("token_next_id: a token that was written has no id")


# -- parts -------------------------------------------------------------


def _check_parts(parts: list[Part], unit: str, at_layer: int) -> None:
    """Check that parts are of a unit, and not of a layer after the one that is explained."""
    components = {part.component for part in parts}
    foreign = sorted(components - set(COMPONENTS_OF_UNIT[unit]))
    if foreign:
        raise ValueError(f"parts: {', '.join(foreign)} is no part where the unit is {unit!r}")
    last_layer = max((part.layer for part in parts if part.layer is not None), default=0)
    if last_layer > at_layer:
        raise ValueError(
            f"parts: there are some of layer {last_layer}, after at_layer, which is {at_layer}"
        )
    has_sources = {part.source is not None for part in parts if part.component == "head_out"}
    if has_sources - {unit == "token"}:
        raise ValueError(f"parts: the unit is {unit!r}, and a head's share is not by {unit}")


def _check_sources(sources: list[list[str]], parts: list[Part], tokens: Tokens) -> None:
    """Check that each head has a part for each token that the longest prompt has."""
    if not sources:
        raise ValueError("sources: there are none, and the unit is 'token'")
    lengths = np.array([len(texts) for texts in sources])
    if (tokens.position >= lengths[tokens.prompt]).any():
        raise ValueError("token_position: a token stands behind the last of its prompt's sources")
    longest = int(lengths.max())  # at least 1: a token stands before the end of its prompt
    of_heads = [part for part in parts if part.component == "head_out"]
    if len(of_heads) == 0:
        return  # in a model whose blocks have no attention
    if len(of_heads) % longest:
        raise ValueError(f"parts: a head has not one for each of {longest} sources")
    layers = np.array([part.layer for part in of_heads]).reshape(-1, longest)
    heads = np.array([part.head for part in of_heads]).reshape(-1, longest)
    source_numbers = np.array([part.source for part in of_heads]).reshape(-1, longest)
    in_order = (source_numbers == np.arange(longest)).all()
    of_one_head = (layers == layers[:, :1]).all() and (heads == heads[:, :1]).all()
    if not (in_order and of_one_head):
        raise ValueError(f"parts: a head has not one for each of {longest} sources, in their order")
