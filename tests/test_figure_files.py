"""A figure becomes the image it says, or a sentence says what is missing."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import kaleido
import plotly.graph_objects as go
import pytest
from choreographer.channels import ChannelClosedError

import lens_recipes as lr

ROOT = Path(__file__).parent.parent


@pytest.fixture
def figure():
    return go.Figure(
        go.Scatter(y=[1, 3, 2]), {"title": {"text": "Three points"}, "width": 320, "height": 240}
    )


def pixels(png: bytes) -> tuple[int, int]:
    """Width and height as the file itself has them (PNG specification, IHDR)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    return struct.unpack(">II", png[16:24])


def test_a_png_has_the_size_that_was_asked_for(figure, tmp_path):
    lr.save_png(figure, tmp_path / "own.png")
    assert pixels((tmp_path / "own.png").read_bytes()) == (640, 480)
    lr.save_png(figure, tmp_path / "asked.png", width=200, height=150, scale=1.5)
    assert pixels((tmp_path / "asked.png").read_bytes()) == (300, 225)
    assert len(list(tmp_path.iterdir())) == 2  # no scratch is left


def test_an_svg_is_a_drawing_with_its_texts(figure, tmp_path):
    lr.save_svg(figure, tmp_path / "a.svg", width=500)
    svg = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert (svg.get("width"), svg.get("height")) == ("500", "240")
    assert "Three points" in "".join(svg.itertext())


def test_a_wrong_argument_says_what_is_accepted(figure, tmp_path):
    with pytest.raises(ValueError, match=r"save_png writes a \.png file; received 'a\.svg'"):
        lr.save_png(figure, "a.svg")
    with pytest.raises(ValueError, match=r"save_svg writes a \.svg file"):
        lr.save_svg(figure, tmp_path / "a")
    for wrong in ({"width": 0}, {"height": -3}, {"scale": float("inf")}, {"width": "wide"}):
        with pytest.raises(ValueError, match="must be a number above 0"):
            lr.save_png(figure, tmp_path / "a.png", **wrong)
    with pytest.raises(lr.LensError, match=r"cannot write .*No such file"):
        lr.save_png(figure, tmp_path / "no" / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_without_kaleido_it_says_what_to_install(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)  # importing it is an ImportError
    with pytest.raises(lr.LensError, match=r"pip install 'lens-recipes\[png\]'"):
        lr.save_svg(figure, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def saving(browser, folder, before="") -> subprocess.CompletedProcess:
    """Save a figure in a process of its own, which must end: kaleido keeps what it found.

    Args:
        browser: What stands in BROWSER_PATH.
        folder: Where the picture would be.
        before: Lines that run first.
    """
    script = (
        "import faulthandler\n"
        "faulthandler.dump_traceback_later(100, exit=True)\n"  # names the threads that hang
        "import plotly.graph_objects as go, lens_recipes as lr\n"
        f"{before}"
        "try:\n    lr.save_png(go.Figure(), 'a.png')\n"
        "except lr.LensError as error:\n    print(error, error.__cause__ is None)\n"
    )
    environment = {
        "BROWSER_PATH": str(browser),
        "PATH": "",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("browser", "said"),
    [
        (
            "/nowhere/chrome",
            "none was found (BROWSER_PATH='/nowhere/chrome' names no file): install one",
        ),
        ("/bin/false", "the browser (BROWSER_PATH='/bin/false') ended as soon as it was started"),
    ],
)
def test_without_a_browser_it_says_so_in_one_sentence(browser, said, tmp_path):
    done = saving(browser, tmp_path)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("*.png")) == []


# A machine that is so busy that the browser has ended before kaleido speaks to it.
BUSY = """
import kaleido, time
populate = kaleido.Kaleido.populate_targets
def later(browser):
    time.sleep(2)
    return populate(browser)
kaleido.Kaleido.populate_targets = later
"""


def test_a_browser_whose_pipe_breaks_first_has_ended_too(monkeypatch, tmp_path):
    """Which of the two kaleido sees first is chance."""

    async def broken(browser):
        raise ChannelClosedError("the pipe is closed")

    monkeypatch.setattr(kaleido.Kaleido, "open", broken)
    with pytest.raises(lr.LensError, match="ended as soon as it was started"):
        lr.save_png(go.Figure(), tmp_path / "a.png")


def test_a_browser_that_ends_too_early_does_not_keep_the_process(tmp_path):
    """Half opened, kaleido left a thread that waited for the browser to say more, for ever."""
    done = saving("/bin/false", tmp_path, BUSY)
    assert done.returncode == 0, done.stderr
    assert "ended as soon as it was started" in done.stdout


IMPATIENT = """
from lens_recipes.views.figures import browser
browser.SECONDS_TO_START = browser.SECONDS_TO_END = 1
"""


def test_a_browser_that_never_answers_is_given_up(tmp_path):
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho $$ > pid\nexec /bin/sleep 600\n")
    silent.chmod(0o755)
    done = saving(silent, tmp_path, IMPATIENT)
    assert done.returncode == 0, done.stderr
    assert "did not draw the figure: TimeoutError: it did not answer within 1 s" in done.stdout
    process = Path("/proc", (tmp_path / "pid").read_text().strip())
    assert not process.exists()
