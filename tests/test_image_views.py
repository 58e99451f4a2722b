"""A lens over an image: what is drawn, written and kept is where the things are, and is nothing but what was measured."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import re

import numpy as np
import planted_images
import pytest
import tiny_images
from hostile import FIELD, assert_inert, hostile_fields
from PIL import Image
from planted_images import DOG, dog_box, grid, picture, planted, scene
from test_report import browser, opened, state  # noqa: F401

import lens_recipes as lr
from lens_recipes.arrays.images import (
    MAX_PICTURE_BYTES,
    NO_PLACE,
    ImagePlace,
    picture_header,
)
from lens_recipes.results import load_result
from lens_recipes.run.request.images.shown import shown_prompts
from lens_recipes.views.figures import export as figure_files
from lens_recipes.views.summaries.images import is_word


@pytest.fixture(scope="module")
def result():
    return planted()


@pytest.fixture(scope="module")
def measured():
    """What a real small model says of two prompts, the second without an image."""
    module, processor = tiny_images.FAMILIES["gemma3"]()
    model = lr.load(module, processor=processor)
    text = f"a {tiny_images.SLOTS['gemma3']} what"
    return lr.logit_lens(model, [text, "x"], images=[scene(), None], targets=" d")


def trace(figure, name):
    """The trace of a name, the first."""
    return next(each for each in figure.data if each.name == name)


def drawn(figure):
    """The numbers of the patches, `[row, column]`."""
    return np.array(trace(figure, "patches").z, dtype=float)


def under_dog(rows, columns):
    """Which cells of a whole grid have their middle in the dog's box, `[row, column]`."""
    left, top, right, bottom = dog_box()
    y, x = np.meshgrid(
        (np.arange(rows) + 0.5) * 200 / rows,
        (np.arange(columns) + 0.5) * 320 / columns,
        indexing="ij",
    )
    return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


# -- kept -------------------------------------------------------------------------------------------------------


def test_a_result_keeps_the_images_and_each_prompt_its_own(measured):
    kept = measured.pictures
    assert [len(of_prompt) for of_prompt in kept] == [1, 0]
    assert (kept[0][0].width, kept[0][0].height) == (320, 200)
    assert measured[0].pictures == kept[:1]
    assert measured[1].pictures == [[]]
    shown = Image.open(io.BytesIO(kept[0][0].data))
    assert (
        np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(scene(), int)).max() < 60
    )  # JPEG
    assert measured.prompts[0].count("⟨image 0: 16 patches⟩") == 1
    assert measured.prompts[1] == "x"


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_gives_back_images_and_places_exactly(measured, suffix, tmp_path):
    measured.save(tmp_path / f"r{suffix}")
    again = lr.LensResult.load(tmp_path / f"r{suffix}")
    assert again.pictures == measured.pictures
    for name in ImagePlace._fields:
        column = getattr(again.tokens, name)
        np.testing.assert_array_equal(column, getattr(measured.tokens, name))
        assert column.dtype == getattr(measured.tokens, name).dtype


def test_a_file_without_images_says_nothing_of_them(measured, tmp_path):
    bare = dict.fromkeys(ImagePlace._fields)
    text = dataclasses.replace(
        measured, pictures=[], tokens=dataclasses.replace(measured.tokens, **bare)
    )
    text.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert "pictures" not in content
    assert not {f"token_{name}" for name in ImagePlace._fields} & set(content["arrays"])
    again = load_result(tmp_path / "r.json")
    assert again.pictures == []
    assert again.tokens.image is None
    assert not again.tokens.is_image.any()


