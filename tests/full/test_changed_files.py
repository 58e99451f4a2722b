"""Saved files, changed in some of their values or in some of their bytes: refused in a sentence, or shown by every view.

Of each kind of result 1,090 changed files are read: 800 in which values of the JSON are others, are missing, twice or in
another order, 150 with other arrays in an .npz, and 70 of each sort with other bytes. That is 11,990 for the eleven
kinds. Each file that loads is shown by the quick views, some of which take turns, and every sixth by one of the slow ones.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import FUZZ, VALUES, changes, damaged_bytes

import lens_recipes as lr
from lens_recipes.cli.app import main
from lens_recipes.results import load_result
from lens_recipes.views.files import as_json

SLOW_EVERY = 6

# -- what is changed ---------------------------------------------------

TEXTS = ["The fox", "One"]
KINDS: dict[str, Callable[[Any], Any]] = {
    "stream": lambda m: lr.logit_lens(m, TEXTS, targets=[" the", 7], layers=[0, 2, 3], top_k=2),
    "components": lambda m: lr.logit_lens(
        m, "The fox", components=["embed", "resid_mid", "attn_out", "mlp_out", "resid_post"], layers=[0, 3], top_k=2
    ),
    "heads": lambda m: lr.logit_lens(m, TEXTS, components="head_out", layers=[1, 3], heads=[0, 2], positions=-1, top_k=2),
    "raw stream": lambda m: lr.logit_lens(m, "One", layers=[0, 3], apply_norm=False, track=None, top_k=1),
    "generation": lambda m: lr.generate_lens(
        m, TEXTS, max_new_tokens=2, do_sample=False, targets=" the", layers=[0, 3], top_k=2
    ),
    "generation of components": lambda m: lr.generate_lens(
        m, "One", max_new_tokens=2, seed=0, do_sample=True, components=["attn_out", "resid_post"], layers=[0, 3], top_k=1,
        include_prompt=True,
    ),
    "vectors": lambda m: lr.decode_vectors(m, np.eye(2, 32, dtype=np.float32), targets=" the", top_k=2),
    "layers": lambda m: lr.attribution(m, TEXTS, [" the", 7], positions=[0, -1]),
    "components of a logit": lambda m: lr.attribution(m, TEXTS, " the", against="mean", unit="component", at_layer=1),
    "heads of a logit": lambda m: lr.attribution(m, "One", " the", against=7, unit="head", at_layer=1),
    "tokens of a logit": lambda m: lr.attribution(m, TEXTS, " the", unit="token", at_layer=1),
}  # fmt: skip

each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def saved(llama, tmp_path_factory):
    """The whole text of a saved result of each kind, by its name; each is made once."""

    @functools.cache
    def text_of(kind: str) -> str:
        return as_json(KINDS[kind](llama))

    return text_of


# -- how it is changed -------------------------------------------------

# Where values are changed; nothing names all fields.
FIELDS: dict[str, tuple[str, ...]] = {
    "anywhere": (),
    "facts": ("provenance", "certificate"),
    "names": (
        "sites", "parts", "responses", "sources", "unit", "at_layer", "against", "texts", "prompts", "token_text",
        "inputs",
    ),
    "numbers": ("arrays",),
}  # fmt: skip


@st.composite
def changed_array(draw, array: np.ndarray) -> np.ndarray:
    """An array of other numbers, of another type, or of another shape."""
    array = array.copy()
    way = draw(st.sampled_from(["value", "fill", "type", "shape", "order", "cut", "zero-d"]))
    if way in ("value", "fill"):
        with np.errstate(all="ignore"):
            number = draw(
                st.sampled_from([v for v in VALUES if isinstance(v, int | float) and abs(v) < 1e40])
            )
            if array.dtype.kind != "f":
                number = int(np.clip(np.nan_to_num(number), -(2**31), 2**31 - 1))
            if way == "fill" or not array.size:
                array[...] = number
            else:
                array.flat[draw(st.integers(0, array.size - 1))] = number
        return array
    with np.errstate(all="ignore"):
        match way:
            case "type":
                kind = draw(
                    st.sampled_from(
                        ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u8", "?", "c8", "U3", "M8[s]"]
                    )
                )
                return array.astype(kind) if kind != "M8[s]" else array.astype("i8").view(kind)
            case "shape":
                return array[None] if draw(st.booleans()) else array.reshape(-1)
            case "order":
                return np.asfortranarray(array[::-1])
            case "cut":
                return array[: draw(st.integers(0, max(0, len(array) - 1)))]
    return np.float32(1.0)[()] * np.ones(())


# -- what it is shown by -----------------------------------------------


def saved_again(result: Any, folder: Path) -> None:
    for name in ("again.json", "again.npz"):
        result.save(folder / name)
        again = load_result(folder / name)
        assert type(again) is type(result)
        assert again.summary() == result.summary()


def on_the_command_line(*options: str) -> Callable[[Any, Path], None]:
    """Show the file, as it is saved again, in this process."""

    def show(result: Any, folder: Path) -> None:
        result.save(folder / "shown.json")
        arguments = ["lens-recipes", "show", str(folder / "shown.json"), *options]
        with (
            mock.patch.object(sys, "argv", arguments),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            try:
                main()
                status = 0
            except SystemExit as stop:
                status = stop.code
        if status:
            raise ValueError(errors.getvalue())

    return show


def each_prompt(result: Any, folder: Path) -> None:
    for single in list(result)[:3]:
        repr(single)
        single.summary()
        lr.table(single, format="markdown")


View = Callable[[Any, Path], Any]
ALWAYS: dict[str, View] = {
    "repr": lambda r, _: repr(r),
    "summary": lambda r, _: r.summary(),
    "markdown": lambda r, _: lr.table(r, format="markdown"),
    "tsv": lambda r, _: lr.table(r, format="tsv"),
}
IN_TURN: dict[str, View] = {
    "str": lambda r, _: str(r),
    "frame": lambda r, _: r.to_frame(),
    "notebook": lambda r, _: r._repr_html_(),
    "saved again": saved_again,
    "each prompt": each_prompt,
}
OF_BOTH: dict[str, View] = {
    "show": on_the_command_line(),
    "show --table": on_the_command_line("--table", "--position", "0"),
    "show --summary": on_the_command_line("--summary"),
}
OF_A_LENS: dict[str, View] = {
    "heatmap": lambda r, _: lr.heatmap(r),
    "heatmap of ranks": lambda r, _: lr.heatmap(r, metric="rank", of="final"),
    "heatmap of entropy": lambda r, _: lr.heatmap(r, metric="entropy"),
    "heatmap of KL": lambda r, _: lr.heatmap(r, metric="kl"),
    "layer_profile": lambda r, _: lr.layer_profile(r),
    "trajectory": lambda r, _: lr.trajectory(r),
    "rank_flow": lambda r, _: lr.rank_flow(r),
    "top_tokens": lambda r, _: lr.top_tokens(r),
    "compare": lambda r, _: lr.compare(r, r),
    "generation_heatmap": lambda r, _: lr.generation_heatmap(r),
    "generation_steps": lambda r, _: lr.generation_steps(r),
    "important": lambda r, _: r.important("kl_drop"),
    "settled": lambda r, _: (r.settled(), lr.settled_layers(r), r.timings),
    "report": lambda r, folder: lr.report(r, folder / "report.html"),
    "write_generation": lambda r, folder: lr.write_generation(r, folder / "page.html"),
    **OF_BOTH,
}
OF_A_LOGIT: dict[str, View] = {
    "attribution_bars": lambda r, _: lr.attribution_bars(r),
    "source_map": lambda r, _: lr.source_map(r),
    "head_grid": lambda r, _: lr.head_grid(r),
    "top": lambda r, _: (r.top(), r.by_layer()),
    "grid": lambda r, _: r.grid(),
    "by_source": lambda r, _: r.by_source(0, 0),
    **OF_BOTH,
}


@pytest.fixture(scope="module")
def refusals(saved, tmp_path_factory):
    """The views that refuse a kind of result as it is saved, each with good reason; by the name of the kind."""

    @functools.cache
    def of(kind: str) -> set[str]:
        folder = tmp_path_factory.mktemp("whole")
        (folder / "whole.json").write_text(saved(kind), encoding="utf-8")
        result = load_result(folder / "whole.json")
        refused = set()
        for name, view in views(result).items():
            try:
                view(result, folder)
            except ValueError:
                refused.add(name)
        return refused

    return of


def views(result: Any) -> dict[str, View]:
    slow = OF_A_LENS if isinstance(result, lr.LensResult) else OF_A_LOGIT
    return ALWAYS | IN_TURN | slow


def check(path: Path, refused: set[str]) -> None:
    """Load a file; if it loads, show it by every quick view and, now and then, by a slow one."""
    result, refusal = None, ""
    try:
        result = load_result(path)
    except lr.LensError as error:
        refusal = str(error)
    if result is None:
        assert "\n" not in refusal
        return
    turn = zlib.crc32(path.read_bytes())
    in_turn, slow = list(IN_TURN), sorted(set(views(result)) - set(ALWAYS) - set(IN_TURN))
    names = [*ALWAYS, in_turn[turn % len(in_turn)]]
    if turn % SLOW_EVERY == 0:
        names.append(slow[turn // SLOW_EVERY % len(slow)])
    for name in names:
        try:
            views(result)[name](result, path.parent)
        except ValueError as error:
            if name not in refused:
                raise AssertionError(f"{name} refuses what was loaded: {error}") from error


# -- the tests ---------------------------------------------------------


@each_kind
def test_each_kind_is_shown_as_it_is(saved, refusals, kind):
    """What is allowed to be refused is not everything."""
    assert not refusals(kind) & {*ALWAYS, *IN_TURN, *OF_BOTH}


@each_kind
@pytest.mark.parametrize("fields", FIELDS)
@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_other_values(saved, refusals, tmp_path, kind, fields, data):
    content = data.draw(changes(json.loads(saved(kind)), FIELDS[fields]))
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    check(path, refusals(kind))


def packed(saved, kind: str, folder: Path) -> Path:
    """The saved result as .npz, written once for each test."""
    path = folder / "whole.npz"
    if not path.exists():
        (folder / "whole.json").write_text(saved(kind), encoding="utf-8")
        load_result(folder / "whole.json").save(path)
    return path


@each_kind
@settings(FUZZ, max_examples=150)
@given(data=st.data())
def test_other_arrays(saved, refusals, tmp_path, kind, data):
    with np.load(packed(saved, kind, tmp_path)) as file:
        arrays = dict(file)
    for name in data.draw(
        st.lists(st.sampled_from(sorted(arrays)), min_size=1, max_size=2, unique=True)
    ):
        if name == "meta":
            content = data.draw(changes(json.loads(str(arrays["meta"]))))
            arrays["meta"] = np.array(json.dumps(content))
        elif name in arrays and data.draw(st.integers(0, 9)) == 0:
            del arrays[name]
        elif name in arrays:
            arrays[name] = data.draw(changed_array(arrays[name]))
    np.savez(tmp_path / "a.npz", **arrays)
    check(tmp_path / "a.npz", refusals(kind))


@each_kind
@pytest.mark.parametrize("suffix", [".json", ".npz"])
@settings(FUZZ, max_examples=70)
@given(data=st.data())
def test_other_bytes(saved, refusals, tmp_path, kind, suffix, data):
    whole = saved(kind).encode()
    if suffix == ".npz":
        whole = packed(saved, kind, tmp_path).read_bytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data.draw(damaged_bytes(whole)))
    check(path, refusals(kind))
