"""The numbers themselves, against a float64 reference in numpy, without any model."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from agreement import assert_ranks, assert_top_ids
from beartype import beartype
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped

from lens_recipes.trace import operations
from lens_recipes.trace.lens_head import LOGITS_AT_ONCE, LensHead, whole_tiles
from lens_recipes.trace.operations import (
    CastTo,
    Elementwise,
    KeepColumns,
    ModuleCall,
    first_of,
    model_logits,
    split_at_unembedding,
)
from lens_recipes.trace.plan import SiteRead
from lens_recipes.trace.readout import readout as module
from lens_recipes.trace.readout import scan as scan_module
from lens_recipes.trace.readout.buffers import token_axis
from lens_recipes.trace.readout.readout import OWN_ROWS, ReadoutOptions, readout

HUGE = 2**30
D_MODEL = 6


def world(n_layers, n_tokens, vocab, n_want=2, seed=0, scale=2.0):
    """Random streams, a linear head with a norm in front, what 'the model' said, and where its tokens are."""
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randn(n_tokens, D_MODEL, generator=generator) * scale for _ in range(n_layers)]
    head = torch.randn(D_MODEL, vocab, generator=generator)
    wanted = torch.randint(-1, vocab, (n_tokens, n_want), generator=generator)

    def to_logits(rows, norm):
        return (torch.nn.functional.rms_norm(rows, (D_MODEL,)) if norm else rows) @ head

    said = to_logits(streams[-1], True)
    shape = (2, n_tokens + 1, vocab)  # [batch, position, vocab], the tokens scattered in it
    final = torch.randn(shape, generator=generator)
    rows = torch.arange(n_tokens) % 2
    positions = torch.randperm(n_tokens + 1, generator=generator)[:n_tokens]
    final[rows, positions] = said
    return streams, to_logits, final, (rows, positions), wanted


def run(world, reads=None, *, n_sites=None, top_k=3, track="top1", max_tracked=32, max_bytes=HUGE):
    streams, to_logits, final, where, wanted = world
    reads = reads or [(layer, True) for layer in range(len(streams))]
    n_sites = len(reads) if n_sites is None else n_sites
    options = ReadoutOptions(n_sites, top_k, track, max_tracked, max_bytes)
    rows, sites = of_sites(streams, reads)
    return readout(rows, sites, Head(to_logits), final, where, wanted, options)


class Head:
    """What `readout` needs of a `LensHead`."""

    logits_at_once = LOGITS_AT_ONCE

    def __init__(self, to_logits):
        self.to_logits = to_logits

    def tiles(self, rows, apply_norm):
        return whole_tiles(self.to_logits(rows, apply_norm))


def of_sites(streams, reads):
    """The rows of each read, and how they are decoded."""
    rows = [streams[layer] for layer, _ in reads]
    return rows, [SiteRead(layer, apply_norm=norm) for layer, norm in reads]


def check(found, world, reads, n_sites, top_k):
    """Compare with the reference, site by site."""
    streams, to_logits, final, where, wanted = world
    said = final[where]
    answer = said.argmax(-1)
    np.testing.assert_array_equal(found["final_ids"], answer)
    wanted = np.concatenate([wanted.numpy(), answer[:, None].numpy()], -1)
    for site, (layer, norm) in enumerate(reads[:n_sites]):
        logits = to_logits(streams[layer], norm)
        expected = oracle.metrics(logits, said, k=top_k)
        assert_top_ids(found["top_ids"][site], expected["logprobs"], 1e-5)
        np.testing.assert_allclose(found["top_logprobs"][site], expected["top_logprobs"], atol=1e-4)
        np.testing.assert_allclose(found["entropy"][site], expected["entropy"], atol=1e-4)
        np.testing.assert_allclose(found["kl"][site], expected["kl_to_final"], atol=1e-4)
        np.testing.assert_allclose(
            found["logsumexp"][site][:, None] + expected["logprobs"], logits, atol=1e-4, rtol=1e-4
        )
        for column, ids in enumerate(wanted.T):
            asked = ids >= 0
            at = np.take_along_axis(expected["logprobs"], ids.clip(0)[:, None], -1)[:, 0]
            logprobs = found["wanted_logprobs"][site, :, column].numpy()
            np.testing.assert_allclose(logprobs[asked], at[asked], atol=1e-4, rtol=1e-4)
            assert np.isnan(logprobs[~asked]).all()
            ranks = found["wanted_ranks"][site, :, column].numpy()
            assert_ranks(ranks[asked], expected["logprobs"][asked], ids[asked], 1e-5)
            assert (ranks[~asked] == -1).all()
        for m, ids in enumerate(found["tracked_ids"].numpy().T):
            kept = ids >= 0
            at = np.take_along_axis(expected["logprobs"], ids.clip(0)[:, None], -1)[:, 0]
            logprobs = found["tracked_logprobs"][site, :, m].numpy()
            np.testing.assert_allclose(logprobs[kept], at[kept], atol=1e-4, rtol=1e-4)
            assert np.isnan(logprobs[~kept]).all()


sizes = st.fixed_dictionaries(
    {
        "n_layers": st.integers(1, 6),
        "n_tokens": st.integers(1, 9),
        "vocab": st.integers(2, 40),
        "n_want": st.integers(0, 3),
        "seed": st.integers(0, 99),
    }
)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    sizes,
    st.data(),
    st.sampled_from([None, "top1", 1, 2]),
    st.sampled_from([1, 3_000, 20_000, HUGE]),
    st.booleans(),
)
def test_everything_is_what_float64_says_whatever_the_sizes_and_the_memory(
    size, data, track, max_bytes, extra
):
    here = world(**size)
    layers = data.draw(
        st.lists(
            st.integers(0, size["n_layers"] - 1), min_size=1, max_size=size["n_layers"], unique=True
        )
    )
    reads = [(layer, data.draw(st.booleans())) for layer in layers]
    if extra or reads[-1] != (size["n_layers"] - 1, True):
        reads.append(
            (size["n_layers"] - 1, True)
        )  # the certificate's read, which is not given back
    n_sites = len(layers)
    top_k = data.draw(st.integers(1, size["vocab"]))
    found = run(here, reads, n_sites=n_sites, top_k=top_k, track=track, max_bytes=max_bytes)
    check(found, here, reads, n_sites, top_k)
    n_tokens = size["n_tokens"]
    assert found["top_ids"].shape == (n_sites, n_tokens, top_k)
    assert found["tracked_logprobs"].shape == (n_sites, *found["tracked_ids"].shape)
    np.testing.assert_allclose(found["error"], 0, atol=1e-5)
    np.testing.assert_allclose(found["kl_last"], 0, atol=1e-5)
    assert found["agrees"].all()
    assert all(value.device.type == "cpu" for value in found.values())


@settings(deadline=None, derandomize=True, max_examples=30)
@given(sizes, st.sampled_from([None, "top1", 2]), st.integers(0, 6000))
@example({"n_layers": 6, "n_tokens": 9, "vocab": 40, "n_want": 2, "seed": 0}, "top1", 0)
def test_a_tiny_budget_gives_what_a_huge_one_gives(size, track, extra_bytes):
    """One token and one site at a time, or all at once."""
    here = world(**size)
    top_k = min(3, size["vocab"])
    one, other = (run(here, top_k=top_k, track=track, max_bytes=b) for b in (1 + extra_bytes, HUGE))
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        if value.dtype.is_floating_point:
            torch.testing.assert_close(
                value, other[name], atol=1e-5, rtol=1e-5, equal_nan=True, msg=name
            )
        else:
            assert torch.equal(value, other[name]), name


def test_the_budget_bounds_how_many_rows_are_unembedded_at_once():
    streams, to_logits, *rest = world(n_layers=6, n_tokens=9, vocab=40)
    rows = []

    def counted(x, norm):
        rows.append(len(x))
        return to_logits(x, norm)

    # Of a token its six sites, and what is made of the model's own logits.
    two_tokens = 40 * 4 * 3 * (6 + OWN_ROWS) * 2
    for budget, most in ((1, 1), (40 * 4 * 3 * 3, 3), (two_tokens, 12), (HUGE, 54)):
        rows.clear()
        run((streams, counted, *rest), max_bytes=budget)
        assert max(rows) == most
        assert sum(rows) >= 54


def test_the_raw_stream_and_the_normed_one_can_be_read_together():
    here = world(n_layers=3, n_tokens=4, vocab=11)
    reads = [(0, False), (2, True), (1, False), (2, True)]
    for max_bytes in (1, HUGE):
        check(run(here, reads, n_sites=3, max_bytes=max_bytes), here, reads, 3, 3)


def test_a_wrong_lens_shows_in_the_certificates_numbers():
    streams, to_logits, final, where, wanted = world(n_layers=2, n_tokens=5, vocab=13)
    found = run((streams, lambda rows, norm: 2 * to_logits(rows, norm), final, where, wanted))
    said = final[where]
    np.testing.assert_allclose(found["error"], said.abs().amax(-1), rtol=1e-5)
    np.testing.assert_allclose(found["scale"], said.abs().amax(-1), rtol=1e-6)
    expected = oracle.metrics(2 * said, said, k=1)["kl_to_final"]
    np.testing.assert_allclose(found["kl_last"], expected, atol=1e-5)
    assert found["agrees"].all()  # a scale keeps the order


# -- numbers that are no numbers ---------------------------------------


@pytest.mark.parametrize("max_bytes", [1, HUGE])
def test_tokens_that_are_impossible_make_no_nan(max_bytes):
    """Models that mask a part of their vocabulary with −inf."""
    streams, to_logits, final, where, wanted = world(n_layers=3, n_tokens=5, vocab=13)
    mask = torch.zeros(13)
    mask[[2, 7, 12]] = -torch.inf
    here = (
        streams,
        lambda rows, norm: to_logits(rows, norm) + mask,
        final + mask,
        where,
        wanted.clamp(min=0),
    )
    here[4][:, 0] = 7
    found = run(here, top_k=13, max_bytes=max_bytes)
    for name in ("entropy", "kl", "kl_last", "error", "scale", "logsumexp"):
        assert torch.isfinite(found[name]).all(), name
    for name, value in found.items():
        if name != "tracked_logprobs":  # padded with NaN
            assert not value.isnan().any(), name
    np.testing.assert_allclose(found["kl_last"], 0, atol=1e-6)
    np.testing.assert_allclose(found["error"], 0, atol=1e-5)
    assert (found["wanted_logprobs"][..., 0] == -torch.inf).all()
    assert (found["wanted_ranks"][..., 0] == 10).all()
    assert (found["top_logprobs"][..., -3:] == -torch.inf).all()
    reference = oracle.metrics(
        here[1](streams[0], True)[:, mask == 0], final[where][:, mask == 0], k=3
    )
    np.testing.assert_allclose(found["entropy"][0], reference["entropy"], atol=1e-5)
    np.testing.assert_allclose(found["kl"][0], reference["kl_to_final"], atol=1e-5)


def test_what_a_lens_rules_out_but_the_model_says_is_infinitely_wrong():
    streams, to_logits, final, where, wanted = world(n_layers=1, n_tokens=2, vocab=5)
    ruled_out = torch.tensor([-torch.inf, 0, 0, 0, 0])
    found = run(
        (streams, lambda rows, norm: to_logits(rows, norm) + ruled_out, final, where, wanted)
    )
    assert torch.isinf(found["kl"]).all()
    assert torch.isinf(found["error"]).all()


@pytest.mark.parametrize("max_bytes", [1, HUGE])
def test_a_nan_stays_visible_and_only_where_it_is(max_bytes):
    here = world(n_layers=3, n_tokens=4, vocab=11)
    here[0][1][2] = torch.nan
    found = run(here, max_bytes=max_bytes)
    for name in ("entropy", "kl", "logsumexp", "top_logprobs"):
        bad = found[name].isnan()
        assert bad[1, 2].all(), name
        bad[1, 2] = False
        assert not bad.any(), name
    here[0][2][0] = torch.nan
    found = run(here, max_bytes=max_bytes)
    assert found["error"].isnan().tolist() == [True, False, False, False]
    assert found["kl_last"].isnan().tolist() == [True, False, False, False]


def test_a_nan_in_what_the_model_said_stays_visible():
    here = world(n_layers=2, n_tokens=3, vocab=11)
    rows, positions = here[3]
    here[2][rows[1], positions[1], 4] = torch.nan
    found = run(here)
    for name in ("error", "kl_last", "final_logprob"):
        assert found[name].isnan().tolist() == [False, True, False], name


def test_half_precision_logits_are_measured_in_float32():
    streams, to_logits, final, where, wanted = world(n_layers=2, n_tokens=4, vocab=500)
    found = run((streams, to_logits, final.bfloat16(), where, wanted))
    assert found["kl"].dtype == torch.float32
    expected = oracle.metrics(to_logits(streams[0], True), final[where].bfloat16().float(), k=1)
    np.testing.assert_allclose(found["kl"][0], expected["kl_to_final"], atol=1e-4)


def test_an_entropy_of_a_flat_lens_is_log_v_and_equal_logits_have_kl_0():
    streams, _, final, where, wanted = world(n_layers=1, n_tokens=2, vocab=64)
    found = run((streams, lambda rows, norm: torch.zeros(len(rows), 64), final * 0, where, wanted))
    np.testing.assert_allclose(found["entropy"], np.log(64), rtol=1e-6)
    assert (found["kl"] == 0).all()
    assert (found["wanted_ranks"][..., -1] == 0).all()


# -- tracked tokens ----------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, HUGE])
def test_the_union_of_top_tokens_is_at_most_32_wide_and_keeps_the_last_layers(max_bytes):
    here = world(n_layers=60, n_tokens=5, vocab=2000, seed=1)
    found = run(here, max_bytes=max_bytes)
    ids, tops = found["tracked_ids"], found["top_ids"][..., 0]
    assert max(len(set(tops[:, token].tolist())) for token in range(5)) > 32
    assert ids.shape == (5, 32)
    for token in range(5):
        kept = [i for i in ids[token].tolist() if i >= 0]
        assert len(kept) == len(set(kept))
        assert kept[0] == tops[-1, token]
        latest = list(dict.fromkeys(tops[:, token].flip(0).tolist()))[:32]
        assert kept == latest


def test_a_union_that_is_narrower_is_padded():
    streams, to_logits, final, where, wanted = world(n_layers=4, n_tokens=3, vocab=500, seed=5)
    streams = [
        torch.cat([stream[:2], streams[-1][2:]]) for stream in streams
    ]  # token 2 never changes
    for max_bytes in (1, HUGE):
        found = run((streams, to_logits, final, where, wanted), max_bytes=max_bytes)
        ids = found["tracked_ids"]
        assert ids.shape[1] > 1
        assert ids[2, 0] >= 0
        assert (ids[2, 1:] == -1).all()
        assert found["tracked_logprobs"][:, 2, 1:].isnan().all()
        assert not found["tracked_logprobs"][:, 2, 0].isnan().any()


def test_a_number_tracks_the_models_own_top_tokens_even_when_no_site_is_the_last():
    here = world(n_layers=3, n_tokens=4, vocab=30)
    found = run(here, [(0, True), (2, True)], n_sites=1, track=4)
    np.testing.assert_array_equal(found["tracked_ids"], here[2][here[3]].topk(4).indices)
    assert found["tracked_logprobs"].shape == (1, 4, 4)


# -- small parts -------------------------------------------------------


def test_the_first_of_an_output_is_never_a_batch_row():
    stream = torch.zeros(2, 3, 4)
    assert first_of(stream) is stream
    assert first_of((stream, None)) is stream
    assert first_of([stream]) is stream


def test_logits_are_found_in_what_models_return():
    logits = torch.zeros(1, 2, 3)
    assert model_logits((logits, None)) is logits
    assert model_logits(type("Output", (), {"logits": logits})()) is logits


def test_the_token_axis_of_every_array_is_where_it_is_said_to_be():
    found = run(world(n_layers=3, n_tokens=7, vocab=40))
    assert {name: value.shape[token_axis(name)] for name, value in found.items()} == dict.fromkeys(
        found, 7
    )


def test_a_tail_is_replayed_step_by_step():
    modules = {
        "norm": lambda x: x + 1,
        "out": torch.nn.Linear(3, 5),
        "head": lambda x: (x * 2, "cache"),
    }
    with torch.no_grad():
        rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        tail = [
            ModuleCall("norm", is_norm=True, device=None),
            ModuleCall("out", is_norm=False, device="cpu"),
            KeepColumns(4),
            ModuleCall("head", is_norm=False, device=None),
            Elementwise("div", (3.0,)),
            Elementwise("tanh", ()),
            CastTo("bfloat16"),
        ]

        class Model:
            get = staticmethod(modules.__getitem__)

        for norm in (True, False):
            expected = (modules["out"](rows + norm)[:, :4] * 2 / 3).tanh().bfloat16().float()
            head = LensHead(Model(), tail)
            found, tiles = head.tiles(rows, norm)
            assert torch.equal(head(rows[:, None], apply_norm=norm)[:, 0], found)
            assert [part.stop for part in tiles] == [found.shape[-1]]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


HEAD = ModuleCall("head", is_norm=False, device=None)
NORM = ModuleCall("norm", is_norm=True, device=None)
CAP = [Elementwise("div", (30.0,)), Elementwise("tanh", ()), Elementwise("mul", (30.0,))]
SCALE = Elementwise("mul", (0.25,))


@pytest.mark.parametrize(
    ("after", "n_linear"),
    [
        ([], 0),
        ([SCALE], 1),
        (CAP, 0),
        ([SCALE, *CAP], 1),
        ([SCALE, Elementwise("tanh", ()), Elementwise("mul", (30.0,))], 1),  # not divided by 30
        ([SCALE, Elementwise("tanh", ())], 1),
        ([Elementwise("sigmoid", ()), SCALE], 0),
        ([Elementwise("mul", (1 / 30,)), *CAP[1:], SCALE], 0),
        ([CastTo("float32"), *CAP], 1),
    ],
)
def test_a_softcap_begins_with_its_division_and_any_other_bend_with_itself(after, n_linear):
    operations_of_head = [NORM, HEAD, *after]
    split = split_at_unembedding(operations_of_head)
    assert split.before == [NORM]
    assert split.linear == [HEAD, *after[:n_linear]]
    assert split.softcap == after[n_linear:]


# -- shapes, checked while it runs -------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 5_000, HUGE])
@pytest.mark.parametrize("track", [None, "top1", 2])
def test_the_shapes_in_the_annotations_are_those_of_the_tensors(monkeypatch, max_bytes, track):
    shaped = {
        module: ("site_numbers", "ranks_of", "logits_at", "tracked_ids", "logit_errors", "scan"),
        scan_module: ("sum_tiles", "maxima_of_groups", "largest"),
    }
    monkeypatch.setattr(
        operations, "model_logits", jaxtyped(operations.model_logits, typechecker=beartype)
    )
    for home, names in shaped.items():
        for name in names:
            checked = jaxtyped(getattr(home, name), typechecker=beartype)
            monkeypatch.setattr(home, name, checked)
    monkeypatch.setattr(module, "LensHead", Head)
    checked = jaxtyped(readout, typechecker=beartype)
    streams, to_logits, final, where, wanted = world(n_layers=3, n_tokens=4, vocab=17)
    reads = [(0, True), (1, False), (2, True)]
    options = ReadoutOptions(2, 3, track, 32, max_bytes)
    rows, sites = of_sites(streams, reads)
    checked(rows, sites, Head(to_logits), final, where, wanted, options)
    assert operations.model_logits((final,)) is final
    with pytest.raises(Exception, match="final_logits"):
        checked(rows, sites, Head(to_logits), final[0], where, wanted, options)
