"""Who wrote the logit: sums on every family, and single heads against a second run that this library has no part in."""

from __future__ import annotations

import contextlib
import itertools
import linecache
import re
import sys
from functools import partial

import numpy as np
import oracle
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lens_recipes as lr
from lens_recipes.models.handle import attention_configs
from lens_recipes.models.structure.block.blocks import residual_blocks
from lens_recipes.recipes.attribution.attribution import eager_attention
from lens_recipes.trace.attribution.freeze import apply_affine, freeze_norm, head_writes
from lens_recipes.trace.operations import replay, split_at_unembedding

NO_SUMS = ["bert_lm", "modernbert_decoder"]  # an activation in the head
NO_HEADS = ["mamba", "mamba2", "rwkv", "rwkv_halved", "minimax"]
NO_SOURCES = ["minicpm3"]  # latent attention: the values are no module's output
SUMS = [family for family in tiny.FAMILIES if family not in NO_SUMS]
UNITS = {
    "layer": SUMS,
    "component": SUMS,
    "head": [f for f in SUMS if f not in NO_HEADS],
    "token": [f for f in SUMS if f not in NO_HEADS + NO_SOURCES],
}
IDS = tiny.random_ids(batch=2, length=8, seed=11)


def close(size):
    return {"atol": 2e-5 * max(1.0, float(size)), "rtol": 1e-4}


@pytest.mark.parametrize(
    ("unit", "family"), [(unit, family) for unit, names in UNITS.items() for family in names]
)
def test_parts_sum_to_the_models_own_logit(unit, family):
    model = tiny.shared(family)
    module = model._module
    result = lr.attribution(model, IDS, [7, 11], unit=unit, positions=[2, -1])
    own = oracle.plain_logits(module, IDS)[:, [2, 7]][..., [7, 11]].reshape(-1, 2).numpy()
    size = np.abs(result.values).max()
    np.testing.assert_allclose(result.capped_logit, own, atol=1e-4 * max(1, np.abs(own).max()))
    np.testing.assert_allclose(result.values.sum(0, dtype=np.float64), result.logit, **close(size))
    np.testing.assert_allclose(result.total, result.logit, **close(size))
    assert np.abs(result.error).max() <= 1e-4 * size
    assert result.certificate.passed
    assert result.certificate.max_block_error < 2e-6
    assert len(result.parts) == len(set(result.parts)) == len(result.values)


@pytest.mark.parametrize(
    "family",
    ["llama", "gemma2", "cohere", "bloom", "mamba", "rwkv_halved", "recurrent_gemma", "openai_gpt",
     "minimax", "doge", "mllama"],
)  # fmt: skip
@pytest.mark.parametrize("layer", [0, 2])
def test_at_a_layer_the_lens_is_explained(family, layer):
    model = tiny.shared(family)
    result = lr.attribution(model, IDS, [7], unit="component", at_layer=layer)
    lens = lr.logit_lens(model, IDS, layers=layer, targets=[7], positions=-1)
    np.testing.assert_allclose(result.capped_logit, lens.target_logits[0], rtol=1e-4, atol=1e-4)
    assert max(part.layer for part in result.parts if part.layer is not None) == layer
    assert result.at_layer == layer


