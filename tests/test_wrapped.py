"""Models that someone has adapted, quantised, compiled, hooked or cast: they work, or the error says what to do."""

from __future__ import annotations

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