PNG = base64.b64encode(picture().data).decode()
HUGE = bytearray(picture().data)
HUGE[16:24] = (60_000).to_bytes(4, "big") * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file["pictures"][0][0].update(data="<svg onload=alert(1)>"), "base64"),
        (lambda file: file["pictures"][0][0].update(data=base64.b64encode(b"<svg/>" * 9).decode()), "no PNG or JPEG"),
        (lambda file: file["pictures"][0][0].update(data=base64.b64encode(HUGE).decode()), "60000 × 60000"),
        (lambda file: file["pictures"][0][0].update(data=PNG[:24]), "no header"),
        (lambda file: file["pictures"][0][0].update(data=7), "no text"),
        (lambda file: file["pictures"][0][0].update(width=-3), "width"),
        (lambda file: file["pictures"][0][0].update(more=1), "fields"),
        (lambda file: file.update(pictures=[[], [], []]), "prompts"),
        (lambda file: file.update(pictures=[[]]), "an image that its prompt does not have"),
        (lambda file: file["arrays"]["token_row"].__setitem__(3, 2**30), "no row"),
        (lambda file: file["arrays"]["token_row"].__setitem__(3, -1), "a column|no column"),
        (lambda file: file["arrays"]["token_left"].__setitem__(3, 1e9), "no box"),
        (lambda file: file["arrays"]["token_right"].__setitem__(3, -5.0), "before it begins"),
        (lambda file: file["arrays"].pop("token_tile"), "token_tile"),
    ],
)  # fmt: skip
def test_a_file_that_says_what_cannot_be_is_refused(result, change, words, tmp_path):
    result.save(tmp_path / "r.json")
    file = json.loads((tmp_path / "r.json").read_text())
    change(file)
    (tmp_path / "r.json").write_text(json.dumps(file))
    with pytest.raises(lr.LensError, match=words):
        load_result(tmp_path / "r.json")


def test_the_header_of_a_picture_is_what_pillow_reads():
    for format_, kind in (("PNG", "png"), ("JPEG", "jpeg")):
        for mode, options in (
            ("RGB", {}),
            ("L", {}),
            ("RGB", {"progressive": True, "exif": b"Exif\0\0" + bytes(80)}),
        ):
            file = io.BytesIO()
            options = options if format_ == "JPEG" else {}
            Image.new(mode, (123, 45)).save(file, format_, **options)
            assert picture_header(file.getvalue()) == (kind, 123, 45)
            for cut in range(30):  # no end of the bytes is read past
                with pytest.raises(ValueError, match="a picture"):
                    picture_header(file.getvalue()[:cut])
    with pytest.raises(ValueError, match="more than"):
        picture_header(picture().data + bytes(MAX_PICTURE_BYTES))


# -- figures ----------------------------------------------------------------------------------------------------


def test_each_patch_has_its_own_number_where_it_is_in_the_image(result):
    figure = lr.image_heatmap(result, " dog", layer=5)
    values, dog = drawn(figure), under_dog(4, 8)
    assert values.shape == (4, 8)
    assert dog.sum() == 2
    patches = result.tokens.is_image
    expected = np.exp(result.target_logprobs[5, patches, 0]).reshape(4, 8)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert values[dog].min() > 0.5 > values[~dog].max()
    cells = trace(figure, "patches")
    np.testing.assert_allclose(cells.x, np.arange(9) * 40)
    np.testing.assert_allclose(cells.y, np.arange(5) * 50)
    (embedded,) = figure.layout.images
    assert (embedded.sizex, embedded.sizey, embedded.sizing) == (320, 200, "stretch")
    assert list(figure.layout.yaxis.range) == [200, 0]
    assert list(figure.layout.xaxis.range) == [
        0,
        320,
    ]
    assert "<b>layer 5</b>: in each patch its top token" in figure.layout.title.subtitle.text
    words = ""
    for each in figure.data:
        if each.name == "words":
            words += "".join("".join(row) for row in each.text)
    assert words.count("dog") == 2
    assert words.count("sky") == 16
    assert words.count("grass") == 14


