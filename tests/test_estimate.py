"""What is said beforehand of a run on a server is what comes to pass; limits hold before anything is sent."""

from __future__ import annotations

import io
from functools import partial

import hypothesis.extra.numpy as arrays_of
import loopback
import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as some

import lens_recipes as lr
from lens_recipes.run.remote import estimate as _estimate
from lens_recipes.run.remote.wire import unpack_arrays
from lens_recipes.run.schema import ArrayLayout, Schema, UpTo
from lens_recipes.trace.pack import pack_arrays

pytest_plugins = ["loopback"]

SHORT, LONG = "one prompt", "The quick brown fox jumps over the lazy dog, and then it writes"
VECTORS = np.random.default_rng(0).normal(size=(9, 32))
TARGETS = [260, 261, 262]

RECIPES = {
    "lens": partial(lr.logit_lens, prompts=LONG),
    "lens without tracking": partial(lr.logit_lens, prompts=LONG, track=None),
    "lens of the last": partial(lr.logit_lens, prompts=LONG, positions=-1),
    "lens with targets": partial(lr.logit_lens, prompts=LONG, targets=TARGETS, track=9, top_k=9),
    "lens of many": partial(
        lr.logit_lens, prompts=[LONG, SHORT, "A model reads", "Nobody knew why", "it works"]
    ),
    "raw lens": partial(lr.logit_lens, prompts=LONG, apply_norm=False),
    "components": partial(
        lr.logit_lens, prompts=LONG, components=("attn_out", "mlp_out", "resid_post")
    ),
    "heads": partial(lr.logit_lens, prompts=LONG, components="head_out", positions=-1),
    "attribution": partial(lr.attribution, prompts=LONG, targets=TARGETS, positions=-1),
    "attribution by component": partial(
        lr.attribution, prompts=LONG, targets=260, unit="component"
    ),
    "attribution by head": partial(
        lr.attribution, prompts=LONG, targets=TARGETS, unit="head", positions=None
    ),
    "generation": partial(lr.generate_lens, prompts=SHORT, max_new_tokens=20, do_sample=False),
    "sampled generation": partial(
        lr.generate_lens, prompts=[SHORT] * 3, max_new_tokens=8, top_p=0.9, seed=0
    ),
    "vectors": partial(lr.decode_vectors, vectors=VECTORS[:2], targets=TARGETS),
}


def estimate(recipe, model) -> lr.RemoteEstimate:
    return lr.estimate(recipe.func, model, **recipe.keywords)


def refused(call) -> lr.RemoteLensError:
    with pytest.raises(lr.RemoteLensError) as caught:
        call()
    return caught.value


# -- what travels ------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_what_travels_is_as_estimated(client, server, name):
    said = estimate(RECIPES[name], client)
    assert not server.seen
    record = RECIPES[name](client).provenance["jobs"]
    assert said.recipe == RECIPES[name].func.__name__
    assert said.model == loopback.REPO
    assert said.jobs == record["jobs"] == server.posts
    assert record["bytes_up"] == sum(len(parcel.blob) for parcel in server.parcels.values())
    assert record["bytes_back"] == sum(len(parcel.result) for parcel in server.parcels.values())
    assert said.bytes_up == pytest.approx(record["bytes_up"], rel=0.02)
    assert said.bytes_back == pytest.approx(record["bytes_back"], rel=0.2)


@pytest.mark.parametrize(
    "name", ["lens of many", "raw lens", "generation", "sampled generation", "vectors"]
)
def test_what_runs_is_as_estimated(client, server, name):
    said = estimate(RECIPES[name], client)
    RECIPES[name](client)
    read = [np.shape(ids) for ids in server.read]
    batches = [shape for shape in read if shape[1] > 1] if "generation" in name else read
    assert said.batches == len(batches)
    last = (
        sum(shape[0] for shape in batches) if "generation" in name else 0
    )  # is written, and not read again
    assert said.tokens == sum(np.prod(shape) for shape in read) + last


def test_a_run_of_several_jobs_is_estimated_as_such(client, server, settings):
    settings(tokens_per_job=12)
    recipe = partial(lr.logit_lens, prompts=[[7] * n for n in (3, 4, 5, 6, 7, 20)])
    said = estimate(recipe, client)
    record = recipe(client).provenance["jobs"]
    assert said.jobs == server.posts == 4  # 3 + 4 + 5, 6, 7, and 20 by itself
    assert said.batches == len(server.read) == 6
    assert said.tokens == 45
    assert said.bytes_up == pytest.approx(record["bytes_up"], rel=0.02)


