"""What the documents show is what happens: blocks run, names and options exist, links lead somewhere."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import math
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import jq
import loopback
import nnsight
import numpy as np
import pytest
import torch
import typer.main
import yaml
from loopback import SMOLLM2, Loopback
from packaging.version import Version
from PIL import Image
from slow import others_slow
from transformers import AutoTokenizer

import lens_recipes as lr
from lens_recipes.cli.app import app
from lens_recipes.models import smollm2 as smollm2_files

pytest_plugins = ["loopback"]

ROOT = Path(__file__).parent.parent
REFERENCES = sorted(f"references/{path.name}" for path in (ROOT / "references").glob("*.md"))
WITH_CODE = [
    "README.md",
    "SKILL.md",
    *(name for name in REFERENCES if "```python\n" in (ROOT / name).read_text()),
]
DOCUMENTS = ["README.md", "SKILL.md", "CHANGELOG.md", *REFERENCES]
DOCUMENTS += ["evals/README.md"] if (ROOT / "evals" / "README.md").exists() else []
NOW = [name for name in DOCUMENTS if name != "CHANGELOG.md"]  # which may name what is no more
FOLDERS = "references|examples|benchmarks|docs|tests|evals|lens_recipes|\\.claude-plugin"
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
SHOWN = {
    "result": lr.LensResult,
    "said": lr.LensResult,
    "who": lr.Attribution,
    "read": lr.Attribution,
    "job": lr.Job,
}


def read(name: str) -> str:
    return (ROOT / name).read_text()


def script(name: str):
    """A script of this repository, as a module."""
    spec = importlib.util.spec_from_file_location(f"{Path(name).stem}_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- code --------------------------------------------------------------


LLAVA = "llava-hf/llava-1.5-7b-hf"


@pytest.fixture
def loads(smollm2, tmp_path, monkeypatch):
    """The documents' models: "smollm2", loaded once; for the 70B one SmolLM2 on a server of this machine, for the one that sees SmolLM2 with eyes made by hand."""
    really = lr.load
    loopback.lay_out(tmp_path, SMOLLM2, smollm2_files.folder())
    for name in ("NDIF_API_KEY", "NDIF_HOST"):
        monkeypatch.delenv(name, raising=False)
    with loopback.hub_at(tmp_path), Loopback(smollm2) as server:
        away = really(SMOLLM2, remote=server.url)
        known = {("smollm2", False): smollm2, ("meta-llama/Llama-3.1-70B", True): away}

        def load(source, remote=False):
            if source != LLAVA:
                return known[source, remote]
            with mock.patch.object(lr, "load", really):
                return script("examples/eyes/by_hand.py").smollm2_with_eyes()

        monkeypatch.setattr(lr, "load", load)
        yield


@pytest.mark.parametrize("name", others_slow(WITH_CODE, "README.md", "SKILL.md"))
def test_every_python_block_runs_in_order(name, loads, tmp_path, monkeypatch):
    """From a file on disk, as nnsight needs it, and in an empty folder."""
    blocks = re.findall(r"^```python\n(.*?)^```$", read(name), re.DOTALL | re.MULTILINE)
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if "photo.jpg" in "".join(blocks):
        Image.fromarray(script("examples/eyes/by_hand.py").red_above_blue()).save("photo.jpg")
    document = tmp_path / "document.py"
    # What is fitted on 12,000 tokens in a minute, as `make demo` does, is fitted on fewer here.
    document.write_text("\n".join(blocks).replace("tokens=12_000", "tokens=3_000"))
    runpy.run_path(str(document))


def said_by(kind: str) -> list:
    """The old idioms of a kind, "raises" or "warns", each with the heading above it: what one sees."""
    found = re.findall(
        rf"^### ([^\n]+)\n\n```python {kind}\n(.*?)^```$",
        read("references/nnsight-0.8.md"),
        re.M | re.S,
    )
    assert found
    return [pytest.param(heading, code, id=heading) for heading, code in found]


def run_old(code: str, model, folder: Path) -> None:
    script = folder / "old.py"
    script.write_text(code)
    runpy.run_path(str(script), init_globals={"model": model, "nnsight": nnsight, "torch": torch})


@pytest.mark.parametrize(("heading", "code"), said_by("raises"))
def test_an_old_idiom_raises_what_the_page_says(heading, code, llama, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "old.py"]
    )  # the tests may run below a `python -c`
    with warnings.catch_warnings(), pytest.raises(Exception, match=re.escape(heading)):  # noqa: PT012
        warnings.simplefilter("ignore")
        run_old(code, llama, tmp_path)
    llama._module.requires_grad_(False)


