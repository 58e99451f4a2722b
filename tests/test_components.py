"""What a block adds to the stream: found, read where it is added, and checked, on every family.

The reference is behaviour, not names: with a part's tensor set to zero by a plain torch hook, the
block's output must
change by exactly that part. And any vector is decoded by the model itself, handed to it as the last
block's output.
"""

from __future__ import annotations

import contextlib

import numpy as np
import oracle
import pytest
import tiny
import torch

import lens_recipes as lr
from lens_recipes.models.components import WRITES
from lens_recipes.models.structure.block.blocks import residual_blocks
from lens_recipes.run.request.sites import COMPONENTS
from lens_recipes.trace.operations import replay

POST_NORM = [
    "openai_gpt",
    "opt_350m",
    "bert_lm",
    "git",
    "minimax",
]  # the stream passes through norms
PARALLEL = ["gpt_neox", "gptj", "codegen", "falcon", "phi", "cohere"]
NO_HEADS = ["mamba", "mamba2", "rwkv", "rwkv_halved", "minimax"]
SCALED = ["doge"]  # the stream is multiplied by weights in the middle of a block, too
SUMS = [family for family in tiny.FAMILIES if family not in POST_NORM + SCALED]
IDS = tiny.random_ids(batch=2, length=7, seed=5)
ALL_TOKENS = list(range(tiny.VOCAB))


@contextlib.contextmanager
def hooked(module, replacement):
    """The first output of a module is replaced by what `replacement` makes of it."""

    def replace(_module, _args, output):
        if isinstance(output, torch.Tensor):
            return replacement(output)
        return type(output)((replacement(output[0]), *output[1:]))

    handle = module.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def block_streams(module):
    """Input and output of every block, `[layer][batch, position, d_model]`, by plain hooks."""
    before, after, handles = [], [], []
    for block in oracle.blocks_of(module):
        handles.append(
            block.register_forward_pre_hook(
                lambda _m, args, kwargs: before.append(oracle._hidden_input(args, kwargs).clone()),
                with_kwargs=True,
            )
        )
        handles.append(
            block.register_forward_hook(
                lambda _m, _a, out: after.append(
                    (out if isinstance(out, torch.Tensor) else out[0]).clone()
                )
            )
        )
    oracle.plain_logits(module, IDS)
    for handle in handles:
        handle.remove()
    return before, after


def decoded(module, vectors):
    """The logits that the model itself makes of a stream, `[batch, position, vocab]`."""
    with hooked(oracle.blocks_of(module)[-1], lambda _: vectors.clone()):
        return oracle.plain_logits(module, IDS).numpy().reshape(-1, tiny.VOCAB)


def lens_logits(result):
    """`[site, token, vocab]` of a lens whose targets are the whole vocabulary."""
    return {site: result.target_logits[s] for s, site in enumerate(result.sites)}


@pytest.mark.parametrize("family", SUMS)
def test_every_component_is_what_the_block_adds(family):
    model = tiny.shared(family)
    module = model._module
    blocks = residual_blocks(model)
    names = sorted({name for block in blocks for name in block.components}, key=COMPONENTS.index)
    result = lr.logit_lens(model, IDS, components=["embed", *names], targets=ALL_TOKENS, track=None)
    assert result.certificate.passed
    assert result.certificate.max_block_error < 2e-6
    assert result.certificate.max_total_error < 2e-6
    logits = lens_logits(result)
    before, after = block_streams(module)
    where = {lr.Site(0, "embed"): before[0]}
    for number, layer in enumerate(lr.anatomy(model).layers):
        where |= {lr.Site(layer, "resid_pre"): before[number], lr.Site(layer): after[number]}
        where |= _writes(module, number, layer, blocks[layer], after[number])
    if family.startswith("rwkv"):  # its first block begins with a norm, and the stream after it
        del where[lr.Site(0, "embed")], where[lr.Site(0, "resid_pre")]
    for site, vectors in where.items():
        expected = decoded(module, vectors)
        close = 2e-3 * max(1.0, np.abs(expected).max() / 10)
        np.testing.assert_allclose(logits[site], expected, atol=close, err_msg=str(site))


def _writes(module, number, layer, block, whole):
    """Each thing that a block adds: what its output lacks when that tensor is zero. The last first, as they depend."""
    found, whole_so_far = {}, whole
    for name in reversed([name for name in WRITES if name in block.components]):
        with contextlib.ExitStack() as stack:
            for later in WRITES[WRITES.index(name) :]:
                for write in (write for write in block.writes if write.component == later):
                    source = module.get_submodule(write.point.path.replace("E_", ""))
                    stack.enter_context(hooked(source, torch.zeros_like))
            without = block_streams(module)[1][number]
        found[lr.Site(layer, name)] = whole_so_far - without
        whole_so_far = without
        if name == "mlp_out" and block.resid_mid is not None:
            found[lr.Site(layer, "resid_mid")] = without
    return found