def test_a_job_brings_back_so_much_and_no_more(client, server, settings):
    recipe = partial(lr.logit_lens, prompts=[[7] * n for n in range(3, 9)])
    alone = max(
        sum(schema.nbytes().values())
        for schema in recipe.func.prepare(client, **recipe.keywords).schemas
    )
    settings(back_bytes_per_job=2 * alone)
    assert 3 <= estimate(recipe, client).jobs < 6
    settings(back_bytes_per_job=1)
    assert estimate(recipe, client).jobs == 6


@pytest.mark.parametrize("name", RECIPES)
def test_the_memory_on_the_server_is_bounded_by_what_is_read(client, name):
    """At least what is computed there for sure: the arrays that come back."""
    run = RECIPES[name].func.prepare(client, **RECIPES[name].keywords)
    largest = max(sum(schema.nbytes().values()) for schema in run.schemas)
    assert estimate(RECIPES[name], client).server_bytes > largest


def test_more_is_estimated_as_more(client):
    def said(**options):
        return lr.estimate(lr.logit_lens, client, **{"prompts": LONG, **options})

    plain = said()
    assert said(positions=-1).bytes_back < said(positions=[0, -1]).bytes_back < plain.bytes_back
    assert said(positions=-1).server_bytes < plain.server_bytes
    assert said(layers=[0]).bytes_back < plain.bytes_back < said(targets=TARGETS).bytes_back
    assert (
        said(track=None).bytes_back
        < plain.bytes_back
        < said(components=("mlp_out", "resid_post")).bytes_back
    )
    assert said(top_k=9).bytes_back > plain.bytes_back
    assert said(prompts=[LONG] * 3).server_bytes > 2 * plain.server_bytes
    short, long = (lr.estimate(lr.generate_lens, client, SHORT, max_new_tokens=n) for n in (2, 20))
    assert (short.tokens, long.tokens) == (long.tokens - 18, short.tokens + 18)
    assert short.bytes_back < long.bytes_back
    assert short.server_bytes < long.server_bytes


def test_an_estimate_reads_well(client):
    said = lr.RemoteEstimate("logit_lens", "a/b", 1, 2, 30, 15_287, 1_600_000, 2_345_678_901)
    assert str(said) == (
        "logit_lens on a/b: 1 job (2 batches, 30 tokens), 15.3 kB up, about 1.6 MB back, at most 2.3 GB of memory "
        "there beside the weights"
    )
    assert "1 job (1 batch, 7 tokens)" in str(lr.estimate(lr.logit_lens, client, [7] * 7))
    assert "1 job (1 batch, 1 token)" in str(lr.estimate(lr.logit_lens, client, [7]))


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_999, "100 kB"),
        (123_456, "123 kB"),
        (999_999, "1.0 MB"),
        (5 * 10**9, "5.0 GB"),
    ],
)
def test_bytes_for_a_person(n, text):
    assert _estimate.format_bytes(n) == text


def test_an_estimate_needs_neither_a_server_nor_weights(client, server):
    server.close()
    try:
        assert lr.estimate(lr.logit_lens, client, SHORT).jobs == 1
    finally:
        server.open()
    assert next(client._module.parameters()).is_meta


def test_a_model_in_memory_can_be_estimated_too(llama, client):
    here, there = (
        lr.estimate(lr.logit_lens, model, LONG, targets=TARGETS) for model in (llama, client)
    )
    assert here.model == "LlamaForCausalLM"
    assert here.bytes_back == there.bytes_back
    assert here.bytes_up == pytest.approx(there.bytes_up, rel=0.05)


@pytest.mark.parametrize("wrong", [print, "logit_lens", None])
def test_what_is_estimated_is_a_recipe(client, wrong):
    with pytest.raises(
        ValueError, match="the functions attribution, decode_vectors, fit_lens, generate_lens, "
    ):
        lr.estimate(wrong, client, SHORT)


def test_wrong_arguments_are_refused_as_by_the_recipe(client):
    with pytest.raises(ValueError, match="top_k=0"):
        lr.estimate(lr.logit_lens, client, SHORT, top_k=0)


# -- limits ------------------------------------------------------------

