"""Vectors of the stream, decoded without a run: what the lens of a run says about the same vectors."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import oracle
import pytest
import strict_local
import tiny
import torch
from agreement import assert_same_lens, assert_top_ids, listing_all
from slow import others_slow
from test_remote import NOT_THERE

import lens_recipes as lr
from lens_recipes.arrays.lens import AXES
from lens_recipes.recipes import vectors as module_of_vectors

# What a vector alone can tell, and what only a run can.
TOLD = (
    "top_ids",
    "top_logprobs",
    "entropy",
    "logsumexp",
    "target_logits",
    "target_logprobs",
    "target_ranks",
)
UNTOLD = ("kl_to_final", "next_logprobs", "model_logprobs", "model_entropy", "final_logprobs")
NO_IDS = ("next_ranks", "final_ranks", "final_ids")
FAMILIES = [
    "llama", "gemma2", "cohere", "opt_project", "mamba", "gpt2", "phi", "minicpm3", "granite", "bloom", "rwkv_halved",
    "openai_gpt", "bert_lm", "falcon_h1", "nanochat", "llava",
]  # fmt: skip
WIDTH, VOCAB = 32, tiny.STRING_VOCAB


@pytest.fixture(scope="module")
def some():
    """Seven vectors, of ordinary size."""
    return torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(5))


def captured(module, layer, ids):
    """What a block gives, `[token, d_model]`, tokens packed as in a result: a plain hook, none of this library."""
    found = []
    with oracle.blocks_of(module)[layer].register_forward_hook(
        lambda _module, _args, out: found.append(out[0] if isinstance(out, tuple | list) else out)
    ):
        oracle.plain_logits(module, ids)
    return found[0].detach().flatten(0, 1)


def same(result, other, names=TOLD, atol=1e-5, everything=None):
    for name in names:
        assert getattr(result, name).shape == getattr(other, name).shape, name
    assert_same_lens(result, other, atol=atol, rtol=1e-5, names=names, everything=everything)


def linear_logits(model, rows, ids):
    """The unembedding alone, by hand."""
    return (rows @ model._module.lm_head.weight.T)[:, ids].numpy()


# -- the same as the lens ----------------------------------------------


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "raw"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_captured_stream_says_what_the_lens_says_there(family, norm):
    """Norm, projection, bias, scale and softcap are the model's own: every number is the one that a run gives."""
    model = tiny.shared(family)
    module = model._module
    ids = tiny.random_ids(batch=2, length=6, seed=4)
    for layer in (0, len(oracle.blocks_of(module)) - 1):
        lens = partial(
            lr.logit_lens, model, ids, layers=layer, targets=[7, 11], top_k=4, apply_norm=norm
        )
        mine = lr.decode_vectors(
            model, captured(module, layer, ids), targets=[7, 11], top_k=4, apply_norm=norm
        )
        same(mine, lens(), atol=1e-4, everything=listing_all(lens))


@pytest.mark.parametrize("family", ["gemma2", "cohere", "opt_project", "gpt2", "phi"])
def test_the_last_layers_stream_says_what_the_model_says(family):
    """No lens in between: the model's own log-probabilities, with its softcap, scale and biases."""
    model = tiny.shared(family)
    module = model._module
    ids = tiny.random_ids(batch=1, length=6, seed=8)
    own = oracle.plain_logits(module, ids)[0].log_softmax(-1).numpy()
    mine = lr.decode_vectors(model, captured(module, -1, ids), targets=[7, 11], top_k=own.shape[-1])
    np.testing.assert_allclose(
        np.take_along_axis(own, mine.top_ids[0], -1), mine.top_logprobs[0], atol=1e-4
    )
    np.testing.assert_allclose(mine.target_logprobs[0], own[:, [7, 11]], atol=1e-4)
    np.testing.assert_allclose(mine.entropy[0], -(np.exp(own) * own).sum(-1), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "cohere"])
def test_in_half_precision_too(family, dtype):
    """The stream of a half-precision model is decoded in its own precision."""
    module = tiny.FAMILIES[family]().to(dtype)
    model, ids = lr.load(module), tiny.random_ids(batch=1, length=6, seed=4)
    run = partial(lr.logit_lens, model, ids, layers=1, targets=[7])
    lens, everything = run(), listing_all(run)
    rows = captured(module, 1, ids)
    assert rows.dtype == dtype
    for given in (rows, rows.double().numpy()):
        mine = lr.decode_vectors(model, given, targets=[7])
        same(mine, lens, atol=1e-4, everything=everything)


