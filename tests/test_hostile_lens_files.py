"""Files of lenses that are damaged, foreign, or made to harm: a sentence, no code, and little memory."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from mutations import FUZZ, VALUES, changes, damaged_bytes
from safetensors.torch import save_file

import lens_recipes as lr
from lens_recipes.arrays.used_lens import LensQuality
from lens_recipes.lenses.files.torch_save import torch_file
from lens_recipes.lenses.files.torch_save.pickled import StoredTensor, read_pickle
from lens_recipes.lenses.lens import Lens, LensRecord
from lens_recipes.lenses.load import load_sums
from lens_recipes.trace.transport import Affine

WIDTH = 4
ALLOWED_MB = 600  # beside what the process has when it begins to read


def eye(factor: float = 2.0, width: int = WIDTH) -> torch.Tensor:
    return torch.eye(width) * factor


def torch_bytes(values: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    torch.save(values, file, **more)
    return file.getvalue()


def own_bytes(tmp_path: Path, **more: Any) -> bytes:
    """A file of our own format, with all that it can hold."""
    quality = LensQuality([0], [1.0], [0.5], [2.0], [0.25], [[1.0], [2.0]], 5, "text")
    record = LensRecord(model="m", n_layers=3, versions={"torch": "2"}, settings={"ridge": 0.1})
    transports = {0: Affine(eye()), 1: Affine(eye(3.0), torch.ones(WIDTH), True)}
    sums = {"0.xx": eye().double()}
    lens = Lens("linear", transports, record, quality, sums=sums)
    lens.save(tmp_path / "whole.safetensors", sums=True)
    return (tmp_path / "whole.safetensors").read_bytes()


def jacobian_bytes() -> bytes:
    metadata = {"model_name": "m", "target_layer": 2, "corpus": "wiki"}
    jacobians = {0: eye().half(), 1: eye(3.0).half()}
    return torch_bytes(
        {
            "J": jacobians,
            "n_prompts": 3,
            "source_layers": [0, 1],
            "d_model": WIDTH,
            "metadata": metadata,
        }
    )


def refused(path: Path, content: bytes | None = None) -> str:
    """The sentence with which a file is refused."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(lr.LensError) as error:
        lr.load_lens(path)
    return str(error.value)


# -- damaged -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "jacobian", "tuned"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kind):
    if kind == "own":
        whole, path = own_bytes(tmp_path), tmp_path / "a.safetensors"
    elif kind == "jacobian":
        whole, path = jacobian_bytes(), tmp_path / "a.pt"
    else:
        parameters = {f"{i}.{part}": value for i in range(2) for part, value in
                      (("weight", eye()), ("bias", torch.ones(WIDTH)))}  # fmt: skip
        whole, path = torch_bytes(parameters), tmp_path / "params.pt"
        (tmp_path / "config.json").write_text(json.dumps({"d_model": WIDTH, "num_layers": 3}))
    path.write_bytes(whole)
    lr.load_lens(path)
    step = max(1, len(whole) // 150)
    for length in [*range(0, len(whole), step), *range(max(0, len(whole) - 40), len(whole))]:
        sentence = refused(path, whole[:length])
        assert len(sentence) < 1200
        assert "Traceback" not in sentence


WHOLE_JACOBIAN = jacobian_bytes()


@FUZZ
@given(damaged_bytes(WHOLE_JACOBIAN))
def test_a_damaged_file_of_jacobians_is_a_lens_or_a_sentence(tmp_path, damaged):
    """Its numbers have a checksum, so they are what they were."""
    path = tmp_path / "a.pt"
    path.write_bytes(damaged)
    try:
        lens = lr.load_lens(path)
    except lr.LensError:
        return
    for layer, transport in lens.transports.items():
        assert torch.equal(transport.weight, eye(2.0 + layer).half())


@FUZZ
@given(damaged_bytes(bytes(3000)))
def test_bytes_that_are_nothing_are_a_sentence(tmp_path, damaged):
    refused(tmp_path / "a.pt", b"PK\x03\x04" + damaged)
    refused(tmp_path / "b.safetensors", damaged)


def test_a_number_of_our_own_file_that_was_changed_is_found(tmp_path):
    whole = own_bytes(tmp_path)
    header_bytes = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + header_bytes])
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        place = 8 + header_bytes + entry["data_offsets"][0] + 2
        changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        path = tmp_path / "a.safetensors"
        if name.startswith("sums."):
            path.write_bytes(changed)
            lr.load_lens(path)
        else:
            assert "the digest of its numbers is" in refused(path, changed)


