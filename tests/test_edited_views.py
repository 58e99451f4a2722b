"""What people see of edits: the word in every view, what verifies them, and how they are typed."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from hostile import FIELD
from test_lens_argument import random_lens
from test_lens_views import VIEWS, text_of, written

import lens_recipes as lr
from lens_recipes.arrays.text import escape_page_text
from lens_recipes.cli.common.edits import EXAMPLES, parse_edits
from lens_recipes.results import load_result
from lens_recipes.run.request.edits.resolve import edits_provenance
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.words import edited, lens_names

PROMPTS = ["some words to begin with", "some words to begin here"]
TARGETS = [[260, 261], [262, 263]]
ABLATION = lr.ablate(layer=1, component="head_out", head=2, positions=3)
WORDS = "edited: ablate (to zero) L1H2 at position 3"


def with_edits(result, *edits):
    """A result that says that its run was edited."""
    return dataclasses.replace(
        result, provenance={**result.provenance, **edits_provenance(list(edits))}
    )


@pytest.fixture(scope="module")
def plain(llama):
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS, top_k=4)


@pytest.fixture(scope="module")
def ablated(llama):
    return lr.logit_lens(llama, PROMPTS, targets=TARGETS, top_k=4, edits=ABLATION)


@pytest.fixture(scope="module")
def generation(llama):
    return lr.generate_lens(llama, "some words", max_new_tokens=3, targets=260)


# -- the word ----------------------------------------------------------


def table_in(form):
    return lambda result, path: lr.table(result, format=form, prompt=0)


OF_EVERY_LENS = {
    **VIEWS,
    "batch": table_in("text"),
    "beside": lambda result, path: lr.table(result, beside=result, prompt=0),
    "markdown beside": lambda result, path: lr.table(result, beside=result, format="markdown"),
    "tsv": table_in("tsv"),
    "json": table_in("json"),
    "frame": lambda result, path: result.to_frame().to_csv(),
}


@pytest.mark.parametrize("name", OF_EVERY_LENS)
def test_every_view_says_edited(name, plain, ablated, tmp_path):
    words = "ablate (to zero) L1H2 at position 3" if name in ("tsv", "json", "frame") else WORDS
    assert words in OF_EVERY_LENS[name](ablated, tmp_path).replace("&#40;", "(").replace(
        "&#41;", ")"
    )
    assert "edited" not in re.sub(r"\bedits\b", "", OF_EVERY_LENS[name](plain, tmp_path))


def test_every_view_of_a_generation_says_edited(generation, tmp_path):
    steered = with_edits(generation, lr.steer((260, 261), layer=1, scale=0.5))
    words = "steer by 0.5 × (260 − 261) at resid_post of layer 1, and while it writes"
    views = {
        "repr": lambda result, path: repr(result),
        "str": lambda result, path: str(result),
        "summary": lambda result, path: result.summary(),
        "notebook": lambda result, path: result._repr_html_(),
        "heatmap": text_of(lr.generation_heatmap),
        "steps": text_of(lr.generation_steps),
        "page": written(lr.write_generation),
        "table": lambda result, path: lr.table(result),
    }
    for name, view in views.items():
        assert words in view(steered, tmp_path), name
        assert "edited" not in view(generation, tmp_path), name
    lr.write_generation(steered, tmp_path / "pages")
    for page in (tmp_path / "pages").glob("*.html"):
        assert "at resid_post of layer 1, and while it writes" in page.read_text("utf-8"), page.name


@pytest.mark.parametrize("unit", ["layer", "component", "head", "token"])
def test_every_view_of_an_attribution_says_edited(llama, unit, tmp_path):
    draw = {"head": lr.head_grid, "token": lr.source_map}.get(unit, lr.attribution_bars)
    result = lr.attribution(llama, "some words", [260], against="mean", unit=unit)
    ablated = with_edits(result, ABLATION)
    views = {
        "repr": lambda result, path: repr(result),
        "str": lambda result, path: str(result),
        "summary": lambda result, path: result.summary(),
        "markdown": lambda result, path: lr.table(result, format="markdown"),
        "notebook": lambda result, path: result._repr_html_(),
        "figure": text_of(draw),
        "frame": lambda result, path: f"edited: {result.to_frame()['edits'][0]}".strip(": "),
    }
    for name, view in views.items():
        assert WORDS in view(ablated, tmp_path).replace("&#40;", "(").replace("&#41;", ")"), name
        assert "edited" not in view(result, tmp_path).removeprefix("edited"), name


def test_bars_over_prompts_say_edited(llama):
    who = lr.attribution(llama, PROMPTS, TARGETS, unit="head")
    figure = lr.attribution_bars(with_edits(who, ABLATION), prompt=None)
    assert WORDS in lr.caption(figure)
    assert "mean over 2 prompts" in figure.layout.title.text


def test_of_more_than_two_edits_the_first_two_are_named(plain, ablated):
    edits = [lr.ablate(layer=layer, positions=layer) for layer in range(3)]
    three = with_edits(plain, *edits, ABLATION, ABLATION)
    line = edited(three)
    assert line == (
        "edited: ablate (to zero) resid_post of layer 0 at position 0; ablate (to zero) resid_post "
        "of layer 1 at position 1; and 3 more"
    )
    assert any(told.startswith(line) for told in three.summary().splitlines())
    assert "and 3 more" in lr.caption(lr.heatmap(three))
    rows = json.loads(lr.table(three, format="json"))
    assert all(row["edits"].count("ablate") == 5 for row in rows)  # programs get them all
    assert edited(plain) == ""


def test_a_long_edit_keeps_its_end(plain):
    source = "word " * 60
    edit = lr.patch(source, layer=range(0, 24, 2), component="resid_mid", positions=[1, 3, 5])
    line = edited(with_edits(plain, edit))
    assert len(line) <= 170
    assert line.endswith("at position 1, 3, 5")
    lines = lr.heatmap(with_edits(plain, edit)).layout.title.subtitle.text.split("<br>")
    (shown,) = [line for line in lines if "edited" in line]
    assert len(shown) <= 110


def test_a_lens_within_an_edit_is_named(llama, plain):
    lens = dataclasses.replace(random_lens(llama), source="folder/lens.safetensors")
    edit = lr.swap(260, 261, layers=[0, 1], lens=lens)
    name = f"under the linear lens (folder/lens.safetensors, {lens.digest[:8]}…)"
    assert str(edit).endswith(name)
    result = lr.logit_lens(llama, PROMPTS, edits=edit)
    assert edited(result).endswith(name)
    assert str(lr.steer(260, layer=1, lens="a.safetensors")).endswith("the lens 'a.safetensors'")
    assert "lens" not in str(lr.steer(260, layer=1, lens="logit"))


def test_an_edited_run_beside_a_plain_one_has_another_name(plain, ablated):
    assert lens_names([plain, ablated]) == ["base", WORDS]
    assert lens_names([ablated, ablated]) == ["logit lens 1, edited", "logit lens 2, edited"]
    title = lr.compare(plain, ablated).layout.title.text
    assert title.startswith("base and edited:")
    assert lr.compare(ablated, plain).layout.title.text.startswith("edited:")
    assert "and base:" in lr.compare(ablated, plain).layout.title.text
    assert WORDS in lr.table(plain, beside=ablated)


def test_a_page_of_two_runs_says_which_one_was_edited(plain, ablated, tmp_path):
    lr.report(plain, tmp_path / "page.html", beside=ablated)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    header = page[page.index("<header>") : page.index("</header>")]
    first, second = re.findall(r'<div data-lens="\d"[^>]*>(.*?)</div>', header, re.S)
    assert "edited" not in first
    assert WORDS in second


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_file_keeps_the_word(ablated, suffix, tmp_path):
    ablated.save(tmp_path / f"result{suffix}")
    again = load_result(tmp_path / f"result{suffix}")
    assert WORDS in str(again)
    assert edited(again) == edited(ablated)


# -- what others wrote in an edit --------------------------------------

HOSTILE_EDITS = [
    {"kind": "patch", "layer": 1, "source": FIELD},
    {"kind": "steer", "layer": FIELD, "direction": [FIELD, FIELD], "lens": {"source": FIELD}},
    {"kind": "swap", "a": FIELD, "b": f"{FIELD}.", "positions": [FIELD], "lens": {"kind": "linear", "source": FIELD, "digest": FIELD}},
    {"kind": "ablate", "layer": 1, "positions": FIELD, "to": "mean", "over": [FIELD]},
]  # fmt: skip


@pytest.mark.parametrize("fields", HOSTILE_EDITS, ids=lambda fields: fields["kind"])
def test_nothing_in_an_edit_acts_anywhere(plain, generation, llama, fields, tmp_path):
    fields = json.loads(json.dumps(fields).replace("\\ud800", ""))
    result = dataclasses.replace(plain, provenance={**plain.provenance, "edits": [fields]})
    result.save(tmp_path / "result.json")
    result = load_result(tmp_path / "result.json")
    wrote = dataclasses.replace(generation, provenance=result.provenance)
    who = lr.attribution(llama, "some words", [260], unit="head")
    who = dataclasses.replace(who, provenance={**who.provenance, "edits": [fields]})
    pages = [result._repr_html_(), who._repr_html_(), lr.compare(plain, result).to_json()]
    for draw in (lr.heatmap, lr.trajectory, lr.rank_flow, lr.layer_profile, lr.top_tokens):
        pages.append(draw(result).to_json())
    pages += [lr.generation_heatmap(wrote).to_json(), lr.generation_steps(wrote).to_json()]
    pages += [lr.head_grid(who).to_json(), lr.attribution_bars(who).to_json()]
    lr.report(result, tmp_path / "page.html", beside=plain)
    lr.write_generation(wrote, tmp_path / "steps.html")
    pages += [(tmp_path / name).read_text("utf-8") for name in ("page.html", "steps.html")]
    assert all("$\\alpha$" not in page for page in pages[2:10])  # plotly would take it for TeX
    for page in pages:
        assert "edited" in page
        for tag in ("<script>window", "<img src=https", "<link rel", "<style>@import"):
            assert tag not in page
    for text in (str(result), result.summary(), repr(result), str(who), str(wrote)):
        assert text == escape_terminal(text)
        assert "edited" in text
    assert max(map(len, lr.table(result, width=80, prompt=0).splitlines())) <= 80
    markdown = lr.table(result, format="markdown", prompt=0).split("\n\n")[0]
    assert not re.search(r"<[a-z/]|https:|[`$]", markdown)
    rows = list(csv.DictReader(io.StringIO(lr.table(result, format="tsv")), dialect="excel-tab"))
    assert all(row["edits"].startswith(fields["kind"]) for row in rows)
    assert len(rows) == len(plain.sites) * len(plain)
    assert escape_page_text(edited(result)) in pages[-2]


@pytest.mark.parametrize(
    "edits",
    [
        [{"kind": "ablate", "layer": {"slice": ["a", "b", None]}}],
        [{"kind": "ablate", "layer": {"slice": [1]}, "positions": {"slice": [1, [], 3]}}],
        [{"kind": "steer", "scale": [1]}],
        [{"kind": "swap", "lens": {"kind": ["linear"], "source": 5, "digest": {}}, "when": []}],
        [{"kind": "ablate", "to": {"float32": "AAAA", "shape": [3, 3]}}],
        [{"kind": ["ablate"]}],
        ["ablate"],
        {"kind": "ablate"},
    ],
)
def test_a_file_with_damaged_edits_is_refused(plain, edits, tmp_path):
    plain.save(tmp_path / "result.json")
    stored = json.loads((tmp_path / "result.json").read_text("utf-8"))
    stored["provenance"]["edits"] = edits
    (tmp_path / "result.json").write_text(json.dumps(stored), "utf-8")
    with pytest.raises(lr.LensError, match=r"'edits' is .*expected is a list of edits"):
        load_result(tmp_path / "result.json")


# -- verify ------------------------------------------------------------

VERIFIED = {
    "ablation": [ABLATION],
    "mean": [lr.ablate(layer=1, component="mlp_out", to="mean", positions=[1, 2])],
    "resample": [lr.ablate(layer=1, to="resample", positions=[-1])],
    "patch": [lr.patch(0, layer=1, positions=-1), lr.patch("a b c", layer=0, positions=2)],
    "vector": [lr.steer(np.full(32, 0.5), layer=1, positions=slice(1, 3), normalize=False)],
    "steer": [lr.steer((260, 261), layer=1, scale=0.5), ABLATION],
    "swap": [lr.swap(260, 261, layers=range(2), positions=[[1], [2]])],
}  # fmt: skip


@pytest.mark.parametrize("name", VERIFIED)
def test_an_edited_result_is_edited_again(llama, name, tmp_path):
    edits = VERIFIED[name]
    result = lr.logit_lens(llama, PROMPTS, targets=TARGETS, edits=edits)
    result.save(tmp_path / "result.npz")
    saved = load_result(tmp_path / "result.npz")
    again = saved.verify(llama)
    assert again.certificate.passed
    assert again.certificate.max_edit_error is not None
    assert again.edits[0].to_json() == result.edits[0].to_json()
    unedited = dataclasses.replace(saved, provenance={**saved.provenance, "edits": []})
    with pytest.raises(lr.LensError, match="is not what this model says"):
        unedited.verify(llama)  # the numbers are those of the edited run


def test_another_edit_than_the_one_that_was_made_is_told(llama, ablated):
    claimed = with_edits(ablated, lr.ablate(layer=1, component="head_out", head=1, positions=3))
    with pytest.raises(lr.LensError, match="is not what this model says"):
        claimed.verify(llama)


def test_one_prompt_whose_edit_takes_from_another_is_told(llama):
    result = lr.logit_lens(llama, PROMPTS, edits=lr.patch(0, layer=1, positions=-1))
    with pytest.raises(lr.LensError, match="only the whole result can be verified"):
        result[1].verify(llama)
    whole = lr.logit_lens(llama, PROMPTS, edits=lr.ablate(layer=1, positions=1))
    assert whole[1].verify(llama).certificate.passed


def test_the_lens_of_an_edit_is_found_again_or_asked_for(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lens = random_lens(llama)
    lens.save("lens.safetensors")
    loaded = lr.load_lens("lens.safetensors", llama)
    edit = lr.swap(260, 261, layers=[0, 1], lens=loaded)
    result = lr.logit_lens(llama, PROMPTS, edits=edit)
    assert result.verify(llama).certificate.passed
    (tmp_path / "lens.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(lr.LensError, match=r"swap 260 and 261 .*is not there: pass it, lens="):
        result.verify(llama)
    other = random_lens(llama, seed=5)
    assert result.verify(llama, lens=lens).certificate.passed
    assert result.verify(llama, lens=[other, lens]).certificate.passed
    # The lens that it was read with, and the lens of the edit.
    both = lr.logit_lens(llama, PROMPTS, edits=edit, lens=other)
    assert both.verify(llama, lens=[other, lens]).certificate.passed
    with pytest.raises(lr.LensError, match="is not there"):
        both.verify(llama, lens=other)


def test_what_was_written_under_an_edit_is_written_anew(llama, generation):
    with pytest.raises(lr.LensError, match="Write it anew"):
        with_edits(generation, ABLATION).verify(llama)


# -- the shell ---------------------------------------------------------

TYPED = {
    "ablate L23H4": lr.ablate(layer=23, component="head_out", head=4),
    "ablate 23.head_out.4": lr.ablate(layer=23, component="head_out", head=4),
    "ablate 23.head_out": lr.ablate(layer=23, component="head_out"),
    "ablate 12.mlp_out to mean at 3": lr.ablate(layer=12, component="mlp_out", to="mean", positions=3),
    "ablate all to resample at -1": lr.ablate(to="resample", positions=-1),
    "ablate embed at 0,3": lr.ablate(component="embed", positions=[0, 3]),
    "ablate -1 at 2:5 when both": lr.ablate(layer=-1, positions=slice(2, 5), when="both"),
    "patch 12 from 'The capital of Spain is' at 4": lr.patch("The capital of Spain is", layer=12, positions=4),
    "patch 8-20.attn_out from prompt 1 at 3 from 5": lr.patch(1, layer=slice(8, 21), component="attn_out", positions=3, source_positions=5),
    "patch L3H2 from prompt": lr.patch("prompt", layer=3, component="head_out", head=2),
    "steer 20 by ' Rome' - ' Paris' x0.5": lr.steer((" Rome", " Paris"), layer=20, scale=0.5),
    "steer 20 by ' Rome' x-2 at -1 under logit": lr.steer(" Rome", layer=20, scale=-2, positions=-1, lens="logit"),
    "steer 1,2 by - - +": lr.steer(("-", "+"), layer=[1, 2]),
    "swap ' France' ' Italy' in 8-20": lr.swap(" France", " Italy", layers=slice(8, 21)),
    "swap ' a' and ' b' in 3.resid_pre live at 2": lr.swap(" a", " b", layers=3, component="resid_pre", clamp=False, positions=2),
}  # fmt: skip


@pytest.mark.parametrize("text", TYPED)
def test_an_edit_is_read_as_it_is_typed(text):
    (edit,) = parse_edits([text])
    assert (type(edit), edit.to_json()) == (type(TYPED[text]), TYPED[text].to_json())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["a verb is missing", "ablate L23H4"]),
        ("ablte L23H4", ["'ablte' is unknown", "ablate, patch, steer, swap"]),
        ("ablate", ["a place is missing"]),
        ("ablate L23", ["'L23' is no place", "L23H4"]),
        ("ablate 12.foo", ["component='foo' cannot be edited", "'mlp_out'"]),
        ("ablate 12.mlp_out.3", ["head=3 needs"]),
        ("ablate 20-12", ["runs backwards", "12-20"]),
        ("ablate 12 to nothing", ["to='nothing' is unknown", "'zero'"]),
        ("ablate 12 to", ["zero, mean or resample is missing"]),
        ("ablate 12 at x", ["'x' is no position"]),
        ("ablate 12 when never", ["when='never' is unknown"]),
        ("ablate 12 L3H2", ["'L3H2' is not understood there"]),
        ("ablate 12 at 0,1 at 2", ["'at' is said twice"]),
        ("patch 12 from 'a' at 3 from 2 from 1", ["'from' is said twice"]),
        ("patch 12", ["'from'", "are missing", "'The capital of Spain is'"]),
        ("patch 12 'The capital'", ["found 'The capital'"]),
        ("patch 12 from 'The capital", ["quotation mark"]),
        ("patch 12 from The capital of", ["'capital' is not understood there"]),
        ("steer 20", ["'by'", "x0.5"]),
        ("steer 20 by ' a' -", ["the token after minus is missing"]),
        ("steer L20H3 by ' a'", ["cannot be steered", "attn_out"]),
        ("swap ' a'", ["the second token is missing"]),
        ("swap ' a' ' b'", ["'in'"]),
        ("swap ' a' ' a' in 3", ["the same token"]),
        ("swap ' a' ' b' in 3.mlp_out", ["cannot be swapped"]),
    ],
)
def test_a_mistake_in_an_edit_is_answered_before_a_model_is_loaded(cli, text, words):
    status, _, err = cli(None)("logit-lens", "Hi", "--edit", text)
    assert status == 2
    said = " ".join(err.split())
    assert "--edit" in said
    for word in [*words, "One that is right"]:
        assert word in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ablate L99H0", ["--edit: ablate (to zero) L99H0", "layers=99 is out of range"]),
        ("ablate L1H99", ["heads=99 is out of range"]),
        ("ablate 1 at 99", ["positions=99 is out of range", "prompt 0"]),
        ("patch 1 from 'a b c d e f g h'", ["Name the positions"]),
        ("patch 1 from prompt 3", ["there are prompts 0 to 0"]),
        ("steer 1 by 'some more words'", ["--edit: steer", "tokens for this model"]),
        ("ablate 1 to resample", ["to resample takes", "pass several prompts."]),
        ("steer 1 by 'a' under nowhere.safetensors", ["nowhere.safetensors"]),
    ],
)
def test_an_edit_that_a_model_cannot_make_is_answered(cli, llama, text, words):
    status, _, err = cli(llama)("logit-lens", "some words", "--edit", text)
    assert status in (1, 2)
    for word in words:
        assert word in " ".join(err.split())


def test_a_shell_edits_as_python_does(cli, llama, tmp_path):
    run = cli(llama)
    file, page = tmp_path / "result.json", tmp_path / "page.html"
    status, out, _ = run(
        "logit-lens", PROMPTS[0], "--edit", "ablate L1H2 at 3", "--edit", "steer 1 by 'a' - 'e' x0.5",
        "--json", str(file), "--html", str(page),
    )  # fmt: skip
    assert status == 0
    assert WORDS + "; steer by 0.5 × ('a' − 'e') at resid_post of layer 1" in out
    assert WORDS in page.read_text(encoding="utf-8")
    edits = [ABLATION, lr.steer(("a", "e"), layer=1, scale=0.5)]
    expected = lr.logit_lens(llama, PROMPTS[0], edits=edits)
    found = load_result(file)
    assert (found.top_logprobs == expected.top_logprobs).all()
    status, out, _ = run("show", str(file))
    assert WORDS in out
    status, out, _ = run("show", str(file), "--summary")
    assert WORDS in out.splitlines()[1]


def test_a_shell_runs_controls_as_python_does(cli, llama, tmp_path):
    """5 by default; as many as are asked for; none at 0, and the line below the table says what is then not known."""
    run = cli(llama)
    file = tmp_path / "result.json"
    for options, expected in (([], 5), (["--controls", "2"], 2), (["--controls", "0"], 0)):
        status, out, _ = run(
            "logit-lens", PROMPTS[0], "--edit", "ablate L1H2", "--json", str(file), *options
        )
        assert status == 0
        effects = load_result(file).effects
        assert (0 if effects is None else len(effects.controls)) == expected
        told = f"({expected} controls" if expected else "no unedited run beside it"
        assert told in " ".join(out.split())
    assert effects is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--controls", "3"], "there is no --edit that 3 could be the controls of"),
        (["--edit", "ablate L1H2", "--controls", "-1"], "it must be at least 0"),
    ],
)
def test_controls_of_nothing_are_refused(cli, options, words):
    status, _, err = cli(None)("logit-lens", "Hi", *options)
    assert status == 2
    assert words in " ".join(err.split())


def test_the_examples_are_right():
    for verb, text in EXAMPLES.items():
        (edit,) = parse_edits([text])
        assert edit.kind == verb


def test_help_explains_edits(cli):
    for command in ("logit-lens", "attribute", "generate"):
        _, out, _ = cli(None)(command, "--help")
        assert "--edit" in out
        assert "ablate L23H4" in " ".join(out.split())
