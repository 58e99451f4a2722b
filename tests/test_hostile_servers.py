"""Servers that answer too much, too slowly, or what would run: nothing of it costs memory, time or the key."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import socket
import struct
import threading
import traceback
import zipfile
import zlib

import pytest
import torch
import zstandard
from loopback import KEY, Loopback, as_result, says

import lens_recipes as lr
from lens_recipes.run.remote import server as servers
from lens_recipes.run.remote.http.settings import RemoteSettings
from lens_recipes.run.remote.saved_values import load_saved

pytest_plugins = ["loopback"]

IMPATIENT = RemoteSettings(patience_s=0.0, connect_s=0.5, read_s=0.5)


def failure(function):
    with pytest.raises(lr.RemoteLensError) as info:
        function()
    return info.value


# -- too much, and packed ----------------------------------------------


def endless(exchange):
    """A body without an end, as fast as it is taken."""
    exchange.send_response(200)
    exchange.end_headers()
    with contextlib.suppress(OSError):
        while True:
            exchange.wfile.write(b" " * 2**16)


@pytest.mark.parametrize("route", ["response", "store"])
def test_an_answer_without_an_end_is_not_read_to_its_end(client, server, route):
    job = lr.submit(lr.logit_lens, client, [7, 8, 9])
    server.script(route, endless)
    assert "bytes that its answer can have" in failure(job.result).happened
    assert job.result().certificate.passed


@pytest.mark.parametrize("route", ["response", "store"])
def test_no_compressed_answer_is_unpacked(client, server, route):
    job = lr.submit(lr.logit_lens, client, [7, 8, 9])
    for coding in ("gzip", "deflate", "zstd", "gzip, gzip", "br"):
        bomb = zstandard.compress(bytes(2**22)) if coding == "zstd" else gzip.compress(bytes(2**22))
        server.script(route, says(200, bomb, content_encoding=coding))
        assert "a compressed answer" in failure(job.result).happened
    assert job.result().certificate.passed
    assert {seen.headers["accept-encoding"] for seen in server.seen} == {"identity"}


@pytest.mark.parametrize("codec", ["zlib", "bz2", "hex", "rot13", "undefined"])
@pytest.mark.parametrize("status", [200, 500])
def test_no_answer_is_read_by_a_codec_that_its_server_names(server, codec, status):
    """Python knows some that unpack, and some that give no text."""
    bomb = zlib.compress(b'"' + b" " * 2**24 + b'"') if codec == "zlib" else b'{"a": 1}'
    server.script("status", says(status, bomb, content_type=f"application/json; charset={codec}"))
    server.script("response", says(status, bomb, content_type=f"a/b; charset={codec}"))
    asks = servers.Server(server.url, IMPATIENT)
    if (codec, status) == ("zlib", 200) or status == 500:
        failure(lambda: asks.ask("/status"))
    else:
        assert asks.ask("/status") == {"a": 1}
    assert len(str(failure(lambda: asks.state("a")))) < 3000


def test_what_an_error_quotes_of_a_server_is_short(server):
    def odd(exchange):
        exchange.wfile.write(b"HTTP/1.1 1000 " + b"x" * 50_000 + b"\r\n\r\n")

    server.script("status", odd)
    error = failure(lambda: servers.Server(server.url, IMPATIENT).ask("/status"))
    assert "broke off" in error.happened
    assert len(str(error)) < 1000


def test_an_answer_that_nests_without_an_end_is_strange(server):
    server.script("status", says(200, b"[" * 10**6))
    error = failure(lambda: servers.Server(server.url, IMPATIENT).ask("/status"))
    assert "something that NDIF servers do not say" in error.happened
    server.script("response", says(200, b"[" * 10**6))
    assert failure(lambda: servers.Server(server.url, IMPATIENT).state("a"))


# -- too slow ----------------------------------------------------------


class Dripping:
    """A server that says one byte every few milliseconds, and never comes to an end."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(2**16)
            connection.sendall(self._beginning)
            while not self._over.wait(0.02):
                connection.sendall(b"x")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        self._listener.close()


DRIPS = {
    "status line": b"HTTP/1.1 200 ",
    "headers": b"HTTP/1.1 200 OK\r\nx-more: ",
    "body": b"HTTP/1.1 200 OK\r\n\r\n",
    "long body": b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
}