# -- which vectors are alike -------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2", "mamba", "gpt2"])
def test_only_the_direction_counts(family):
    """A norm takes the size away; the opposite direction is another question."""
    model = tiny.shared(family)
    v = 10 * torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    once, twice, minus = (lr.decode_vectors(model, k * v, targets=[7]) for k in (1, 2, -1))
    same(once, twice, atol=1e-3)
    assert (once.top_ids[..., 0] != minus.top_ids[..., 0]).all()


def test_without_biases_the_opposite_vector_has_the_opposite_logits(llama, some):
    """RMS norm and a plain unembedding are odd functions."""
    plus, minus = (lr.decode_vectors(llama, v, targets=[7, 11]) for v in (some, -some))
    np.testing.assert_allclose(plus.target_logits, -minus.target_logits, atol=1e-5)


def test_without_the_norm_logits_are_linear(llama, some):
    """Size counts, sums of vectors are sums of logits, and each is the product with the unembedding."""
    raw = {"targets": [7, 11, 300], "apply_norm": False}
    of = lambda v: lr.decode_vectors(llama, v, **raw).target_logits[0]  # noqa: E731
    a, b = some[:3], some[3:6]
    np.testing.assert_allclose(of(a), linear_logits(llama, a, [7, 11, 300]), atol=1e-4)
    np.testing.assert_allclose(of(2 * a - 3 * b), 2 * of(a) - 3 * of(b), atol=1e-3)
    assert "RAW STREAM" in str(lr.decode_vectors(llama, a, **raw))
    assert not lr.decode_vectors(llama, a, **raw).normed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_zero_vector_says_what_the_biases_say(family):
    """Nothing in, nothing but biases out: a number everywhere, and all tokens alike where there are no biases."""
    model = tiny.shared(family)
    zero = lr.decode_vectors(model, np.zeros(lr.anatomy(model).d_model), targets=[7], top_k=3)
    for name in TOLD:
        assert np.isfinite(getattr(zero, name)).all(), name
    if family in ("llama", "gemma2", "mamba", "granite"):
        np.testing.assert_allclose(zero.entropy, math.log(tiny.VOCAB), atol=1e-5)
        np.testing.assert_allclose(zero.target_logprobs, -math.log(tiny.VOCAB), atol=1e-5)
        assert (zero.target_ranks == 0).all()


def test_the_row_of_a_token_names_the_token(llama):
    """A direction that is one token's own, in a model whose norm is a plain one, says that token."""
    module = tiny.llama(vocab_size=VOCAB)
    module.model.norm.weight.data.fill_(1.0)
    rows = torch.nn.functional.normalize(module.lm_head.weight.data, dim=-1)
    module.lm_head.weight.data.copy_(rows)
    found = lr.decode_vectors(lr.load(module), module.lm_head.weight, top_k=1)
    np.testing.assert_array_equal(found.top_ids[0, :, 0], np.arange(VOCAB))


# -- how they are given ------------------------------------------------


def test_one_vector_is_several_of_one(llama, some):
    many = lr.decode_vectors(llama, some, targets=[7])
    assert many.top_ids.shape == (1, 7, 5)
    for i, row in enumerate(some):
        one = lr.decode_vectors(llama, row, targets=[7])
        assert one.top_ids.shape == (1, 1, 5)
        for name in TOLD:
            np.testing.assert_allclose(
                getattr(one, name)[:, 0], getattr(many, name)[:, i], atol=1e-5, err_msg=name
            )


