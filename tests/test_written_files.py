"""Whatever writes a file writes it by one way: whole or absent, with the mode and through the links that were there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import plotly.graph_objects as go
import pytest

import lens_recipes as lr
from lens_recipes.cli.paste import Recipe, paste_command
from lens_recipes.results import load_result
from lens_recipes.views.figures import export
from lens_recipes.views.files import atomic_file

DATA = Path(__file__).parent / "data"


def write_result(path):
    load_result(DATA / "lens.json").save(path)


def write_attribution(path):
    load_result(DATA / "attribution_token.json").save(path)


def write_figure(path):
    lr.write_html(go.Figure(go.Scatter(y=[1, 3])), path)


def write_report(path):
    lr.report(load_result(DATA / "lens.json"), path)


def write_pages(path):
    lr.write_generation(load_result(DATA / "generation.json"), path)


def write_script(path):
    """As the shell does it; the script is made without a model here."""
    paste_command(Recipe("first-lens"), file=path)


def write_png(path):
    lr.save_png(go.Figure(), path)


def write_svg(path):
    lr.save_svg(go.Figure(), path)


WRITERS = {
    "result.json": write_result,
    "result.npz": write_result,
    "attribution.npz": write_attribution,
    "figure.html": write_figure,
    "figure.png": write_png,
    "figure.svg": write_svg,
    "report.html": write_report,
    "generation.html": write_pages,
    "script.py": write_script,
}

each_writer = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Neither a browser nor a model is needed to see how a file is written."""
    monkeypatch.setattr(export, "_drawn", lambda figure, options: b"x" * 10_000)
    monkeypatch.setattr(lr, "paste", lambda recipe, model, **options: "import nnsight\n" * 100)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@each_writer
def test_a_file_that_was_there_keeps_its_mode(name, tmp_path):
    path = tmp_path / name
    for mode in (0o600, 0o664, 0o440):
        path.touch()
        path.chmod(mode)
        WRITERS[name](path)
        assert mode_of(path) == mode
        assert path.stat().st_size > 100
    assert [file.name for file in tmp_path.iterdir()] == [name]


@each_writer
def test_a_new_file_gets_the_mode_of_the_umask_which_no_other_thread_sees_changed(
    name, tmp_path, monkeypatch
):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert mode_of(tmp_path / name) == 0o640


@each_writer
@pytest.mark.parametrize("there_before", [False, True])
def test_a_mount_without_modes_gets_its_file(name, there_before, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / name
    if there_before:
        path.touch()
        path.chmod(0o664)
    for function in ("chmod", "fchmod", "chown", "fchown"):
        monkeypatch.setattr(os, function, refuse)
    WRITERS[name](path)
    assert path.stat().st_size > 100


@each_writer
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"]
)
def test_a_disk_that_is_full_keeps_the_old_file(name, error, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the old file")
    written = []

    def stop(descriptor):
        """Where a disk without reservations says that it is full: at last."""
        written.append(os.fstat(descriptor).st_size)
        raise error

    monkeypatch.setattr(os, "fsync", stop)
    expected = lr.LensError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if expected is lr.LensError else None):
        WRITERS[name](path)
    assert written[0] > 100
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_file_system_without_fsync_gets_its_file(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_result(tmp_path / "result.json")
    assert load_result(tmp_path / "result.json")


@each_writer
def test_a_link_to_itself_is_refused_and_a_link_is_written_through(name, tmp_path):
    path, other, folder = tmp_path / name, tmp_path / f"other-{name}", tmp_path / "folder"
    path.symlink_to(name)
    with pytest.raises(lr.LensError, match=r"cannot write .*symbolic links"):
        WRITERS[name](path)
    assert path.is_symlink()

    path.unlink()
    path.symlink_to(other.name)
    WRITERS[name](path)  # to what is not there yet
    assert path.is_symlink()
    assert other.stat().st_size > 100
    other.chmod(0o600)
    WRITERS[name](path)
    assert path.is_symlink()
    assert mode_of(other) == 0o600

    folder.mkdir()
    other.unlink()
    path.unlink()
    path.symlink_to(folder)
    if name not in ("generation.html", "script.py"):  # refused in words of their own
        with pytest.raises(lr.LensError, match=r"cannot write .*Is a directory"):
            WRITERS[name](path)
    assert {file.name for file in tmp_path.iterdir()} == {"folder", name}


def test_an_interrupt_as_the_scratch_file_is_made_leaves_nothing(tmp_path, monkeypatch):
    make = os.open

    def interrupt(path, *args, **kwargs):
        make(path, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", interrupt)
        with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_names_may_be_is_written(tmp_path):
    path = tmp_path / ("a" * 250 + ".json")
    write_result(path)
    assert load_result(path)


def test_what_takes_text_as_it_comes_is_not_replaced(tmp_path):
    """A device or a pipe that a shell names: /dev/null, /dev/stdout, >(...)."""
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_file(pipe) as scratch:
            scratch.write_text("a text")
        assert os.read(reader, 100) == b"a text"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [file.name for file in tmp_path.iterdir()] == ["pipe.json"]
    with atomic_file(os.devnull) as scratch:
        scratch.write_text("a text")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stdout_or_stderr_is_no_traceback(closed, tmp_path):
    result, page = DATA / "lens.json", tmp_path / "page.html"
    command = f"'{sys.executable}' -m lens_recipes show '{result}' --table --html '{page}' {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if ">&-" in closed.split():
        assert done.stdout == ""
        assert done.stderr in ("", f"wrote {page}\n")
    else:
        assert "wrote" not in done.stdout
        assert done.stdout.count("\n") > 3
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
