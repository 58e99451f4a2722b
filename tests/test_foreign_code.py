"""Python code that comes with a checkpoint: it runs where the user said so, and nobody is asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from slow import others_slow
from transformers import dynamic_module_utils
from transformers.modeling_outputs import CausalLMOutput

import lens_recipes as lr
from lens_recipes.models import handle

PACKAGE = Path(lr.__file__).parent

TEXT = "The capital of France is"

# What a checkpoint brings along: it leaves a mark when it is imported. The model is a Llama in
# transformers' own code, of which only the type is another.
CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

pathlib.Path({mark!r}).write_text("ran")

class OwnConfig(LlamaConfig):
    model_type = {model_type!r}

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""

CONFIG_CLASSES = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnModel",
}

TOKENIZER_CLASSES = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}


@pytest.fixture(scope="module")
def copied_code(tmp_path_factory):
    """A folder for what transformers copies in order to import it; forgotten afterwards."""
    folder = str(tmp_path_factory.mktemp("copied"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", folder)
        patch.setattr(sys, "path", list(sys.path))
        yield folder
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def change(file, **settings):
    """Change settings of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture(params=others_slow(["config.json", "tokenizer_config.json"], "config.json"))
def asking(request, tmp_path, copied_code):
    """A checkpoint of which one file asks for code, that file's name, and the mark of the code."""
    # A name of its own: Python remembers modules by it.
    folder = tiny.save(tiny.for_text("llama"), tmp_path / f"asking_{tmp_path.name}")
    return make_ask(folder, request.param), request.param, tmp_path / "mark"


def make_ask(folder, name):
    """Give a checkpoint code of its own, named in one of its files."""
    mark = folder.parent / "mark"
    model_type = "own-type"
    (folder / "own.py").write_text(CODE.format(mark=str(mark), model_type=model_type))
    if name == "config.json":
        change(folder / name, auto_map=CONFIG_CLASSES, model_type=model_type)
    else:
        change(folder / name, auto_map=TOKENIZER_CLASSES, tokenizer_class="OwnTokenizer")
    return folder


def answering_yes(code, *arguments):
    """Run Python with "y" on stdin, as often as anyone asks; return what it wrote."""
    done = subprocess.run(
        [sys.executable, *code, *map(str, arguments)],
        input="y\n" * 50,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    return done.stdout + done.stderr


TRIES = """
import sys
import lens_recipes as lr
from lens_recipes.models.load import skeleton

folder = sys.argv[1]
tries = {
    "load": lambda: lr.load(folder),
    "remote": lambda: lr.load(folder, remote="http://127.0.0.1:9"),
    "no": lambda: lr.load(folder, trust_remote_code=False),
    "none": lambda: lr.load(folder, trust_remote_code=None),
    "paste": lambda: lr.paste("first-lens", folder),
}
for name, attempt in tries.items():
    try:
        attempt()
    except lr.LensError as error:
        print(f"{name}: {error}")
print("end")
"""


def test_the_code_does_not_run_and_nobody_is_asked_whatever_stands_on_stdin(asking):
    folder, name, mark = asking
    said = answering_yes(["-c", TRIES], folder)
    assert not mark.exists()
    assert "[y/N]" not in said
    assert said.strip().endswith("end")
    for attempt in ("load", "remote", "no", "none", "paste"):
        (sentence,) = re.findall(rf"^{attempt}: (.*)", said, flags=re.MULTILINE)
        assert f"'{folder}/{name}'" in sentence
        assert "trust_remote_code=True" in sentence


def test_the_command_line_refuses_it_too(asking):
    folder, name, mark = asking
    command = ["-m", "lens_recipes", "paste", "first-lens", "-m"]
    said = answering_yes(command, folder)
    assert not mark.exists()
    assert "[y/N]" not in said
    assert "Traceback" not in said
    assert name in said
    assert "trust_remote_code=True" in " ".join(said.split())


def test_the_code_runs_where_the_user_said_so(asking):
    folder, _, mark = asking
    model = lr.load(folder, trust_remote_code=True)
    assert mark.exists()
    assert handle.tokenizer_of(model) is not None
    result = lr.logit_lens(model, TEXT)
    expected = lr.logit_lens(lr.load(tiny.for_text("llama"), tokenizer=tiny.tiny_tokenizer()), TEXT)
    np.testing.assert_allclose(result.top_logprobs, expected.top_logprobs, atol=1e-5)


def test_a_checkpoint_with_code_and_no_tokenizer_takes_ids(tmp_path, copied_code):
    folder = tiny.save(tiny.for_text("llama"), tmp_path / f"bare_{tmp_path.name}")
    make_ask(folder, "config.json")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    model = lr.load(folder, trust_remote_code=True)
    assert type(model._module).__name__ == "OwnModel"
    assert handle.tokenizer_of(model) is None
    assert_as_transformers(model, tiny.for_text("llama"))


def test_a_skeleton_is_built_of_code_that_is_trusted(tmp_path, copied_code):
    folder = tiny.save(tiny.for_text("llama"), tmp_path / f"bones_{tmp_path.name}")
    make_ask(folder, "config.json")
    model = lr.load(folder, trust_remote_code=True, remote=True)
    assert handle.on_meta(model)
    assert type(model._module).__name__ == "OwnModel"


def test_a_pasted_script_trusts_what_its_user_trusted(asking):
    folder, _, _ = asking
    script = lr.paste("first-lens", folder, trust_remote_code=True)
    assert script.count("trust_remote_code=True") == 1
    compile(script, "script", "exec")


def test_a_pasted_script_says_nothing_of_trust_where_nobody_did(tmp_path):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    assert "trust_remote_code" not in lr.paste("first-lens", folder)


def test_code_that_transformers_does_not_need_is_left_alone(tmp_path):
    """A config of a type that transformers knows: its own class is taken, as ever."""
    folder = tiny.save(tiny.for_text("llama"), tmp_path / "known")
    mark = tmp_path / "mark"
    (folder / "own.py").write_text(CODE.format(mark=str(mark), model_type="llama"))
    change(folder / "config.json", auto_map=CONFIG_CLASSES)
    assert lr.logit_lens(lr.load(folder), TEXT).certificate.passed
    assert not mark.exists()


# -- classes of a user's own program -----------------------------------


IDS = [7, 8, 9, 10]


def assert_as_transformers(model, module):
    """Check the last layer's lens of a model against the logits of a module."""
    result = lr.logit_lens(model, IDS, positions=-1, targets=[11, 12, 13])
    assert result.certificate.passed
    with torch.no_grad():
        logits = module(torch.tensor([IDS])).logits[0, -1]
    np.testing.assert_allclose(result.target_logits[-1, 0], logits[11:14].numpy(), atol=1e-4)


class RegisteredConfig(transformers.LlamaConfig):
    model_type = "registered-own"


class RegisteredForCausalLM(transformers.LlamaForCausalLM):
    config_class = RegisteredConfig


@pytest.fixture
def registered(monkeypatch):
    """A class of a user's program, as transformers documents it; taken back afterwards."""
    mappings = (transformers.CONFIG_MAPPING, transformers.MODEL_FOR_CAUSAL_LM_MAPPING)
    for mapping in mappings:
        monkeypatch.setattr(mapping, "_extra_content", dict(mapping._extra_content))
    transformers.AutoConfig.register(RegisteredConfig.model_type, RegisteredConfig)
    transformers.AutoModelForCausalLM.register(RegisteredConfig, RegisteredForCausalLM)


def test_a_class_that_a_program_registered_is_loaded(registered, tmp_path):
    module = tiny.for_text("llama")
    config = RegisteredConfig(**module.config.to_dict() | {"architectures": None})
    own = RegisteredForCausalLM(config).eval()
    own.load_state_dict(module.state_dict())
    tiny.save(own, tmp_path)
    model = lr.load(tmp_path)
    assert type(model._module) is RegisteredForCausalLM
    assert_as_transformers(model, module)


class BareForCausalLM(transformers.PreTrainedModel):
    """A class that cannot generate: it has no GenerationMixin."""

    config_class = RegisteredConfig
    _tied_weights_keys = None

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **options):
        hidden = self.model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return CausalLMOutput(logits=self.lm_head(hidden.last_hidden_state))