@pytest.mark.parametrize(
    "family",
    [
        "llama",
        "gpt2",
        "gemma2",
        "bloom",
        "falcon",
        "gptj",
        "qwen2",
        "gpt_oss",
        "openai_gpt",
        "doge",
    ],
)
def test_finer_units_sum_to_coarser_ones(family):
    """Tokens and the values' bias to their head, heads and the output's bias to attention, components to the layer."""
    model = tiny.shared(family)
    found = {unit: lr.attribution(model, IDS, [7, 30], unit=unit) for unit in UNITS}

    def total(unit, keep):
        index = [i for i, part in enumerate(found[unit].parts) if keep(part)]
        return found[unit].values[index].sum(0, dtype=np.float64)

    scale = close(np.abs(found["token"].values).max())
    for layer in range(len(residual_blocks(model))):
        for head in range(4):
            whole = total("head", lambda p, n=layer, h=head: (p.layer, p.head) == (n, h))
            np.testing.assert_allclose(
                total("token", lambda p, n=layer, h=head: (p.layer, p.head) == (n, h)),
                whole,
                **scale,
            )
        attention = total("component", lambda p, n=layer: p == lr.Part(n, "attn_out"))
        heads = total(
            "head", lambda p, n=layer: p.layer == n and p.component in ("head_out", "attn_bias")
        )
        np.testing.assert_allclose(heads, attention, **scale)
        block = total("layer", lambda p, n=layer: p == lr.Part(n, "layer"))
        parts = total("component", lambda p, n=layer: p.layer == n and p.component != "embed")
        np.testing.assert_allclose(parts, block, **scale)
    for ends in ("embed", "bias"):
        values = [total(unit, lambda p, e=ends: p.component == e) for unit in UNITS]
        for value in values[1:]:
            np.testing.assert_allclose(value, values[0], **scale)


# -- against -----------------------------------------------------------


def test_against_a_token_is_the_difference_of_two_attributions(llama):
    a, b = (lr.attribution(llama, "a prompt", [i], unit="head") for i in (260, 270))
    both = lr.attribution(llama, "a prompt", [260], against=270, unit="head")
    np.testing.assert_allclose(both.values, a.values - b.values, atol=1e-5)
    np.testing.assert_allclose(both.logit, a.logit - b.logit, atol=1e-5)
    assert both.against_ids.tolist() == [[270]]


def test_against_the_mean_is_minus_the_mean_of_all(llama):
    one = lr.attribution(llama, "a prompt", [260], unit="component")
    every = lr.attribution(llama, "a prompt", list(range(tiny.STRING_VOCAB)), unit="component")
    held = lr.attribution(llama, "a prompt", [260], against="mean", unit="component")
    np.testing.assert_allclose(
        held.values, one.values - every.values.mean(-1, keepdims=True), atol=1e-5
    )
    np.testing.assert_allclose(
        held.logit, one.logit - every.logit.mean(-1, keepdims=True), atol=1e-5
    )


def test_against_per_prompt_and_per_target(llama):
    prompts = ["one prompt", "another one, longer"]
    per_prompt = lr.attribution(llama, prompts, [[260], [261]], against=[270, 271])
    assert per_prompt.against_ids.tolist() == [[270], [271]]
    alone = lr.attribution(llama, prompts[1], 261, against=271)
    np.testing.assert_allclose(per_prompt.values[:, 1], alone.values[:, 0], atol=1e-4)
    nested = lr.attribution(llama, prompts, [260, 261], against=[[270, 271], [272, 273]])
    assert nested.against_ids.tolist() == [[270, 271], [272, 273]]


@pytest.mark.parametrize("family", ["gemma2", "nanochat", "recurrent_gemma"])
def test_the_softcap_is_left_out_and_reported(family):
    model = tiny.shared(family)
    module = model._module
    result = lr.attribution(model, IDS, [7, 9], against=20)
    own = oracle.plain_logits(module, IDS)[:, -1]
    cap = {"gemma2": 10.0, "nanochat": 8.0, "recurrent_gemma": 10.0}[family]
    raw = torch.atanh(own.double() / cap) * cap
    np.testing.assert_allclose(
        result.capped_logit, (own[:, [7, 9]] - own[:, [20]]).numpy(), atol=1e-4
    )
    np.testing.assert_allclose(
        result.logit, (raw[:, [7, 9]] - raw[:, [20]]).numpy(), rtol=1e-3, atol=1e-3
    )
    assert np.abs(result.logit - result.capped_logit).max() > 0.05


def test_the_mean_after_a_softcap():
    model = tiny.shared("gemma2")
    module = model._module
    result = lr.attribution(model, IDS, [7], against="mean")
    own = oracle.plain_logits(module, IDS)[:, -1]
    np.testing.assert_allclose(
        result.capped_logit[:, 0], (own[:, 7] - own.mean(-1)).numpy(), atol=1e-4
    )