@pytest.mark.parametrize("family", POST_NORM + SCALED)
def test_what_is_added_between_norms_is_what_the_block_norms(family):
    """Plain torch says the same: scaled stream + writes, normed, scaled, + writes, … is what the block gives."""
    model = tiny.shared(family)
    module = model._module
    blocks = residual_blocks(model)
    result = lr.logit_lens(
        model,
        IDS,
        components=("attn_out", "mlp_out", "resid_mid"),
        targets=ALL_TOKENS,
        track=None,
    )
    assert result.certificate.max_block_error < 2e-6
    assert result.certificate.max_total_error < 2e-6
    logits = lens_logits(result)
    before, after = block_streams(module)
    for layer, block in enumerate(blocks):
        assert len(block.norms) == (2 if family in POST_NORM else 0)
        written = []
        for write in block.writes:
            source = module.get_submodule(write.point.path.replace("E_", ""))
            value = replay(None, write.point.operations, output_of(module, source))
            written.append(value.reshape(before[layer].shape))
        stream = replay(None, block.residual_scale, before[layer])
        for number in range(len(block.norms) + 1):
            if number > 0:
                norm = block.norms[number - 1]
                stream = module.get_submodule(norm.call.path.replace("E_", ""))(stream)
                stream = replay(None, norm.scale, stream)
            for write, value in zip(block.writes, written, strict=True):
                if write.n_norms_before == number:
                    stream = stream + value
        torch.testing.assert_close(stream, after[layer], atol=1e-5, rtol=1e-5)
        for write, value in zip(block.writes, written, strict=True):
            expected = decoded(module, value)
            np.testing.assert_allclose(logits[lr.Site(layer, write.component)], expected, atol=2e-3)


def output_of(module, source):
    """The first output of a module, in a run of its own."""
    kept = []

    def keep(_module, _args, output):
        kept.append((output if isinstance(output, torch.Tensor) else output[0]).clone())

    handle = source.register_forward_hook(keep)
    oracle.plain_logits(module, IDS)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("family", [f for f in SUMS if f not in NO_HEADS])
def test_heads_sum_to_attention(family):
    """And each head is what the projection lacks when its columns are zero, where nothing comes after it."""
    model = tiny.shared(family)
    result = lr.logit_lens(
        model, IDS, components="head_out", targets=[3], apply_norm=False, track=None
    )
    assert result.certificate.max_head_error < 2e-6
    layers = {site.layer for site in result.sites}
    attending = {
        layer
        for layer, block in enumerate(residual_blocks(model))
        if "attn_out" in block.components
    }
    assert layers == attending
    assert all(sum(s.layer == layer for s in result.sites) == 4 for layer in layers)


def mixed_llama():
    """A llama whose blocks mix the columns of the stream at their end."""
    module = tiny.FAMILIES["llama"]()
    for block in module.model.layers:
        matrix = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(4)))[0]
        block.register_buffer("mix", matrix)
        block.forward = mixed(block, block.forward)
    return module


def mixed(block, forward):
    """A block's forward pass, and a product with its matrix after it."""
    return lambda *args, **kwargs: forward(*args, **kwargs) @ block.mix


def test_blocks_that_are_no_sums_are_refused():
    model = lr.load(mixed_llama())
    with pytest.raises(lr.LensError, match="no module gives"):
        lr.logit_lens(model, IDS, components="attn_out")
    streams = lr.logit_lens(model, IDS, components=("resid_pre", "resid_post"))
    assert streams.certificate.max_block_error is None
    np.testing.assert_allclose(
        streams.entropy[2], streams.entropy[1], atol=1e-5
    )  # pre of layer 1, post of layer 0


@pytest.mark.parametrize("family", PARALLEL)
def test_parallel_blocks_have_no_stream_in_the_middle(family):
    with pytest.raises(ValueError, match="no resid_mid"):
        lr.logit_lens(tiny.shared(family), IDS, components="resid_mid")


@pytest.mark.parametrize("family", NO_HEADS)
def test_heads_that_cannot_be_told_apart_are_refused(family):
    with pytest.raises((lr.LensError, ValueError), match=r"heads|head_out"):
        lr.logit_lens(tiny.shared(family), IDS, components="head_out")


def test_sites_come_in_the_order_of_the_stream(llama):
    result = lr.logit_lens(
        llama, "a prompt", components=("resid_post", "head_out", "embed", "mlp_out", "attn_out"), heads=[1, -1],
        layers=[2, 0],
    )  # fmt: skip
    kinds = ["attn_out", ("head_out", 1), ("head_out", 3), "mlp_out", "resid_post"]
    expected = [lr.Site(0, "embed")]
    expected += [lr.Site(n, *([k] if isinstance(k, str) else k)) for n in (0, 2) for k in kinds]
    assert result.sites == expected


