"""Replies of a server, changed in their values, their bytes, their status and their headers.

What comes of each is what is right, or an error in one sentence without effect on a terminal. The key
goes to nobody else, and no more memory is taken than an answer may have. 2,380 replies are drawn.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import traceback
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import KEY, Exchange, Loopback, as_result, ordinary
from mutations import FUZZ, changes, damaged_bytes
from nnsight.schema.response import ResponseModel

import lens_recipes as lr
from lens_recipes.run.remote.http.settings import RemoteSettings
from lens_recipes.run.remote.server import Server
from lens_recipes.terminal import escape_terminal

pytest_plugins = ["loopback"]

IMPATIENT = RemoteSettings(patience_s=0.0, connect_s=0.5, read_s=0.3)
MOST_MEMORY = 150 * 2**20  # beside what was taken before: answers are 4 MiB, with their copies

# -- what is drawn -----------------------------------------------------

STATUSES = [
    *[200] * 30,
    *(0, 99, 100, 101, 103, 201, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404),
    *(408, 409, 410, 413, 418, 426, 429, 451, 500, 501, 502, 503, 504, 511, 599, 600, 999, 1000),
]
REASONS = [b"OK", b"", b"\x1b[2J", b"\xff\xfe", b"x" * 5000, b"Api Key", b"\xe2\x80\xae"]
CODECS = [
    *("utf-8", "utf-16", "utf-32", "utf-7", "latin-1", "idna", "punycode", "undefined", "hex"),
    *("rot13", "zlib", "bz2", "base64", "quopri", "uu", "unicode_escape", "\x00", "x" * 300, ""),
]
SIZES = [b"0", b"1", b"-1", b"7, 7", b"x", b"1e9", b"9" * 18, b"9" * 400, b"", b"\xb2"]
WAITS = [b"nan", b"inf", b"-inf", b"-5", b"1e400", b"\xff", b"Thu, 01 Jan 1970 00:00:00 GMT", b""]
CODINGS = [b"gzip", b"br", b"zstd", b"identity", b"Identity", b"", b"\xff", b"gzip, identity"]
TRANSFERS = [b"chunked", b"gzip, chunked", b"identity", b"x", b"chunked, chunked"]
ODD_LINES = [
    *(b"no colon", b": no name", b"a\x00b: c", b"a: b\x00c", b"a : b", b" folded", b"\xff: \xff"),
    *(b"x: " + b"y" * 200_000, b"\r\n".join([b"a: b"] * 300), b"set-cookie: a=b; domain=.invalid"),
    *(b"connection: keep-alive", b"upgrade: h2c", b"www-authenticate: Basic", b"refresh: 0"),
    *(b"link: <http://x.invalid>", b"trailer: x", b"\x1b[2J: \x1b[2J"),
]  # fmt: skip


@st.composite
def header_lines(draw, elsewhere: str, n_bytes: int) -> list[bytes]:
    """Lines of headers; most replies say how long they are, and no more."""
    lines = []
    if draw(st.integers(0, 5)):
        lines.append(b"content-length: %d" % n_bytes)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        match draw(st.sampled_from(["length", "charset", "goes", "wait", "packed", "sent", "odd"])):
            case "length":
                near = [b"%d" % max(n_bytes + shift, 0) for shift in (-9, -1, 1, 9)]
                lines.append(b"content-length: " + draw(st.sampled_from([*SIZES, *near])))
            case "charset":
                codec = draw(st.sampled_from(CODECS))
                lines.append(f"content-type: application/json; charset={codec}".encode())
            case "goes":
                places = [
                    elsewhere,
                    f"{elsewhere}/a",
                    "//x.invalid",
                    "/ping",
                    "\x1b",
                    "http://[",
                    "",
                ]
                place = draw(st.sampled_from(places))
                lines.append(f"location: {place}".encode())
            case "wait":
                lines.append(b"retry-after: " + draw(st.sampled_from(WAITS)))
            case "packed":
                lines.append(b"content-encoding: " + draw(st.sampled_from(CODINGS)))
            case "sent":
                lines.append(b"transfer-encoding: " + draw(st.sampled_from(TRANSFERS)))
            case "odd":
                lines.append(draw(st.sampled_from(ODD_LINES)))
    return draw(st.permutations(lines))


@st.composite
def replies(draw, bodies: st.SearchStrategy[bytes], elsewhere: str) -> bytes:
    """All bytes of a reply: often an ordinary head before a changed body, or the other way round."""
    body = draw(bodies)
    if draw(st.booleans()):
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    status, reason = draw(st.sampled_from(STATUSES)), draw(st.sampled_from([b"OK", *REASONS]))
    head = [b"HTTP/1.1 %03d " % status + reason, *draw(header_lines(elsewhere, len(body)))]
    whole = b"\r\n".join([*head, b"", body])
    if draw(st.integers(0, 7)) == 0:
        whole = draw(damaged_bytes(whole))
    return whole


@st.composite
def json_bodies(draw, content: dict[str, Any]) -> bytes:
    """What a server says as JSON, whole or changed, and in another spelling at times."""
    match draw(st.sampled_from(["whole", *["changed"] * 6, "bytes", "bare", "spelling"])):
        case "whole":
            return json.dumps(content).encode()
        case "changed":
            return json.dumps(draw(changes(content))).encode()
        case "bytes":
            return draw(damaged_bytes(json.dumps(content).encode()))
        case "bare":
            bare = [b"", b"null", b"[]", b"1", b'"pong"', b"[" * 9999, b"1" * 9999, b"\xff", b"NaN"]
            return draw(st.sampled_from([*bare, b'{"a":' * 9999, b" " * 10**6, b"<html>", b"\x00"]))
    text = json.dumps(draw(changes(content)))
    return draw(
        st.sampled_from(
            [
                b"\xef\xbb\xbf" + text.encode(),
                text.encode("utf-16"),
                text.encode("utf-32"),
                text.replace('"', "'").encode(),
                (text[:-1] + "," + text[1:]).encode(),  # each name twice
                (text + text).encode(),
            ]
        )
    )


def sends(whole: bytes, ends: str = "closed"):
    """A fault that answers with these bytes."""

    def fault(exchange: Exchange) -> None:
        if exchange.command == "POST":
            exchange.take()
        with contextlib.suppress(OSError):
            exchange.wfile.write(whole)
            exchange.wfile.flush()
        if ends == "reset":
            exchange.hang_up()

    return fault


# -- what may come of it -----------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(llama):
    """Another host, to which a server may send its caller."""
    with Loopback(llama) as other:
        yield other


@pytest.fixture
def key(monkeypatch, server):
    """The user has a key; it is shown to nobody."""
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    return KEY


@pytest.fixture(autouse=True)
def _bounded_memory():
    """No reply takes more memory than an answer may."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")  # the peak begins anew
    before = peak_bytes()
    yield
    assert peak_bytes() - before < MOST_MEMORY


