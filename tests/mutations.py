"""Changes of saved data for properties: of what JSON holds, and of bytes."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)

Content = dict[str, Any]
Place = tuple[str | int, ...]

# -- values of JSON ----------------------------------------------------

DEEP: list[Any] = functools.reduce(lambda value, _: [value], range(200), [])
VALUES = [
    None, True, False, 0, 1, -1, -2, 2, 3, 7, 99, 10**6, 2**31 - 1, 2**31, -(2**31), 2**63, 10**20, 10**400, 0.5, -0.5,
    1.5, 1e-300, 88.0, -1e4, 710.0, 3e38, 1e39, 1e308, math.nan, math.inf, -math.inf, "NaN", "Infinity", "-Infinity", "",
    "a", "0", "-1", " the", "x" * 3000, "<b>", "\ud800", "\x1b[2J", "%{y}", [], {}, [[]], [None], [1, 2], ["a", "b"],
    {"a": 1}, {"": None}, DEEP, "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out",
    "other_out", "vector", "layer", "bias", "value_bias", "attn_bias", "unit", "token", "head", "component", "mean",
    "float16", "bfloat16", "eos", "length", "interrupted", "top1",
]  # fmt: skip


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where a value of a file stands, from the top down."""
    if place:
        yield place
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*place, key))


def at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


@st.composite
def changes(draw, content: Content, among: tuple[str, ...] = ()) -> Content:
    """A content with one to three changes, anywhere or below one of some fields."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        fields = [name for name in content if name in among or not among]
        if not fields:
            break
        field = draw(st.sampled_from(fields))
        below = list(places(content[field], (field,)))
        depth = draw(st.integers(1, max(map(len, below))))
        alike = [place for place in below if len(place) == depth]
        if alike:
            change(draw, content, draw(st.sampled_from(alike)))
    return content


def change(draw, content: Content, place: Place) -> None:
    """Change one value of a content in one way."""
    *parents, key = place
    parent = at(content, tuple(parents))
    value = parent[key]
    ways = ["replace", "replace", "delete", "take from elsewhere"]
    ways += ["replace by its like"] * 4
    if isinstance(value, list):
        ways += ["reverse", "cut", "repeat", "fill", "empty", "permute"]
    if isinstance(value, dict):
        ways += ["rename", "add"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        ways += ["nudge", "nudge"]
    if isinstance(parent, list):
        ways += ["twice"]
    match draw(st.sampled_from(ways)):
        case "replace":
            parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        case "replace by its like":
            parent[key] = copy.deepcopy(
                draw(st.sampled_from([v for v in VALUES if like(v, value)]))
            )
        case "delete":
            del parent[key]
        case "take from elsewhere":
            other = draw(st.sampled_from(sorted(content)))
            found = list(places(content[other], (other,)))[:300]
            parent[key] = copy.deepcopy(at(content, draw(st.sampled_from(found))))
        case "reverse":
            value.reverse()
        case "cut":
            del value[draw(st.integers(0, len(value))) :]
        case "repeat":
            value += copy.deepcopy(value)
        case "fill":
            parent[key] = filled(value, draw(st.sampled_from(VALUES)))
        case "empty":
            parent[key] = type(value)()
        case "permute":
            parent[key] = draw(st.permutations(value[:20])) + value[20:]
        case "rename" if value:
            name = draw(st.sampled_from(sorted(value)))
            value[str(draw(st.sampled_from(VALUES)))[:50]] = value.pop(name)
        case "add":
            value[draw(st.sampled_from(["a", "", "7", "-1", "1e9"]))] = copy.deepcopy(
                draw(st.sampled_from(VALUES))
            )
        case "nudge":
            parent[key] = value + draw(st.sampled_from([-2, -1, 1, 2, 0.25, 100, 1000]))
        case "twice":
            parent.insert(key, copy.deepcopy(value))


def like(one: Any, other: Any) -> bool:
    """Whether two values are both numbers, both texts, or both of another type that JSON has."""
    if type(one) in (int, float):
        return type(other) in (int, float) or other is None
    return type(one) is type(other)


def filled(value: Any, item: Any) -> Any:
    """Lists of the same lengths with the same value everywhere."""
    if isinstance(value, list):
        return [filled(inner, item) for inner in value]
    return copy.deepcopy(item)


# -- bytes -------------------------------------------------------------


@st.composite
def damaged_bytes(draw, whole: bytes) -> bytes:
    """Bytes that are cut off, cut out, flipped, or written over."""
    start = draw(st.integers(0, len(whole) - 1))
    length = draw(st.sampled_from([1, 2, 4, 30, 500]))
    match draw(st.sampled_from(["truncate", "cut out", "flip", "over", "twice"])):
        case "truncate":
            return whole[:start]
        case "cut out":
            return whole[:start] + whole[start + length :]
        case "flip":
            flipped = whole[start] ^ (1 << draw(st.integers(0, 7)))
            return whole[:start] + bytes([flipped]) + whole[start + 1 :]
        case "over":
            return whole[:start] + draw(st.binary(min_size=1, max_size=8)) + whole[start + length :]
    return whole[: start + length] + whole[start:]
