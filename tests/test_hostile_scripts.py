"""`paste`: a name or a number that somebody else chose is a literal of the script and nothing more."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import math
import os
import sys
import types

import hostile
import pasted
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow import others_slow

import lens_recipes as lr
from lens_recipes.models.load import skeleton
from lens_recipes.recipes.paste import literals, paste
from lens_recipes.recipes.paste.expressions import (
    arithmetic_expression,
    module_expression,
    softcap_expression,
)
from lens_recipes.recipes.paste.literals import Code, literal, plain_words, printed
from lens_recipes.recipes.paste.source import ModelSource
from lens_recipes.trace.operations import CastTo, Elementwise

# A docstring, a comment, a text, a template, and bytes that are no UTF-8.
FOLDERS = [
    'x""";open("PASTED","w");"""',
    "x''';open('PASTED','w');'''",
    'x"+open("PASTED","w").name+"',
    'x\\";open("PASTED","w")#',
    '\nopen("PASTED","w")\n#',
    '\r\nopen("PASTED","w")\x0b\x0c',
    "{{ 7 * 7 }}{% raw %}{{{",
    "{MODEL} %s \\N{BULLET} \\u0041 \\x41",
    "🙂 \u202eabc\u2066 שלום",
    "&lt;<b>&amp;",
    "ends in a backslash\\",
    os.fsdecode(b"\xff\xfe model \x80"),
    "None",
    "C:",
]


class Stop(Exception):
    """The model of a script is asked for."""


@pytest.fixture(scope="module")
def config_folder(tmp_path_factory):
    """A folder that holds the config of a small model."""
    folder = tmp_path_factory.mktemp("config")
    tiny.for_text("gemma2").config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(config_folder):
    return ModelSource(skeleton(str(config_folder)))


@pytest.fixture
def any_name(monkeypatch, source):
    """Every name is one of this small model."""
    monkeypatch.setattr(paste, "skeleton", lambda name, **_: None)
    monkeypatch.setattr(paste, "refuse_code_of_tokenizer", lambda *_: None)
    monkeypatch.setattr(paste, "ModelSource", lambda model: source)


def asked_for(script: str, folder, monkeypatch) -> str:
    """Run a script until it loads its model; return what it loads."""
    asked = []

    def stop(name, **options):
        asked.append(name)
        raise Stop

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nnsight", types.SimpleNamespace(TransformersModel=stop))
        patch.chdir(folder)
        with pytest.raises(Stop):
            exec(compile(script, "script.py", "exec"), {"__name__": "__main__"})
    return asked[0]


def model_named(script: str) -> str:
    """The value of the constant MODEL of a script."""
    for statement in ast.parse(script).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "MODEL":
            return ast.literal_eval(statement.value)
    raise AssertionError("no MODEL")


def without_name(script: str) -> list[str]:
    """The lines of a script, but for the one that names its model."""
    lines = script.split("\n")
    return [line for line in lines if not line.startswith("MODEL = ")]


@pytest.mark.parametrize("name", others_slow(FOLDERS, *list(FOLDERS)[:1]))
def test_a_folder_of_any_name_is_a_literal(name, config_folder, tmp_path, monkeypatch):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_bytes((config_folder / "config.json").read_bytes())
    local = [recipe for recipe in pasted.OF_TEXT if recipe != "remote"]
    number = FOLDERS.index(name)
    # The first name goes through every script, and each other through one, in turn.
    for recipe in [local[number % len(local)]] if number else local:
        script = lr.paste(recipe, str(folder))
        script.encode()  # it goes into a file of UTF-8
        assert asked_for(script, tmp_path, monkeypatch) == str(folder)
        assert without_name(script) == without_name(lr.paste(recipe, str(config_folder)))
    assert not (tmp_path / "PASTED").exists()


@pytest.mark.parametrize("remote", [False, True], ids=["here", "remote"])
@settings(
    max_examples=5,  # more: tests/full
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=st.one_of(st.sampled_from(FOLDERS + hostile.HOSTILE), st.text()))
def test_any_name_is_a_literal_of_one_line(any_name, remote, name):
    for recipe in pasted.OF_TEXT:
        if recipe == "remote" and not remote:
            continue
        if name == "smollm2" or os.path.isdir(name):  # written in another way, and refused
            continue
        script = lr.paste(recipe, name, remote=remote)
        assert model_named(script) == name
        assert without_name(script) == without_name(lr.paste(recipe, "plain", remote=remote))


def test_bytes_are_a_path_as_any_other(any_name):
    assert model_named(lr.paste("first-lens", b"\xff")) == os.fsdecode(b"\xff")


@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(family=st.one_of(st.sampled_from(FOLDERS + hostile.HOSTILE), st.text()))
def test_a_family_of_any_name_leaves_the_docstring_whole(monkeypatch, source, family):
    anatomy = dataclasses.replace(source.anatomy, family=family)
    with monkeypatch.context() as patch:
        patch.setattr(paste, "skeleton", lambda name, **_: None)
        patch.setattr(paste, "refuse_code_of_tokenizer", lambda *_: None)
        patch.setattr(source, "anatomy", anatomy)
        patch.setattr(paste, "ModelSource", lambda model: source)
        script = lr.paste("first-lens", "plain")
        docstring, *statements = ast.parse(script).body
        assert docstring.value.value.endswith(f"({plain_words(family)}).\n")
        patch.setattr(source, "anatomy", dataclasses.replace(anatomy, family="Plain"))
        _, *plain = ast.parse(lr.paste("first-lens", "plain")).body
    assert [*map(ast.dump, statements)] == [*map(ast.dump, plain)]


@given(text=st.text())
def test_what_is_written_is_what_was_read(text):
    written = literal(text)
    assert ast.literal_eval(written) == text
    assert len(written.splitlines()) == 1
    assert written.isprintable()
    written.encode()


@given(number=st.one_of(st.integers(), st.floats(), st.booleans()))
def test_numbers_of_all_kinds_are_written(number):
    value = eval(literal(number))
    assert value == number or (math.isnan(number) and math.isnan(value))


class Node:
    """A module: parts by name and by index."""

    def __getitem__(self, index):
        return self.__dict__[str(index)]


@given(names=st.lists(st.text(min_size=1).filter(lambda name: "." not in name), max_size=4))
def test_a_module_of_any_name_is_found(names):
    names = ["ﬁ", "class", "²", "03", "a-b", *names]  # the first is read as "fi"
    root = node = Node()
    for name in names:
        child = Node()
        node.__dict__[name] = child
        node = child
    assert eval(module_expression(".".join(names)), {"model": root, "getattr": read}) is node


def read(node, name):
    """As `getattr`, also for the names of dunder attributes that every object has."""
    return node.__dict__[name]


def test_infinite_scales_are_numbers():
    """As a config may have them: JSON's `Infinity`."""
    x = torch.tensor([-1.0, 0.5])
    for number in (math.inf, -math.inf, math.nan, -2.0, 3, 1e-30):
        for name in ("mul", "div", "add", "sub", "pow", "clamp"):
            operation = Elementwise(name, (number,))
            value = eval(arithmetic_expression(operation, "x"), {"x": x, "torch": torch})
            torch.testing.assert_close(value, operation.apply(None, x), equal_nan=True)
    cap = [
        Elementwise("div", (math.inf,)),
        Elementwise("tanh", ()),
        Elementwise("mul", (math.inf,)),
    ]
    assert eval(softcap_expression(cap, "x"), {"x": x, "torch": torch}).isnan().all()
    assert arithmetic_expression(CastTo("float16"), "x") == "x.to(torch.float16)"


def test_a_config_with_an_infinite_softcap_gives_python(tmp_path):
    config = tiny.for_text("gemma2").config
    config.final_logit_softcapping = math.inf
    config.save_pretrained(tmp_path)
    for recipe in ("first-lens", "attribution"):
        tree = ast.parse(lr.paste(recipe, str(tmp_path)))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not names & {"inf", "nan"}


def test_a_template_prints_nothing_that_did_not_pass():
    environment = paste._environment()
    for template in ("{{ x }}", "{% if true %}{{ x }}{% endif %}", "{{ x | indent(4) }}"):
        with pytest.raises(TypeError, match="is no code: pass it through literal"):
            environment.from_string(template).render(x="open('PASTED', 'w')")
    assert environment.from_string("x = {{ x }}").render(x=literal("<'&")) == 'x = "<\'&"'
    with pytest.raises(TypeError, match="is no code"):
        printed(Code("a") + "b")
    with pytest.raises(TypeError, match="neither a text nor a number"):
        literal(None)


def test_the_examples_are_true():
    outcome = doctest.testmod(literals)
    assert outcome.attempted > 0
    assert outcome.failed == 0