@pytest.mark.parametrize("what", DRIPS)
@pytest.mark.parametrize("asked", ["ask", "state", "fetch", "submit"])
def test_a_server_that_drips_is_not_waited_for(server, monkeypatch, what, asked):
    """Each byte comes within the timeout of a read; the request as a whole does not."""
    monkeypatch.setattr(servers, "MAX_ANSWER_BYTES", 2**17)
    with Dripping(DRIPS[what]) as slow:
        asks = servers.Server(slow.url, IMPATIENT)
        questions = {
            "ask": lambda: asks.ask("/status"),
            "state": lambda: asks.state("a"),
            "fetch": lambda: asks.fetch(f"{slow.url}/store/a", 2**17),
            "submit": lambda: asks.submit("model", {}, b"block"),
        }
        error = failure(questions[asked])
    assert "no whole answer within" in error.happened


def test_the_time_that_was_given_ends_a_request_too(client, server, monkeypatch):
    monkeypatch.setattr(servers, "SHORTEST_REQUEST_S", 0.1)
    job = lr.submit(lr.logit_lens, client, [7, 8, 9])
    with Dripping(DRIPS["body"]) as slow:
        job._server.host = slow.url
        error = failure(lambda: job.result(timeout=0.2))
    assert error.may_finish


# -- results that unpack to something else -----------------------------


def zipped(pickled: bytes, **entries: bytes) -> bytes:
    """A file as torch writes it, around any pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in entries.items():
            archive.writestr(f"archive/data/{name}", data)
    return file.getvalue()


class Calls:
    """Calls a function where it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def numbered(note: int) -> bytes:
    return b"\x80\x02N" + b"r" + struct.pack("<I", note) + b"."


HUGE = 2**33
PICKLES = {
    "a call of bytearray": pickle.dumps(Calls(bytearray, HUGE), 2),
    "a claim of bytes": b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b".",
    "a claim of a bytearray": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b".",
    "a note far away": numbered(2**31),
    "a code of the registry": b"\x80\x02\x82\x01.",
    "an object": b"\x80\x02c__main__\nKind\n)\x81.",
    "eval": pickle.dumps(Calls(eval, "1"), 2),
    "a tensor of torch": pickle.dumps(Calls(torch.zeros, HUGE), 2),
    "no end": b"\x80\x02]",
    "nothing": b"",
    "another global": b"\x80\x02ctorch\nFloatStorage\n.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_does_only_what_values_need(name):
    with pytest.raises(ValueError):  # noqa: PT011 - some of it is pickletools' own
        load_saved(zipped(PICKLES[name]), 10**6)


def test_a_file_of_torch_is_read_as_torch_reads_it():
    values = {
        "found": [
            {"of": "é", "layout": [["a", "int8", [2, 3]]], "bytes": torch.arange(6).byte()},
            {"n": None, "yes": True, "no": False, "x": -1.5, "i": -(2**40), "t": (), "u": (1, 2)},
            {"bytes": torch.zeros(0, dtype=torch.uint8), "many": list(range(300))},
        ]
    }
    file = io.BytesIO()
    torch.save(values, file)
    read = load_saved(file.getvalue(), 10**6)
    assert repr(read) == repr(values)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3),
        torch.zeros(4, dtype=torch.uint8)[1:],
        torch.zeros(1, dtype=torch.uint8).expand(10**12),
        torch.zeros(2, 2, dtype=torch.uint8),
    ],
    ids=["of floats", "a part", "more than its bytes", "a matrix"],
)
def test_a_tensor_is_a_vector_of_the_bytes_that_came(tensor):
    file = io.BytesIO()
    torch.save({"found": tensor}, file)
    with pytest.raises(ValueError, match=r"tensor|FloatStorage"):
        load_saved(file.getvalue(), 10**6)