@FUZZ
@given(changes({"lens": {
    "format": "lens-recipes lens", "version": 1, "kind": "linear", "digest": "0123456789abcdef", "residual": [1],
    "record": {"model": "m", "revision": None, "n_layers": 3, "unembedding": "ab", "tokenizer": "cd",
               "starts_with_bos": True, "first_position": 0, "target_layer": 2, "text": "t", "n_prompts": 1,
               "n_tokens": 2, "versions": {"torch": "2"}, "seed": 0, "settings": {"ridge": 0.1}},
    "quality": {"layers": [0, 1], "kl": [1.0, None], "agreement": [0.5, 0.5], "logit_kl": [1.0, "Infinity"],
                "logit_agreement": [0.1, 0.2], "refit_kl": [[1.0, 2.0]], "n_tokens": 9, "text": "x"},
}}))  # fmt: skip
def test_metadata_that_was_changed_is_a_sentence(tmp_path, content):
    """Whatever a reader meets first."""
    path = tmp_path / "a.safetensors"
    save_file(
        {"transports.0.weight": eye(), "transports.1.weight": eye()},
        path,
        {"lens": json.dumps(content.get("lens"))},
    )
    assert len(refused(path)) < 1200  # at the latest, because of its digest


def test_each_field_of_the_metadata_is_checked(tmp_path):
    """With the right digest: a wrong value is refused for itself, or is what a view can take."""
    path = tmp_path / "a.safetensors"
    whole = own_bytes(tmp_path)
    tensors = {"transports.0.weight": eye(), "transports.1.weight": eye(3.0),
               "transports.1.bias": torch.ones(WIDTH)}  # fmt: skip
    header = json.loads(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]])
    metadata = json.loads(header["__metadata__"]["lens"])

    def read(changed: dict[str, Any]) -> Lens | None:
        save_file(tensors, path, {"lens": json.dumps(changed)})
        try:
            return lr.load_lens(path)
        except lr.LensError:
            return None

    assert read(metadata) is not None
    texts = (str, type(None))
    for place, stored in metadata.items():
        for value in VALUES:
            lens = read({**metadata, place: value})
            may_be_empty = place in ("quality", "record") and not value
            assert lens is None or may_be_empty or value == stored
    for name in metadata["record"]:
        for value in VALUES:
            lens = read({**metadata, "record": {**metadata["record"], name: value}})
            if lens is not None:
                record = lens.record
                assert isinstance(record.model, texts)
                assert isinstance(record.text, str)
                assert len(record.text) <= 1000
                assert type(record.first_position) is int
                assert isinstance(record.settings, dict)
                assert isinstance(record.versions, dict)
    for name in metadata["quality"]:
        for value in VALUES:
            lens = read({**metadata, "quality": {**metadata["quality"], name: value}})
            if lens is not None:
                assert lens.quality is not None
                assert all(type(number) is float for number in lens.quality.kl)
                assert (
                    len(lens.quality.kl) == len(lens.quality.layers) == len(lens.quality.is_better)
                )


# -- foreign -----------------------------------------------------------


def with_j(**more: Any) -> dict[str, Any]:
    return {"J": {0: eye(), 1: eye()}, "d_model": WIDTH, "n_prompts": 1, **more}


nested: list[Any] = []
nested.append(nested)
doubled: Any = ["x" * 100]
for _ in range(60):
    doubled = [doubled, doubled]

