"""Models that someone has adapted, quantised, compiled, hooked or cast: they work, or the error says what to do."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

import lens_recipes as lr
from lens_recipes.trace.operations import Elementwise

IDS = tiny.random_ids(batch=2, length=6)


def certified(module, tokenizer=None, prompts=IDS):
    result = lr.logit_lens(lr.load(module, tokenizer=tokenizer), prompts)
    assert result.certificate.passed
    return result


@pytest.mark.parametrize("tokenizer", [None, tiny.tiny_tokenizer()], ids=["ids", "text"])
def test_a_peft_model_is_read_with_its_adapter(tokenizer):
    peft = pytest.importorskip("peft")
    module = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    plain = certified(module)
    targets = ["q_proj", "lm_head"]  # the unembedding itself is adapted too
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    adapted = peft.get_peft_model(module, config).eval()
    prompts = IDS if tokenizer is None else ["one two", "three four five"]
    result = certified(adapted, tokenizer, prompts)
    assert result.provenance["architecture"].startswith("PeftModel")
    if tokenizer is None:
        assert abs(result.top_logprobs - plain.top_logprobs).max() > 0.1


def test_a_quantised_unembedding_is_called_and_never_sliced():
    quantization = pytest.importorskip("torchao.quantization")
    module = tiny.llama()
    plain = certified(module)
    quantization.quantize_(module, quantization.Int8WeightOnlyConfig())
    assert type(module.lm_head.weight) is not torch.nn.Parameter
    result = certified(module)
    assert (
        abs(result.top_logprobs - plain.top_logprobs).max() > 1e-4
    )  # it is another model, and its own lens


class PackedWeight(torch.Tensor):
    """A matrix as whole numbers and a scale, as quantising packages keep it: not in inference mode."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            x, weight, *bias = args
            return function(
                x, weight.detach().unpacked(), *bias
            )  # what inference mode does not take
        return super().__torch_function__(function, types, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].numbers, args[0].scale)
        raise NotImplementedError(function)

    def unpacked(self):
        return self.numbers.to(self.scale.dtype) * self.scale


def packed(weight):
    scale = weight.abs().amax(-1, keepdim=True) / 7
    return PackedWeight((weight / scale).round().to(torch.int8), scale)