def test_pairs_of_layer_and_head(llama):
    result = lr.logit_lens(llama, "a prompt", components="head_out", heads=[(1, 2), (3, 0)])
    assert result.sites == [lr.Site(1, "head_out", 2), lr.Site(3, "head_out", 0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": "atn_out"}, "atn_out"),
        ({"components": ()}, "components must be"),
        ({"components": 3}, "components must be"),
        ({"components": "mixer_out"}, "no mixer_out"),
        ({"components": "attn_out", "heads": 1}, "head_out"),
        ({"components": "head_out", "heads": 4}, "heads=4 is out of range"),
        ({"components": "head_out", "heads": [(1, 9)]}, "no head 9 in layer 1"),
        ({"components": "head_out", "layers": [0], "heads": [(1, 0)]}, "no head 0 in layer 1"),
        ({"components": "attn_out", "layers": 9}, "layers=9 is out of range"),
    ],
)
def test_what_this_model_does_not_have_is_one_clear_sentence(llama, options, words):
    with pytest.raises(ValueError, match="(?s)" + words) as refusal:
        lr.logit_lens(llama, "a prompt", **options)
    assert len(str(refusal.value)) < 300


def test_a_component_of_some_layers_only():
    """RecurrentGemma has attention in every third block."""
    model = tiny.shared("recurrent_gemma")
    result = lr.logit_lens(model, IDS, components=("attn_out", "mixer_out"))
    assert [str(site) for site in result.sites] == [
        "0.mixer_out",
        "1.mixer_out",
        "2.attn_out",
        "3.mixer_out",
    ]
    with pytest.raises(ValueError, match=r"only its layers \[2\] have it"):
        lr.logit_lens(model, IDS, components="attn_out", layers=[1, 2])


def test_a_part_that_is_missed_fails_the_certificate(llama, monkeypatch):
    """Both sides are measured: leave a part out, double one, take another tensor, and it says so."""
    import dataclasses

    from lens_recipes.run.request.request import Request

    honest = residual_blocks(llama)

    def without_mlp(block):
        return dataclasses.replace(block, writes=block.writes[:1])

    def doubled(block):
        return dataclasses.replace(block, writes=[*block.writes, block.writes[0]])

    def before_the_norm(block):  # the stream itself, in place of the MLP
        write = dataclasses.replace(block.writes[1], point=block.resid_mid)
        return dataclasses.replace(block, writes=[block.writes[0], write])

    for wrong in (without_mlp, doubled, before_the_norm):
        blocks = [*honest[:2], wrong(honest[2]), *honest[3:]]
        monkeypatch.setattr(Request, "blocks", lambda _, blocks=blocks: blocks)
        with pytest.raises(lr.LensError, match="does not sum to the stream"):
            lr.logit_lens(llama, "a prompt", components="attn_out")
        kept = lr.logit_lens(llama, "a prompt", components="attn_out", strict=False)
        assert "NOT CERTIFIED" in kept.mark


def test_a_hook_between_the_parts_is_seen():
    """Someone steers the stream inside a block: what attention and MLP add is no longer all."""
    module = tiny.llama()
    model = lr.load(module)
    residual_blocks(model)
    with (
        hooked(module.model.layers[1], lambda stream: stream + 1.0),
        pytest.raises(lr.LensError, match="a hook"),
    ):
        lr.logit_lens(model, IDS, components="mlp_out")


def test_one_trace_reads_all_and_says_the_same_as_several(llama):
    together = lr.logit_lens(llama, "a prompt", components=("attn_out", "resid_post", "head_out"))
    for component in ("attn_out", "resid_post", "head_out"):
        alone = lr.logit_lens(llama, "a prompt", components=component)
        index = [s for s, site in enumerate(together.sites) if site.component == component]
        np.testing.assert_allclose(together.top_logprobs[index], alone.top_logprobs, atol=1e-5)


def test_batches_and_positions_give_what_one_prompt_gives(llama):
    prompts = ["one prompt", "and a second, longer prompt", "x"]
    result = lr.logit_lens(
        llama, prompts, components=("attn_out", "head_out", "resid_mid"), positions=-1
    )
    for number, prompt in enumerate(prompts):
        alone = lr.logit_lens(
            llama, prompt, components=("attn_out", "head_out", "resid_mid"), positions=-1
        )
        np.testing.assert_allclose(result[number].top_logprobs, alone.top_logprobs, atol=1e-4)


