"""Every layer is what the model goes on with, on the model as it is now, or the run is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
import torch
import truth

import lens_recipes as lr
from lens_recipes.models.structure.fingerprint import fingerprint

IDS = tiny.random_ids(1, 6, seed=3)
TEXT = "one two three"


def steered(module, *args):
    """Add a fixed vector to what a module gives, whatever that is in."""
    output = args[-1]
    stream = output if torch.is_tensor(output) else output[0]
    generator = torch.Generator().manual_seed(1)
    changed = stream + 2 * torch.randn(stream.shape[-1], generator=generator).to(stream)
    return changed if torch.is_tensor(output) else (changed, *output[1:])


def steered_in_place(module, args, output):
    """Add to a module's output where it lies, as many steering libraries do."""
    stream = output if torch.is_tensor(output) else output[0]
    stream += 0.7


def steered_before(module, args):
    """Add to what a module takes."""
    return (args[0] + 0.9, *args[1:])


def blocks_of(module):
    return module.transformer.h if hasattr(module, "transformer") else module.model.layers


def assert_true(model, ids=IDS, **asked):
    """Check a lens of all layers against the model as it is now."""
    module = model._module
    result = lr.logit_lens(model, ids, top_k=3, **asked)
    expected = truth.lens_logits(module, blocks_of(module), {"input_ids": ids})
    expected = expected[:, 0].log_softmax(-1)
    ids_shown = torch.tensor(result.top_ids.astype(np.int64))
    torch.testing.assert_close(
        torch.tensor(result.top_logprobs), expected.gather(-1, ids_shown), rtol=0, atol=2e-4
    )
    assert result.certificate.passed
    return result


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def model(request):
    """A model that was read once, before anything was changed."""
    wrapped = lr.load(tiny.FAMILIES[request.param]())
    assert_true(wrapped)
    return wrapped


# -- between two blocks ------------------------------------------------


@pytest.mark.parametrize("hook", [steered, steered_in_place])
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_hook_on_a_block_is_what_the_next_block_reads(model, hook, layer):
    blocks = blocks_of(model._module)
    handle = blocks[layer].register_forward_hook(hook)
    result = assert_true(model)
    assert result.certificate.changed_layers == (layer % len(blocks),)
    assert "hook" in str(result.certificate)
    assert any("hook" in line for line in result.summary().splitlines())
    handle.remove()
    assert assert_true(model).certificate.changed_layers == ()


@pytest.mark.parametrize("layer", [1, 2])
def test_a_hook_before_a_block_is_what_that_block_reads(model, layer):
    handle = blocks_of(model._module)[layer].register_forward_pre_hook(steered_before)
    assert assert_true(model).certificate.changed_layers == (layer - 1,)
    handle.remove()
    assert_true(model)


def test_hooks_that_stood_there_before_the_first_lens():
    module = tiny.llama()
    module.model.layers[0].register_forward_hook(steered)
    module.model.layers[2].register_forward_pre_hook(steered_before)
    result = assert_true(lr.load(module))
    assert result.certificate.changed_layers == (0, 1)


def test_a_forward_that_was_replaced_is_read_at_its_outside(model):
    block = blocks_of(model._module)[1]
    own = block.forward
    block.forward = lambda *args, **kwargs: steered(block, own(*args, **kwargs))
    assert_true(model)
    assert_true(model)


def test_an_edit_of_nnsight_is_read(model):
    path = "model.layers" if hasattr(model._module, "model") else "transformer.h"
    with model.edit(inplace=True):
        stream = model.get(f"{path}.1").input
        stream[:] = stream + torch.arange(stream.shape[-1]) / 16
    result = lr.logit_lens(model, IDS)
    assert result.certificate.passed
    plain = lr.load(copy.deepcopy(model._module))
    assert abs(lr.logit_lens(plain, IDS).logsumexp - result.logsumexp)[1:].max() > 1e-3


def test_the_hook_of_a_researcher_on_real_weights():
    """Steer SmolLM2 at layer 12, and read it as Hugging Face's hidden states say."""
    model = lr.load("smollm2")
    module = model._module
    generator = torch.Generator().manual_seed(0)
    vector = 30 * torch.randn(module.config.hidden_size, generator=generator)
    handle = module.model.layers[12].register_forward_hook(lambda _m, _a, out: out + vector)
    try:
        prompt = "The capital of France is"
        result = lr.logit_lens(model, prompt, positions=-1)
        ids = model.tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            hidden = module(ids, output_hidden_states=True).hidden_states[13][0, -1]
            logprobs = module.lm_head(module.model.norm(hidden)).log_softmax(-1)
        assert result.top_ids[12, 0, 0] == int(logprobs.argmax())
        assert abs(float(logprobs.max()) + 1.97) < 0.01
        np.testing.assert_allclose(result.top_logprobs[12, 0, 0], logprobs.max(), atol=1e-3)
        written = lr.generate_lens(model, prompt, max_new_tokens=2, do_sample=False)
        assert written.certificate.changed_layers == (12,)
        np.testing.assert_allclose(written.top_logprobs[12, 0, 0], logprobs.max(), atol=1e-3)
    finally:
        handle.remove()


