"""Prompts with images on a real server: what is sent is what the processor here made of them."""

from __future__ import annotations

import numpy as np
import pytest
import server as server_module
from PIL import Image

import lens_recipes as lr

# A server loads the processor of a model that takes images, which needs pillow there, too.
PILLOW = list(server_module.PYTHON.parents[1].glob("lib/python*/site-packages/PIL"))
pytestmark = pytest.mark.skipif(not PILLOW, reason="the server's environment has no pillow")

PROMPT = "See <image> what is it?"


def picture(seed=0):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_lens_and_its_edits_at_image_tokens_are_the_same_there(any_server, client, here):
    there, local = client(any_server, "tiny-llava"), here("tiny-llava")
    options = {"images": [picture(0), picture(1)], "targets": ["a", "e"], "controls": 0}
    for edits in (None, lr.ablate(layer=1, positions="image", to="resample")):
        one = lr.logit_lens(there, [PROMPT] * 2, edits=edits, **options)
        other = lr.logit_lens(local, [PROMPT] * 2, edits=edits, **options)
        np.testing.assert_allclose(one.target_logits, other.target_logits, atol=2e-4)
        np.testing.assert_array_equal(one.tokens.box, other.tokens.box)
        assert one.certificate.passed


def test_a_text_after_an_image_and_who_wrote_it(any_server, client, here):
    there, local = client(any_server, "tiny-llava"), here("tiny-llava")
    options = {"images": picture(), "max_new_tokens": 3, "do_sample": False}
    one, other = (lr.generate_lens(model, PROMPT, **options) for model in (there, local))
    np.testing.assert_array_equal(one.tokens.next_id, other.tokens.next_id)
    one, other = (
        lr.attribution(model, PROMPT, "a", images=picture(), unit="head")
        for model in (there, local)
    )
    np.testing.assert_allclose(one.values, other.values, atol=2e-4)


def test_a_job_goes_on_with_its_images(server, client, tmp_path):
    model, path = client(server, "tiny-llava"), tmp_path / "images.job"
    lr.submit(lr.logit_lens, model, PROMPT, images=picture(), positions="image", path=path)
    with pytest.raises(lr.LensError, match="pass them again"):
        lr.Job.load(path, model)
    with pytest.raises(lr.LensError, match="are not those"):
        lr.Job.load(path, model, images=picture(1))
    found = lr.Job.load(path, model, images=picture()).result()
    assert found.certificate.passed
    assert found.tokens.is_image.all()