@pytest.mark.parametrize(
    "family", ["llama", "gemma2", "falcon", "bloom", "mixtral", "granite", "mamba"]
)
def test_half_precision_adds_up_within_its_rounding(family):
    module = tiny.FAMILIES[family]().to(torch.bfloat16)
    components = "mixer_out" if family == "mamba" else ("attn_out", "mlp_out", "head_out")
    result = lr.logit_lens(lr.load(module), IDS, components=components)
    assert 0 <= result.certificate.max_block_error < 2e-2


# The other families: tests/full.
SKELETONS = ["llama", "gemma2", "gptj", "bloom", "mixtral", "openai_gpt", "mllama"]


@pytest.mark.parametrize("family", SKELETONS)
def test_wiring_without_weights_is_the_same(family):
    """What a remote run relies on."""
    model = tiny.shared(family)
    module = model._module
    with torch.device("meta"):
        skeleton = type(module)(module.config)
    assert residual_blocks(model) == residual_blocks(lr.load(skeleton))


def test_a_model_without_weights_says_that_they_are_needed():
    """Doge multiplies its stream by weights, and a skeleton has none."""
    module = tiny.FAMILIES["doge"]()
    with torch.device("meta"):
        skeleton = lr.load(type(module)(module.config))
    for block in residual_blocks(skeleton):
        assert "values are not in this process" in block.unreadable_reason
    assert str(lr.anatomy(skeleton)) == str(lr.anatomy(lr.load(module)))


# -- what a review found -----------------------------------------------


def test_the_middle_of_a_block_that_scales_its_stream_afterwards():
    """Gemma 4 has a number at the end of each block: the stream in the middle is read, and what is added adds up."""

    class Scaled(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block, self.number = block, torch.nn.Parameter(torch.tensor(0.7))

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.block, name)

        def forward(self, *args, **kwargs):
            return self.block(*args, **kwargs) * self.number

    module = tiny.FAMILIES["llama"]()
    module.model.layers = torch.nn.ModuleList(Scaled(block) for block in module.model.layers)
    module.requires_grad_(False)
    model = lr.load(module)
    result = lr.logit_lens(
        model, IDS, components=("attn_out", "resid_mid", "mlp_out", "resid_post")
    )
    assert result.certificate.passed
    assert result.certificate.max_block_error < 2e-6
    who = lr.attribution(model, IDS, [7], unit="head")
    own = oracle.plain_logits(module, IDS)[:, -1, [7]].numpy()
    np.testing.assert_allclose(who.capped_logit, own, atol=1e-4)


@pytest.mark.parametrize(
    "components", [np.array(["attn_out", "mlp_out"]), (c for c in ("attn_out", "mlp_out"))]
)
def test_components_in_any_container_are_kept_in_the_record(llama, components):
    result = lr.logit_lens(llama, "a prompt", components=components)
    assert result.provenance["arguments"]["components"] == ["attn_out", "mlp_out"]
    assert {site.component for site in result.sites} == {"attn_out", "mlp_out"}


@pytest.mark.parametrize(
    "pairs", [np.array([[1, -1], [3, 0]]), torch.tensor([[1, 3], [3, 0]]), ((1, 3), (3, 0))]
)
def test_pairs_in_any_container_and_from_the_end(llama, pairs):
    result = lr.logit_lens(llama, "a prompt", components="head_out", heads=pairs)
    assert result.sites == [lr.Site(1, "head_out", 3), lr.Site(3, "head_out", 0)]


@pytest.mark.parametrize("heads", [["12"], [(1.7, 2)], [("a", "b")], [(1, 2), 3]])
def test_heads_that_are_no_numbers(llama, heads):
    with pytest.raises(ValueError, match="heads"):
        lr.logit_lens(llama, "a prompt", components="head_out", heads=heads)


def test_pairs_name_the_only_layers_that_need_heads():
    """A hybrid has heads in some layers only: the others are not asked for any."""
    model = tiny.shared("minimax")
    n_heads = {}
    for number, block in enumerate(residual_blocks(model)):
        if any(write.heads is not None for write in block.writes):
            n_heads[number] = block.n_heads
    assert 0 < len(n_heads) < lr.anatomy(model).n_layers
    pairs = [(layer, count - 1) for layer, count in n_heads.items()]
    ids = tiny.random_ids(batch=1).tolist()
    result = lr.logit_lens(model, ids, components="head_out", heads=pairs)
    assert [(site.layer, site.head) for site in result.sites] == pairs
    edited = lr.logit_lens(model, ids, edits=lr.ablate(component="head_out", head=pairs[:1]))
    assert edited.effects is not None
    with pytest.raises(ValueError, match="there is no head 0 in layer 99"):
        lr.logit_lens(tiny.shared("llama"), ids, components="head_out", heads=[(0, 0), (99, 0)])