@pytest.mark.parametrize(("heading", "code"), said_by("warns"))
def test_an_old_idiom_warns_as_the_page_says(heading, code, llama, tmp_path):
    with pytest.warns(Warning, match=re.escape(heading)):
        run_old(code, llama, tmp_path)


def test_a_folder_needs_its_tokenizer_named(folder):
    with pytest.raises(Exception, match="Impossible to guess which tokenizer to use"):
        nnsight.TransformersModel(str(folder), task="text-generation")
    assert lr.load(str(folder), remote=True).tokenizer is not None  # as the page says


@pytest.mark.parametrize(
    ("package", "module"), [("anyio", "anyio._backends._asyncio"), ("beartype", "beartype")]
)
def test_what_is_imported_after_nnsight_raises_what_the_page_says(package, module):
    if package == "anyio" and Version(importlib.metadata.version("anyio")) < Version("4.15"):
        pytest.skip("this anyio takes no offence")
    with mock.patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        with pytest.raises(TypeError) as error:
            importlib.import_module(module)
    assert f"### {error.value}\n" in read("references/nnsight-0.8.md")


RIGHT_ORDER = """
import anyio._backends._asyncio, beartype
import nnsight
import asyncio, httpx
async def ask():
    async with httpx.AsyncClient() as client:
        try: await client.get("http://127.0.0.1:1")
        except httpx.ConnectError: print("asked")
asyncio.run(ask())
beartype.beartype(lambda: None)
"""


def test_what_is_imported_before_nnsight_works_as_the_page_says():
    done = subprocess.run(
        [sys.executable, "-c", RIGHT_ORDER], capture_output=True, text=True, check=True
    )
    assert done.stdout == "asked\n"


# Examples that need a server are run by tests/ndif.
@pytest.mark.parametrize(
    "example",
    others_slow(
        sorted(p.name for p in (ROOT / "examples").glob("*.py") if "remote" not in p.name),
        "01_first_lens.py",
    ),
)
def test_every_example_runs(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [example])
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    assert "certified" in capsys.readouterr().out


# -- names -------------------------------------------------------------


@pytest.mark.parametrize("name", NOW)
def test_every_name_the_documents_use_exists(name):
    text = read(name)
    assert [used for used in re.findall(r"\blr\.(\w+)", text) if not hasattr(lr, used)] == []
    for variable, kind in SHOWN.items():
        used = set(re.findall(rf"\b{variable}\.(\w+)", text)) - {"json", "npz"}
        assert [
            field
            for field in used
            if field not in (*dir(kind), *getattr(kind, "__dataclass_fields__", ()))
        ] == []


def shell_lines() -> list:
    """Every call of the command, as code or in a line of its own, in the documents and in the commands' examples."""
    texts = {
        name: read(name) for name in NOW if name != "references/api.md"
    }  # which breaks lines, and is generated
    texts |= {
        f"{name} --help": command.epilog or ""
        for name, command in typer.main.get_command(app).commands.items()
    }
    found = []
    for name, text in texts.items():
        lines = re.findall(r"^ *(lens-recipes [^`]*?)$", text, re.MULTILINE)
        lines += re.findall(r"(?<!`)`(lens-recipes [^`]+)`", FENCE.sub("", text))
        found += [
            pytest.param(line, id=f"{name}: {' '.join(line.split())}")
            for line in dict.fromkeys(lines)
        ]
    return found


@pytest.mark.parametrize("line", shell_lines())
def test_every_shell_line_is_understood(line):
    """Command, options and the form of their values; nothing is run."""
    words = shlex.split(line.replace("[", "").replace("]", ""), comments=True)[1:]
    words = words[
        : next((at for at, word in enumerate(words) if word in ("|", ">", ">>", "&&")), len(words))
    ]
    commands = typer.main.get_command(app)
    if words[0] == "--help":
        return
    assert words[0] in commands.commands, f"there is no command {words[0]!r}"
    command = commands.commands[words[0]]
    try:
        command.make_context(words[0], words[1:])
    except Exception as missing:
        if (
            type(missing).__name__ != "MissingParameter" or words[1:]
        ):  # a command may be named without all it needs
            raise


# -- places ------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_local_link_leads_somewhere(name):
    place = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read(name))):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = place / file if file else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", NOW)
def test_every_file_that_is_named_is_there(name):
    for named in re.findall(rf"(?<![\w/.])(?:{FOLDERS})/[\w./-]*\w\.\w+", read(name)):
        assert (ROOT / named).exists(), named


