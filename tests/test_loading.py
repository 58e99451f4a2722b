"""Checkpoints that are more than weights and a config: adapters, tokenizers, offloaded weights."""

from __future__ import annotations

import copy
import json
import resource
import sys
import types

import numpy as np
import pytest
import tiny
import torch
import transformers
from nnsight.modeling.transformers import TransformersModel
from tokenizers_of_all_kinds import KINDS

import lens_recipes as lr
from lens_recipes.models import handle
from lens_recipes.models import smollm2 as embedded

TEXT = "The capital of France is"
IDS = [7, 8, 9, 10]


def hf_logits(module, ids=IDS):
    """What Hugging Face gives after the last token."""
    with torch.no_grad():
        return module(torch.tensor([ids])).logits[0, -1].float().numpy()


def last_logits(model, ids=IDS):
    """What the lens gives there, at the last layer, of a few tokens."""
    result = lr.logit_lens(model, ids, positions=-1, targets=[11, 12, 13])
    assert result.certificate.passed
    return result.target_logits[-1, 0]


def agrees(model, module, ids=IDS):
    np.testing.assert_allclose(last_logits(model, ids), hf_logits(module, ids)[11:14], atol=1e-4)


# -- adapters ----------------------------------------------------------


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter and its model, each in a folder: (adapter, the adapted module)."""
    peft = pytest.importorskip("peft")
    base = tiny.save(tiny.for_text("llama"), tmp_path / "base")
    module = transformers.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(module, config).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", adapted


@pytest.mark.parametrize("tokenizer", ["the adapter's", "the model's", None], ids=str)
def test_the_folder_of_an_adapter_is_loaded_with_its_model(adapter, tmp_path, tokenizer):
    folder, adapted = adapter
    if tokenizer == "the adapter's":
        own = tiny.tiny_tokenizer()
        own.chat_template = "the adapter's"
        own.save_pretrained(folder)
    if tokenizer is None:
        for file in (tmp_path / "base").glob("tokenizer*"):
            file.unlink()
    model = lr.load(folder)
    agrees(model, adapted)
    plain = hf_logits(tiny.for_text("llama"))
    assert abs(plain - hf_logits(adapted)).max() > 0.1
    found = handle.tokenizer_of(model)
    assert (found is None) == (tokenizer is None)
    if tokenizer == "the adapter's":
        assert found.chat_template == "the adapter's"


def test_an_adapter_is_put_on_a_model_that_is_spread_over_devices(adapter):
    folder, adapted = adapter
    agrees(lr.load(folder, device_map={"": "cpu"}), adapted)


def test_an_adapter_is_on_the_skeleton_for_a_server(adapter):
    folder, _ = adapter
    model = lr.load(folder, remote=True)
    assert handle.on_meta(model)
    assert any("lora" in name for name, _ in model._module.named_modules())


def adapter_settings(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (adapter_settings(base_model_name_or_path="/no/such/model"), ["adapter", "/no/such/model"]),
        (adapter_settings(base_model_name_or_path=None), ["does not name its model", "peft"]),
        (adapter_settings(peft_type="PROMPT_TUNING"), ["PROMPT_TUNING", "no tokens"]),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), ["no JSON"]),
    ],
    ids=["no model there", "no model named", "virtual tokens", "damaged"],
)
def test_an_adapter_that_cannot_be_put_on_a_model_is_told(adapter, change, words):
    folder, _ = adapter
    change(folder)
    with pytest.raises(lr.LensError) as error:
        lr.load(folder)
    assert all(word in str(error.value) for word in words), error.value


def test_an_adapter_in_memory_that_adds_tokens_is_told():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapted = peft.get_peft_model(tiny.for_text("llama"), config).eval()
    for tokenizer in (None, tiny.tiny_tokenizer()):
        with pytest.raises(lr.LensError, match="no tokens"):
            lr.load(adapted, tokenizer=tokenizer)


def test_without_peft_the_error_is_the_command_that_gets_it(adapter, monkeypatch):
    folder, _ = adapter
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(lr.LensError, match="pip install peft"):
        lr.load(folder)


# -- weights that are elsewhere ----------------------------------------

TOKENIZERS = pytest.mark.parametrize(
    "tokenizer", [None, tiny.tiny_tokenizer()], ids=["ids", "text"]
)
OFFLOADED = {
    "all": lambda accelerate, module, folder: accelerate.cpu_offload(module),
    "disk": lambda accelerate, module, folder: accelerate.disk_offload(module, str(folder)),
    "blocks": lambda accelerate, module, folder: accelerate.cpu_offload(
        module, preload_module_classes=["LlamaDecoderLayer"]
    ),
}


@TOKENIZERS
@pytest.mark.parametrize("way", OFFLOADED)
def test_offloaded_weights_are_weights(way, tokenizer, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    plain = tiny.for_text("llama")
    offloaded = tiny.for_text("llama")
    OFFLOADED[way](accelerate, offloaded, tmp_path)
    assert next(offloaded.parameters()).device.type == "meta"
    model = lr.load(offloaded, tokenizer=tokenizer)
    agrees(model, plain)
    expected = lr.load(plain, tokenizer=tokenizer)
    by_head = {"components": "head_out"}
    if way == "blocks":  # when a head is decoded, its block's weights have gone again
        with pytest.raises(lr.LensError, match="preload_module_classes"):
            lr.logit_lens(model, IDS, **by_head)
        return
    for recipe, arguments in [
        (lr.logit_lens, by_head),
        (lr.attribution, {"targets": 11, "unit": "component"}),
        (lr.generate_lens, {"max_new_tokens": 3}),
    ]:
        found, right = (recipe(each, IDS, **arguments) for each in (model, expected))
        name = "values" if recipe is lr.attribution else "top_logprobs"
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), atol=1e-4)
    vector = torch.ones(32)
    np.testing.assert_allclose(
        lr.decode_vectors(model, vector).top_logprobs,
        lr.decode_vectors(expected, vector).top_logprobs,
        atol=1e-4,
    )


@pytest.mark.parametrize("with_tokenizer", [True, False], ids=["text", "ids"])
def test_a_device_map_may_begin_with_a_disk(tmp_path, with_tokenizer):
    pytest.importorskip("accelerate")
    folder = tiny.save(tiny.for_text("llama"), tmp_path / "model")
    if not with_tokenizer:
        for file in folder.glob("tokenizer*"):
            file.unlink()
    places = {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "cpu"}
    places |= {"lm_head": "cpu", "model.rotary_emb": "cpu"}
    model = lr.load(folder, device_map=places, offload_folder=str(tmp_path / "disk"))
    agrees(model, tiny.for_text("llama"))


def test_a_model_of_which_a_part_is_nowhere_is_still_refused():
    module = tiny.for_text("llama")
    module.lm_head.weight = torch.nn.Parameter(
        torch.empty_like(module.lm_head.weight, device="meta")
    )
    with pytest.raises(lr.LensError, match="no weights here"):
        lr.logit_lens(lr.load(module), IDS)


# -- modules that Hugging Face did not build ---------------------------


class Wrapper(torch.nn.Module):
    """A module of a user's own, around a model."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside
        self.config = inside.config

    def forward(self, input_ids, **options):
        return self.inside(input_ids, **options)