ROWS = [
    (with_j(J={0: eye(math.nan)}), "NaN or infinite"),
    (with_j(J={0: eye(math.inf)}), "NaN or infinite"),
    (with_j(J={0: eye(), "0": eye()}), "two Jacobians for the layer 0"),
    (with_j(J={-1: eye()}), "for the layer -1"),
    (with_j(J={-2: eye()}), "for the layer -2"),
    (with_j(J={10**6: eye()}), "for the layer 1000000"),
    (with_j(J={10**30: eye()}), "for the layer of the type int"),
    (with_j(J={"a": eye()}), "for the layer 'a'"),
    (with_j(J={1.5: eye()}), "a dict has a key of the type float"),
    (with_j(J={True: eye()}), "a dict has a key of the type bool"),
    (with_j(J={}), "has no Jacobian of any layer"),
    (with_j(J=[eye()]), "has no Jacobian of any layer"),
    (with_j(J={0: [1.0]}), "is no tensor"),
    (with_j(J={0: eye(), 1: eye(width=5)}), "has the shape [5, 5], expected is [4, 4]"),
    (with_j(J={0: torch.ones(4, 5)}), "has the shape [4, 5]"),
    (with_j(J={0: torch.ones(16)}), "has the shape [16]"),
    (with_j(J={0: eye()[None]}), "has the shape [1, 4, 4]"),
    (with_j(J={0: torch.tensor(1.0)}), "has the shape []"),
    (with_j(J={0: torch.ones(4, 4).long()}), "has the dtype torch.int64"),
    (with_j(J={0: torch.ones(1).expand(4, 4)}), "another size than its bytes"),
    (with_j(J={0: torch.ones(1).expand(10**6, 10**6)}, d_model=10**6), "another size than its bytes"),
    (with_j(J={0: torch.zeros(0, 0)}, d_model=0), "its width is 0"),
    (with_j(d_model=5), "expected is [5, 5]"),
    (with_j(d_model=2**40), "its width is"),
    (with_j(d_model="4"), "its width is '4'"),
    (with_j(n_prompts=-3), "n_prompts is -3"),
    (with_j(n_prompts="many"), "n_prompts is 'many'"),
    (with_j(source_layers=[0]), None),  # the highest may be an identity that is not listed
    (with_j(source_layers=[0, 1, 2]), "source_layers are not the layers"),
    (with_j(source_layers=[0, 0, 1]), "source_layers are not the layers"),
    (with_j(source_layers=3), "source_layers are no list"),
    (with_j(source_layers=nested), "the layer of the type list"),
    (with_j(target_layer=1), "it maps to the stream after layer 1 (target_layer)"),
    (with_j(target_layer=-2), "target_layer is -2"),
    (with_j(metadata={"target_layer": 2, "n_layers": 4}), "it maps to the stream after layer 2"),
    (with_j(metadata={"target_layer": 2, "n_layers": 3}), None),
    (with_j(metadata={"target_layer": -1, "n_layers": 3}), None),
    (with_j(metadata={"n_layers": 10**9}), "n_layers is 1000000000"),
    (with_j(metadata={"model_name": "x" * 5000}), None),  # too long to be a name: left out
    (with_j(metadata={"model_name": 7}), "the model's name is 7"),
    (with_j(metadata={"skip_first_positions": -1}), "the first position is -1"),
    (with_j(metadata={"prepend_bos": "yes"}), "'yes', expected is true or false"),
    (with_j(metadata=nested), None),  # not looked into
    (with_j(metadata={"a": doubled, "b": nested}), None),
    ({"jacobian_sum": {0: eye()}, "n_done": doubled}, "n_done is of the type list"),
    ({"jacobian_sum": {0: eye()}, "n_done": 1.5}, "n_done is 1.5"),
    ({"state_dict": {"a": eye()}}, "it holds no Jacobians"),
    (eye(), "it holds no Jacobians"),
    ([1, 2, 3], "it holds no Jacobians"),
    (doubled, "it holds no Jacobians"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "words"), ROWS, ids=range(len(ROWS)))
