"""The tutorial runs, its text is about what it shows, and it can be read where nothing runs."""

from __future__ import annotations

import base64
import json
import math
import re
import runpy
from pathlib import Path

import nbformat
import pytest
from slow import others_slow

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "examples" / "tutorial.ipynb"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
OF_A_MACHINE = re.compile(
    r"/(home|root|Users|tmp|work|usr|opt)/|site-packages|[A-Z]:\\\\|Warning|WARNING|Traceback"
)

FIGURE = "application/vnd.plotly.v1+json"
PLAIN = ("stdout", "text/plain")


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(TUTORIAL, as_version=4)


@pytest.fixture(scope="module")
def fresh(committed, tmp_path_factory):
    """Run as docs/notebook.py runs it, by this Python."""
    run = runpy.run_path(str(ROOT / "docs" / "notebook.py"))["executed"]
    return run(committed, tmp_path_factory.mktemp("tutorial"))


def code(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def shown(output) -> dict[str, str]:
    """What an output shows, by its kind. A figure is a picture in what is committed, and plotly's where it was run."""
    if output.output_type == "stream":
        return {output.name: output.text}
    return {
        "figure" if kind in ("image/png", FIGURE) else kind: data
        for kind, data in output.data.items()
    }


def said(cell) -> str:
    """All that a cell shows as plain text."""
    return "\n".join(
        text for output in cell.outputs for kind, text in shown(output).items() if kind in PLAIN
    )


def test_it_is_a_valid_notebook_that_was_run_once_in_order(committed):
    nbformat.validate(committed)
    assert TUTORIAL.stat().st_size < 500_000
    assert [cell.execution_count for cell in code(committed).values()] == list(
        range(1, len(code(committed)) + 1)
    )
    assert all(cell.metadata == {} for cell in committed.cells)  # no times


@pytest.mark.parametrize("which", others_slow(["committed", "fresh"], "committed"))
def test_no_output_is_an_error_or_of_the_machine(which, request):
    for name, cell in code(request.getfixturevalue(which)).items():
        for output in cell.outputs:
            assert output.output_type in ("stream", "execute_result", "display_data"), name
            assert "stderr" not in shown(output), name
            assert not OF_A_MACHINE.search(json.dumps(shown(output))), name


@pytest.mark.slow
def test_what_is_committed_is_what_it_says_today(committed, fresh):
    """Each cell shows the same kinds of things and the same words, and numbers that are rounding apart."""
    for name, now in code(fresh).items():
        then = code(committed)[name]
        kinds = [[sorted(shown(output)) for output in cell.outputs] for cell in (then, now)]
        assert kinds[0] == kinds[1], name
        words = [" ".join(NUMBER.sub("#", said(cell)).split()) for cell in (then, now)]
        assert words[0] == words[1], name
        pairs = zip(*(map(float, NUMBER.findall(said(cell))) for cell in (then, now)), strict=True)
        assert all(math.isclose(a, b, rel_tol=0.02, abs_tol=0.02) for a, b in pairs), name


def test_each_figure_is_there_as_a_picture(committed):
    """GitHub does not run plotly's script."""
    outputs = [output for cell in code(committed).values() for output in cell.outputs]
    figures = [output.data for output in outputs if "figure" in shown(output)]
    assert len(figures) >= 6
    assert all(base64.b64decode(data.get("image/png", ""))[:4] == b"\x89PNG" for data in figures)
    assert (
        sum("text/html" in shown(output) for output in outputs) >= 2
    )  # results that show themselves


@pytest.mark.slow
def test_the_numbers_in_its_text_are_in_its_outputs(committed, fresh):
    """Those that are exact: with a decimal point or three digits, and not round."""
    outputs = json.dumps(
        [shown(output) for cell in code(fresh).values() for output in cell.outputs]
    )
    for cell in committed.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"`[^`]*`|\([^)]*\)", "", cell.source)  # not code, links and years
            quoted = [n for n in re.findall(r"\d+\.\d+|\d{3,}", prose) if not n.endswith("00")]
            assert [
                n for n in quoted if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\.?\d)", outputs)
            ] == [], cell.id