def test_parts_of_a_hooked_block_are_refused_for_the_hook():
    model = lr.load(tiny.llama())
    model._module.model.layers[1].register_forward_hook(steered)
    with pytest.raises(lr.LensError, match="a hook"):
        lr.logit_lens(model, IDS, components=["attn_out"])


def test_a_hook_on_the_final_norm_takes_part(model):
    module = model._module
    norm = module.model.norm if hasattr(module, "model") else module.transformer.ln_f
    norm.register_forward_pre_hook(steered_before)
    assert_true(model)
    norm.register_forward_hook(steered)
    assert_true(model)


def test_a_hook_between_the_norm_and_the_unembedding_is_named():
    model = lr.load(tiny.llama())
    model._module.model.register_forward_hook(
        lambda _m, _a, out: type(out)(last_hidden_state=out[0] + torch.arange(out[0].shape[-1]))
    )
    with pytest.raises(lr.LensError, match=r"hooks on model:"):
        lr.logit_lens(model, IDS)


def test_a_certificate_says_what_was_proved_and_what_was_not():
    model = lr.load(tiny.llama())
    certificate = lr.logit_lens(model, IDS).certificate
    n_layers = len(model._module.model.layers)
    assert certificate.links == n_layers
    assert certificate.max_link_error == 0
    assert f"{n_layers} links between layers, largest error 0" in str(certificate)
    assert "sums of parts: not read" in str(certificate)
    assert "\n" not in str(certificate)


def test_rwkv_scales_its_stream_between_blocks():
    model = lr.load(tiny.FAMILIES["rwkv_halved"]())
    certificate = lr.logit_lens(model, IDS).certificate
    assert certificate.passed
    assert certificate.links == len(model._module.rwkv.blocks)


def test_a_scaled_stream_that_a_hook_changes_is_read_as_the_model_goes_on_with_it():
    model = lr.load(tiny.FAMILIES["rwkv_halved"]())
    factors = [link.factor for link in lr.anatomy(model).links]
    assert 0.5 in factors
    layer = factors.index(0.5)
    plain = lr.logit_lens(model, IDS)
    model._module.rwkv.blocks[layer].register_forward_hook(steered)
    result = lr.logit_lens(model, IDS)
    assert result.certificate.passed
    assert result.certificate.changed_layers == (layer,)
    difference = abs(result.logsumexp - plain.logsumexp).max(-1)
    assert difference[:layer].max() == 0
    assert difference[layer] > 1e-3


# -- a model that has changed ------------------------------------------


def test_embeddings_that_were_enlarged_and_cut():
    model = lr.load(tiny.llama())
    lr.logit_lens(model, IDS)
    model._module.resize_token_embeddings(110)
    assert_true(model, torch.tensor([[105, 7, 8]]))
    model._module.resize_token_embeddings(90)
    assert_true(model, torch.tensor([[85, 7, 8]]))
    with pytest.raises(ValueError, match="ids are 0 to 89"):
        lr.logit_lens(model, [[95]])


def test_layers_that_were_cut_repeated_and_exchanged(model):
    module = model._module
    blocks = blocks_of(module)
    order = [2, 0] if len(blocks) > 2 else [1, 0]
    holder = module.model if hasattr(module, "model") else module.transformer
    name = "layers" if hasattr(module, "model") else "h"
    setattr(holder, name, torch.nn.ModuleList([blocks[number] for number in order]))
    result = assert_true(model)
    assert len(result.sites) == 2
    again = torch.nn.ModuleList([blocks[0], copy.deepcopy(blocks[0]), blocks[1]])
    setattr(holder, name, again)
    assert len(assert_true(model).sites) == 3


def test_a_head_and_a_norm_that_were_replaced():
    model = lr.load(tiny.llama())
    module = model._module
    lr.logit_lens(model, IDS)
    generator = torch.Generator().manual_seed(5)
    head = torch.nn.Linear(module.config.hidden_size, 77, bias=True)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    module.lm_head = head.requires_grad_(False)
    assert lr.anatomy(model).vocab_size == 77
    assert_true(model, torch.tensor([[7, 8, 9]]))
    module.model.norm = torch.nn.LayerNorm(module.config.hidden_size).requires_grad_(False)
    assert_true(model, torch.tensor([[7, 8, 9]]))