@pytest.mark.parametrize("with_tokenizer", [True, False], ids=["text", "ids"])
def test_a_class_that_cannot_generate_is_loaded(registered, tmp_path, with_tokenizer):
    transformers.AutoModelForCausalLM.register(RegisteredConfig, BareForCausalLM, exist_ok=True)
    module = tiny.for_text("llama")
    config = RegisteredConfig(**module.config.to_dict() | {"architectures": None})
    own = BareForCausalLM(config).eval()
    own.load_state_dict(module.state_dict())
    tiny.save(own, tmp_path)
    if not with_tokenizer:
        for file in tmp_path.glob("tokenizer*"):
            file.unlink()
    model = lr.load(tmp_path)
    assert type(model._module) is BareForCausalLM
    assert_as_transformers(model, module)
    if with_tokenizer:
        both = lr.logit_lens(model, [TEXT, "One"], positions=-1)
        alone = lr.logit_lens(model, "One", positions=-1)
        np.testing.assert_allclose(both.top_logprobs[:, 1], alone.top_logprobs[:, 0], atol=1e-4)


# -- in the package ----------------------------------------------------


@pytest.mark.parametrize("said", ["true", "false", 2, []])
def test_trust_is_yes_or_no(tmp_path, said):
    folder = tiny.save(tiny.for_text("llama"), tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        lr.load(folder, trust_remote_code=said)


def test_one_file_of_the_package_reads_checkpoints():
    calls = re.compile(r"(\.from_pretrained|\.from_config|[^]]\bTransformersModel|LanguageModel)\(")
    reading = PACKAGE / "models" / "loading" / "reading.py"
    elsewhere = []
    for file in PACKAGE.rglob("*.py"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if file != reading and calls.search(line):
                elsewhere.append(f"{file.relative_to(PACKAGE)}: {line.strip()}")
    allowed = (
        "models/loading/wrap.py: return model_class(",
        "recipes/paste/loading.py:",
        "run/remote/paper.py: paper = TransformersModel(module,",  # a module, built already
    )
    assert [line for line in elsewhere if not line.startswith(allowed)] == []
