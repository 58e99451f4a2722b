"""Images in every recipe that runs prompts: what a hook or the model's own `generate` says."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_images
import torch
import transformers
from PIL import Image

import lens_recipes as lr
from lens_recipes.models.images.added import layers_with_additions
from lens_recipes.recipes.survey import survey as survey_module
from lens_recipes.recipes.survey.items import images_of
from lens_recipes.run.provenance import restore_arguments
from lens_recipes.run.remote.jobs.file import JobHeader
from lens_recipes.run.remote.jobs.restore import check_images
from lens_recipes.views.words import part_name

NAMES = ["llava", "qwen2_vl", "gemma3"]


@cache
def made(name):
    """A small model that takes images, and its processor."""
    module, processor = tiny_images.FAMILIES[name]()
    return lr.load(module, processor=processor), processor


def picture(seed=0, width=160, height=100):
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def prompt(name):
    """A text with the mark of an image in it."""
    return f"USER: {tiny_images.SLOTS[name]} what? ASSISTANT:"


def encoded(name, image):
    """What the processor makes of the prompt with an image."""
    encoding = made(name)[1](text=[prompt(name)], images=[image], return_tensors="pt")
    return {key: value for key, value in encoding.items() if key != "labels"}


def logits_of(name, image, hooks=()):
    """The model's own logits, with hooks on its blocks: pairs of a layer and a function."""
    module = made(name)[0]._module
    layers = module.get_decoder().layers
    handles = [layers[layer].register_forward_hook(hook) for layer, hook in hooks]
    with torch.no_grad():
        logits = module(**encoded(name, image)).logits[0]
    for handle in handles:
        handle.remove()
    return logits


# -- attribution -------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("unit", ["layer", "component", "head", "token"])
def test_parts_of_image_tokens_sum_to_the_logit_that_the_model_says(name, unit):
    image = picture()
    found = lr.attribution(
        made(name)[0], prompt(name), [7, 9], images=image, unit=unit, positions=None
    )
    own = logits_of(name, image)[:, [7, 9]]
    np.testing.assert_allclose(found.values.sum(0), own, atol=2e-4)
    np.testing.assert_allclose(found.logit, own, atol=2e-4)
    assert found.certificate.passed
    assert found.tokens.is_image.sum() > 10


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_the_embedding_of_an_image_token_is_what_the_tower_put_there(name):
    """By hand: the merged stream before block 0, through the norm held at its value of the run."""
    model, image = made(name)[0], picture()
    found = lr.attribution(model, prompt(name), [7], images=image, positions="image")
    streams = {}
    decoder = model._module.get_decoder()
    handle = decoder.layers[0].register_forward_pre_hook(
        lambda _m, args, kwargs: streams.update(first=(args or [kwargs["hidden_states"]])[0]),
        with_kwargs=True,
    )
    last = []
    logits_of(name, image, [(2, lambda _m, _i, out: last.append(out))])
    handle.remove()
    stream = last[0][0] if isinstance(last[0], tuple) else last[0]
    at = found.tokens.position
    scale = torch.rsqrt(stream[0].pow(2).mean(-1, keepdim=True) + decoder.norm.variance_epsilon)
    row = model._module.get_output_embeddings().weight[7]
    by_hand = ((streams["first"][0] * scale * decoder.norm.weight) @ row)[at]
    embed = next(n for n, part in enumerate(found.parts) if part.component == "embed")
    np.testing.assert_allclose(found.values[embed, :, 0], by_hand, atol=1e-5)


def test_what_is_added_between_blocks_is_refused_at_image_tokens_alone():
    model, image = made("qwen3_vl")[0], picture()
    with pytest.raises(lr.LensError, match="No block writes that"):
        lr.attribution(model, prompt("qwen3_vl"), [7], images=image, positions="image")
    assert lr.attribution(model, prompt("qwen3_vl"), [7], images=image).certificate.passed
    for edit in (
        lr.ablate(layer=0, positions="image"),
        lr.steer(7, layer=0),
        lr.swap(7, 8, layers=0, positions={"box": (0, 0, 50, 50)}),
    ):
        with pytest.raises(ValueError, match="resid_pre of layer 1"):
            lr.logit_lens(model, prompt("qwen3_vl"), images=image, edits=edit)
    for edit in (
        lr.ablate(layer=1, positions="image"),
        lr.steer(7, layer=1, component="resid_pre"),
        lr.steer(7, layer=0, positions="text"),
    ):
        assert lr.logit_lens(model, prompt("qwen3_vl"), images=image, edits=edit).certificate.passed