WORDS = {
    "max_back_bytes": ("would bring back about", "remote_settings.max_back_bytes"),
    "max_server_bytes": (
        "of memory on the server beside the weights",
        "remote_settings.max_server_bytes",
    ),
}


@pytest.mark.parametrize("limit", WORDS)
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("lens", "run"),
        ("attribution by head", "submit"),
        ("generation", "submit"),
        ("vectors", "run"),
    ],
)
def test_what_is_over_a_limit_is_refused_before_anything_is_sent(
    client, server, settings, limit, name, how
):
    recipe = RECIPES[name]
    said = estimate(recipe, client)
    needed = said.bytes_back if limit == "max_back_bytes" else said.server_bytes
    settings(**{limit: needed - 1})
    calls = {
        "run": lambda: recipe(client),
        "submit": lambda: lr.submit(recipe.func, client, **recipe.keywords),
    }
    error = refused(calls[how])
    assert not server.seen
    happened, todo = WORDS[limit]
    assert happened in error.happened
    assert f"over the limit of {_estimate.format_bytes(needed - 1)}" in error.happened
    assert todo in error.todo
    assert not error.may_finish
    assert (
        estimate(recipe, client).jobs == said.jobs
    )  # an estimate is given whatever the limits are
    settings(**{limit: needed})
    calls[how]()


@pytest.mark.parametrize(
    ("name", "narrow"),
    [
        ("lens", "positions (−1 is cheap), layers, components, top_k or track"),
        ("attribution by head", "positions, targets or unit"),
        ("generation", "max_new_tokens, layers"),
        ("vectors", "fewer vectors at once, or a smaller top_k"),
    ],
)
def test_a_limit_says_what_to_narrow(client, settings, name, narrow):
    settings(max_back_bytes=100)
    assert narrow in refused(lambda: RECIPES[name](client)).todo
    settings(max_back_bytes=2**30, max_server_bytes=100)
    todo = refused(lambda: RECIPES[name](client)).todo
    assert narrow in todo
    assert ("A smaller max_bytes helps, too." in todo) == (name != "generation")


# -- arrays there and back ---------------------------------------------

DTYPES = some.sampled_from(
    [
        np.dtype(name)
        for name in ("float32", "float64", "float16", "int64", "int32", "int16", "uint8", "bool")
    ]
)
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
NAMES = some.text("abcdefg_", min_size=1, max_size=4)


@some.composite
def any_bits(draw) -> np.ndarray:
    """An array of any type and shape, and of any bits: also those of a NaN that is none of numpy's."""
    dtype, shape = draw(DTYPES), draw(SHAPES)
    raw = draw(
        some.binary(
            min_size=(n := int(np.prod(shape))) * dtype.itemsize, max_size=n * dtype.itemsize
        )
    )
    raw = bytes(byte & 1 for byte in raw) if dtype.kind == "b" else raw
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def layout_of(arrays: dict[str, np.ndarray]) -> dict[str, ArrayLayout]:
    return {name: ArrayLayout(str(array.dtype), array.shape) for name, array in arrays.items()}


def schema_of(arrays: dict[str, np.ndarray]) -> Schema:
    return Schema({name: (str(array.dtype), array.shape) for name, array in arrays.items()})


@tried(deadline=None, derandomize=True, max_examples=200)
@given(some.dictionaries(NAMES, any_bits(), min_size=1, max_size=5))
def test_arrays_come_back_bit_by_bit(arrays):
    sent = pack_arrays({name: torch.from_numpy(array) for name, array in arrays.items()})
    file = io.BytesIO()
    torch.save(sent, file)
    file.seek(0)
    back = unpack_arrays(torch.load(file, weights_only=True), schema_of(arrays))
    assert [*back] == [*arrays]
    for name, array in arrays.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes()
        assert back[name].flags.c_contiguous


@tried(deadline=None, derandomize=True, max_examples=100)
@given(some.dictionaries(NAMES, any_bits(), min_size=1, max_size=3), some.data())
def test_what_was_packed_of_other_arrays_is_not_unpacked(arrays, data):
    sent = pack_arrays({name: torch.from_numpy(array) for name, array in arrays.items()})
    name = data.draw(some.sampled_from([*arrays]))
    other = data.draw(
        any_bits().filter(lambda a: (a.dtype, a.shape) != (arrays[name].dtype, arrays[name].shape))
    )
    with pytest.raises(ValueError, match=name):
        unpack_arrays(sent, schema_of({**arrays, name: other}))