def test_the_slider_has_every_layer_and_the_picture_is_there_once(result):
    figure = lr.image_heatmap(result)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == 6
    for layer in range(6):
        alone = lr.image_heatmap(result, layer=layer)
        np.testing.assert_allclose(
            np.array(figure.frames[layer].data[1].z, dtype=float), drawn(alone)
        )
        assert figure.frames[layer].data[4].customdata == trace(alone, "hovers").customdata
    np.testing.assert_allclose(drawn(figure), drawn(lr.image_heatmap(result, layer=-1)))
    page = figure.to_html(include_plotlyjs=False)
    assert page.replace("\\u002f", "/").count(PNG) == 1
    hover = trace(figure, "hovers").customdata[2][3]
    assert "row 2, column 3" in hover
    assert "x 120–160, y 100–150 pixels" in hover
    assert [f"{rank}. " in hover for rank in range(1, 6)] == [True] * 5
    assert "1. ·dog" in hover


def test_a_slider_of_many_patches_has_every_nth_layer_and_says_so(result, monkeypatch):
    monkeypatch.setattr("lens_recipes.views.figures.images.heatmap.MAX_CELLS", 64)
    figure = lr.image_heatmap(result)
    assert [mark.label for mark in figure.layout.sliders[0].steps] == ["2", "5"]
    assert "of every 3 layers one, counted from the last" in figure.layout.title.subtitle.text
    np.testing.assert_allclose(
        np.array(figure.frames[1].data[1].z, dtype=float),
        drawn(lr.image_heatmap(result, layer=5)),
    )
    assert "of every" not in lr.image_heatmap(result, layer=4).layout.title.subtitle.text


def test_what_cannot_be_read_is_grey_and_has_no_colour(result):
    figure = lr.image_heatmap(result, "entropy", layer=1)
    assert np.isnan(drawn(figure)).all()
    assert (np.array(trace(figure, "unreadable").z, dtype=float) == 1).all()
    assert "cannot be read" in trace(figure, "hovers").customdata[0][0]
    assert "grey: 32 of 32 patches" in figure.layout.title.subtitle.text
    assert np.isfinite(drawn(lr.image_heatmap(result, "entropy", layer=3))).all()


def test_a_token_that_is_no_target_is_drawn_where_it_was_measured():
    result = planted(targets=(), top_k=1)
    figure = lr.image_heatmap(result, " dog", layer=5)
    np.testing.assert_array_equal(np.isfinite(drawn(figure)), under_dog(4, 8))
    cells = trace(figure, "hovers")
    assert "below 0.94" in cells.customdata[0][0]
    assert "not among the top" in cells.customdata[0][0]
    with pytest.raises(ValueError, match=r"not measured.*targets="):
        lr.image_heatmap(result, " what")
    with pytest.raises(ValueError, match="not measured"):
        lr.object_map(result, 77)


def test_the_object_map_is_the_largest_over_the_layers_that_can_be_read(result):
    patches = result.tokens.is_image
    probabilities = np.exp(result.target_logprobs[:, patches, 0])
    expected = np.where(result.readable[:, patches], probabilities, 0).max(axis=0)
    figure = lr.object_map(result, DOG)
    np.testing.assert_allclose(drawn(figure).ravel(), expected, rtol=1e-6)
    assert f"confidence {expected.max():.3f} (layer 5)" in figure.layout.title.text
    assert "no probability that" in figure.layout.title.subtitle.text
    # A layer that cannot be read is no evidence, however sure it is.
    louder = result.target_logprobs.copy()
    louder[1, 5] = -0.001
    sure = dataclasses.replace(result, target_logprobs=louder)
    figure = lr.object_map(sure, DOG)
    assert f"confidence {expected.max():.3f}" in figure.layout.title.text
    assert "left out: 0.999" in figure.layout.title.subtitle.text


def test_a_confidence_that_was_not_measured_everywhere_is_a_lower_bound():
    result = planted(targets=(), top_k=1)
    assert "confidence 0.945" in lr.object_map(result, " dog").layout.title.text
    # Where it is not the top-1 it may have up to what that has: of the sky at one patch more than the dog's largest.
    louder = result.top_logprobs.copy()
    louder[-1, 2] = -0.01
    result = dataclasses.replace(result, top_logprobs=louder)
    assert "confidence at least 0.945" in lr.object_map(result, " dog").layout.title.text