def test_a_lens_that_is_none_is_refused_for_what_it_is(tmp_path, values, words):
    content = torch_bytes(values)
    if words is None:
        (tmp_path / "a.pt").write_bytes(content)
        assert lr.load_lens(tmp_path / "a.pt").layers == [0, 1]
        return
    sentence = refused(tmp_path / "a.pt", content)
    assert words in sentence
    assert len(sentence) < 1200


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": eye()}, "holds 'a', which is no part of a lens"),
        ({"transports.0.weight": eye(), "transports.00.weight": eye()}, "transports.00.weight"),
        ({"transports.-2.weight": eye()}, "for the layer '-2'"),
        ({"transports.99999.weight": eye()}, "for the layer '99999'"),
        ({"transports.0.bias": torch.ones(4)}, "has no weight"),
        ({"transports.0.weight": torch.ones(4, 5)}, "has the shape [4, 5]"),
        ({"transports.0.weight": torch.tensor(1.0)}, "is a single number"),
        ({"transports.0.weight": eye(math.nan)}, "NaN or infinite"),
        ({"transports.0.weight": eye().int()}, "has the dtype torch.int32"),
        ({"transports.0.weight": eye(), "transports.1.weight": eye(width=5)}, "[5, 5]"),
        ({"sums.a": eye()}, "it has no transports"),
        ({}, "it has no transports"),
    ],
)
def test_our_own_file_with_other_tensors_is_refused(tmp_path, tensors, words):
    metadata = {"format": "lens-recipes lens", "version": 1, "kind": "linear", "digest": "0",
                "residual": [], "record": {}, "quality": None}  # fmt: skip
    save_file(tensors, tmp_path / "a.safetensors", {"lens": json.dumps(metadata)})
    assert words in refused(tmp_path / "a.safetensors")