def test_strided_arrays_are_packed_as_they_read():
    whole = torch.arange(24.0).reshape(4, 6)
    parts = {
        "columns": whole[:, 1:3],
        "turned": whole.T,
        "every": whole[::2],
        "wide": torch.tensor(7.0).expand(3),
    }
    back = unpack_arrays(
        pack_arrays(parts), schema_of({name: part.numpy() for name, part in parts.items()})
    )
    for name, part in parts.items():
        np.testing.assert_array_equal(back[name], part.numpy())


def test_what_lies_plane_by_plane_is_smaller():
    """Why it is done."""
    numbers = -torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 20
    whole, planes = (
        len(zstandard.ZstdCompressor(level=3).compress(raw.numpy().tobytes()))
        for raw in (numbers, pack_arrays({"a": numbers})["bytes"])
    )
    assert planes < 0.95 * whole


# -- schemas -----------------------------------------------------------

SCHEMA = Schema({"a": ("float32", (2, UpTo(5, 3))), "b": ("int64", ())}, {"c": ("bool", (4,))})
FITS = {"a": np.zeros((2, 5), np.float32), "b": np.zeros((), np.int64)}


@pytest.mark.parametrize(
    "arrays", [FITS, {**FITS, "a": np.zeros((2, 0), np.float32)}, {**FITS, "c": np.zeros(4, bool)}]
)
def test_a_schema_takes_what_fits(arrays):
    SCHEMA.check_layout(layout_of(arrays))


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({**FITS, "d": FITS["b"]}, r"\['d'\] are unknown or missing"),
        ({"b": FITS["b"]}, r"\['a'\] are unknown or missing"),
        ({}, r"\['a', 'b'\]"),
        ({**FITS, "a": np.zeros((2, 5))}, r"a is float64 \[2, 5\], not float32"),
        ({**FITS, "a": np.zeros((2, 6), np.float32)}, r"a is float32 \[2, 6\], not float32"),
        ({**FITS, "a": np.zeros((3, 5), np.float32)}, "a is float32"),
        ({**FITS, "a": np.zeros((2, 5, 1), np.float32)}, "a is float32"),
        ({**FITS, "a": np.zeros(2, np.float32)}, "a is float32"),
        ({**FITS, "b": np.zeros(1, np.int64)}, "b is int64"),
        ({**FITS, "c": np.zeros(3, bool)}, "c is bool"),
        ({**FITS, "c": np.zeros(4, np.uint8)}, "c is uint8"),
    ],
)
def test_a_schema_refuses_what_does_not(arrays, match):
    with pytest.raises(ValueError, match=match):
        SCHEMA.check_layout(layout_of(arrays))


def test_a_length_that_is_known_only_afterwards_is_the_same_everywhere():
    n, other = UpTo(5, 3), UpTo(5, 3)
    schema = Schema({"a": ("int64", (n,)), "b": ("int64", (2, n)), "c": ("int64", (other,))})

    def check(a: int, b: int, c: int) -> None:
        arrays = {"a": np.zeros(a, int), "b": np.zeros((2, b), int), "c": np.zeros(c, int)}
        schema.check_layout(layout_of(arrays))

    check(4, 4, 3)
    with pytest.raises(ValueError, match=r"b is int64 \[2, 3\]"):
        check(4, 3, 3)


def test_a_schema_knows_how_large_its_arrays_are():
    assert SCHEMA.nbytes() == {"float32": 2 * 3 * 4, "int64": 8, "bool": 4}
    assert SCHEMA.nbytes(most=True) == {"float32": 2 * 5 * 4, "int64": 8, "bool": 4}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_block_gives_is_what_its_schema_says(client, server, name):
    recipe = RECIPES[name]
    run = recipe.func.prepare(client, **recipe.keywords)
    recipe(client)
    (parcel,) = server.parcels.values()
    raw = zstandard.ZstdDecompressor().decompress(parcel.result)
    found = torch.load(io.BytesIO(raw), weights_only=True)["found"]
    for part, schema in zip(found, run.schemas, strict=True):
        sizes = {array: (dtype, shape) for array, dtype, shape in part["layout"]}
        assert {*schema.arrays} <= {*sizes} <= {*schema.arrays, *schema.optional}
        assert sum(schema.nbytes(most=True).values()) >= len(part["bytes"])