def test_tiles_are_one_grid_and_the_thumbnail_is_left_out():
    whole = grid(2, 2, 0, 0, 320, 200)
    tiles = grid(4, 4, 0, 0, 160, 200, tile=0) + grid(4, 4, 160, 0, 160, 200, tile=1)
    nowhere = [NO_PLACE._replace(image=0)]
    result = planted(places=[*whole, *tiles, *nowhere])
    figure = lr.image_heatmap(result, " dog")
    values = drawn(figure)
    assert values.shape == (4, 8)
    np.testing.assert_array_equal(values > 0.5, under_dog(4, 8))
    text = figure.layout.title.subtitle.text
    assert "finest grid, tiles 0–1; not the whole image" in text
    assert "1 token of it without a place" in text


def test_what_the_model_does_not_see_has_no_patch():
    result = planted(places=grid(4, 4, 60, 0, 200, 200))  # a square cut out of the middle
    cells = trace(lr.image_heatmap(result), "patches")
    np.testing.assert_allclose(cells.x, [60, 110, 160, 210, 260])
    some = planted(
        places=[place for place in grid(4, 8, 0, 0, 320, 200) if place.column in (1, 2, 5)]
    )
    values = drawn(lr.image_heatmap(some))  # a gap is not stretched over
    np.testing.assert_array_equal(np.isfinite(values[0]), [True, True, False, True])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": 1}, "image=1 is out of range: the prompt has 1 image"),
        ({"layer": 9}, "layer=9 was not read; those that were are 0, 1, 2"),
        ({"layer": "last"}, "was not read"),
        ({"prompt": 4}, "out of range"),
    ],
)
def test_what_is_not_there_is_refused_in_a_sentence(result, options, words):
    with pytest.raises((ValueError, IndexError), match=words):
        lr.image_heatmap(result, **options)


def test_a_result_without_images_or_patches_says_so(measured):
    with pytest.raises(ValueError, match="no image: pass images="):
        lr.image_heatmap(measured, prompt=1)
    queries = planted(places=[NO_PLACE._replace(image=0)] * 5)
    with pytest.raises(ValueError, match="5 tokens of it that were read look at the whole image"):
        lr.object_map(queries, " dog")
    with pytest.raises(TypeError, match="LensResult"):
        lr.image_heatmap("a picture")


def test_patches_that_lie_over_each_other_are_no_grid():
    over = [
        NO_PLACE._replace(image=0, row=0, column=n, left=n / 10, top=0, right=n / 10 + 1, bottom=1)
        for n in range(99)
    ]
    with pytest.raises(ValueError, match="99 patches of image 0 lie over each other"):
        lr.image_heatmap(planted(places=over))


def test_no_text_acts_in_a_figure(result):
    hostile = dataclasses.replace(
        hostile_fields(result), pictures=[[result.pictures[0][0]._replace(name=FIELD)]]
    )
    for figure in (
        lr.image_heatmap(hostile, DOG),
        lr.object_map(hostile, DOG),
        lr.image_heatmap(hostile, title=FIELD),
    ):
        assert_inert(figure)


def test_what_else_is_drawn_over_an_image_is_named(result):
    with pytest.raises(ValueError, match=r'not measured.*of is "top1" or "entropy"'):
        lr.image_heatmap(result, "kl")
    with pytest.raises(TypeError, match="of a prompt with images image_heatmap and object_map"):
        lr.head_grid(result)


def test_a_generation_without_its_prompt_says_how_the_image_is_read(result):
    text = planted(places=[NO_PLACE])
    written = np.ones(len(text.tokens), bool)
    said = dataclasses.replace(text, tokens=dataclasses.replace(text.tokens, generated=written))
    with pytest.raises(ValueError, match="include_prompt=True reads the prompt"):
        lr.image_heatmap(said)
    with pytest.raises(ValueError, match='positions="image" reads all'):
        lr.image_heatmap(text)


