"""`paste image-lens`: the script reads at the patches what the library reads there, and proves itself."""

from __future__ import annotations

from functools import partial
from unittest import mock

import numpy as np
import pasted
import pytest
import strict_local
import tiny
import tiny_images
import torch
import transformers
from agreement import distributions
from loopback import hub_at, lay_out
from PIL import Image
from slow import others_slow

import lens_recipes as lr

# The third adds to the image's tokens between its first blocks.
QUICK = ("llava", "gemma3", "qwen3_vl")
READ = [name for name in tiny_images.FAMILIES if name not in ("blip_2", "mllama")]


def checkpoint(name, folder):
    """A small random model of a family in a folder, and its processor."""
    module, processor = tiny_images.FAMILIES[name]()
    module.save_pretrained(folder)
    return module, processor


def execute(text, processor, folder):
    """Run a script on an image of noise, with a processor that some families cannot read without torchvision."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    text = pasted.replaced(text, "photo.jpg", "photo.png")
    with mock.patch.object(transformers.AutoProcessor, "from_pretrained", return_value=processor):
        return pasted.execute(text, folder)


def check(found, module, processor):
    """Compare what a script has found with the library's numbers at the same tokens."""
    model = lr.load(module, processor=processor)
    question = {"type": "text", "text": "What is in the picture?"}
    chat = [{"role": "user", "content": [{"type": "image"}, question]}]
    patches = found["patches"].tolist()
    run = partial(
        lr.logit_lens,
        model,
        chat,
        images="photo.png",
        positions=patches,
        layers=pasted.layers_of(found),
    )
    ids = lr.logit_lens(model, chat, images="photo.png", layers=-1).tokens.id
    np.testing.assert_array_equal(patches, np.flatnonzero(ids == module.config.image_token_id))
    assert patches
    logprobs = distributions(run)
    pasted.likeliest(pasted.stacked(found["top_ids"])[..., None], logprobs)
    pasted.close(pasted.stacked(found["top_probs"]), np.exp(logprobs.max(-1)))


@pytest.mark.parametrize("name", others_slow(READ, *QUICK))
def test_it_finds_what_the_library_finds(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module, processor = checkpoint(name, 'a "model" #')
    text = lr.paste("image-lens", 'a "model" #')
    found = execute(text, processor, tmp_path)
    assert pasted.proof("image-lens") in capsys.readouterr().out
    check(found, module, processor)


@pytest.mark.parametrize("name", ["llava"])
def test_for_a_server_it_runs_where_this_package_is_not(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, processor = checkpoint(name, "model")
    lay_out(tmp_path / "hub", "tiny/model", tmp_path / "model")
    with hub_at(tmp_path / "hub"):
        text = lr.paste("image-lens", "tiny/model", remote=True)
        text = pasted.replaced(text, "REMOTE = True", 'REMOTE = "local"')
        text = pasted.replaced(text, "=processor)", "=processor, dispatch=True)")
        with monkeypatch.context() as there:
            strict_local.install(there, "lens_recipes", "jaxtyping")
            found = execute(text, processor, tmp_path)
    check(found, module, processor)


def test_without_the_norm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, processor = checkpoint("llava", "model")
    text = lr.paste("image-lens", "model")
    text = pasted.replaced(text, "model.model.language_model.norm(stream)", "stream")
    with pytest.raises(RuntimeError, match="misses the model's own logits"):
        execute(text, processor, tmp_path)


def test_half_precision_is_no_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, processor = checkpoint("llava", "model")
    text = lr.paste("image-lens", "model")
    text = pasted.replaced(text, "dispatch=True", "dispatch=True, dtype=torch.bfloat16")
    found = execute(text, processor, tmp_path)
    assert found["inputs"]["pixel_values"].dtype == torch.bfloat16
    assert found["error"] <= found["tolerance"] == 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_the_script_is_as_a_colleague_would_write_it(name, remote, tmp_path):
    checkpoint(name, tmp_path / "model")
    lay_out(tmp_path / "hub", "tiny/model", tmp_path / "model")
    (tmp_path / "scripts").mkdir()
    with hub_at(tmp_path / "hub"):
        pasted.refuse_bad_form("tiny/model", ["image-lens"], tmp_path / "scripts", remote)


def test_a_model_whose_images_are_not_in_the_stream_is_refused(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "llama")
    with pytest.raises(lr.LensError, match="takes text alone: image-lens is for multimodal"):
        lr.paste("image-lens", str(tmp_path / "llama"))
    for name in ("mllama", "blip_2"):
        checkpoint(name, tmp_path / name)
        with pytest.raises(lr.LensError):
            lr.paste("image-lens", str(tmp_path / name))