def test_another_precision():
    model = lr.load(tiny.llama())
    lr.logit_lens(model, IDS)
    model._module.to(torch.float64)
    assert lr.logit_lens(model, IDS).certificate.dtype == "float64"
    model._module.to(torch.bfloat16)
    assert lr.logit_lens(model, IDS).certificate.dtype == "bfloat16"


def test_a_config_that_was_changed_in_place():
    model = lr.load(tiny.FAMILIES["gemma2"]())
    lr.logit_lens(model, IDS)
    model._module.config.final_logit_softcapping = 3.0
    assert_true(model)
    model._module.config.final_logit_softcapping = None
    assert_true(model)


def test_adapters_that_were_switched():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(tiny.llama(), config).eval()
    model = lr.load(adapted)
    with_adapter = lr.logit_lens(model, IDS)
    adapted.base_model.disable_adapter_layers()
    without = lr.logit_lens(model, IDS)
    assert with_adapter.certificate.passed
    assert without.certificate.passed
    assert abs(with_adapter.logsumexp - without.logsumexp).max() > 1e-3


def test_the_fingerprint_is_that_of_the_model():
    module = tiny.llama()
    before = fingerprint(module)
    assert fingerprint(module) == before
    with torch.no_grad():
        module(IDS)
    assert fingerprint(module) == before
    handle = module.model.layers[1].mlp.register_forward_hook(steered)
    assert fingerprint(module) != before
    handle.remove()
    assert fingerprint(module) == before
    module.config.rope_parameters["rope_theta"] = 77.0
    assert fingerprint(module) != before


# -- what an encoding holds --------------------------------------------


ENCODINGS = {
    "positions": {"input_ids": [[7, 8, 9]], "position_ids": [[5, 6, 7]]},
    "hole": {"input_ids": [[7, 8, 9, 10]], "attention_mask": [[1, 0, 1, 1]]},
    "types": {"input_ids": [[7, 8, 9]], "token_type_ids": [[11, 11, 12]]},
    "rows": {"input_ids": [[7, 8, 9], [9, 8, 7]], "position_ids": [[5, 6, 7], [0, 1, 2]]},
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("tokenizer", [None, tiny.tiny_tokenizer()], ids=["ids", "text"])
def test_every_key_of_an_encoding_reaches_the_model(name, tokenizer):
    module = tiny.for_text("gpt2")
    model = lr.load(module, tokenizer=tokenizer) if tokenizer else lr.load(module)
    encoding = {key: torch.tensor(value) for key, value in ENCODINGS[name].items()}
    result = lr.logit_lens(model, encoding, positions=-1, top_k=1)
    with torch.no_grad():
        expected = module(**encoding).logits[:, -1].log_softmax(-1).max(-1)
    np.testing.assert_allclose(result.top_logprobs[-1, :, 0], expected.values, atol=1e-4)
    assert result.top_ids[-1, :, 0].tolist() == expected.indices.tolist()
    split = lr.attribution(model, encoding, [7])
    assert split.certificate.passed
    with pytest.raises(ValueError, match="model is to write"):
        lr.generate_lens(model, encoding, max_new_tokens=1)


def test_padding_of_an_encoding_is_dropped_with_its_positions():
    model = lr.load(tiny.for_text("gpt2"))
    padded = {
        "input_ids": [[0, 0, 7, 8, 9, 0]],
        "attention_mask": [[0, 0, 1, 1, 1, 0]],
        "position_ids": [[1, 1, 0, 1, 2, 1]],
    }
    alone = lr.logit_lens(model, [[7, 8, 9]])
    result = lr.logit_lens(model, padded)
    assert result.tokens.id.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(result.top_ids, alone.top_ids)


def test_what_cannot_be_honoured_is_refused_by_name():
    model = lr.load(tiny.llama())
    ids = [[7, 8]]
    with pytest.raises(ValueError, match="offset_mapping"):
        lr.logit_lens(model, {"input_ids": ids, "offset_mapping": [[0, 1]]})
    with pytest.raises(ValueError, match=r"token_type_ids.*does not take"):
        lr.logit_lens(model, {"input_ids": ids, "token_type_ids": [[0, 1]]})
    with pytest.raises(ValueError, match=r"position_ids .* one beside each"):
        lr.logit_lens(model, {"input_ids": ids, "position_ids": [[0]]})
    assert lr.logit_lens(model, {"input_ids": ids, "token_type_ids": [[0, 0]]}).certificate.passed
