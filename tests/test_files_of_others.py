"""Files that were made to harm their reader are refused in a sentence, before they cost memory or time."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lens_recipes as lr
from lens_recipes.arrays.text import escape_page_text, visible_token
from lens_recipes.results import load_result
from lens_recipes.run.remote.jobs.file import plain_errors, read_job
from lens_recipes.terminal import escape_terminal
from lens_recipes.views.words import prompt_end

DATA = Path(__file__).parent / "data"
assert lr.logit_lens  # the recipe of the job below is known from here on
ALLOWED_MB = 400  # beside what the process has when it begins to read

# Reads a file with little memory to spare, and prints the error.
READER = f"""
import resource, sys
from lens_recipes.errors import LensError
from lens_recipes.results import load_result
if any(path.endswith(".job") for path in sys.argv):
    from lens_recipes import Job, logit_lens
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {ALLOWED_MB} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    read = Job.load if path.endswith(".job") else load_result
    try:
        read(path)
        print("read")
    except LensError as error:
        print(error)
"""


def refusals(*paths: Path) -> list[str]:
    """The sentence with which each file is refused by a process that has little memory, and waits for nothing.

    It is "read" for a file that is not refused.
    """
    done = subprocess.run(
        [sys.executable, "-c", READER, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def members_of(name: str) -> dict[str, bytes]:
    """What the zip of a saved result holds."""
    with zipfile.ZipFile(DATA / name) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def zeros(*shape: int, dtype="<f4") -> bytes:
    """The beginning of an array of zeros: its header, and no zeros."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def write_npz(path: Path, members: dict[str, bytes], bombs: dict[str, tuple[bytes, int]]) -> Path:
    """Write an .npz with members as they are, and bombs: a header, and a number of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
        for name, (header, n_zeros) in bombs.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(header)
                for _ in range(n_zeros // 2**20):
                    member.write(bytes(2**20))
    return path


def test_arrays_that_unpack_too_large_are_refused_before_there_is_memory_for_them(tmp_path):
    members = members_of("lens.npz")
    meta = json.loads(str(np.load(DATA / "lens.npz")["meta"]))
    n_sites, n_tokens = len(meta["sites"]), len(meta["token_text"])
    without = {name: value for name, value in members.items() if name != "top_ids.npy"}
    # An axis whose length nothing else promises.
    k = 2**27 // (n_sites * n_tokens)
    header = zeros(n_sites, n_tokens, k, dtype="<i4")
    k_file = write_npz(tmp_path / "a.npz", without, {"top_ids.npy": (header, 2**29)})
    assert k_file.stat().st_size < 1e6
    # An axis of which the file itself says how long it is.
    without = {name: value for name, value in members.items() if name != "entropy.npy"}
    bomb = {"entropy.npy": (zeros(2**13, 2**14), 2**29)}
    site_file = write_npz(tmp_path / "b.npz", without, bomb)
    # The text beside the arrays.
    without = {name: value for name, value in members.items() if name != "meta.npy"}
    bomb = {"meta.npy": (zeros(dtype="<U134217728"), 2**29)}
    text_file = write_npz(tmp_path / "c.npz", without, bomb)
    # What nobody asks for is not unpacked.
    more_file = write_npz(tmp_path / "d.npz", members, {"more.npy": (zeros(2**27), 2**29)})
    of_k, of_sites, of_text, of_more = refusals(k_file, site_file, text_file, more_file)
    assert "unpacks to more than 100 times its size at 'top_ids'" in of_k
    assert "entropy has the shape [8192, 16384], expected [8, 4]" in of_sites
    assert "unpacks to more than 100 times its size at 'meta'" in of_text
    assert of_more == "read"
    assert str(load_result(more_file)) == str(load_result(DATA / "lens.npz"))


def changed_member(tmp_path, name: str, value: bytes) -> Path:
    return write_npz(tmp_path / "a.npz", {**members_of("lens.npz"), name: value}, {})


def test_nothing_is_unpickled_nor_is_it_advised(tmp_path):
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}]), allow_pickle=True)
    path = changed_member(tmp_path, "entropy.npy", pickled.getvalue())
    for broken in (path, tmp_path / "pickle.npz"):
        broken.touch()
        if broken.stat().st_size == 0:
            broken.write_bytes(b"\x80\x04}.")
        with pytest.raises(lr.LensError) as error:
            load_result(broken)
        assert "pickle" not in str(error.value).replace(str(broken), "")
    with pytest.raises(lr.LensError, match="'entropy' holds objects of Python"):
        load_result(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (zeros(8, 4), "not as long as its shape"),
        (zeros(8, 4) + bytes(129), "not as long as its shape"),
        (zeros(8, -4) + bytes(128), "expected"),
        (zeros(8, 4, dtype="<c8") + bytes(256), "holds no numbers"),
        (zeros(8, 4, dtype="<U1") + bytes(128), "holds no numbers"),
        (b"\x93NUMPY\x03\x00", "version"),
        (b"", "not a lens result, or not whole"),
    ],
    ids=["no data", "too much", "negative", "complex", "texts", "version 3", "empty"],
)
def test_a_member_that_is_no_array_of_a_result_is_told(tmp_path, value, words):
    path = changed_member(tmp_path, "entropy.npy", value)
    with pytest.raises(lr.LensError, match=words):
        lr.LensResult.load(path)


@pytest.mark.parametrize("packed", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_the_packing_of_results_is_unpacked(tmp_path, packed):
    """The others unpack to far more for each byte."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, value in members_of("lens.npz").items():
            archive.writestr(name, value)
    with pytest.raises(lr.LensError, match="packed in a way that results are not"):
        load_result(path)