def test_a_page_says_in_words_what_a_figure_shows(result, tmp_path):
    lr.write_html(lr.object_map(result, DOG), tmp_path / "dog.html")
    page = (tmp_path / "dog.html").read_text()
    (words,) = re.findall(r'class="plotly-graph-div" role="img" aria-label="([^"]*)"', page)
    assert html.unescape(words).startswith("Where ·dog is read: confidence 0.9")
    assert "image 0: scene.png, 320 × 200 pixels, 32 patches" in words
    assert "<" not in words
    hostile = dataclasses.replace(
        result, pictures=[[result.pictures[0][0]._replace(name='" onclick="act()" <b>&')]]
    )
    lr.write_html(lr.object_map(hostile, DOG), tmp_path / "hostile.html")
    page = (tmp_path / "hostile.html").read_text()
    (words,) = re.findall(r'class="plotly-graph-div" role="img" aria-label="([^"]*)"', page)
    assert '" onclick="act()"' in html.unescape(words)


# -- in a shell -------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn_in_shell(cli, monkeypatch, tmp_path, result):
    """Run `show` on a saved image lens with a picture: (exit status, figures, stderr)."""
    figures = []
    monkeypatch.setattr(figure_files, "save_png", lambda figure, path: figures.append(figure))
    result.save(tmp_path / "r.json")
    run = cli()

    def show(*options):
        status, _, err = run(
            "show", str(tmp_path / "r.json"), "--png", str(tmp_path / "a.png"), *options
        )
        return status, figures, err

    return show


@pytest.mark.parametrize(
    ("options", "draw"),
    [
        (["image"], lambda r: lr.image_heatmap(r, layer=-1)),
        (["image", "--layer", "4"], lambda r: lr.image_heatmap(r, layer=4)),
        (["image", "--metric", "entropy"], lambda r: lr.image_heatmap(r, "entropy", layer=-1)),
        (["image", "--of", " dog"], lambda r: lr.image_heatmap(r, " dog", layer=-1)),
        (["object", "--of", " dog"], lambda r: lr.object_map(r, " dog")),
        (["object"], lambda r: lr.object_map(r, " dog")),
    ],
)
def test_the_shell_draws_what_the_library_draws(drawn_in_shell, result, options, draw):
    status, figures, err = drawn_in_shell("--kind", *options)
    assert (status, "wrote" in err) == (0, True)
    (figure,) = figures
    expected = draw(result)
    assert figure.layout.title.text == expected.layout.title.text
    np.testing.assert_array_equal(drawn(figure), drawn(expected))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kind", "image", "--metric", "rank"], "prob and entropy are"),
        (["--kind", "image", "--metric", "entropy", "--of", " dog"], "leave one of"),
        (["--kind", "image", "--of", "a", "--of", "b"], "of one token"),
        (["--kind", "image", "--stride", "2"], "has one layer"),
        (["--kind", "object", "--metric", "prob"], "is of its probability"),
        (["--kind", "object", "--layer", "2"], "--kind image alone"),
        (["--layer", "2"], "--kind image alone"),
        (["--image", "photo.jpg"], "it is for --verify"),
    ],
)
def test_an_option_that_an_image_has_no_use_for_is_refused(drawn_in_shell, options, words):
    status, figures, err = drawn_in_shell(*options)
    assert (status, figures) == (2, [])
    assert words in " ".join(err.replace("│", " ").split())


def test_a_layer_or_token_that_is_not_there_is_refused_in_words_of_the_shell(drawn_in_shell):
    status, _, err = drawn_in_shell("--kind", "image", "--layer", "9")
    assert (status, "--layer 9 was not read" in err.replace("=", " ")) == (2, True)
    status, figures, _ = drawn_in_shell("--kind", "image", "--of", "prob")  # no metric, but a token
    assert (status, figures) == (2, [])
    status, _, err = drawn_in_shell("--kind", "image", "--of", " zebra")
    assert (status, "--metric is prob or entropy" in " ".join(err.split())) == (2, True)