def test_entries_over_the_same_bytes_are_counted_each():
    """A directory may name one place of a file thousands of times."""
    data = bytes(1000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02].")
        archive.writestr("archive/data/0", data)
        entry = archive.getinfo("archive/data/0")
        for number in range(3000):
            again = zipfile.ZipInfo(f"archive/data/{number + 1}")
            again.header_offset, again.CRC = entry.header_offset, entry.CRC
            again.file_size = again.compress_size = entry.file_size
            archive.filelist.append(again)
    assert len(file.getvalue()) < 10**6
    with pytest.raises(ValueError, match="packed as no result is"):
        load_saved(file.getvalue(), 10**6)


def test_of_two_directories_one_is_read_for_checks_and_values():
    small, large = zipped(b"\x80\x02]."), zipped(b"\x80\x02}.")
    assert load_saved(small + large, 10**6) == {}
    with pytest.raises(ValueError, match="packed as no result is"):
        load_saved(zipped(b"\x80\x02].", a=bytes(10**6)), 10**6)
    with pytest.raises(ValueError, match="packed as no result is"):
        load_saved(zipped(b"\x80\x02]." + bytes(2**23)), 10**9)


def test_what_a_job_answers_is_checked_before_it_takes_memory(client, server):
    """A type of eight gigabytes a number, and a name of a megabyte."""
    for change in (["a", "V8589934592", []], ["a" * 10**6, "float32", []]):
        job = lr.submit(lr.logit_lens, client, [7, 8, 9])
        job.status()
        parcel = server.parcels[next(reversed(server.parcels))]
        blob = zstandard.ZstdDecompressor().decompress(parcel.result)
        saved = torch.load(io.BytesIO(blob), weights_only=True)
        saved["found"][0]["layout"].append(change)
        parcel.result = as_result(saved)
        error = failure(job.result)
        assert "not a whole result of this run" in error.happened
        assert len(str(error)) < 2000


# -- the key -----------------------------------------------------------


def test_the_key_is_in_no_local_variable_of_a_traceback(server, monkeypatch):
    """As tracebacks that show local variables would print it."""
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    with Dripping(DRIPS["headers"]) as slow:
        monkeypatch.setattr(servers, "MAX_ANSWER_BYTES", 2**10)
        for url in (slow.url, server.url, "http://127.0.0.1:1"):
            server.script("status", says(401, {"detail": f"{KEY} is no key"}))
            error = failure(lambda url=url: servers.Server(url, IMPATIENT).ask("/status"))
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            assert KEY not in "".join(shown.format())
    assert any(seen.headers.get("ndif-api-key") == KEY for seen in server.seen)


def test_the_key_in_the_address_of_a_result_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    asks = servers.Server(server.url, IMPATIENT)
    for url in (f"http://user:{KEY}@127.0.0.1:1/a", f"http://{KEY}.invalid/a?b={KEY}"):
        assert KEY not in str(failure(lambda url=url: asks.fetch(url)))


def altered(path, **values):
    header, *lines = path.read_text().split("\n")
    path.write_text("\n".join([json.dumps({**json.loads(header), **values}), *lines]))


def test_a_server_that_only_a_file_names_gets_no_key(client, server, tmp_path, monkeypatch):
    """Neither on this machine, where it may be anybody's, nor when the key is set later."""
    path = tmp_path / "a.job"
    with Loopback(server.model) as other:
        lr.submit(lr.logit_lens, client, [7, 8, 9], path=path)
        altered(path, host=other.url)
        job = lr.Job.load(path)
        monkeypatch.setenv("NDIF_API_KEY", KEY)
        with pytest.raises(lr.LensError, match="a server that you have not named"):
            lr.Job.load(path)
        with pytest.raises(lr.RemoteLensError, match="by a job's file alone"):
            job.result()
        assert not other.seen
        monkeypatch.setenv("NDIF_HOST", other.url)
        assert lr.Job.load(path)


@pytest.mark.parametrize("host", ["", "local", "file:///etc", "ftp://a", "http://u:p@h"])
def test_a_file_that_names_no_server_loads_no_model(client, tmp_path, monkeypatch, host):
    path = tmp_path / "a.job"
    lr.submit(lr.logit_lens, client, [7, 8, 9], path=path)
    altered(path, host=host)
    monkeypatch.setattr("lens_recipes.run.remote.jobs.restore.load", pytest.fail)
    with pytest.raises(lr.LensError, match="no address of a server"):
        lr.Job.load(path)