# -- generation --------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "qwen2_5_vl", "qwen3_vl", "llava_next"])
def test_the_text_is_that_of_generate_and_the_lens_that_of_the_whole_text(name):
    model, image = made(name)[0], picture()
    found = lr.generate_lens(
        model,
        [prompt(name), prompt(name)],
        images=[image, picture(1)],
        max_new_tokens=4,
        do_sample=False,
        include_prompt=True,
    )
    for number, own in enumerate((image, picture(1))):
        inputs = encoded(name, own)
        with torch.no_grad():
            whole = model._module.generate(**inputs, max_new_tokens=4, do_sample=False)[0]
        written = found[number].tokens.next_id[found[number].tokens.generated]
        length = inputs["input_ids"].shape[1]
        assert written.tolist() == whole[length:].tolist()
    read = lr.logit_lens(model, prompt(name), images=image)
    of_prompt = ~found[0].tokens.generated
    n_prompt = int(of_prompt.sum())
    np.testing.assert_allclose(
        found[0].entropy[:, of_prompt], read.entropy[:, :n_prompt], atol=1e-4
    )
    np.testing.assert_array_equal(found[0].tokens.box[of_prompt], read.tokens.box[:n_prompt])
    assert (found[0].tokens.image[found[0].tokens.generated] == -1).all()
    assert (
        found.pictures
        == lr.logit_lens(model, [prompt(name)] * 2, images=[image, picture(1)], layers=-1).pictures
    )
    verified = found.verify(model, images=[image, picture(1)])
    assert verified.certificate.passed


def test_what_was_written_of_an_image_is_saved_and_drawn_with_it(tmp_path):
    model = made("llava")[0]
    found = lr.generate_lens(
        model,
        [prompt("llava"), "the dog"],
        images=[picture(), None],
        max_new_tokens=2,
        do_sample=False,
        include_prompt=True,
    )
    assert [len(pictures) for pictures in found.pictures] == [1, 0]
    found.save(tmp_path / "written.json")
    loaded = lr.LensResult.load(tmp_path / "written.json")
    assert loaded.pictures == found.pictures
    assert len(lr.image_heatmap(loaded).layout.images) == 1
    lr.report(loaded, tmp_path / "written.html")
    assert found.pictures[0][0].address in (tmp_path / "written.html").read_text()
    text = lr.generate_lens(model, "the dog", max_new_tokens=2, do_sample=False)
    assert not text.pictures