@pytest.mark.parametrize("family", ["llama", "cohere", "gptj", "gemma2", "opt_project"])
def test_rows_of_the_weight_and_calls_of_the_module_agree(family, monkeypatch):
    from lens_recipes.recipes.attribution import attribution as _attribution

    model = tiny.shared(family)
    rows = lr.attribution(model, IDS, [7, 9], against="mean", unit="head")
    monkeypatch.setattr(_attribution, "target_weight", lambda *_: None)
    for budget in (2**28, 5000):  # all at once, and a few rows at a time
        called = lr.attribution(model, IDS, [7, 9], against="mean", unit="head", max_bytes=budget)
        np.testing.assert_allclose(called.values, rows.values, atol=1e-4)
        np.testing.assert_allclose(called.capped_logit, rows.capped_logit, atol=1e-4)


# -- heads, by a second run --------------------------------------------


@contextlib.contextmanager
def silenced(projection, columns):
    """A head's columns of the input of the output projection set to zero."""

    def silence(_module, args):
        x = args[0].clone()
        x[..., columns] = 0
        return (x, *args[1:])

    handle = projection.register_forward_pre_hook(silence)
    try:
        yield
    finally:
        handle.remove()


def outputs(module, ids, *modules):
    """What some modules take and give in one run: [(input, output), …]."""
    seen = {}

    def note(m, args, out):
        seen[m] = (
            args[0].detach().clone(),
            (out if isinstance(out, torch.Tensor) else out[0]).detach().clone(),
        )

    handles = [m.register_forward_hook(note) for m in modules]
    oracle.plain_logits(module, ids)
    for handle in handles:
        handle.remove()
    return [seen[m] for m in modules]


# Output projection, final norm, and the norm between attention and the stream, by hand for these
# families.
BY_HAND = {
    "llama": ("model.layers.{}.self_attn.o_proj", "model.norm", None, 0.0),
    "qwen2": ("model.layers.{}.self_attn.o_proj", "model.norm", None, 0.0),
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.ln_f", None, 0.0),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.final_layer_norm", None, 0.0),
    "falcon": ("transformer.h.{}.self_attention.dense", "transformer.ln_f", None, 0.0),
    "bloom": ("transformer.h.{}.self_attention.dense", "transformer.ln_f", None, 0.0),
    "gemma2": (
        "model.layers.{}.self_attn.o_proj",
        "model.norm",
        "model.layers.{}.post_attention_layernorm",
        1.0,
    ),
    "olmo2": (
        "model.layers.{}.self_attn.o_proj",
        "model.norm",
        "model.layers.{}.post_attention_layernorm",
        0.0,
    ),
}


def frozen_norm(norm, x, v, plus):
    """A norm's linear part at x, applied to v, from its own parameters."""
    if isinstance(norm, torch.nn.LayerNorm):
        deviation = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        return (v - v.mean(-1, keepdim=True)) / deviation * norm.weight
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return v / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (norm.weight + plus)


@pytest.mark.parametrize("family", BY_HAND)
def test_a_head_is_what_its_columns_write(family):
    """Its columns are zeroed in a second run; the later blocks and all norms stay as they were in the first."""
    model = tiny.shared(family)
    module = model._module
    path, final, between, plus = BY_HAND[family]
    result = lr.attribution(model, IDS, [7, 11], unit="head")
    head_module = module.get_output_embeddings()
    for layer in range(len(oracle.blocks_of(module))):
        projection = module.get_submodule(path.format(layer))
        norm = module.get_submodule(final)
        ((_, before), (stream, _)) = outputs(module, IDS, projection, norm)
        for head in range(4):
            columns = list(range(head * 8, head * 8 + 8))
            with silenced(projection, columns):
                ((_, after),) = outputs(module, IDS, projection)
            change = before - after
            if between is not None:
                change = frozen_norm(
                    module.get_submodule(between.format(layer)), before, change, plus
                )
            share = frozen_norm(norm, stream, change, plus)[:, -1] @ head_module.weight[[7, 11]].T
            part = result.parts.index(lr.Part(layer, "head_out", head))
            np.testing.assert_allclose(result.values[part], share.numpy(), rtol=1e-3, atol=1e-4)