@TOKENIZERS
def test_a_wrapper_with_a_config_is_read(tokenizer):
    inside = tiny.for_text("llama")
    model = lr.load(Wrapper(inside).eval(), tokenizer=tokenizer)
    agrees(model, inside)
    if tokenizer is None:
        return
    expected = lr.logit_lens(lr.load(inside, tokenizer=tokenizer), [TEXT, "One"], targets=" the")
    found = lr.logit_lens(model, [TEXT, "One"], targets=" the")
    assert found.tokens.text == expected.tokens.text
    np.testing.assert_allclose(found.target_logprobs, expected.target_logprobs, atol=1e-4)


# -- sizes that are not there ------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vocab_size", 10**12),
        ("vocab_size", 2 * 10**7),  # five gigabytes
        ("hidden_size", 10**8),
        ("intermediate_size", 10**8),
        ("num_hidden_layers", 10**8),
    ],
)
def test_a_config_of_a_model_that_is_not_in_the_files_takes_no_memory(tmp_path, name, size):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {name: size}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(lr.LensError, match=rf"{name}={size}\b.*damaged"):
        lr.load(folder)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 500_000  # kilobytes


@pytest.mark.parametrize(("name", "size"), [("vocab_size", 10**12), ("num_hidden_layers", 10**8)])
def test_the_skeleton_of_a_model_that_nobody_has_is_refused(tmp_path, name, size):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {name: size}))
    with pytest.raises(lr.LensError, match=f"{name}={size}"):
        lr.load(folder, remote=True)
    with pytest.raises(lr.LensError, match=f"{name}={size}"):
        lr.paste("first-lens", str(folder))


# -- tokenizers --------------------------------------------------------


@pytest.fixture
def mistral_common():
    """A model whose tokenizer is mistral-common's: (model, tokenizer)."""
    tokenizer = KINDS["mistral_common"]()
    model = lr.load(tiny.llama(vocab_size=len(tokenizer), num_hidden_layers=2), tokenizer=tokenizer)
    return model, tokenizer


def test_texts_chats_and_targets_go_through_mistral_common(mistral_common):
    model, tokenizer = mistral_common
    result = lr.logit_lens(model, ["the capital", "é"], targets=[" the", "⟨9F⟩"])
    assert result.tokens.text == ["<s>", "t", "h", "e", " capital", "<s>", "⟨C3⟩", "⟨A9⟩"]
    chat = [{"role": "user", "content": "Say the"}]
    asked = lr.logit_lens(model, chat)
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert asked.tokens.id.tolist() == ids
    assert asked.tokens.text[:2] == ["<s>", "[INST]"]
    written = lr.generate_lens(model, [chat, chat], max_new_tokens=2)
    assert len(written.responses) == 2