FORMS = {
    "numpy": lambda v: v.numpy(),
    "float64": lambda v: v.double(),
    "float64 array": lambda v: v.double().numpy(),
    "long double": lambda v: v.numpy().astype(np.longdouble),
    "big-endian": lambda v: v.numpy().astype(">f4"),
    "lists": lambda v: v.tolist(),
    "requires_grad": lambda v: v.clone().requires_grad_(),
    "parameter": torch.nn.Parameter,
    "list of tensors": lambda v: [row.clone().requires_grad_() for row in v],
    "tuple of arrays": lambda v: tuple(v.numpy()),
    "iterator": lambda v: iter(v),
    "not contiguous": lambda v: v.T.contiguous().T,
    "backwards": lambda v: np.ascontiguousarray(v.numpy()[::-1])[::-1],
    "sparse": lambda v: v.to_sparse(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_numbers(llama, some, form):
    same(
        lr.decode_vectors(llama, FORMS[form](some), targets=[7]),
        lr.decode_vectors(llama, some, targets=[7]),
    )


@pytest.mark.parametrize("form", [torch.bfloat16, torch.float16, np.float16])
def test_half_precision_is_as_good_as_its_own_numbers(llama, some, form):
    half = some.to(form) if isinstance(form, torch.dtype) else some.numpy().astype(form)
    whole = torch.as_tensor(half).float()
    same(lr.decode_vectors(llama, half, targets=[7]), lr.decode_vectors(llama, whole, targets=[7]))
    assert not torch.equal(whole, some)


def test_whole_numbers_are_numbers(llama):
    same(
        lr.decode_vectors(llama, list(range(WIDTH))),
        lr.decode_vectors(llama, np.arange(WIDTH, dtype=np.float32)),
    )


@pytest.mark.filterwarnings("error")
def test_what_was_given_stays_as_it_is_and_nothing_is_warned(llama, some):
    """No warning over an array that cannot be written, and no number of it changed."""
    array = some.numpy().copy()
    array.setflags(write=False)
    before = array.copy()
    lr.decode_vectors(llama, array)
    lr.decode_vectors(llama, np.broadcast_to(array[0], (2, WIDTH)))
    np.testing.assert_array_equal(array, before)
    leaf = some.clone().requires_grad_()
    lr.decode_vectors(llama, leaf)
    assert leaf.requires_grad
    assert leaf.grad is None


def test_nothing_is_left_behind_in_the_model(llama, some):
    """No run, no hook: a lens before and after says the same."""
    before = lr.logit_lens(llama, "one prompt")
    lr.decode_vectors(llama, some)
    same(lr.logit_lens(llama, "one prompt"), before, AXES, atol=0)


# -- memory and time ---------------------------------------------------


@pytest.mark.parametrize("max_bytes", [1, 4 * VOCAB * 2, 4 * VOCAB * 3 + 1])
@pytest.mark.parametrize("tiles", [True, False], ids=["tiles", "called"])
def test_chunks_change_nothing(llama, some, monkeypatch, max_bytes, tiles):
    """However small the budget, and whichever way the unembedding is made."""
    if not tiles:
        monkeypatch.setattr(module_of_vectors, "plain_head", lambda *_: None)
    whole = partial(lr.decode_vectors, llama, some, targets=[7, 11])
    same(whole(max_bytes=max_bytes), whole(), everything=listing_all(whole))


def test_thousands_of_vectors(llama):
    """All rows of an SAE, or all neurons of a layer: seconds, and the last one is as right as the first."""
    many = torch.randn(5000, WIDTH, generator=torch.Generator().manual_seed(2))
    started = time.perf_counter()
    result = lr.decode_vectors(llama, many, targets=[7])
    assert time.perf_counter() - started < 20
    assert result.top_ids.shape == (1, 5000, 5)
    last = lr.decode_vectors(llama, many[-1], targets=[7])
    np.testing.assert_allclose(result.target_logprobs[0, -1], last.target_logprobs[0, 0], atol=1e-5)
    assert "4960 more vectors" in str(result)
    assert len(str(result).splitlines()) < 60
    assert len(result.summary().splitlines()) < 12


# -- names, targets, and what is left out ------------------------------


def test_names_are_the_token_axis(llama, some):
    assert lr.decode_vectors(llama, some).tokens.text == [f"vector {i}" for i in range(7)]
    assert lr.decode_vectors(llama, some[0], "a feature").tokens.text == ["a feature"]
    assert lr.decode_vectors(llama, some[:2], ["same", "same"]).tokens.text == ["same", "same"]
    assert lr.decode_vectors(llama, some[:2], (str(i) for i in (3, 4))).tokens.text == ["3", "4"]
    assert lr.decode_vectors(llama, some[:3], range(3)).tokens.text == ["0", "1", "2"]
    result = lr.decode_vectors(llama, some[:2], ["[red]<b>", "two\nlines"])
    assert result.tokens.text == ["[red]<b>", "two\nlines"]
    assert "[red]<b>" in str(result)
    assert len(str(result).splitlines()) == 3


def test_targets_are_ranked_and_counted(llama, some):
    """None leaves no columns; several stand in their order, each the full distribution's own number."""
    none = lr.decode_vectors(llama, some)
    assert none.target_ids.shape == (1, 0)
    assert none.target_logits.shape == none.target_ranks.shape == (1, 7, 0)
    full = lr.decode_vectors(llama, some, top_k=VOCAB)
    result = lr.decode_vectors(llama, some, targets=(i for i in [11, 7]))
    assert result.target_ids.tolist() == [[11, 7]]
    assert result.provenance["arguments"]["targets"] == [11, 7]
    for column, target in enumerate([11, 7]):
        place = (full.top_ids[0] == target).argmax(-1)
        np.testing.assert_array_equal(result.target_ranks[0, :, column], place)
        np.testing.assert_allclose(
            result.target_logprobs[0, :, column],
            full.top_logprobs[0, np.arange(7), place],
            atol=1e-5,
        )
    np.testing.assert_allclose(np.exp(full.top_logprobs).sum(-1), 1, atol=1e-5)
    entropy = -(np.exp(full.top_logprobs) * full.top_logprobs).sum(-1)
    np.testing.assert_allclose(result.entropy, entropy, atol=1e-5)


def test_a_string_target_is_the_same_as_its_id(llama, some):
    known = llama.tokenizer(" the").input_ids[0]
    by_name, by_id = (lr.decode_vectors(llama, some, targets=t) for t in (" the", known))
    assert by_name.target_ids.tolist() == [[known]]
    same(by_name, by_id, atol=0)
    assert by_name.of(" the")[0].shape == (1, 7)


@pytest.mark.parametrize("targets", [None, [7, 11]])
def test_what_needs_a_run_is_nan_and_nothing_else_is(llama, some, targets):
    result = lr.decode_vectors(llama, some, targets=targets)
    for name in UNTOLD:
        assert np.isnan(getattr(result, name)).all(), name
    for name in NO_IDS:
        assert (getattr(result, name) == -1).all(), name
    for name in TOLD:
        assert np.isfinite(getattr(result, name)).all(), name
    assert result.tracked_ids.shape[-1] == 0
    assert (result.tokens.id == -1).all()
    assert (result.tokens.next_id == -1).all()
    assert result.sites == [lr.Site(None, "vector")]
    for name, axes in AXES.items():
        sizes = {"site": 1, "token": 7, "prompt": 1, "target": len(targets or []), "k": 5, "m": 0}
        assert getattr(result, name).shape == tuple(sizes[axis] for axis in axes), name


def test_there_is_no_certificate_and_the_reason_is_said(llama, some):
    result = lr.decode_vectors(llama, some)
    assert result.certificate is None
    assert "without a run" in result.provenance["certificate"]
    assert result.provenance["recipe"] == "decode_vectors"
    assert "without a run" in result.summary()
    assert "certified" not in str(result)
    assert not result.to_frame()["certified"].any()


# -- as any other result -----------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_saved_and_loaded_it_is_the_same(llama, some, tmp_path, suffix):
    result = lr.decode_vectors(llama, some, [f"n{i}" for i in range(7)], targets=[7, 11])
    path = tmp_path / f"vectors{suffix}"
    result.save(path)
    again = lr.LensResult.load(path)
    for name in AXES:
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name), err_msg=name)
        assert getattr(again, name).dtype == getattr(result, name).dtype, name
    assert again.sites == result.sites
    assert again.tokens.text == result.tokens.text
    assert again.texts == result.texts
    assert again.certificate is None
    assert again.provenance == result.provenance
    assert str(again) == str(result)
    assert again.summary() == result.summary()