# -- pages -------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_begins_with_when_to_open_it(name):
    title, first = read(name).split("\n\n")[:2]
    assert title.startswith("# ")
    assert first.startswith("Open this ")
    assert f"`{name}`" in read("SKILL.md")


def script_of_page(name: str):
    """A script of docs/, as a module."""
    return script(f"docs/{name}.py")


def test_the_api_page_is_fresh():
    api = script_of_page("api")
    assert api.page(lr) == api.PAGE.read_text(), f"references/api.md is stale; run: {api.COMMAND}"


def test_the_page_of_saved_results_is_fresh():
    results = script_of_page("results")
    assert results.page() == results.PAGE.read_text(), (
        f"references/results.md is stale; run: {results.COMMAND}"
    )


def test_the_programs_for_jq_say_what_the_arrays_say(llama, tmp_path):
    """Each of them, of a result with two prompts, read as jq reads it."""
    result = lr.logit_lens(llama, ["The fox", "One, two"], targets=[[" the"], [" and"]])
    said = lr.generate_lens(llama, "The fox", max_new_tokens=3, do_sample=False)
    who = lr.attribution(llama, "The fox", " the", unit="head")
    last = len(result[0].tokens) - 1
    targets = [" the", " and", int(result.final_ids[last])]
    survey = lr.survey(llama, [{"prompt": "The fox", "target": target} for target in targets])
    top = result.top_ids[-1, last, 0]
    cells = [
        [result.sites[s].layer, int(result.tokens.prompt[t]), int(result.tokens.position[t])]
        for s, t in np.argwhere(~result.readable)
    ]
    assert cells  # a random model's early layers
    expected = [
        [[site.layer, site.component] for site in result.sites],
        [True],
        [result.text(top)],
        [math.exp(result.top_logprobs[-1, last, 0])],
        [result.target_ranks[:, last, 0].tolist()],
        cells,
        [said.responses[0].text],
        [[list(part), value] for part, value in who.top(5)],
        [[int((survey.ranks[:, -1] == 0).sum()), 3]],
    ]
    assert (survey.ranks[:, -1] == 0).any()
    page = script_of_page("results")
    questions = page.QUESTIONS
    files = {"lens": result, "written": said, "parts": who, "survey": survey}
    for question, values in zip(questions, expected, strict=True):
        file = tmp_path / f"{question.kind}.json"
        files[question.kind].save(file)
        shown = jq.compile(question.program).input_text(file.read_text()).all()
        if question.kind == "parts":
            assert [row[0] for row in shown] == [row[0] for row in values]
            np.testing.assert_allclose(
                [row[1] for row in shown], [row[1] for row in values], rtol=1e-5
            )
        elif isinstance(values[0], float):
            assert shown == pytest.approx(values, rel=1e-5)
        else:
            assert shown == values, question.words
    stored = json.loads((tmp_path / "survey.json").read_text())
    assert set(stored) == {"format", "version", *page.SURVEY_FIELDS}


def test_the_skill_is_valid(tmp_path):
    """The folder's name must be the skill's."""
    (tmp_path / "lens-recipes").symlink_to(ROOT)
    command = [Path(sys.executable).with_name("agentskills"), "validate", tmp_path / "lens-recipes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_skill_is_short():
    """SmolLM2's small vocabulary counts more tokens than those of the assistants that load the skill."""
    text = read("SKILL.md")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_files.folder())
    assert len(text.splitlines()) < 400
    assert len(tokenizer(text)["input_ids"]) < 4000


def test_the_description_is_plain():
    """Every loader of skills can read it: one line of YAML that is what it looks like."""
    _, header, body = read("SKILL.md").split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["description"] == re.search(r"^description: (.*)$", header, re.MULTILINE)[1]
    assert 200 < len(fields["description"]) <= 1024
    assert not set("<>") & set(header)
    assert "---" not in header
    assert "\n---\n" not in body
    assert fields["name"] == "lens-recipes"


def test_the_gallery_has_every_figure():
    """Each public function that draws a figure is drawn by `make gallery`."""
    drawn = read("docs/gallery.py")
    figures = []
    for name in lr.__all__:
        annotations = getattr(getattr(lr, name), "__annotations__", {})
        if name != "paper" and "go.Figure" in str(annotations.get("return")):
            figures.append(name)
    assert len(figures) == 23
    assert [name for name in figures if f"lr.{name}(" not in drawn] == []
