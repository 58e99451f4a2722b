"""Images as people have them: opened, refused in one sentence, and put where the prompt says."""

from __future__ import annotations

import base64
import importlib.util
import inspect
import io
import json
import os
import socket
import struct
import zlib

import numpy as np
import pytest
import tiny
import tiny_images
import torch
import transformers
from nnsight.modeling.transformers import TransformersModel
from PIL import Image

import lens_recipes as lr
from lens_recipes.models.images.processor import processor_of
from lens_recipes.run.request.images.asked.slots import slot_of
from lens_recipes.run.request.images.opened import SHOWN_SIDE, open_image
from lens_recipes.run.request.images.prompts import ImagePrompt, refuse_text_part
from lens_recipes.run.request.images.sources.refused import MAX_PIXELS

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
MARK = "<image>"  # of LLaVA


def picture(seed=0, width=60, height=40):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def content(form="PNG", image=None, **options):
    """A file's content."""
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, format=form, **options)
    return file.getvalue()


def chunk(kind, inside):
    """A chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + inside))
    return struct.pack(">I", len(inside)) + kind + inside + check


def png_of_size(width, height):
    """The beginning of a PNG, which says a size and has no pixel."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def png_with_a_long_text():
    """A PNG of which a comment is 80 MB when it is inflated."""
    text = b"a\0\0" + zlib.compress(b"x" * 80_000_000)
    whole = content()
    return whole[:33] + chunk(b"zTXt", text) + whole[33:]


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]}
DEEP = Image.fromarray(np.full((40, 60), 63_000, np.uint16))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"