@contextlib.contextmanager
def held(norms):
    """Norms whose size is that of this run: their gradient is that of the affine map."""
    before = {norm: norm.forward for norm in norms}

    def affine(norm, x):
        zero = x - x.detach()
        return before[norm](x).detach() + frozen_norm(norm, x.detach(), zero, 0)

    for norm in norms:
        norm.forward = partial(affine, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


# How often the stream is normed or multiplied by weights on its way: the norms that are held, and what is added.
THROUGH_NORMS = {
    "openai_gpt": (r"ln_[12]$", "transformer.h.{}.attn", "transformer.h.{}.mlp"),
    "opt_350m": (r"layer_norm$", "model.decoder.layers.{}.self_attn.out_proj", "model.decoder.layers.{}.fc2"),
    "git": (r"LayerNorm$", "git.encoder.layer.{}.attention.output.dense", "git.encoder.layer.{}.output.dense"),
    "minimax": (r"norm$", "model.layers.{}.self_attn", "model.layers.{}.mlp"),
    "doge": (r"norm$", "model.layers.{}.self_attn", "model.layers.{}.mlp"),
}  # fmt: skip


@pytest.mark.parametrize("family", THROUGH_NORMS)
def test_shares_are_gradients_through_norms_that_are_held(family):
    """Autograd, with all that is added taken as given: a share is the gradient at what is added, times that."""
    model = tiny.shared(family)
    module = model._module
    pattern, *paths = THROUGH_NORMS[family]
    result = lr.attribution(model, IDS, [7], unit="component")
    norms = [child for path, child in module.named_modules() if re.search(pattern, path)]
    given, handles = {}, []

    def take_as_given(part, _module, _args, output):
        value = output if isinstance(output, torch.Tensor) else output[0]
        given[part] = value.detach().requires_grad_()
        if isinstance(output, torch.Tensor):
            return given[part]
        return type(output)((given[part], *output[1:]))

    n_layers = len(oracle.blocks_of(module))
    for layer in range(n_layers):
        for component, path in zip(("attn_out", "mlp_out"), paths, strict=True):
            source = module.get_submodule(path.format(layer))
            part = lr.Part(layer, component)
            handles.append(source.register_forward_hook(partial(take_as_given, part)))
    with held(norms):
        logits = module(input_ids=IDS, use_cache=False).logits
        logits[:, -1, 7].sum().backward()
    for handle in handles:
        handle.remove()
    assert len(given) == 2 * n_layers
    for part, value in given.items():
        shares = (value.grad * value.detach()).reshape(len(IDS), -1, value.shape[-1])
        share = result.values[result.parts.index(part), :, 0]
        np.testing.assert_allclose(share, shares[:, -1].sum(-1).numpy(), rtol=1e-3, atol=1e-4)


def test_a_real_ablation_is_another_number(smollm2):
    """What a head does through the later layers is not in its direct share, and the words say so."""
    prompt = "The capital of France is"
    result = lr.attribution(smollm2, prompt, " Paris", unit="head")
    part, value = max(
        (p for p in result.top(20) if p[0].component == "head_out" and p[0].layer < 24),
        key=lambda p: abs(p[1]),
    )
    module = smollm2._module
    ids = torch.tensor([smollm2.tokenizer(prompt).input_ids])
    paris = int(result.target_ids[0, 0])
    own = oracle.plain_logits(module, ids)[0, -1, paris]
    with silenced(
        module.model.layers[part.layer].self_attn.o_proj,
        list(range(part.head * 64, part.head * 64 + 64)),
    ):
        without = oracle.plain_logits(module, ids)[0, -1, paris]
    assert abs(float(own - without) - value) > 0.2
    assert "direct" in result.summary()


# -- source tokens -----------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "bloom", "gpt_bigcode", "gpt_neox", "phi3"])
def test_a_source_token_is_weight_times_value(family):
    """Change one token's value vector by a hook, in the eager model: the head's write changes by its weight times that.

    Here: the values of position 3 are removed, attention weights unchanged, so the input of the
    output projection
    loses exactly what the heads took from position 3.
    """
    module = tiny.FAMILIES[family]()
    model = lr.load(module)
    result = lr.attribution(model, IDS, [7], unit="token")
    for config, _ in attention_configs(module):
        config._attn_implementation_internal = "eager"
    layer, source = 1, 3
    write = next(w for w in residual_blocks(model)[layer].writes if w.heads)
    values, columns = (
        module.get_submodule(write.heads.sources.values.path),
        sorted({*itertools.chain(*write.heads.sources.value_columns)}),
    )
    projection = module.get_submodule(write.heads.point.path)

    def remove(_module, args, out):
        out = out.clone()
        zero = module_at_zero(values, args[0])
        out[:, source, columns] = zero[..., columns]
        return out

    ((whole, _),) = outputs(module, IDS, projection)
    handle = values.register_forward_hook(remove)
    ((without, _),) = outputs(module, IDS, projection)
    handle.remove()
    lost = (whole - without)[:, -1]
    for head, own in enumerate(write.heads.columns):
        part = result.parts.index(lr.Part(layer, "head_out", head, source))
        alone = torch.zeros_like(lost)
        alone[:, own] = lost[:, own]
        expected = share_of(model, layer, alone, [7])
        np.testing.assert_allclose(result.values[part], expected, rtol=1e-3, atol=1e-4)


def module_at_zero(module, like):
    """Its bias, without its hooks."""
    return module.forward(torch.zeros_like(like[:1, :1]))[0, 0]


def share_of(model, layer, inner, targets):
    """The share in a logit of a change of the output projection's input, with the norms of this run."""
    parts = lr.anatomy(model)
    before, linear, _ = split_at_unembedding(parts.tail)
    write = next(w for w in residual_blocks(model)[layer].writes if w.heads)
    projection = model._module.get_submodule(write.heads.point.path)
    norm = model._module.get_submodule(parts.norm)
    ((x, _), (stream, _)) = outputs(model._module, IDS, projection, norm)
    chain, _ = freeze_norm(model, list(write.heads.to_stream), x[:, -1])
    tail, _ = freeze_norm(model, before, stream[:, -1])
    both = torch.stack([inner, torch.zeros_like(inner)])
    logits = replay(model, linear, apply_affine(model, tail, apply_affine(model, chain, both)))
    return (logits[0] - logits[1])[:, targets].numpy()


def test_sinks_take_weight_and_write_nothing():
    """gpt-oss: the weights of the tokens sum to less than 1, and the parts to the logit all the same."""
    model = tiny.shared("gpt_oss")
    result = lr.attribution(model, IDS, [7], unit="token")
    assert result.certificate.max_sum_error < 1e-4


def test_prompts_of_different_length_in_one_call(llama):
    prompts = ["one prompt", "another prompt, and a longer one", "third"]
    result = lr.attribution(llama, prompts, [260], unit="token")
    for number, prompt in enumerate(prompts):
        alone = lr.attribution(llama, prompt, [260], unit="token")
        index = [result.parts.index(part) for part in alone.parts]
        np.testing.assert_allclose(result.values[index, number], alone.values[:, 0], atol=1e-4)
        np.testing.assert_allclose(result[number].values.sum(), alone.values.sum(), atol=1e-3)


def test_a_token_reads_nothing_from_the_future(llama):
    result = lr.attribution(llama, "a prompt with words", [260], unit="token", positions=[0, 2])
    for token, position in enumerate(result.tokens.position):
        later = [
            i
            for i, part in enumerate(result.parts)
            if part.source is not None and part.source > position
        ]
        assert later
        assert np.abs(result.values[later, token]).max() == 0


def implementations(module):
    return [implementation for _, implementation in attention_configs(module)]


@pytest.mark.parametrize("family", ["llama", "falcon", "llava"])
def test_attention_is_switched_back(family, monkeypatch):
    from lens_recipes.recipes.attribution import attribution as _attribution

    model = tiny.shared(family)
    module = model._module
    before = implementations(module)
    lr.attribution(model, IDS, [7], unit="token")
    assert implementations(module) == before

    def fails(*_, **__):
        assert set(implementations(module)) == {"eager"}
        raise RuntimeError("in the middle")

    monkeypatch.setattr(_attribution, "split_logits", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        lr.attribution(model, IDS, [7], unit="token")
    assert implementations(module) == before


def test_attention_is_switched_back_also_if_ctrl_c_comes_while_it_is():
    """At each line of what switches it; `try:` calls nothing, so no signal comes there."""
    model = tiny.shared("llama")
    code = eager_attention.__wrapped__.__code__
    before = implementations(model._module)
    for number in range(1, 30):
        reached = []

        def at_line(frame, event, _, number=number, reached=reached):
            if frame.f_code is not code:
                return None
            if (
                event == "line"
                and linecache.getline(code.co_filename, frame.f_lineno).strip() != "try:"
            ):
                reached.append(frame.f_lineno)
                if len(reached) == number:
                    raise KeyboardInterrupt
            return at_line

        traced = sys.gettrace()
        sys.settrace(at_line)
        try:
            with contextlib.suppress(KeyboardInterrupt), eager_attention(model):
                pass
        finally:
            sys.settrace(traced)
        assert implementations(model._module) == before, reached[-1]
    assert len(reached) < number


# -- linearity ---------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    a=st.floats(-3, 3),
    b=st.floats(-3, 3),
    family=st.sampled_from(["llama", "gpt2"]),
)
def test_the_frozen_tail_is_linear(seed, a, b, family):
    model = tiny.shared(family)
    generator = torch.Generator().manual_seed(seed)
    x, u, v = torch.randn(3, 5, 32, generator=generator)
    before, linear, _ = split_at_unembedding(lr.anatomy(model).tail)
    with torch.no_grad():
        frozen, normed = freeze_norm(model, before, x)
        rows = torch.stack([u, v, a * u + b * v, torch.zeros_like(u), x])
        out = replay(model, linear, apply_affine(model, frozen, rows))
        one, two, mixed, zero, whole = out
        own = replay(model, linear, normed)
    torch.testing.assert_close(
        mixed - zero, a * (one - zero) + b * (two - zero), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(whole, own, atol=1e-4, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(-4, 4))
def test_heads_are_linear_in_their_columns(seed, scale):
    model = tiny.shared("qwen2")
    heads = next(w for w in residual_blocks(model)[0].writes if w.heads).heads
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed))
    scaled = x.clone()
    scaled[:, heads.columns[2]] *= scale
    with torch.no_grad():
        one, bias = head_writes(model, heads.columns, list(heads.to_stream), x)
        whole = replay(model, list(heads.to_stream), x[None])[0]
        two, _ = head_writes(model, heads.columns, list(heads.to_stream), scaled)
    torch.testing.assert_close(two[2], scale * one[2], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(two[[0, 1, 3]], one[[0, 1, 3]])
    torch.testing.assert_close(one.sum(0) + bias, whole, atol=1e-5, rtol=1e-4)


# -- precision, refusals, mistakes -------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # more of them: tests/full
@pytest.mark.parametrize("unit", ["component", "head", "token"])
def test_half_precision(family, unit):
    """In bfloat16 the sums are off by rounding alone: 5 % of the largest part, where float32 has a millionth."""
    exact = lr.attribution(tiny.shared(family), IDS, [7, 11], unit=unit)
    half = lr.attribution(
        lr.load(tiny.FAMILIES[family]().to(torch.bfloat16)), IDS, [7, 11], unit=unit
    )
    assert half.certificate.max_sum_error < 5e-2
    assert half.certificate.max_block_error < 2e-2
    largest = np.abs(exact.values).max()
    assert np.abs(half.values - exact.values).max() < 0.25 * largest


@pytest.mark.slow
def test_smollm2_in_both_precisions(smollm2):
    prompts, targets, against = (
        ["The capital of France is", "The capital of Japan is"],
        [[" Paris"], [" Tokyo"]],
        " London",
    )
    for unit in UNITS:
        result = lr.attribution(smollm2, prompts, targets, against=against, unit=unit)
        assert result.certificate.max_sum_error < 1e-5
    half = lr.attribution(
        lr.load("smollm2", dtype="bfloat16"), prompts, targets, against=against, unit="head"
    )
    assert half.certificate.passed
    assert half.certificate.max_sum_error < 3e-2


@pytest.mark.parametrize("family", NO_SUMS)
@pytest.mark.parametrize("unit", UNITS)
def test_what_is_no_sum_is_refused(family, unit):
    with pytest.raises(lr.LensError, match=r"normed|not linear|cannot be told apart"):
        lr.attribution(tiny.shared(family), IDS, [7], unit=unit)


@pytest.mark.parametrize("family", NO_HEADS)
def test_no_heads_but_components(family):
    model = tiny.shared(family)
    for unit in ("head", "token"):
        with pytest.raises(lr.LensError, match="component"):
            lr.attribution(model, IDS, [7], unit=unit)


@pytest.mark.parametrize("family", NO_SOURCES)
def test_no_sources_but_heads(family):
    model = tiny.shared(family)
    with pytest.raises(lr.LensError, match='unit="head" works'):
        lr.attribution(model, IDS, [7], unit="token")
    assert lr.attribution(model, IDS, [7], unit="head").certificate.passed


def test_a_part_that_is_missed_is_not_certified(llama, monkeypatch):
    import dataclasses

    from lens_recipes.run.request.request import Request

    honest = residual_blocks(llama)
    wrong = [dataclasses.replace(honest[0], writes=honest[0].writes[1:]), *honest[1:]]
    monkeypatch.setattr(Request, "blocks", lambda _: wrong)
    with pytest.raises(lr.LensError, match="does not sum to the stream"):
        lr.attribution(llama, "a prompt", [260])
    kept = lr.attribution(llama, "a prompt", [260], strict=False)
    assert "NOT CERTIFIED" in kept.mark
    assert np.abs(kept.error).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("a prompt", [260]), {"unit": "neuron"}, "unit='neuron' is unknown"),
        (("a prompt", None), {}, "needs targets"),
        (("a prompt", []), {}, "needs targets"),
        (("a prompt", " two words here"), {}, "is [0-9]+ tokens for this model"),
        (("a prompt", [260]), {"against": [1, 2, 3]}, "one per prompt"),
        (("a prompt", [260]), {"against": [[1, 2, 3]]}, "one per target"),
        (("a prompt", [260]), {"against": 10**6}, "ids are 0 to"),
        (("a prompt", [260]), {"at_layer": 9}, "at_layer=9 is out of range"),
        (("a prompt", [260]), {"positions": 99}, "positions=99 is out of range"),
        (("", [260]), {}, "is empty"),
        (("a prompt", [260]), {"at_layer": [1, 2]}, "at_layer=.* must be one layer"),
        (("a prompt", [260]), {"max_bytes": 0}, "max_bytes=0 must be a positive"),
        (("a prompt", [260]), {"max_bytes": "1"}, "max_bytes='1' must be"),
        (("a prompt", [260]), {"against": {270}}, "has no order"),
    ],
)
def test_mistakes_are_one_clear_sentence(llama, arguments, options, words):
    with pytest.raises(ValueError, match=words) as mistake:
        lr.attribution(llama, *arguments, **options)
    assert len(str(mistake.value)) < 350