def test_a_saved_image_lens_is_verified_in_a_shell(cli, monkeypatch, tmp_path):
    module, processor = tiny_images.FAMILIES["gemma3"]()
    model = lr.load(module, processor=processor)
    scene().save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    text = f"a {tiny_images.SLOTS['gemma3']} what"
    lr.logit_lens(model, text, images=photo).save(tmp_path / "r.json")
    run, file = cli(model), str(tmp_path / "r.json")
    status, out, _ = run("show", file, "--verify", "m", "--image", photo)
    assert status == 0
    assert "certified: " in out
    status, _, err = run("show", file, "--verify", "m")
    assert (status, "is of prompts with images" in err) == (1, True)


# -- words ------------------------------------------------------------------------------------------------------


def test_an_image_is_one_mark_in_a_prompt():
    here = [ImagePlace(0, -1, 0, column) for column in range(3)]
    ends = NO_PLACE._replace(image=0)
    there = [NO_PLACE._replace(image=1)] * 5
    places = [[NO_PLACE, *here, ends, *there, NO_PLACE]]
    (text,) = shown_prompts(None, [list(range(11))], places)
    assert text == "#0⟨image 0: 3 patches⟩⟨image 1: 5 tokens⟩#10"
    assert shown_prompts(None, [[1, 2]], []) == ["#1 #2"]
    # What stands between two rows of an image is part of it; a sentence is not.
    rows = [NO_PLACE, *here, NO_PLACE, *here, *[NO_PLACE] * 7, *here]
    (text,) = shown_prompts(None, [list(range(18))], [rows])
    assert text == "#0⟨image 0: 6 patches⟩#8 #9 #10 #11 #12 #13 #14⟨image 0: 3 patches⟩"


def test_a_summary_says_at_how_many_patches_the_lens_is_a_word(result):
    summary = result.summary()
    assert "images: 32 tokens of 1 image" in summary
    assert "a word at 32 of 32 (100%), at layer 5" in summary
    assert "underestimates what they hold (LatentLens, 2026)" in summary
    top = result.top_ids.copy()
    top[-1, 2:10, 0] = planted_images.ODD  # "<unk>" is no word
    fewer = dataclasses.replace(result, top_ids=top)
    assert "a word at 24 of 32 (75%)" in fewer.summary()
    assert len(summary.splitlines()) < 9
    assert "image" not in lr.LensResult.summary(_of_text(result))


def _of_text(result):
    """The same without images."""
    bare = dict.fromkeys(ImagePlace._fields)
    tokens = dataclasses.replace(result.tokens, **bare)
    return dataclasses.replace(result, tokens=tokens, pictures=[], prompts=["USER what?"])


def test_a_word_is_letters_and_nothing_else():
    assert [is_word(text) for text in (" dog", "ing", "狗", "犬小屋")] == [True] * 4
    assert not any(
        is_word(text) for text in ("", " a", "it", "<unk>", "…", "12", "don't", "\ufffd")
    )


def test_a_table_of_hundreds_of_patches_is_short_and_names_the_patch():
    result = planted(24, 24)
    assert len(str(result).splitlines()) < 15
    assert "⟨image 0: 576 patches⟩" in str(result)
    one = lr.table(result, prompt=0, position=2 + 24 + 5)
    assert "after token 31, patch 1, 5 of image 0" in one


# -- the report -------------------------------------------------------------------------------------------------


def test_a_page_without_room_for_pictures_says_so(result, tmp_path):
    noise = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (400, 640, 3), dtype=np.uint8)
    )
    large = dataclasses.replace(result, pictures=[[picture("noise.png", noise)]])
    lr.report(large, tmp_path / "all.html")
    whole = (tmp_path / "all.html").read_text()
    address = large.pictures[0][0].address
    assert whole.count(address) == 1
    room = len(whole.encode()) - 100_000
    lr.report(large, tmp_path / "less.html", max_bytes=room)
    less = (tmp_path / "less.html").read_text()
    assert len(less.encode()) <= room
    assert address[:2000] not in less
    assert "the pictures have no room (1)" in less