@pytest.mark.slow
def test_weights_that_inference_mode_cannot_run_are_read():
    """Some packages' tensors raise there: "Cannot set version_counter for inference tensor"."""
    module = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    layers = [child for child in module.modules() if isinstance(child, torch.nn.Linear)]
    unpacked = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    plain = [child for child in unpacked.modules() if isinstance(child, torch.nn.Linear)]
    for layer, same in zip(layers, plain, strict=True):
        weight = packed(layer.weight)
        same.weight.copy_(weight.unpacked())
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="version_counter"):
        module(IDS)
    tokenizer = tiny.tiny_tokenizer()
    model = lr.load(module, tokenizer=tokenizer)
    expected = lr.load(unpacked, tokenizer=tokenizer)
    texts = ["one two", "three four five six"]
    for recipe in (
        lambda model: lr.logit_lens(model, texts, components=["resid_post", "head_out"]),
        lambda model: lr.logit_lens(model, texts, remote="local"),
        lambda model: lr.generate_lens(model, texts, max_new_tokens=3, do_sample=False),
        lambda model: lr.decode_vectors(model, [[1.0] * 32]),
        lambda model: lr.decode_vectors(model, [[1.0] * 32], remote="local"),
    ):
        result = recipe(model)
        assert result.certificate is None or result.certificate.passed
        np.testing.assert_allclose(result.top_logprobs, recipe(expected).top_logprobs, atol=1e-5)
    result = lr.attribution(model, texts, 9, unit="head")
    values = lr.attribution(expected, texts, 9, unit="head").values
    np.testing.assert_allclose(result.values, values, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_flex_attention_that_was_set_before_the_first_lens(family):
    """It is no ordinary operation of torch's, and compiles itself. Here it does not: that takes minutes."""
    module = tiny.FAMILIES[family]()
    module.set_attn_implementation("flex_attention")
    model = lr.load(module)
    with torch.compiler.set_stance("force_eager"):
        lens = lr.logit_lens(model, IDS, components=["resid_post", "attn_out", "head_out"])
        heads = lr.attribution(model, IDS, 9, unit="head")
        assert lr.attribution(model, IDS, 9, unit="token").certificate.passed
        assert lr.generate_lens(model, IDS, max_new_tokens=3).certificate.passed
    module.set_attn_implementation("eager")
    sites = ["resid_post", "attn_out", "head_out"]
    expected = lr.logit_lens(lr.load(module), IDS, components=sites)
    assert lens.sites == expected.sites
    np.testing.assert_allclose(lens.entropy, expected.entropy, atol=1e-4)
    expected = lr.attribution(lr.load(module), IDS, 9, unit="head")
    np.testing.assert_allclose(heads.values, expected.values, atol=1e-4)


def test_a_function_that_is_compiled_whole_is_watched_as_it_was():
    class Compiled(torch.nn.Module):
        function = staticmethod(
            torch.compile(torch.nn.functional.silu, fullgraph=True, backend="eager")
        )

        def forward(self, x):
            return self.function(x)

    expected = lr.attribution(lr.load(tiny.llama()), IDS, 9, unit="component")
    module = tiny.llama()
    for block in module.model.layers:
        block.mlp.act_fn = Compiled()
    result = lr.attribution(lr.load(module), IDS, 9, unit="component")
    np.testing.assert_allclose(result.values, expected.values, atol=1e-5)


# A model compiled inside takes a minute: tests/full.
@pytest.mark.parametrize("inside", [False])
def test_a_compiled_model_is_read_through_its_original(inside):
    module = tiny.llama()
    expected = certified(module).top_logprobs
    if inside:
        module.compile(backend="eager")
    else:
        module = torch.compile(module, backend="eager")
    torch.testing.assert_close(certified(module).top_logprobs, expected)


def test_a_hook_on_the_unembedding_takes_part():
    module = tiny.llama()
    before = certified(module)
    module.lm_head.register_forward_hook(lambda _module, _inputs, out: 0.5 * out)
    module.model.layers[1].register_forward_hook(lambda _module, _inputs, out: out + 0.3)
    after = certified(module)
    assert after.certificate.max_abs_logit < before.certificate.max_abs_logit


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "mamba", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision_is_certified_by_its_own_measure(family, dtype):
    result = certified(tiny.FAMILIES[family]().to(dtype))
    assert result.certificate.dtype == str(dtype).removeprefix("torch.")


def test_half_precision_does_not_hide_a_missing_softcap(monkeypatch):
    from dataclasses import replace

    from lens_recipes.models.structure.known import known_model

    model = lr.load(tiny.FAMILIES["gemma2"]().to(torch.bfloat16))
    parts = lr.anatomy(model)
    tail = [step for step in parts.tail if not isinstance(step, Elementwise)]
    monkeypatch.setattr(known_model(model), "anatomy", replace(parts, tail=tail))
    with pytest.raises(lr.LensError, match="NOT CERTIFIED"):
        lr.logit_lens(model, IDS)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(lr.LensError, match=r"model\.eval\(\)"):
        certified(tiny.llama().train())


def test_a_head_that_gives_something_else_is_refused():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x, x

    module = tiny.llama()
    module.lm_head = Two()
    with pytest.raises(lr.LensError, match="something else than logits"):
        certified(module)


def test_arguments_for_from_pretrained_are_refused_beside_a_module():
    with pytest.raises(lr.LensError, match="dtype"):
        lr.load(tiny.llama(), dtype="bfloat16")


def test_threads_on_one_model_wait_for_each_other():
    """The first use examines the model; two threads must not do so at once."""
    from concurrent.futures import ThreadPoolExecutor

    model = lr.load(tiny.llama())
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: lr.logit_lens(model, IDS), range(4)))
    for result in results:
        assert (result.top_ids == results[0].top_ids).all()
