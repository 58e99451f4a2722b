"""`--image` of the commands: a shell runs what the recipe runs, and is told of its own options."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_images
from PIL import Image

import lens_recipes as lr

MARK = "<image>"  # of LLaVA


@pytest.fixture(scope="module")
def llava():
    """A small model that takes images."""
    module, processor = tiny_images.llava()
    return lr.load(module, processor=processor)


@pytest.fixture
def dog(tmp_path):
    """The path of an image."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    return str(tmp_path / "dog.png")


def chat_of(n_images):
    """A chat with images, as `--chat` writes it."""
    parts = [{"type": "image"}] * n_images
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]


@pytest.mark.parametrize(
    ("line", "prompt", "n_images"),
    [
        (["what?", "--chat"], chat_of(1), 1),
        (["what?", "--chat"], chat_of(2), 2),
        ([f"a {MARK} b"], f"a {MARK} b", 1),
    ],
)
def test_attribute_and_generate_read_the_images_of_their_prompt(
    cli, llava, dog, tmp_path, line, prompt, n_images
):
    run, out = cli(llava), str(tmp_path / "out.json")
    given = [*line, *["--image", dog] * n_images, "--json", out]
    images = [[dog] * n_images]
    status, _, err = run("attribute", *given, "--target", "d", "--positions", "image")
    assert status == 0, err
    found = lr.Attribution.load(out)
    own = lr.attribution(llava, [prompt], ["d"], images=images, positions="image")
    np.testing.assert_array_equal(found.values, own.values)
    assert found.tokens.is_image.all()
    status, _, err = run("generate", *given, "--greedy", "--max-new-tokens", "3")
    assert status == 0, err
    written = lr.LensResult.load(out)
    own = lr.generate_lens(llava, [prompt], images=images, max_new_tokens=3, do_sample=False)
    np.testing.assert_array_equal(written.tokens.next_id, own.tokens.next_id)
    assert [picture.name for picture in written.pictures[0]] == ["dog.png"] * n_images


def test_the_length_that_generate_may_have_counts_the_patches(cli, llava, dog):
    n_prompt = len(lr.logit_lens(llava, f"a {MARK}", images=dog).tokens)
    given = ["generate", f"a {MARK}", "--image", dog, "--greedy", "--max-length"]
    status, _, err = cli(llava)(*given, str(n_prompt))
    assert status == 2
    assert f"the prompt is {n_prompt} tokens long" in " ".join(err.split())


def test_a_survey_asks_of_one_image_where_an_item_names_none(cli, llava, dog, tmp_path):
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    rows = [
        {"prompt": f"a {MARK} b", "target": 7},
        {"prompt": f"a {MARK} b", "target": 7, "images": "red.png"},
        {"prompt": "a b", "target": 7},
    ]
    items, out = tmp_path / "items.jsonl", str(tmp_path / "out.json")
    items.write_text("\n".join(map(json.dumps, rows)))
    status, _, err = cli(llava)(
        "survey",
        str(items),
        "--image",
        dog,
        "--bootstrap",
        "100",
        "--control",
        "none",
        "--json",
        out,
    )
    assert status == 0, err
    found = lr.Survey.load(out)
    assert len(found) == 2
    assert "0 marks for an image" in found.left_out[0][3]
    for number, image in enumerate((dog, tmp_path / "red.png")):
        own = lr.logit_lens(llava, f"a {MARK} b", images=image, targets=7, positions=-1)
        np.testing.assert_allclose(found.logprobs[number], own.target_logprobs[:, 0, 0], atol=1e-4)
    assert np.abs(found.logprobs[0] - found.logprobs[1]).max() > 1e-3
    assert len(found.provenance["arguments"]["images"]) == 1
    own_alone = lr.survey(llava, [{**rows[0], "images": dog}], bootstrap=100)
    assert "images" not in own_alone.provenance["arguments"]


WRONG = {
    "attribute a b --target x --image DOG": "Invalid value for --image: images go with one PROMPT",
    "attribute <image> --target x --image none.png": "'none.png' cannot be read as an image",
    "attribute what? --target x --image DOG": "or add --chat",
    "attribute <image> --target x --image DOG --png DOG": "DOG is an image of the prompt",
    "generate <image> --image none.png": "'none.png' cannot be read as an image",
    "generate what? --image DOG": "or add --chat",
    "generate <image> --image DOG --png DOG": "DOG is an image of the prompt",
    "survey capitals --image none.png": "'none.png' cannot be read as an image",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_shell_is_told_of_images_that_do_not_go(cli, llava, dog, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = cli(llava)(*(dog if word == "DOG" else word for word in line.split()))
    assert status == 2
    assert WRONG[line].replace("DOG", repr(dog)) in " ".join(err.split())
    assert "Traceback" not in err