# What is in the file, and what is said of it.
DAMAGED = {
    "truncated.png": (content()[:2000], "cannot be read as an image: .*truncated"),
    "truncated.jpg": (content("JPEG")[:700], "cannot be read as an image: .*truncated"),
    "head.png": (content()[:20], "cannot be read as an image"),
    "empty.png": (b"", "is no image"),
    "text.png": (b"hello", "is no image"),
    "zero.png": (png_of_size(0, 4), "is no image"),
    "large.png": (png_of_size(8_000, 8_000), "8000 × 8000 pixels, more than 50,000,000"),
    "bomb.png": (png_of_size(60_000, 60_000), "more than 50,000,000 pixels: make it smaller"),
    "comment.png": (png_with_a_long_text(), "cannot be read as an image: .*too large"),
    "animated.gif": (content("GIF", **FRAMES), "has 2 frames or pages.*which one is meant"),
    "animated.png": (content("PNG", **FRAMES), "has 2 frames or pages.*which one is meant"),
    "pages.tiff": (content("TIFF", **FRAMES), "has 2 frames or pages.*which one is meant"),
    "deep.png": (content(image=DEEP), r"more than 8 bits a channel \(mode I;16\)"),
    "drawn.eps": (EPS, "of a format that is not read"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_no_image_is_refused_in_a_sentence(tmp_path, name):
    written, said = DAMAGED[name]
    (tmp_path / name).write_bytes(written)
    with pytest.raises(ValueError, match=said) as caught:
        open_image(tmp_path / name, 0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(name) == 1
    assert len(str(caught.value)) < 500


def test_a_path_that_leads_to_no_file_is_refused_in_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # whoever opens one waits
    for path, said in [
        (tmp_path, "is a folder: pass the path of an image"),
        (tmp_path / "none.png", "it is not there"),
        (tmp_path / "pipe.png", "it is no plain file"),
        ("", "is no path of an image"),
        ("a\0b", "is no path of an image"),
        ("x" * 3000, "it is not there"),
    ]:
        with pytest.raises(ValueError, match=said) as caught:
            open_image(path, 0)
        assert len(str(caught.value)) < 300


FLOATS, CHANNELS_FIRST = PIXELS / 255, np.moveaxis(PIXELS, -1, 0)
OTHERS = {
    "floats": (FLOATS, "array of float64; accepted .* times 255"),
    "tensor of floats": (torch.tensor(FLOATS).bfloat16(), "array of bfloat16; accepted .* times 255"),
    "with gradient": (torch.tensor(FLOATS).requires_grad_(), "array of float64"),
    "large numbers": (PIXELS.astype(int), "array of int64; accepted .* need only be made uint8"),
    "truth": (PIXELS > 3, "array of bool"),
    "channels first": (CHANNELS_FIRST, r"shape \[3, 40, 60\]; .* move them to the end"),
    "tensor, channels first": (torch.tensor(CHANNELS_FIRST), r"shape \[3, 40, 60\]; .* move them to the end"),
    "one channel": (PIXELS[..., :1], r"shape \[40, 60, 1\]; .* Leave out its last axis"),
    "several": (PIXELS[None], r"shape \[1, 40, 60, 3\]; .* are a list of them"),
    "sparse": (torch.tensor(PIXELS).to_sparse(), "is a sparse or nested tensor; accepted"),
    "nested": (torch.nested.nested_tensor([torch.ones(3)]), "is a sparse or nested tensor; accepted"),
    "strip": (PIXELS[:1, :1].repeat(2000, 0), "1 × 2000 pixels, a strip more than 1,000 times as long"),
    "long": (Image.new("RGB", (30_000, 40)), "30000 × 40 pixels, and no side may have more than 20,000"),
    "no rows": (PIXELS[:0], "there is nothing to see"),
    "meta": (torch.empty(4, 4, 3, dtype=torch.uint8, device="meta"), "has no pixels"),
    "endless": (np.broadcast_to(PIXELS[:1, :1], (10**6, 10**6, 3)), "1000000 × 1000000 pixels, more than"),
    "no width": (Image.new("RGB", (0, 5)), "0 × 5 pixels: there is nothing to see"),
    "mode F": (Image.new("F", (4, 4)), r"more than 8 bits a channel \(mode F\)"),
    "mode I": (Image.new("I", (4, 4)), r"more than 8 bits a channel \(mode I\)"),
    "bytes": (content(), "content of a file, as bytes; .* PIL opens it"),
    "file": (io.BytesIO(content()), "content of a file, as BytesIO; .* PIL opens it"),
    "number": (3, "received 3 as image 0; accepted are a path, a PIL image, or an array"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_refused_in_a_sentence(name):
    source, said = OTHERS[name]
    with pytest.raises(ValueError, match=said) as caught:
        open_image(source, 0)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_an_image_that_was_closed_or_is_damaged_in_memory_is_refused(tmp_path):
    (tmp_path / "half.png").write_bytes(content()[:2000])
    (tmp_path / "whole.png").write_bytes(content())
    closed = Image.open(tmp_path / "whole.png")
    closed.close()
    with pytest.raises(ValueError, match="image 2 cannot be read"):
        open_image(closed, 2)
    with Image.open(tmp_path / "half.png") as half, pytest.raises(ValueError, match="truncated"):
        open_image(half, 0)


def test_size_is_checked_before_a_pixel_is_decoded(monkeypatch):
    large = Image.new("1", (MAX_PIXELS // 1000, 1001))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="more than"):
        open_image(large, 0)


def test_a_drawing_without_layers_is_one_image(tmp_path):
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 6, 8, 3)
    (tmp_path / "flat.psd").write_bytes(head + bytes(12) + b"\0\0" + b"\x80" * 72)
    image = open_image(tmp_path / "flat.psd", 0).image
    assert image.size == (6, 4)
    assert image.getpixel((0, 0)) == (128, 128, 128)


def test_every_colour_is_what_a_person_sees(tmp_path):
    red = np.array([255, 0, 0])

    def mean(source):
        return np.asarray(open_image(source, 0).image, dtype=float).mean((0, 1))

    whole = Image.new("RGB", (60, 40), (255, 0, 0))
    for form in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
        (tmp_path / "red").write_bytes(content(form, whole))
        np.testing.assert_allclose(mean(tmp_path / "red"), red, atol=3)
    (tmp_path / "cmyk.jpg").write_bytes(content("JPEG", whole.convert("CMYK")))
    np.testing.assert_allclose(mean(tmp_path / "cmyk.jpg"), red, atol=3)
    for mode in ("P", "HSV", "YCbCr", "RGBX", "RGBA", "CMYK"):
        np.testing.assert_allclose(mean(whole.convert(mode)), red, atol=3)
    for clear in (Image.new("RGBA", (6, 4), (255, 0, 0, 0)), Image.new("LA", (6, 4), (0, 0))):
        np.testing.assert_array_equal(mean(clear), 255)  # and not the colour that nobody sees
    np.testing.assert_array_equal(
        mean(Image.new("RGBA", (6, 4), (255, 0, 0, 0)).convert("RGBa")), 255
    )
    np.testing.assert_allclose(
        mean(Image.new("RGBA", (6, 4), (255, 0, 0, 128))), [255, 127, 127], atol=1
    )
    grey = PIXELS[..., 0]
    for source in (grey, torch.tensor(grey), Image.fromarray(grey)):
        np.testing.assert_array_equal(np.asarray(open_image(source, 0).image)[..., 1], grey)
    for source in (PIXELS, torch.tensor(PIXELS), Image.fromarray(PIXELS)):
        np.testing.assert_array_equal(open_image(source, 0).image, PIXELS)


def test_a_photograph_is_upright_as_a_path_and_as_an_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right
    (tmp_path / "turned.jpg").write_bytes(content("JPEG", picture(), exif=exif, quality=95))
    with Image.open(tmp_path / "turned.jpg") as image:
        lying = np.asarray(image)
        opened = [open_image(source, 0) for source in (tmp_path / "turned.jpg", image)]
        assert image.size == (60, 40)  # the caller's is as it was
    for found in opened:
        np.testing.assert_array_equal(found.image, np.rot90(lying, -1))
        assert (found.picture.width, found.picture.height) == (40, 60)


def test_what_a_telephone_writes_is_the_photograph(tmp_path):
    """A file of MPO is a JPEG, with more pictures of the same after it."""
    (tmp_path / "photo.jpg").write_bytes(content("MPO", **FRAMES))
    (tmp_path / "plain.jpg").write_bytes(content("JPEG"))
    photo, plain = (open_image(tmp_path / f"{name}.jpg", 0) for name in ("photo", "plain"))
    np.testing.assert_array_equal(photo.image, plain.image)


def test_what_a_view_shows_is_bounded_and_has_no_secrets():
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    for image in (picture(0, 1500, 900), Image.new("RGB", (1500, 900), "navy")):
        image = Image.open(io.BytesIO(content("JPEG", image, exif=exif, comment=b"at home")))
        shown = open_image(image, 0).picture
        assert (shown.width, shown.height) == (1500, 900)
        assert b"at home" not in shown.data
        with Image.open(io.BytesIO(shown.data)) as copy:
            assert max(copy.size) == SHOWN_SIDE
    assert len(shown.data) < 5_000


# -- nothing is fetched ------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """Whoever opens a connection, or asks for a name, fails the test."""

    def refuse(*_):
        pytest.fail("something reached for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


ADDRESSES = [
    "https://example.com/dog.png",
    "http://127.0.0.1:1/dog.png",
    "ftp://example.com/dog.png",
    " DATA:image/png;base64,AAAA",
    "s3://bucket/dog.png",
    "file:///etc/hosts",
    "data:image/png;base64," + base64.b64encode(content()).decode(),
    "http://" + "x" * 5000,
]


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address[:12])
def test_nothing_is_fetched(llava, no_network, address):
    parts = [
        {"type": "image", "url": address},
        {"type": "image", "image": address},
        {"type": "image_url", "image_url": {"url": address}},
    ]
    chats = [[{"role": "user", "content": [part]}] for part in parts]
    for prompts, images in [(MARK, address), *((chat, None) for chat in chats)]:
        with pytest.raises(ValueError, match="is an address, and nothing is fetched"):
            lr.logit_lens(llava, prompts, images=images)


def test_an_image_as_text_is_refused(no_network):
    text = base64.b64encode(content()).decode()
    for source in (text, text[:200]):
        with pytest.raises(ValueError, match=r"an image as text \(base64\)") as caught:
            open_image(source, 0)
        assert len(str(caught.value)) < 300


# -- images and prompts ------------------------------------------------


@pytest.fixture(scope="module")
def llava():
    """A small LLaVA with its processor."""
    module, processor = tiny_images.llava()
    return lr.load(module, processor=processor)


def lens(model, prompts, **options):
    """A lens of few numbers."""
    return lr.logit_lens(model, prompts, top_k=2, track=None, **options)


def same(one, other):
    """Whether two results have the same tokens and numbers."""
    np.testing.assert_array_equal(one.tokens.id, other.tokens.id)
    np.testing.assert_allclose(one.top_logprobs, other.top_logprobs, atol=1e-5)


def chat_of(*parts):
    """A chat of one turn."""
    return [{"role": "user", "content": list(parts)}]


IMAGE, WORDS = {"type": "image"}, {"type": "text", "text": "what?"}


def test_an_image_is_the_same_however_it_is_given(llava, tmp_path):
    image = picture()
    image.save(tmp_path / "dog.png")
    text = f"a {MARK} b"
    expected = lens(llava, text, images=image)
    assert expected.certificate.passed
    sources = [
        tmp_path / "dog.png",
        str(tmp_path / "dog.png"),
        np.asarray(image),
        torch.tensor(PIXELS),
    ]
    for source in sources:
        same(lens(llava, text, images=source), expected)
        same(lens(llava, [text], images=[[source]]), expected)
    same(lens(llava, text, images=(each for each in sources[:1])), expected)
    same(lens(llava, text, images=np.array([str(sources[0])])), expected)


def test_a_chat_holds_its_images_or_has_places_for_them(llava, tmp_path):
    image = picture()
    image.save(tmp_path / "dog.png")
    path = str(tmp_path / "dog.png")
    expected = lens(llava, f"user: {MARK}what?assistant:", images=image, add_special_tokens=False)
    same(lens(llava, chat_of(IMAGE, WORDS), images=image), expected)
    for part in ({"image": image}, {"image": path}, {"path": path}, {"url": path}):
        same(lens(llava, chat_of({**IMAGE, **part}, WORDS)), expected)
    for part in (
        {"type": "image_url", "image_url": {"url": path}},
        {"type": "input_image", "image_url": path},
        {"type": "Image", "image": path},
        {"image": path},
        image,
        np.asarray(image),
    ):
        same(lens(llava, chat_of(part, WORDS)), expected)
    alone = {"role": "user", "content": {**IMAGE, "image": path}}
    same(lens(llava, [alone]), lens(llava, chat_of({**IMAGE, "image": path})))
    both = lens(llava, chat_of(IMAGE, {**IMAGE, "image": picture(2)}), images=picture(1))
    same(both, lens(llava, chat_of(IMAGE, IMAGE), images=[picture(1), picture(2)]))
    assert both.tokens.is_image.sum() > expected.tokens.is_image.sum()


def test_a_prompt_without_image_beside_one_with_is_as_ever(llava):
    texts = [f"a {MARK} b", "plain text", f"{MARK}{MARK}"]
    found = lens(llava, texts, images=[picture(), None, [picture(1), picture(2)]])
    assert found.certificate.passed
    same(found[1], lens(llava, "plain text"))
    same(found[0], lens(llava, texts[0], images=picture()))
    same(found[2], lens(llava, texts[2], images=[picture(1), picture(2)]))
    chats = [chat_of(IMAGE, WORDS), [{"role": "user", "content": "hi"}]]
    same(lens(llava, chats, images=[picture(), None])[1], lens(llava, chats[1]))
    same(lens(llava, "plain", images=[]), lens(llava, "plain"))


def test_a_processor_that_pads_is_asked_for_the_text_alone():
    module, processor = tiny_images.llava()
    model = lr.load(module, processor=processor)
    expected = lens(model, f"a {MARK} b", images=picture())
    processor.text_kwargs = {"padding": "max_length", "max_length": 60}
    assert (processor(text=[f"a {MARK} b"], images=[picture()])["input_ids"][0]).count(0) > 20
    same(lens(model, f"a {MARK} b", images=picture()), expected)


NOT_TOGETHER = {
    "no mark": ("what?", "one", "0 marks for an image, and 1 image of its own: write '<image>'"),
    "a mark too many": (MARK * 2, "one", "2 marks for an image, and 1 image of its own"),
    "no image": ([MARK, "b"], "nones", "1 mark for an image, and 0 images of its own"),
    "a string in a chat": ([{"role": "user", "content": "hi"}], "one", "0 parts waiting for an image, and 1 image"),
    "a part too many": (chat_of(IMAGE, IMAGE), "one", "2 parts waiting for an image, and 1 image"),
    "an image too many": (chat_of(IMAGE), "two", "1 part waiting for an image, and 2 images"),
    "a part alone": (chat_of(IMAGE, WORDS), None, "1 part waiting for an image, and 0 images"),
    "a video": (chat_of(IMAGE, {"type": "video"}), "one", "a part of the type 'video'; read are text and images"),
    "a video alone": (chat_of({"type": "video", "video": "a.mp4"}, WORDS), None, "a part of the type 'video'; read are text and images"),
    "ids": ([5, 6, 7], "one", "0 tokens of an image among its ids, and its images make 16"),
    "a tensor of ids": (torch.tensor([[5, 6]]), "one", "0 tokens of an image among its ids, and its images make 16"),
    "an encoding": ({"input_ids": [[5, 6]]}, "one", "0 tokens of an image among its ids, and its images make 16"),
    "one for two": ([MARK, MARK], "one", "received images for 1 prompt, but there are 2"),
    "two for three": ([MARK] * 3, "two", "received images for 2 prompts, but there are 3"),
    "a number": (MARK, 3, "received 3 as images; accepted are a path"),
    "a dict": (MARK, {"a": 1}, "as images; accepted are a path"),
    "a number in a list": ([MARK, MARK], [picture(), 3], "received 3 as images; accepted are a path"),
    "a mark in a chat's text": (chat_of(IMAGE, {"type": "text", "text": MARK}), "one", "does not take prompt 0: .*same as the number of images"),
}  # fmt: skip
GIVEN = {"one": picture(), "two": [picture(), picture(1)], "nones": [None, None]}


@pytest.mark.parametrize("name", NOT_TOGETHER)
def test_images_that_do_not_go_with_the_prompts_are_refused_in_a_sentence(llava, name):
    prompts, images, said = NOT_TOGETHER[name]
    if isinstance(images, str):
        images = GIVEN[images]
    with pytest.raises(ValueError, match=said) as caught:
        lens(llava, prompts, images=images)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_mark_is_advised_with_what_stands_around_it():
    module, processor = tiny_images.qwen2_vl()
    model = lr.load(module, processor=processor)
    with pytest.raises(ValueError, match="0 marks") as caught:
        lens(model, "what?", images=picture())
    assert repr(tiny_images.QWEN_SLOT) in str(caught.value)
    with pytest.raises(ValueError, match="does not take prompt 0: absolute aspect ratio must be"):
        lens(model, tiny_images.QWEN_SLOT, images=Image.new("RGB", (1, 900)))


def test_the_mark_of_gemma_3_is_not_that_of_gemma_3n():
    """As in their own processors: in the one each image is one token of the text, the other has one for a patch."""
    marks = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>"}
    for name, mark in (("Gemma3Processor", "boi_token"), ("Gemma3nProcessor", "image_token")):
        kind = type(name, (), marks)
        assert slot_of(kind()) == marks[mark]
        assert slot_of(type("Still", (kind,), {})()) == marks[mark]


def test_a_model_that_takes_no_images_says_so(llama, llava):
    for model in (llama, lr.load(llama._module, processor=processor_of(llava))):
        for prompts, images in [("Hi", picture()), (chat_of(IMAGE), picture())]:
            with pytest.raises(lr.LensError, match="takes no images: LlamaForCausalLM reads text"):
                lens(model, prompts, images=images)
    bare = lr.load(llava._module, tokenizer=llava.tokenizer)
    with pytest.raises(lr.LensError, match=r"without its processor.*load\(model, processor=…\)"):
        lens(bare, MARK, images=picture())
    assert lens(bare, "Hi").certificate.passed
    shown = [open_image(PIXELS, 0).picture]
    prompt = ImagePrompt([5], {}, {"pixel_values": torch.zeros(1)}, shown, [], [])
    with pytest.raises(lr.LensError, match="the text part of one that takes images"):
        refuse_text_part(llama, [prompt], ["input_ids"])


def test_what_is_no_processor_is_refused(llava):
    for other in (llava.tokenizer, processor_of(llava).image_processor, "llava"):
        with pytest.raises(lr.LensError, match="is no processor of text and images"):
            lr.load(llava._module, processor=other)


def test_the_processor_of_an_nnsight_model_is_taken(llava):
    processor = processor_of(llava)
    model = TransformersModel(llava._module, task="image-text-to-text", processor=processor)
    same(lens(lr.load(model), MARK, images=picture()), lens(llava, MARK, images=picture()))


# -- checkpoints -------------------------------------------------------

VIDEO = {
    "llava_onevision": "LlavaOnevisionVideoProcessor",
    "qwen2_vl": "Qwen2VLVideoProcessor",
    "qwen2_5_vl": "Qwen2VLVideoProcessor",
    "qwen3_vl": "Qwen3VLVideoProcessor",
    "internvl": "InternVLVideoProcessor",
}


def save(family, folder, *, legacy=False):
    """Write a checkpoint as its authors do; return its processor. `legacy`: as before transformers 5."""
    module, processor = tiny_images.FAMILIES[family]()
    module.save_pretrained(folder)
    if family not in VIDEO:
        processor.save_pretrained(folder)
        return processor
    # Its own save_pretrained wants the video processor, which cannot be made without torchvision.
    kind = next(each for each in type(processor).__mro__ if each.__name__ != "Still")
    processor.tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(processor.chat_template)
    processor.image_processor.save_pretrained(folder)
    file = folder / "preprocessor_config.json"
    image = json.loads(file.read_text())
    names = [*inspect.signature(kind.__init__).parameters]
    own = {name: getattr(processor, name, None) for name in names}
    own = {name: value for name, value in own.items() if isinstance(value, str | int)}
    own.pop("chat_template", None)
    if legacy:
        file.write_text(json.dumps({**image, "processor_class": kind.__name__}))
        if own:
            (folder / "processor_config.json").write_text(json.dumps(own))
        return processor
    file.unlink()
    video = {"video_processor_type": VIDEO[family]}
    own |= {"image_processor": image, "video_processor": video, "processor_class": kind.__name__}
    (folder / "processor_config.json").write_text(json.dumps(own))
    return processor


def has_the_same_words(folder, family, processor):
    """Whether what is read of a folder makes of a text and a chat with an image what its author's processor makes."""
    model = lr.load(str(folder))
    read = processor_of(model)
    assert type(read).__name__ == next(
        k.__name__ for k in type(processor).__mro__ if k.__name__ != "Still"
    )
    text = f"a {tiny_images.SLOTS[family]} b"
    images = [[picture()]] if family in ("idefics2", "idefics3", "mllama") else [picture()]
    one, other = (
        each(text=[text], images=images, return_tensors="pt") for each in (processor, read)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read.chat_template == processor.chat_template
    return model


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_the_processor_of_a_folder_is_kept_and_read_when_it_is_needed(
    tmp_path, family, monkeypatch
):
    processor = save(family, tmp_path)
    names = f"{lr.load.__module__}.checkpoints.processor_of_checkpoint"
    with monkeypatch.context() as patched:
        patched.setattr(names, lambda *_: pytest.fail("read"))
        model = lr.load(str(tmp_path))
        assert lens(model, "plain text").certificate.passed
        lr.anatomy(model)
    model = has_the_same_words(tmp_path, family, processor)
    found = lens(model, chat_of({**IMAGE, "image": picture()}, WORDS))
    again = lr.load(tiny_images.FAMILIES[family]()[0], processor=processor)
    same(found, lens(again, chat_of({**IMAGE, "image": picture()}, WORDS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [name for name in tiny_images.FAMILIES if name not in ("llava", "qwen2_vl")]
)
def test_the_processor_of_every_folder_is_kept(tmp_path, family):
    has_the_same_words(tmp_path, family, save(family, tmp_path))


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl"])
def test_a_processor_of_before_is_read_without_its_video_part(tmp_path, family):
    has_the_same_words(tmp_path, family, save(family, tmp_path, legacy=True))


def test_without_pillow_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    save("llava", tmp_path)
    model = lr.load(str(tmp_path))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "PIL" else found(name)
    )
    with pytest.raises(lr.LensError, match=r'pip install "lens-recipes\[images\]"'):
        lens(model, MARK, images=PIXELS)
    assert lens(model, "plain text").certificate.passed


def test_a_folder_without_processor_says_so(tmp_path, llava):
    llava._module.save_pretrained(tmp_path)
    llava.tokenizer.save_pretrained(tmp_path)
    model = lr.load(str(tmp_path))
    with pytest.raises(lr.LensError, match=r"has no processor.*load\(…, processor=…\)"):
        lens(model, MARK, images=picture())
    assert lens(model, "Hi").certificate.passed
    (tmp_path / "processor_config.json").write_text("{no json")
    with pytest.raises(lr.LensError, match=r"processor_config\.json' is no JSON"):
        lens(model, MARK, images=picture())


def test_the_code_of_a_processor_runs_for_those_alone_who_trust_it(tmp_path, llava):
    llava._module.save_pretrained(tmp_path)
    llava.tokenizer.save_pretrained(tmp_path)
    settings = {
        "processor_class": "OwnProcessor",
        "auto_map": {"AutoProcessor": "own.OwnProcessor"},
    }
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass OwnProcessor: pass\n"
    )
    model = lr.load(str(tmp_path))
    with pytest.raises(lr.LensError, match=r"processor_config\.json.*trust_remote_code=True"):
        lens(model, MARK, images=picture())
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_the_whole_model_is_loaded_whole(tmp_path):
    """transformers takes some for their decoder alone; text is read as it was."""
    module, processor = tiny_images.mllama()
    module.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = lr.load(str(tmp_path))
    assert type(model._module) is type(module)
    text = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(text) is not type(module)
    ids = tiny.random_ids(batch=1, length=6)
    one, other = lens(model, ids), lens(lr.load(text), ids)
    assert one.sites == other.sites
    same(one, other)


# -- images that are missing -------------------------------------------


def test_tokens_of_an_image_without_one_are_read_as_text_and_this_is_said(llava, caplog):
    image_token = llava._module.config.image_token_id
    for prompts in (f"a {MARK} b", [[5, 6], [5, image_token, 6]]):
        caplog.clear()
        lens(llava, prompts)
        (warning,) = [each.getMessage() for each in caplog.records if each.name == "lens_recipes"]
        assert "has a token that stands for an image, and no image goes with it" in warning
        assert warning.startswith(f"prompt {len(prompts) - 1 if isinstance(prompts, list) else 0}")
    caplog.clear()
    lens(llava, f"a {MARK} b", images=picture())
    lens(llava, "a b")
    assert not caplog.records


def test_an_encoding_with_pixels_is_told_where_images_go(llava):
    encoding = processor_of(llava)(text=[f"a {MARK}"], images=[picture()], return_tensors="pt")
    with pytest.raises(ValueError, match=r"pixel_values.*the images as images="):
        lens(llava, encoding)


# -- in a shell --------------------------------------------------------


@pytest.fixture
def dog(tmp_path):
    """The path of an image."""
    picture().save(tmp_path / "dog.png")
    return str(tmp_path / "dog.png")


def test_a_shell_reads_the_image_of_its_prompt(cli, llava, dog, tmp_path):
    run = cli(llava)
    out = str(tmp_path / "out.json")
    for arguments, prompt in [
        (["what?", "--chat"], chat_of(IMAGE, WORDS)),
        ([f"a {MARK} b"], f"a {MARK} b"),
    ]:
        status, _, _ = run(
            "logit-lens",
            *arguments,
            "--image",
            dog,
            "--show-top",
            "2",
            "--json",
            out,
            "--positions",
            "image",
        )
        assert status == 0
        same(lr.LensResult.load(out), lens(llava, prompt, images=picture(), positions="image"))
    status, _, _ = run(
        "logit-lens",
        "what?",
        "--chat",
        "--image",
        dog,
        "--image",
        dog,
        "--show-top",
        "2",
        "--json",
        out,
    )
    assert status == 0
    same(
        lr.LensResult.load(out),
        lens(llava, chat_of(IMAGE, IMAGE, WORDS), images=[picture(), picture()]),
    )
    for positions, meant in [("text", "text"), ("box:0,0,20,20", {"box": (0, 0, 20, 20)})]:
        status, _, _ = run(
            "logit-lens",
            f"a {MARK}",
            "--image",
            dog,
            "--show-top",
            "2",
            "--json",
            out,
            "--positions",
            positions,
        )
        assert status == 0
        same(lr.LensResult.load(out), lens(llava, f"a {MARK}", images=picture(), positions=meant))


WRONG = {
    "what? --image DOG": "0 marks for an image, and 1 image of its own: write '<image>' where each belongs, or add --chat",
    "<image> --image none.png": "'none.png' cannot be read as an image: it is not there",
    "<image> --image https://x.y/z.png": "'https://x.y/z.png' is an address, and nothing is fetched",
    "a b --image DOG": "Invalid value for --image: images go with one PROMPT",
    "--prompts a.jsonl --image DOG": "Invalid value for --image: images go with one PROMPT",
    "<image> --image DOG --png DOG": "Invalid value for --png: DOG is an image of the prompt",
    "<image> --image DOG --positions box:0,0": "'box:0,0' is no box like box:0,0,56,56",
    "<image> --image DOG --positions box:5,0,2,1": "--positions box:5,0,2,1: left must be below right",
    "<image> --image DOG --positions box:0,0,9,9@1": "--positions box:0,0,9,9@1 selects nothing of prompt 0",
    f"<image> --image DOG --positions box:0,0,9,9@{'9' * 5000}": "is no box like box:0,0,56,56",
    "what? --positions image": "--positions image: these prompts have no images. Give one with --image",
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG)
def test_a_shell_is_told_of_its_own_options(cli, llava, dog, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "target": "b"}\n')
    status, _, err = cli(llava)(
        "logit-lens", *(dog if word == "DOG" else word for word in line.split())
    )
    assert status == 2
    assert WRONG[line].replace("DOG", repr(dog)) in " ".join(err.split())
    assert "Traceback" not in err


def test_an_image_in_the_home_is_not_written_over(cli, llava, dog, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = (tmp_path / "dog.png").read_bytes()
    status, _, err = cli(llava)("logit-lens", MARK, "--image", "~/dog.png", "--png", dog)
    assert status == 2
    assert "is an image of the prompt" in err
    assert (tmp_path / "dog.png").read_bytes() == content


def test_images_are_read_before_a_model_is_loaded(cli, monkeypatch):
    run = cli()
    monkeypatch.setattr(lr, "load", lambda *_, **__: pytest.fail("loaded"))
    status, _, err = run("logit-lens", "<image>", "--image", "none.png")
    assert status == 2
    assert "it is not there" in err