def test_a_checkpoint_is_no_lens(tmp_path):
    save_file({"model.weight": eye()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert "but no lens of this package" in refused(tmp_path / "model.safetensors")
    with pytest.raises(lr.LensError, match="but no lens of this package"):
        load_sums(tmp_path / "model.safetensors")
    for name, content in {
        "a.json": b"{}",
        "a.npz": b"",
        "a.txt": b"hello, this is a text",
        "b.pt": b"PK",
    }.items():
        assert "is no lens that can be read" in refused(tmp_path / name, content)
    np.savez(tmp_path / "c.npz", a=np.ones(3))
    assert "is no lens that can be read" in refused(tmp_path / "c.npz")


# -- made to harm ------------------------------------------------------


class Payload:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def replaced_pickle(content: bytes, pickled: bytes) -> bytes:
    """A file of `torch.save` with another pickle."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(written, "w") as after:
        for entry in before.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            after.writestr(entry.filename, pickled if is_pickle else before.read(entry))
    return written.getvalue()


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_file_does_not_run(tmp_path, protocol):
    ran = tmp_path / "ran"
    values = with_j(metadata=Payload(ran))
    legacy = torch_bytes(values, _use_new_zipfile_serialization=False)
    plain = pickle.dumps(values, protocol=protocol)
    for number, content in enumerate(
        [
            torch_bytes(values, pickle_protocol=max(protocol, 2)),
            legacy,
            plain,
            replaced_pickle(WHOLE_JACOBIAN, plain),
        ]
    ):
        for name in ("a.pt", "params.pt", "a.safetensors"):
            refused(tmp_path / name, content)
        folder = tmp_path / f"t{protocol}{number}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"d_model": WIDTH}))
        (folder / "params.pt").write_bytes(content)
        refused(folder)
    assert not ran.exists()
    pickle.loads(plain)
    assert ran.is_dir()  # it is a payload


def test_a_pickle_does_only_what_values_need():
    """Calls, attributes, classes, other persistent ids, and claims of what is not there."""
    for pickled, words in [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "calls os.system"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "calls builtins.bytearray"),
        (b"\x80\x02X\x04\x00\x00\x00evil\x85Q.", "ValueError"),
        (b"\x80\x02X\x03\x00\x00\x00abcQ.", "not enough values"),
        (b"\x80\x02ctorch\nFloatStorage\nX\x01\x00\x00\x00a\x85R.", "calls torch.FloatStorage"),
        (b"\x80\x02]}b.", "attributes"),
        (b"\x80\x02}}\x81.", "instruction NEWOBJ"),
        (b"\x80\x02(cos\nsystem\no.", "instruction OBJ"),
        (b"\x80\x02\x8a\xff" + b"\x7f" * 10, "not read"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "not read"),
        (b"\x80\x02h\x05.", "KeyError"),
        (b"\x80\x02.", "IndexError"),
        (b"\x80\x02(.", "a value is missing"),
        (b"\x80\x02N", "not read"),
        (b"", "not read"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_pickle(pickled)
    with pytest.raises(ValueError, match="more beside its numbers"):
        read_pickle(b"\x80\x02" + b"N0" * 2**20)


def test_a_tensor_lies_within_its_bytes(tmp_path):
    (tmp_path / "a.pt").write_bytes(WHOLE_JACOBIAN)
    with (tmp_path / "a.pt").open("rb") as file:
        saved = torch_file.TorchFile(file)
        where = saved.values["J"][0]
        assert torch.equal(saved.read(where), eye().half())
        for change in [
            {"offset": 1},
            {"strides": (5, 1)},
            {"strides": (4, 2)},
            {"shape": (5, 4)},
            {"n_numbers": 15},
            {"n_numbers": 10**12},
            {"n_numbers": 10**12, "shape": (10**6, 10**6), "strides": (10**6, 1)},
            {"shape": (0, 4)},
            {"key": "../../x"},
            {"key": "9"},
            {"dtype": torch.float64},
        ]:
            with pytest.raises(ValueError, match="tensor"):
                saved.read(StoredTensor(**{**where._asdict(), **change}))


def zip_of(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return written.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_that_torch_would_not_write_is_refused(tmp_path):
    entries = []
    with zipfile.ZipFile(io.BytesIO(WHOLE_JACOBIAN)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    (tmp_path / "a.pt").write_bytes(zip_of(entries))
    lr.load_lens(tmp_path / "a.pt")
    folder = entries[0][0].partition("/")[0]
    for content in [
        zip_of(entries, zipfile.ZIP_DEFLATED),
        zip_of([*entries, entries[0]]),
        zip_of([*entries, ("other/data.pkl", b"N.")]),
        zip_of(entries[1:]),
        zip_of([entry for entry in entries if "/data/" not in entry[0]]),
        zip_of([(name, b"big" if name.endswith("byteorder") else body) for name, body in entries]),
        zip_of([*entries, *((f"{folder}/x{i}", b"") for i in range(20_000))]),
    ]:
        refused(tmp_path / "a.pt", content)


# Reads each path with little memory to spare, and prints the error.
READER = f"""
import resource, sys
import lens_recipes as lr
from lens_recipes.lenses.load import load_lens
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {ALLOWED_MB} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        load_lens(path)
        print("read")
    except lr.LensError as error:
        print(error)
"""


def test_what_would_take_memory_or_wait_is_refused_at_once(tmp_path):
    """Pipes, devices, directories of gigabytes, and headers that promise terabytes."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "config.json").symlink_to("/dev/zero")
    (folder / "params.pt").symlink_to("/dev/zero")
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    promised = {
        "transports.0.weight": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
    }
    text = json.dumps(promised).encode()
    (tmp_path / "promised.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    # Two gigabytes of nothing, with a directory that is said to be all of them.
    sparse = tmp_path / "sparse.pt"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**31 - 4, 0, 0)
    with sparse.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(2**31)
        file.write(end)
    # Larger than the memory of any machine, at no cost.
    huge = tmp_path / "huge.safetensors"
    with huge.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**42)
    config = tmp_path / "c"
    config.mkdir()
    (config / "params.pt").write_bytes(WHOLE_JACOBIAN)
    (config / "config.json").write_bytes(b"[" * 2**21)
    names = ["pipe.pt", "zero.pt", "loop.pt", "header.safetensors", "promised.safetensors",
             "sparse.pt", "huge.safetensors", "c", "t"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", READER, *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    sentences = done.stdout.splitlines()
    words = ["a pipe", "a device", "cannot be read", "no file of safetensors", "no whole file",
             "its directory is longer", "GiB of memory", "config.json is longer", "a device"]  # fmt: skip
    assert len(sentences) == len(words), sentences
    for sentence, expected in zip(sentences, words, strict=True):
        assert expected in sentence, sentences


def test_what_a_file_says_does_not_act_on_a_terminal(tmp_path):
    hostile = "\x1b]52;c;aGk=\x07\u202e"
    sentence = refused(tmp_path / "a.pt", torch_bytes(with_j(J={hostile: eye()})))
    assert "\x1b" not in sentence
    assert "\u202e" not in sentence