def test_the_frame_has_a_row_for_each_token_that_was_named(llama, some):
    frame = lr.decode_vectors(llama, some, targets=[7, 11], top_k=3).to_frame()
    assert len(frame) == 7 * (3 + 2)
    assert set(frame["role"]) == {"top", "target"}
    assert set(frame["component"]) == {"vector"}
    assert frame["layer"].isna().all()
    assert frame["kl_to_final"].isna().all()
    assert frame["input"].nunique() == 7
    assert np.isfinite(frame["logprob"]).all()


def test_every_view_works(llama, some):
    result = lr.decode_vectors(llama, some, targets=[7])
    assert str(result).count("\n") == 7  # a head line, and a row for each vector
    assert "KL" not in str(result)
    assert repr(result) == f"LensResult({result.provenance['model']}: 1 prompt, 7 tokens, 1 site)"
    assert "nan" not in str(result) + result.summary()
    assert "layer" not in str(result)
    figure = lr.heatmap(result)
    assert np.array(figure.data[0].z).shape == (1, 7)
    assert len(result[0].tokens) == len(result.tokens) == 7


def test_without_a_tokenizer_tokens_are_their_ids(some):
    model = lr.load(tiny.llama(vocab_size=VOCAB))
    assert "#" in str(lr.decode_vectors(model, some))
    with pytest.raises(ValueError, match="a target must be a token id"):
        lr.decode_vectors(model, some, targets=" the")