def test_a_chat_that_mistral_common_refuses_is_told(mistral_common):
    model, _ = mistral_common
    with pytest.raises(ValueError, match="already an assistant message"):
        lr.logit_lens(model, [{"role": "assistant", "content": "the"}])


def test_stop_strings_that_a_tokenizer_cannot_be_searched_for_are_told(mistral_common):
    model, _ = mistral_common
    with pytest.raises(ValueError, match="stop"):
        lr.generate_lens(model, "the", max_new_tokens=2, stop="the")


@pytest.mark.parametrize("file", ["tokenizer.model", "qwen.tiktoken", "tokenizer.json"])
def test_a_tokenizer_that_cannot_be_read_is_told(tmp_path, file, monkeypatch):
    """The model is not taken for one without a tokenizer."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tiny.for_text("llama").save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(b"\n\x0enothing to read")
    with pytest.raises(lr.LensError, match="tokenizer=") as error:
        lr.load(tmp_path)
    assert file in str(error.value)
    package = {"tokenizer.model": "pip install sentencepiece", "qwen.tiktoken": "tiktoken"}
    assert package.get(file, "cannot be read") in str(error.value)
    model = lr.load(tmp_path, tokenizer=tiny.tiny_tokenizer())
    assert lr.logit_lens(model, TEXT).certificate.passed


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_the_chat_template_of_a_processor_is_found(tmp_path, file):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    template = tiny.tiny_tokenizer().chat_template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    chat = [{"role": "user", "content": "One"}]
    with pytest.raises(ValueError, match="no chat template"):
        lr.logit_lens(lr.load(folder), chat)
    (folder / file).write_text(json.dumps({"chat_template": template}))
    expected = lr.logit_lens(lr.load(tiny.for_text("llama"), tokenizer=tiny.tiny_tokenizer()), chat)
    assert lr.logit_lens(lr.load(folder), chat).prompts == expected.prompts
    (folder / file).write_text("{")
    with pytest.raises(lr.LensError, match=file):
        lr.load(folder)


def test_a_callers_tokenizer_stays_as_it_is(tmp_path):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    for source in (tiny.for_text("llama"), folder):
        tokenizer = tiny.tiny_tokenizer()
        tokenizer.padding_side = "right"
        tokenizer.pad_token = None
        before = {name: copy.copy(value) for name, value in vars(tokenizer).items()}
        model = lr.load(source, tokenizer=tokenizer)
        lr.logit_lens(model, [TEXT, "One"], targets=" the")
        assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
        assert vars(tokenizer).keys() == before.keys()
        assert model.tokenizer.padding_side == "left"
        assert model.tokenizer.pad_token is not None


# -- what is no model, said well ---------------------------------------


def test_a_gguf_file_is_told_by_its_folder_and_name(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    for source in (tmp_path / "x.gguf", "x.gguf", "owner/model/x.gguf"):
        with pytest.raises(lr.LensError, match=r"gguf_file='x\.gguf'") as error:
            lr.load(source)
        folder = {"x.gguf": "'.'", "owner/model/x.gguf": "'owner/model'"}.get(source, str(tmp_path))
        assert f"load({folder.strip(chr(39))!r}" in str(error.value)


def test_what_a_model_is_inside_of_is_told():
    module = tiny.for_text("llama")
    with pytest.raises(lr.LensError, match=r"load\(model\.module\)"):
        lr.load(torch.nn.DataParallel(module))
    pipeline = transformers.pipeline("text-generation", module, tokenizer=tiny.tiny_tokenizer())
    with pytest.raises(lr.LensError, match=r"pipeline\.model"):
        lr.load(pipeline)


def test_a_lazy_nnsight_model_is_told_how_it_gets_its_weights(tmp_path):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    model = TransformersModel(str(folder), task="text-generation", tokenizer=tiny.tiny_tokenizer())
    with pytest.raises(lr.LensError, match=r"model\.dispatch\(\)"):
        lr.logit_lens(lr.load(model), IDS)
    model.dispatch()
    agrees(lr.load(model), tiny.for_text("llama"))


def test_a_damaged_folder_of_the_embedded_model_is_named(monkeypatch, tmp_path):
    folder = tiny.save(tiny.for_text("llama"), tmp_path / "cached")
    (folder / "model.safetensors").write_bytes(b"half")
    monkeypatch.setattr(embedded, "folder", lambda: folder)
    with pytest.raises(lr.LensError, match="delete it") as error:
        lr.load("smollm2")
    assert str(folder) in str(error.value)


def test_a_module_that_is_no_model_names_what_is_taken():
    with pytest.raises(lr.LensError, match="PreTrainedModel"):
        lr.load(types.SimpleNamespace(module=None))