def test_numbers_packed_in_any_order_and_size_are_read(tmp_path):
    """As numpy wrote them: Fortran order, other types of numbers, and not packed at all."""
    before = load_result(DATA / "lens.npz")
    with np.load(DATA / "lens.npz") as archive:
        arrays = dict(archive)
    arrays["entropy"] = np.asfortranarray(arrays["entropy"]).astype(">f8")
    arrays["top_ids"] = arrays["top_ids"].astype(np.int64)
    np.savez(tmp_path / "a.npz", **arrays)
    after = load_result(tmp_path / "a.npz")
    np.testing.assert_array_equal(after.entropy, before.entropy)
    np.testing.assert_array_equal(after.top_ids, before.top_ids)
    assert after.entropy.dtype == np.float32
    assert str(after) == str(before)


# -- what is no plain file ---------------------------------------------


def make_pipe(path):
    os.mkfifo(path)


def make_device(path):
    path.symlink_to("/dev/zero")


def make_folder(path):
    path.mkdir()


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def test_only_plain_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    sorts = {"pipe": make_pipe, "device": make_device, "folder": make_folder, "socket": make_socket}
    made = {}
    for sort, make in sorts.items():
        for suffix in (".json", ".npz", ".job"):
            path = Path(f"{sort}{suffix}")
            make(path)
            made[path] = f"'{path}' is no plain file but a {sort}"
    for sentence, told in zip(made.values(), refusals(*made), strict=True):
        assert sentence in told


def test_a_link_to_a_plain_file_is_read_and_one_to_itself_refused(tmp_path):
    link, loop = tmp_path / "link.json", tmp_path / "loop.json"
    link.symlink_to(DATA / "lens.json")
    assert load_result(link).prompts
    loop.symlink_to(loop)
    with pytest.raises(lr.LensError, match="cannot be read: Too many levels of symbolic links"):
        load_result(loop)


# -- JSON --------------------------------------------------------------


@pytest.mark.parametrize("depth", [100, 5_000, 1_000_000])
def test_json_that_is_nested_too_deeply_is_told(tmp_path, depth):
    whole = json.loads((DATA / "lens.json").read_text(encoding="utf-8"))
    path = tmp_path / "a.json"
    for field in ("provenance", "more"):
        text = json.dumps({**whole, field: "here"})
        path.write_text(text.replace('"here"', '{"a": ' + "[" * depth + "]" * depth + "}"))
        with pytest.raises(lr.LensError, match="nested too deeply"):
            load_result(path)


def test_jobs_nested_too_deeply_are_told(tmp_path):
    header, *events = (DATA / "logit_lens.job").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "a.job"
    deep = "[" * 10_000 + "]" * 10_000
    for lines in (
        [header.replace('"arguments": {', f'"arguments": {{"deep": {deep}, ')],
        [header, events[0].replace("{", f'{{"deep": {deep[9_900:10_100]}, ', 1)],
    ):
        path.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(lr.LensError, match="nested too deeply"), plain_errors(path):
            read_job(path)


# -- jobs --------------------------------------------------------------