def test_what_a_real_neuron_writes(smollm2):
    """The example of the docstring: a neuron's output direction, as the model's own modules read it."""
    module = smollm2._module
    neuron = module.model.layers[29].mlp.down_proj.weight[:, 7]
    result = lr.decode_vectors(smollm2, [neuron, -neuron], ["fires", "negative"], targets=" work")
    with torch.no_grad():
        own = module.lm_head(module.model.norm(torch.stack([neuron, -neuron]))).log_softmax(-1)
    np.testing.assert_allclose(result.top_logprobs[0], own.topk(5).values, atol=1e-4)
    assert_top_ids(result.top_ids[0], own.numpy(), 1e-4)
    assert result.target_ranks[0, 0, 0] == 0
    assert result.target_ranks[0, 1, 0] > 10_000
    assert "·work" in str(result)


# -- on a server -------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"apply_norm": False}, {"max_bytes": 1}], ids=["plain", "raw", "chunks"]
)
def test_a_server_without_this_package_gives_the_same(llama, some, monkeypatch, options):
    here = lr.decode_vectors(llama, some, targets=[260, 7], **options)
    strict_local.install(monkeypatch, *NOT_THERE)
    there = lr.decode_vectors(llama, some, targets=[260, 7], remote="local", **options)
    assert there.provenance["remote"] is True
    same(there, here, AXES, atol=1e-4)


@pytest.mark.parametrize(
    "family",
    others_slow(
        ["gemma2", "cohere", "opt_project", "mamba", "gpt2", "llava", "rwkv_halved"], "gemma2"
    ),
)
def test_every_tail_travels(family, monkeypatch):
    model = lr.load(tiny.FAMILIES[family](), tokenizer=tiny.tiny_tokenizer())
    v = torch.randn(3, lr.anatomy(model).d_model, generator=torch.Generator().manual_seed(3))
    here = lr.decode_vectors(model, v, targets=[7])
    strict_local.install(monkeypatch, *NOT_THERE)
    same(lr.decode_vectors(model, v, targets=[7], remote="local"), here, atol=1e-4)