# -- edits -------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_of_the_image_is_a_hook_on_its_tokens(name):
    model, image = made(name)[0], picture()
    own = lr.logit_lens(model, prompt(name), images=image)
    rows = np.flatnonzero(own.tokens.is_image)

    def silence(_module, _inputs, output):
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, rows] = 0
        return output

    found = lr.logit_lens(
        model,
        prompt(name),
        images=image,
        edits=lr.ablate(layer=1, positions="image"),
        controls=1,
        targets=7,
    )
    expected = torch.log_softmax(logits_of(name, image, [(1, silence)]), -1)
    np.testing.assert_allclose(found.model_logprobs, expected.max(-1).values, atol=1e-4)
    assert found.certificate.passed
    assert found.effects.n_outside > 0
    assert found.effects.max_outside == 0
    assert "at the tokens of the image" in str(found.edits[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_brings_what_another_image_made(name):
    model, images = made(name)[0], [picture(0), picture(1)]
    prompts = [prompt(name)] * 2
    own = lr.logit_lens(model, prompts, images=images)
    last = own.sites[-1].layer
    edited = lr.logit_lens(model, prompts, images=images, edits=lr.patch(0, layer=last))
    assert np.abs(own[0].entropy[-1] - own[1].entropy[-1]).max() > 1e-2
    np.testing.assert_allclose(edited[1].entropy[-1], own[0].entropy[-1], atol=1e-6)
    for edit in (
        lr.patch(1, layer=0, positions="image", source_positions="image"),
        lr.ablate(layer=0, positions="image", to="resample"),
        lr.steer(7, layer=1, positions={"box": (40, 0, 100, 60)}),
        lr.swap(7, 8, layers=1, positions="image"),
    ):
        found = lr.logit_lens(model, prompts, images=images, edits=edit, targets=7)
        assert found.certificate.passed


def test_the_tokens_of_an_image_see_each_other_in_gemma3():
    """An edit of its last patch changes the patches before it, and no text before the image."""
    model, image = made("gemma3")[0], picture()
    own = lr.logit_lens(model, prompt("gemma3"), images=image)
    at = own.tokens.position[own.tokens.is_image]
    edit = lr.ablate(layer=0, positions=int(at[-1]))
    found = lr.logit_lens(model, prompt("gemma3"), images=image, edits=edit, targets=7)
    moved = np.abs(found.entropy[-1] - own.entropy[-1]) > 1e-6
    assert moved[at].all()
    assert not moved[: at[0]].any()
    assert found.effects.n_outside == at[0]
    assert found.effects.max_outside == 0


def test_what_edits_cannot_have_is_said():
    model, image = made("llava")[0], picture()
    for edit in (
        lr.patch("<image> a", layer=0, positions=0),
        lr.ablate(to="mean", over=["<image>"], layer=0),
    ):
        with pytest.raises(ValueError, match="pass it among the prompts"):
            lr.logit_lens(model, prompt("llava"), images=image, edits=edit, controls=0)
    with pytest.raises(ValueError, match="these prompts have no images"):
        lr.logit_lens(model, "the dog", edits=lr.ablate(layer=0, positions="image"))


# -- what is made again ------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_result_is_verified_with_its_images_and_no_others(name, tmp_path):
    model, images = made(name)[0], [picture(0), picture(1)]
    prompts = [prompt(name)] * 2
    edit = lr.ablate(layer=1, positions="image")
    for number, found in enumerate(
        (
            lr.logit_lens(model, prompts, images=images, targets=7, positions="image"),
            lr.logit_lens(model, prompts, images=images, edits=edit, controls=0, positions=-1),
            lr.attribution(model, prompts, 7, images=images, unit="component"),
        )
    ):
        path = tmp_path / f"{number}.json"
        found.save(path)
        saved = type(found).load(path)
        assert saved.certificate.as_saved
        again = saved.verify(model, images=images)
        assert again.certificate.passed
        assert not again.certificate.as_saved
        assert saved[1].verify(model, images=images[1]).certificate.passed
        with pytest.raises(lr.LensError, match="pass them again"):
            saved.verify(model)
        with pytest.raises(lr.LensError, match="images of prompt 1 are not those"):
            saved.verify(model, images=[images[0], picture(2)])
    text = lr.logit_lens(model, "the dog")
    with pytest.raises(lr.LensError, match="without images"):
        text.verify(model, images=images[0])


def test_ids_with_their_images_are_the_prompt_again():
    """What a result keeps is what the model was given, token types included."""
    for name in NAMES:
        model, image = made(name)[0], picture()
        found = lr.logit_lens(model, prompt(name), images=image)
        for prompts in (
            [found.inputs[0]["input_ids"]],
            {key: [row] for key, row in found.inputs[0].items()},
        ):
            again = lr.logit_lens(model, prompts, images=image)
            np.testing.assert_array_equal(again.entropy, found.entropy)
            np.testing.assert_array_equal(again.tokens.box, found.tokens.box)
        with pytest.raises(ValueError, match="no image goes with it"):
            lr.logit_lens(model, [found.inputs[0]["input_ids"]] * 2, images=[image, None])


def test_a_saved_chat_of_images_that_are_seen_together_is_verified():
    model, images = made("llava_onevision")[0], [picture(0), picture(1)]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what?"}]
    found = lr.logit_lens(model, [{"role": "user", "content": parts}], images=images)
    assert found.verify(model, images=[images]).certificate.passed
    text = lr.logit_lens(model, "<image> and <image>", images=images)
    assert text.tokens.is_image.sum() > found.tokens.is_image.sum()
    assert text.verify(model, images=[images]).certificate.passed


@pytest.mark.parametrize("name", NAMES)
def test_the_simulated_server_says_the_same(name):
    model, image = made(name)[0], picture()
    here = lr.logit_lens(model, prompt(name), images=image, targets=7)
    there = lr.logit_lens(model, prompt(name), images=image, targets=7, remote="local")
    np.testing.assert_allclose(there.target_logprobs, here.target_logprobs, atol=1e-5)
    options = {"images": image, "max_new_tokens": 3, "do_sample": False}
    here = lr.generate_lens(model, prompt(name), **options)
    there = lr.generate_lens(model, prompt(name), **options, remote="local")
    np.testing.assert_array_equal(there.tokens.next_id, here.tokens.next_id)
    np.testing.assert_allclose(there.entropy, here.entropy, atol=1e-5)
    estimated = lr.estimate(lr.logit_lens, model, prompt(name), images=image)
    without = lr.estimate(lr.logit_lens, model, "USER: what? ASSISTANT:")
    assert estimated.tokens == len(here.inputs[0]["input_ids"])
    assert estimated.bytes_up > without.bytes_up + 5_000


def test_an_attribution_by_token_knows_which_patch_a_head_read(tmp_path):
    model, image = made("llava")[0], picture()
    found = lr.attribution(model, prompt("llava"), 7, images=image, unit="token")
    read = lr.logit_lens(model, prompt("llava"), images=image)
    boxes = [[place.left, place.top, place.right, place.bottom] for place in found.places[0]]
    np.testing.assert_allclose(boxes, read.tokens.box)
    by_source = found.by_source(1, 0)
    assert len(by_source) == len(found.places[0])
    assert np.abs(by_source[read.tokens.is_image]).max() > 0
    found.save(tmp_path / "who.json")
    loaded = lr.Attribution.load(tmp_path / "who.json")
    np.testing.assert_equal(loaded.places, found.places)
    np.testing.assert_equal(loaded[0].places, found.places)
    largest = max(np.flatnonzero(read.tokens.is_image), key=lambda at: abs(by_source[at]))
    place = found.places[0][largest]
    name = f"patch {place.row}, {place.column}"
    part = next(part for part in found.parts if part.source == largest)
    assert part_name(found, part).endswith(f"←{largest} {name} of image 0")
    hovers = [row[largest] for row in lr.source_map(found, head=0).data[0].customdata]
    assert all(f"read from token {largest}, {name}" in hover for hover in hovers)
    assert "<image>" not in found.summary().split("read most from")[1]


# -- survey ------------------------------------------------------------


def written_items(folder, name, n_items=3):
    """A file of items with images beside it, and what `logit_lens` takes for them."""
    rows, images = [], []
    for number in range(n_items):
        images.append(picture(number))
        images[-1].save(folder / f"{number}.png")
        rows.append({"prompt": prompt(name), "target": 7 + number, "images": f"{number}.png"})
    rows.append({"prompt": "the dog", "target": 9})
    path = folder / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path, images


@pytest.mark.parametrize("name", NAMES)
def test_a_survey_reads_the_images_of_its_items(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lens_recipes.recipes.survey.block.WITH_IMAGES", 2)
    model = made(name)[0]
    path, images = written_items(tmp_path, name)
    found = lr.survey(model, path, path=tmp_path / "done", bootstrap=100)
    assert len(found) == 4
    for number, image in enumerate(images):
        own = lr.logit_lens(model, prompt(name), images=image, targets=7 + number, positions=-1)
        np.testing.assert_allclose(found.logprobs[number], own.target_logprobs[:, 0, 0], atol=1e-4)
    assert found.names[0].prompt == prompt(name)
    runs = []
    ask = survey_module.ask
    monkeypatch.setattr(survey_module, "ask", lambda *given: runs.append(1) or ask(*given))
    lr.survey(model, path, path=tmp_path / "done", bootstrap=100)
    assert not runs  # all of it is there
    picture(9).save(tmp_path / "1.png")
    with pytest.raises(lr.LensError, match="made of other items"):
        lr.survey(model, path, path=tmp_path / "done", bootstrap=100)
    changed = lr.survey(model, path, path=tmp_path / "done", bootstrap=100, resume=False)
    assert np.abs(changed.logprobs[1] - found.logprobs[1]).max() > 1e-3


@pytest.mark.parametrize("written", ["[" * 100_000, "[1,", '[{"a": 1}]'])
def test_what_is_no_list_of_images_in_a_table_is_said(written):
    with pytest.raises(ValueError, match=r"'image' is .*, no (list in JSON|image and no list)"):
        images_of(written, "image")


def test_items_name_places_beside_images(tmp_path):
    model, image = made("llava")[0], picture()
    table = tmp_path / "items.csv"
    image.save(tmp_path / "a b.png")
    table.write_text('prompt,target,images\n"<image> what",<image>,a b.png\n')
    assert len(lr.survey(model, table, bootstrap=100)) == 1
    text = "see <image> what is it"
    read = lr.logit_lens(model, text, images=image)
    for place, position in (({"at": "see"}, None), ({"at": "what"}, None), (-2, -2)):
        item = {"prompt": text, "target": 7, "images": [image], "position": place}
        found = lr.survey(model, [item], bootstrap=100)
        at = int(found.position[0])
        if position is None:
            before = "".join(read.tokens.text[: at + 1])
            assert before.endswith(place["at"])
        else:
            assert at == len(read.tokens) + position
    ids = read.inputs[0]["input_ids"]
    found = lr.survey(model, [{"prompt": ids, "target": 7, "images": [image]}], bootstrap=100)
    own = lr.logit_lens(model, text, images=image, targets=7, positions=-1)
    np.testing.assert_allclose(found.logprobs[0], own.target_logprobs[:, 0, 0], atol=1e-5)
    missing = {"prompt": text, "target": 7, "images": "missing.png"}
    several = {"prompt": text, "target": 7, "images": [image, image]}
    good = {"prompt": text, "target": 7, "images": image}
    found = lr.survey(model, [missing, several, good], bootstrap=100)
    assert len(found) == 1
    assert ["missing.png" in entry[3] for entry in found.left_out] == [True, False]
    assert "1 mark for an image" in found.left_out[1][3]
    with pytest.raises(ValueError, match="no image and no list"):
        lr.survey(model, [{**good, "images": 5}])


def test_a_place_among_several_images_is_found_or_refused_and_never_another():
    """LLaVA's mark is the token of a patch, too, so that the ids of a text begin and end alike."""
    model, images = made("llava")[0], [picture(0), picture(1)]
    beside = {"prompt": "<image><image> what", "target": 7, "images": images}
    for place in ("<image>", "what"):
        item = {**beside, "position": {"at": place}}
        found = lr.survey(model, [item, {**beside, "id": "other"}], bootstrap=100)
        last = int(found.position[-1])
        if place == "what":
            assert found.position.tolist() == [last, last]
        else:  # the last mark: the last patch of the last image
            read = lr.logit_lens(model, beside["prompt"], images=images)
            assert int(found.position[0]) == np.flatnonzero(read.tokens.is_image)[-1]
    between = {**beside, "prompt": "<image> see <image> what", "position": {"at": "see"}}
    found = lr.survey(model, [between, beside], bootstrap=100)
    assert "stands between images" in found.left_out[0][3]


# -- lenses, and what takes no images ----------------------------------


def test_a_lens_fitted_on_text_reads_image_tokens_through_its_transport():
    model, image = made("llava")[0], picture()
    ids = [list(range(3, 60)), list(range(90, 200))] * 20
    lens = lr.fit_lens(model, [row[start:] for start in range(20) for row in ids[:2]])
    read = lr.logit_lens(model, prompt("llava"), images=image, lens=lens, layers=0)
    stream = []
    logits_of("llava", image, [(0, lambda _m, _i, out: stream.append(out))])
    first = stream[0][0] if isinstance(stream[0], tuple) else stream[0]
    module, transport = model._module, lens.transports[0]
    with torch.no_grad():
        moved = first[0] @ transport.weight.T.float()
        if transport.bias is not None:
            moved = moved + transport.bias
        head = module.get_output_embeddings()(module.get_decoder().norm(moved))
    by_hand = torch.log_softmax(head, -1).max(-1).values
    row = next(n for n, site in enumerate(read.sites) if site.layer == 0)
    np.testing.assert_allclose(read.top_logprobs[row, :, 0], by_hand, atol=1e-4)


def test_what_takes_no_images_says_so():
    model, image = made("llava")[0], picture()
    chat = [{"role": "user", "content": [{"type": "image", "image": image}]}]
    with pytest.raises(ValueError, match="map of prompts with images"):
        lr.patch_map(model, [chat], [chat], 7, 8)
    with pytest.raises(ValueError, match="a lens is fitted on text"):
        lr.fit_lens(model, [{"text": "the dog", "image": image}])
    with pytest.raises(ValueError, match="images"):
        lr.lens_alignment(None, model, [chat] * 4, answer=7)
    who = lr.attribution(model, prompt("llava"), 7, images=image, unit="component")
    with pytest.raises(ValueError, match="prompts with images, which it does not keep"):
        lr.confirm(model, who)


def test_a_dose_at_the_patches_under_a_box():
    model, image = made("qwen2_vl")[0], picture()
    edit = lr.steer(7, layer=1, positions={"box": (0, 0, 80, 50)})
    curve = lr.dose(model, prompt("qwen2_vl"), edit, [0, 1], images=image, targets=7, controls=1)
    alone = lr.logit_lens(
        model, prompt("qwen2_vl"), images=image, targets=7, positions=-1, edits=edit, controls=0
    )
    np.testing.assert_allclose(
        curve.logprobs[1].ravel(), alone.target_logprobs[-1].ravel(), atol=1e-4
    )
    assert abs(float(curve.kl[0].max())) < 1e-6


def test_a_job_of_prompts_with_images_wants_them_again():
    images = [picture(0), picture(1)]
    own = lr.logit_lens(made("llava")[0], [prompt("llava")] * 2, images=images, positions="image")
    arguments = restore_arguments(own.provenance["arguments"])
    assert arguments["positions"] == "image"
    header = JobHeader("logit_lens", "a/b", None, "", arguments, "", [], {})
    check_images("a.job", header, images)
    with pytest.raises(lr.LensError, match="pass them again"):
        check_images("a.job", header, None)
    with pytest.raises(lr.LensError, match="images of prompt 1"):
        check_images("a.job", header, images[:1] * 2)
    damaged = JobHeader("logit_lens", "a/b", None, "", {**arguments, "images": 5}, "", [], {})
    for given in (None, images):
        with pytest.raises(lr.LensError, match=r"the job in 'a\.job' is damaged"):
            check_images("a.job", damaged, given)


def test_a_result_with_a_damaged_record_of_its_images_says_so():
    model, image = made("llava")[0], picture()
    found = lr.logit_lens(model, prompt("llava"), images=image, layers=-1)
    found.provenance["arguments"]["images"] = 5
    with pytest.raises(lr.LensError, match="this result is damaged"):
        found.verify(model, images=image)


# -- what a model adds between its blocks ------------------------------


def test_a_config_says_after_which_blocks_a_model_adds_of_its_images():
    def said(config):
        return layers_with_additions(SimpleNamespace(_module=SimpleNamespace(config=config)))

    granite = transformers.Granite4VisionConfig(
        deepstack_layer_map=[[-2, 0], [-4, 3]], spatial_target_layers=[5, 9]
    )
    assert said(granite) == [2, 4, 8]  # before block 0 it is the embedding
    assert said(made("qwen3_vl")[0]._module.config) == [0]
    assert said(made("llava")[0]._module.config) == []