# -- what a review found -----------------------------------------------


def test_a_padded_unembedding_whose_logits_are_cut(monkeypatch):
    """The mean is that of the tokens that there are, not of all rows of the weight."""
    module = tiny.FAMILIES["llama"]()
    wide = torch.nn.Linear(32, tiny.VOCAB + 27, bias=False)
    with torch.no_grad():
        wide.weight[: tiny.VOCAB] = module.lm_head.weight
        wide.weight[tiny.VOCAB :] = 3.0
    module.lm_head = wide.requires_grad_(False)
    forward = type(module).forward

    def cut(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits[..., : tiny.VOCAB]
        return out

    monkeypatch.setattr(type(module), "forward", cut)
    result = lr.attribution(lr.load(module), IDS, [7, 11], against="mean", unit="component")
    own = oracle.plain_logits(module, IDS)[:, -1]
    np.testing.assert_allclose(
        result.capped_logit, (own[:, [7, 11]] - own.mean(-1, keepdim=True)).numpy(), atol=1e-4
    )
    np.testing.assert_allclose(result.total, result.logit, atol=1e-4)


def test_the_logit_is_compared_with_the_models_own():
    """An unembedding that does not do what its weight says: the rows of the weight are not the model's logits."""
    module = tiny.FAMILIES["llama"]()
    weight = module.lm_head.weight
    module.lm_head.forward = lambda x: torch.nn.functional.linear(x, weight) * 0.5
    model = lr.load(module)
    for options in ({}, {"at_layer": 1}):
        with pytest.raises(lr.LensError, match="NOT CERTIFIED"):
            lr.attribution(model, IDS, [7, 11], **options)


@pytest.mark.parametrize("family", ["llama"])  # more of them: tests/full
@pytest.mark.parametrize("unit", UNITS)
def test_double_precision(family, unit):
    result = lr.attribution(lr.load(tiny.FAMILIES[family]().double()), IDS, [7], unit=unit)
    assert result.certificate.dtype == "float64"
    exact = lr.attribution(tiny.shared(family), IDS, [7], unit=unit)
    np.testing.assert_allclose(result.values, exact.values, atol=1e-4)


def test_a_norm_of_odd_width():
    import transformers as hf

    config = hf.GPT2Config(
        vocab_size=tiny.VOCAB, n_embd=33, n_layer=2, n_head=3, n_positions=tiny.POSITIONS
    )
    module = hf.GPT2LMHeadModel(config).eval().requires_grad_(False)
    tiny.unsettle(module, seed=3)
    for unit in UNITS:
        assert lr.attribution(lr.load(module), IDS, [7], unit=unit).certificate.passed


@pytest.mark.parametrize(
    "against", [(270, 271), np.array([270, 271]), torch.tensor([270, 271]), range(270, 272)]
)
def test_any_flat_sequence_is_one_per_prompt(llama, against):
    result = lr.attribution(llama, ["one", "two more"], [260, 261], against=against)
    assert result.against_ids.tolist() == [[270, 270], [271, 271]]
    once = lr.attribution(llama, ["one", "two more"], [260, 261], against=(i for i in (270, 271)))
    np.testing.assert_array_equal(once.values, result.values)


def test_an_empty_target_is_one_clear_sentence(smollm2):
    with pytest.raises(ValueError, match="is 0 tokens"):
        lr.attribution(smollm2, "x", "")


@pytest.mark.slow
def test_any_single_part_that_is_missed_is_seen_in_half_precision(monkeypatch):
    """Also beside massive activations: errors are taken number by number."""
    import dataclasses

    from lens_recipes.run.request.request import Request

    model = lr.load("smollm2", dtype="bfloat16")
    honest = residual_blocks(model)
    for layer in (1, 8, 20, 29):
        for gone in (0, 1):
            writes = [write for i, write in enumerate(honest[layer].writes) if i != gone]
            wrong = [
                *honest[:layer],
                dataclasses.replace(honest[layer], writes=writes),
                *honest[layer + 1 :],
            ]
            monkeypatch.setattr(Request, "blocks", lambda _, wrong=wrong: wrong)
            kept = lr.attribution(model, "The capital of France is", " Paris", strict=False)
            assert not kept.certificate.passed, (layer, gone, str(kept.certificate))


def test_a_tiny_budget_changes_nothing(llama):
    for unit in UNITS:
        free = lr.attribution(
            llama, "a prompt of words", [260, 261], unit=unit, positions=None, against="mean"
        )
        tight = lr.attribution(
            llama,
            "a prompt of words",
            [260, 261],
            unit=unit,
            positions=None,
            against="mean",
            max_bytes=20_000,
        )
        np.testing.assert_allclose(tight.values, free.values, atol=1e-5)