def test_no_vector_is_sent_with_a_graph_behind_it(llama, monkeypatch):
    """What requires a gradient is cut from it before it travels."""
    strict_local.install(monkeypatch, *NOT_THERE)
    leaf = torch.randn(2, WIDTH, requires_grad=True)
    same(
        lr.decode_vectors(llama, leaf * 2, remote="local"),
        lr.decode_vectors(llama, leaf.detach() * 2),
        atol=1e-4,
    )


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: nowhere else is the model elsewhere"
)
@pytest.mark.parametrize("remote", [False, "local"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_vectors_go_where_the_model_is(some, remote, device):
    """The server's GPU is not ours: vectors from here are taken to the stream there, and back."""
    model = lr.load(tiny.llama(vocab_size=VOCAB).cuda(), tokenizer=tiny.tiny_tokenizer())
    on_cpu = lr.load(tiny.llama(vocab_size=VOCAB))
    here = partial(lr.decode_vectors, on_cpu, some, targets=[7])
    there = lr.decode_vectors(model, some.to(device), targets=[7], remote=remote)
    same(there, here(), atol=1e-3, everything=listing_all(here))


# -- mistakes ----------------------------------------------------------


BAD = {
    "wrong width": (torch.zeros(3, WIDTH + 1), r"shape \[3, 33\].*32 wide"),
    "one of a wrong width": (torch.zeros(WIDTH - 1), r"shape \[1, 31\].*32 wide"),
    "turned": (torch.zeros(WIDTH, 3), r"shape \[32, 3\].*32 wide"),
    "three dimensions": (torch.zeros(1, 3, WIDTH), r"shape \[1, 3, 32\]"),
    "a number": (1.0, r"shape \[\]"),
    "no vectors": (torch.zeros(0, WIDTH), r"shape \[0, 32\]"),
    "nothing": ([], "32 wide"),
    "nan": (torch.full((2, WIDTH), math.nan), "NaN or infinite"),
    "one nan": (
        torch.zeros(2, WIDTH).index_fill(1, torch.tensor([3]), math.nan),
        "NaN or infinite",
    ),
    "inf": (np.full(WIDTH, -np.inf), "NaN or infinite"),
    "too large": (np.full(WIDTH, 1e300), "too large for float32"),
    "a string": ("a steering vector", "received str"),
    "strings": (["1"] * WIDTH, "received list"),
    "none": (None, "received NoneType"),
    "ragged": ([[0.0] * WIDTH, [0.0]], "each vector of one width"),
    "tensors of two widths": ([torch.zeros(WIDTH), torch.zeros(3)], "each vector of one width"),
    "named": ({"a": [0.0] * WIDTH}, "received dict"),
    "complex": (torch.zeros(WIDTH, dtype=torch.complex64), "complex"),
    "complex array": (np.zeros(WIDTH, dtype=complex), "complex"),
    "no numbers": (torch.zeros(WIDTH, device="meta"), "meta device"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_vector_is_refused_in_one_sentence(llama, case):
    given, words = BAD[case]
    with pytest.raises(ValueError, match=words) as refusal:
        lr.decode_vectors(llama, given)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["one"]}, "received 1 names for 7 vectors"),
        ({"names": "abcdefg"}, "received 1 names for 7 vectors"),
        ({"names": [str(i) for i in range(8)]}, "received 8 names for 7 vectors"),
        ({"names": 7}, "names must be"),
        ({"targets": "Paris cafe"}, "8 tokens.*A target is one token"),
        ({"targets": ""}, "0 tokens"),
        ({"targets": VOCAB}, f"ids are 0 to {VOCAB - 1}"),
        ({"targets": [[7], [8]]}, "targets per prompt"),
        ({"top_k": VOCAB + 1}, f"from 1 to {VOCAB}"),
        ({"top_k": 0}, f"from 1 to {VOCAB}"),
        ({"max_bytes": 0}, "max_bytes=0"),
    ],
)
def test_other_mistakes_are_one_sentence(llama, some, options, words):
    with pytest.raises(ValueError, match=words) as refusal:
        lr.decode_vectors(llama, some, **options)
    assert "\n" not in str(refusal.value)


def test_too_large_for_the_model_is_no_silent_nan(some):
    """A float16 model cannot hold 10⁶, and what it would make of it is NaN."""
    model = lr.load(tiny.llama(vocab_size=VOCAB).half())
    assert np.isfinite(lr.decode_vectors(model, some).entropy).all()
    with pytest.raises(ValueError, match="too large for float16"):
        lr.decode_vectors(model, some * 1e6)


def test_a_model_without_weights_is_refused_here(some):
    with torch.device("meta"):
        skeleton = type(tiny.llama())(tiny.llama().config)
    with pytest.raises(lr.LensError, match="no weights here"):
        lr.decode_vectors(lr.load(skeleton), some)
    with pytest.raises(lr.LensError, match=r"what load\(\) returns"):
        lr.decode_vectors(tiny.llama(), some)
    with pytest.raises(lr.LensError, match="hub id"):
        lr.decode_vectors(lr.load(tiny.llama(vocab_size=VOCAB)), some, remote=True)