def read_header(tmp_path, **changes):
    """Read a job's file whose header is another."""
    first = (DATA / "logit_lens.job").read_text(encoding="utf-8").splitlines()[0]
    path = tmp_path / "a.job"
    path.write_text(json.dumps({**json.loads(first), **changes}) + "\n", encoding="utf-8")
    with plain_errors(path):
        return read_job(path)


@pytest.mark.parametrize(
    "parts",
    [
        [[0, 1], [1, 3], [4, 5]],
        [[1, 2]],
        [[0, 2], [1, 3]],
        [[0, 0]],
        [[0, -1]],
        [[0, 10**400]],
        [[0, 2, 1]],
        [[0]],
        [["0", "1"]],
        [[0.0, 1.0]],
        [0],
        {},
        None,
    ],
    ids=str,
)
def test_parts_that_are_none_are_told(tmp_path, parts):
    with pytest.raises(lr.LensError, match=r"is not a job's file: .*parts"):
        read_header(tmp_path, parts=parts)


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": []},
        {"arguments": None},
        {"versions": []},
        {"versions": {"torch": 2}},
        {"model": 7},
        {"revision": {}},
        {"host": None},
        {"fingerprint": None},
        {"recipe": ["logit_lens"]},
    ],
    ids=str,
)
def test_a_header_of_other_types_is_told(tmp_path, changes):
    (name,) = changes
    with pytest.raises(lr.LensError, match=rf"is not a job's file: .*{name}|torch|no recipe"):
        read_header(tmp_path, **changes)


@pytest.mark.parametrize(
    "event",
    [
        {"part": -1, "id": "a", "bytes_up": 1},
        {"part": "0", "id": "a", "bytes_up": 1},
        {"part": 0, "id": 7, "bytes_up": 1},
        {"part": 0, "id": "a", "bytes_up": "many"},
        {"part": 0, "arrived": 7, "cost": {}},
        {"part": 0, "arrived": "", "cost": []},
        {"part": 0, "arrived": "", "cost": {"runtime": "long"}},
        {"part": 0, "sending": None},
        {"part": 0, "sending": -1},
        {"part": 0, "id": "a", "bytes_up": -1},
        {"part": 0, "arrived": "no base64!", "cost": {}},
        {"part": 0, "failed": 7},
        {"part": 0},
        {"part": 10**400, "failed": "lost"},
        [0],
    ],
    ids=str,
)
def test_an_event_of_other_types_is_told(tmp_path, event):
    first = (DATA / "logit_lens.job").read_text(encoding="utf-8").splitlines()[0]
    path = tmp_path / "a.job"
    path.write_text(f"{first}\n{json.dumps(event)}\n", encoding="utf-8")
    with pytest.raises(lr.LensError, match="is not a job's file"), plain_errors(path):
        read_job(path)


# -- long texts --------------------------------------------------------

LONG = 3_000_000
SHORT_TEXTS = ["", " ", "  ", "a", " a", "a\n\x00b", "\u200b" * 5, "a b" * 7, "·" * 30, " " * 30]


def shown_character_by_character(text: str, width: int) -> str:
    """The end of a prompt, made from all of it."""
    shown = visible_token(text, 10**9).replace("·", " ")
    return shown if len(shown) <= width else "…" + shown[1 - width :]


@pytest.mark.parametrize("text", SHORT_TEXTS, ids=repr)
@pytest.mark.parametrize("width", [2, 5, 12, 60])
def test_the_end_of_a_prompt_is_the_end_of_all_of_it(text, width):
    assert prompt_end(text, width) == shown_character_by_character(text, width)


@pytest.mark.parametrize("character", ["a", " ", "\x00", "é"])
def test_what_is_cut_off_a_long_text_is_not_looked_at(character, monkeypatch):
    """A prompt of 50 MB took a minute: each of its characters was asked for its sort."""
    import unicodedata

    asked = []
    category = unicodedata.category
    monkeypatch.setattr(
        "lens_recipes.arrays.text.unicodedata.category",
        lambda char: asked.append(char) or category(char),
    )
    text = "a" + character * LONG + "b"
    assert visible_token(text, 12).endswith("…")
    assert prompt_end(text, 12).startswith("…")
    assert len(escape_page_text(text)) >= LONG
    assert len(escape_terminal(text)) >= LONG
    assert len(asked) < 100