def test_the_image_beside_the_layers(browser, result, tmp_path):  # noqa: F811
    """A click on a patch pins its token; a word that is pinned is framed where it is read; no text acts."""
    name = '<img src=x onerror="window.acted=1">.png'
    shown = dataclasses.replace(result, pictures=[[result.pictures[0][0]._replace(name=name)]])
    lr.report(shown, tmp_path / "page.html")
    wrong, asked = [], []
    page = browser.new_page(viewport={"width": 1300, "height": 1200})
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url.split("#")[0]))
    page.goto((tmp_path / "page.html").as_uri() + "#site=5")
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    picture_ = page.locator("#images img")
    assert page.evaluate("document.querySelector('#images img').naturalWidth") == 320
    assert picture_.get_attribute("alt") == f"image 0: {name}, 320 × 200 pixels"
    # The colours are those of the map's row, in the order of the patches.
    fills = page.evaluate(
        "[...document.querySelectorAll('#images rect[fill]')].map((r) => r.getAttribute('fill'))"
    )
    assert len(fills) == 32
    assert all(re.fullmatch(r"rgb\(\d+,\d+,\d+\)", fill) for fill in fills)
    # The dog is the target, pinned at first: its two patches are framed, each by a light and a dark line.
    framed = "[...document.querySelectorAll('#images .is:not(.among)')].map((r) => [+r.getAttribute('x'), +r.getAttribute('y')])"
    wide, tall = page.evaluate(
        "[document.querySelector('.frame').clientWidth, document.querySelector('.frame').clientHeight]"
    )
    assert abs(wide / tall - 1.6) < 0.02
    places = {
        (round(x / wide * 8 - 0.03), round(y / tall * 4 - 0.03)) for x, y in page.evaluate(framed)
    }
    assert places == {(3, 2), (4, 2)}
    assert "·dog⁩ is the top token of 2 patches" in page.locator("#where").inner_text()
    # A click on the sky pins what is read there, at that patch.
    box = page.locator("#images .frame").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 1.5 / 8, box["y"] + box["height"] * 0.5 / 4)
    page.wait_for_selector("#tip:not([hidden])")
    assert "image 0, x 40–80, y 0–50" in page.locator("#tip").inner_text()
    page.mouse.click(box["x"] + box["width"] * 1.5 / 8, box["y"] + box["height"] * 0.5 / 4)
    now = state(page)
    assert now["token"] == 3
    assert [pin["token"] for pin in now["pins"]] == [3]
    assert "sky" in page.locator("#pins").inner_text()
    assert "16 patches at this layer" in page.locator("#where").inner_text()
    # A click on a word shows where that is; a lower layer cannot be read, and is grey.
    page.locator("#top button", has_text="dog").click()
    assert "dog⁩ is the top token of 2 patches" in page.locator("#where").inner_text()
    page.locator("#image-layer").fill("0")
    grey = page.evaluate(
        "getComputedStyle(document.documentElement).getPropertyValue('--grey').trim()"
    )
    fills = page.evaluate(
        "[...document.querySelectorAll('#images rect[fill]')].map((r) => r.getAttribute('fill'))"
    )
    assert set(fills) == {grey}
    assert (
        "of 0 patches at this layer (framed), and of 2 others"
        in page.locator("#where").inner_text()
    )
    page.locator("#over").select_option("image")
    assert page.evaluate("document.querySelector('#images img').style.opacity") == "1"
    page.reload()
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    assert state(page)["over"] == "image"
    assert page.evaluate("window.acted") is None
    assert not wrong
    assert {url for url in asked if not url.startswith("data:image/png")} == {
        (tmp_path / "page.html").as_uri()
    }
    page.close()