def peak_bytes() -> int:
    """Most memory that this process has had."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check_error(error: lr.LensError) -> None:
    """It is one sentence or two, and nothing that acts on a terminal or gives the key away."""
    text = str(error)
    assert text == escape_terminal(text)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 3000
    assert KEY not in "".join(traceback.format_exception(error))


def asked(question) -> Any:
    """What a question gives, or None after an error that says what is wrong."""
    try:
        return question()
    except lr.LensError as error:
        check_error(error)
        return None


def check_key(server: Loopback, elsewhere: Loopback) -> None:
    """The key went to the server alone."""
    for seen in elsewhere.seen:
        assert KEY not in repr(seen)
    for seen in server.asked("store"):
        assert KEY not in repr(seen)
    elsewhere.seen.clear()
    server.seen.clear()


ENDS = st.sampled_from(["closed"] * 6 + ["reset"])
STATES = ["RECEIVED", "QUEUED", "RUNNING", "COMPLETED", "ERROR"]


def state_of(job_id: str, status: str, url: str) -> dict[str, Any]:
    """What a server says of a job."""
    said = ResponseModel(id=job_id, status=status, description=f"It is {status}.", data=url)
    content = json.loads(said.model_dump_json())
    content["meta"] = {"runtime": 0.5, "max_memory_usage": 1000, "place": "a"}
    return content


# -- each question by itself -------------------------------------------


@pytest.mark.parametrize("status", STATES)
@settings(FUZZ, max_examples=120)
@given(data=st.data())
def test_the_state_of_a_job(server, elsewhere, key, status, data):
    content = state_of("job-x", status, f"{elsewhere.url}/store/a")
    whole = data.draw(replies(json_bodies(content), elsewhere.url))
    server.script("response", sends(whole, data.draw(ENDS)))
    state = asked(lambda: Server(server.url, IMPATIENT).state("job-x"))
    assert state is None or state.id == "job-x"
    check_key(server, elsewhere)


@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_the_acceptance_of_a_job(server, elsewhere, key, data):
    content = state_of("job-x", "RECEIVED", "")
    whole = data.draw(replies(json_bodies(content), elsewhere.url))
    server.script("request", sends(whole, data.draw(ENDS)))
    asks = Server(server.url, IMPATIENT)
    job_id = asked(lambda: asks.submit("model", {}, b"block"))
    assert job_id is None or isinstance(job_id, str)
    if job_id is not None:  # whatever the id is, the server can be asked for it
        assert asked(lambda: asks.state(job_id)) is None
    check_key(server, elsewhere)


SAID = {
    "ping": {"pong": "pong"},
    "status": {
        "deployments": {
            "a": {
                "model_key": "x:{}", "repo_id": "a/b", "revision": "main", "config": "{}",
                "application_state": "RUNNING", "deployment_level": "HOT", "n_params": 7,
            }
        },
        "calls": {"a": [1, 2]},
    },
    "env": {"python_version": "3.11.2", "packages": {"torch": "2.13.0", "nnsight": "0.8.1"}},
}  # fmt: skip


@pytest.mark.parametrize("place", SAID)
@settings(FUZZ, max_examples=120)
@given(data=st.data())
def test_a_question(server, elsewhere, key, place, data):
    whole = data.draw(replies(json_bodies(SAID[place]), elsewhere.url))
    server.script(place, sends(whole, data.draw(ENDS)))
    asked(lambda: Server(server.url, IMPATIENT).ask(f"/{place}"))
    check_key(server, elsewhere)


@settings(FUZZ, max_examples=200)
@given(data=st.data())
def test_the_doctor_reads_what_a_server_says(server, elsewhere, key, cli, data):
    """Each line of its report is one, whatever the server says of itself."""
    for place, content in SAID.items():
        body = data.draw(json_bodies(content))
        server.script(place, sends(b"HTTP/1.1 200 OK\r\n\r\n" + body))
    _, out, err = cli()("doctor", "--remote", server.url)
    assert "Traceback" not in out + err
    assert escape_terminal(out) == out
    assert KEY not in out + err
    check_key(server, elsewhere)


# -- a result ----------------------------------------------------------


@pytest.fixture(scope="module")
def finished(llama):
    """Not yet asked for: a job's chunk, its blob and its numbers, kept for all draws."""
    return {}


@pytest.fixture
def sent(client, server, finished):
    """A chunk of a job that ran, what its store holds, and the arrays that it means."""
    if not finished:
        job = lr.submit(lr.logit_lens, client, [7, 8, 9])
        job.status()
        (parcel,) = server.parcels.values()
        chunk = job._chunks[0]
        finished.update(chunk=chunk, blob=parcel.result, arrays=chunk.decode(parcel.result))
    return finished


def check_arrays(blob: bytes | None, sent: dict[str, Any], same_numbers: bool = True) -> None:
    """A result that is taken is the one that was sent, or has its names, types and shapes at least."""
    if blob is None:
        return
    arrays = asked(lambda: sent["chunk"].decode(blob))
    if arrays is None:
        return
    for batch, expected in zip(arrays, sent["arrays"], strict=True):
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            assert (batch[name].dtype, batch[name].shape) == (array.dtype, array.shape)
            if same_numbers:
                np.testing.assert_array_equal(batch[name], array)


@st.composite
def blobs(draw, blob: bytes) -> bytes:
    """A result with other bytes, packed or before it was packed."""
    if draw(st.booleans()):
        return draw(damaged_bytes(blob))
    return zstandard.compress(draw(damaged_bytes(zstandard.decompress(blob, 2**22))))


@settings(FUZZ, max_examples=400)
@given(data=st.data())
def test_a_result_with_other_bytes(server, elsewhere, key, sent, data):
    whole = data.draw(replies(blobs(sent["blob"]), elsewhere.url))
    server.script("store", sends(whole, data.draw(ENDS)))
    url = f"{server.url}/store/a"
    check_arrays(asked(lambda: Server(server.url, IMPATIENT).fetch(url, 2**21)), sent)
    check_key(server, elsewhere)


def saved_values(blob: bytes) -> dict[str, Any]:
    """What a job saved, with its bytes as a list of a few pieces in place of a tensor."""
    file = io.BytesIO(zstandard.decompress(blob, 2**22))
    return torch.load(file, weights_only=True)


@settings(FUZZ, max_examples=300)
@given(data=st.data())
def test_a_result_with_other_values(sent, data):
    """Its layout, its digest and its names are changed; its bytes are those of the run."""
    saved = saved_values(sent["blob"])
    tensors = [result.pop("bytes") for result in saved["found"]]
    changed = data.draw(changes(saved))
    if isinstance(changed.get("found"), list):
        for result, tensor in zip(changed["found"], tensors, strict=False):
            if isinstance(result, dict):
                result["bytes"] = tensor[: data.draw(st.sampled_from([10**9] * 5 + [0, 7, -1]))]
    try:
        blob = as_result(changed)
    except (UnicodeEncodeError, OverflowError):  # what no file of torch's can hold
        return
    check_arrays(blob, sent, same_numbers=False)


# -- a job as a whole --------------------------------------------------


@settings(FUZZ, max_examples=120)
@given(data=st.data())
def test_a_job_whose_server_says_one_thing_wrongly(
    client, server, elsewhere, clock, sent, tmp_path, monkeypatch, data
):
    """The result is right, or an error says what is wrong, after which the job goes on."""
    monkeypatch.setattr(lr.remote_settings, "patience_s", 0.0)
    monkeypatch.setattr(lr.remote_settings, "read_s", 0.3)
    server.reset()
    job = lr.submit(lr.logit_lens, client, [7, 8, 9], path=tmp_path / "a.job")
    (job_id,) = server.parcels
    state = state_of(job_id, data.draw(st.sampled_from(STATES)), f"{server.url}/store/{job_id}")
    server.script("response", sends(data.draw(replies(json_bodies(state), elsewhere.url))))
    server.script("response", ordinary)
    result = asked(job.result)
    if result is None:
        # What follows is answered, on a busy machine perhaps late.
        monkeypatch.setattr(lr.remote_settings, "read_s", 60.0)
        assert repr(job)
        assert str(job.status())
        result = asked(lr.Job.load(tmp_path / "a.job", client).result) or job.result()
    assert result.certificate.passed
    result.save(tmp_path / "a.json")
    assert lr.LensResult.load(tmp_path / "a.json").summary()
    assert not elsewhere.seen
