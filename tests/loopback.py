"""A server on this machine that speaks what `lens_recipes.run.remote.server` speaks, runs blocks, and fails as it is told.

It is NDIF without redis, Ray and a store: one thread, and a block that runs where this package cannot be imported. The
block runs while its state is asked for, so nothing needs to wait; what fails is scripted, so nothing is left to chance.
(It is imported before pytest takes its fixtures from it: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import json
import linecache
import os
import socket
import struct
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants
import nnsight.modeling.huggingface
import pytest
import strict_local
import tenacity
import torch
import zstandard
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.tracer import _saves, dec, inc

import lens_recipes as lr
from lens_recipes.run.remote import server as ndif
from lens_recipes.run.remote.jobs import chunks, waiting

REPO, SMOLLM2, REVISION = (
    "lens-recipes/tiny",
    "lens-recipes/smollm2",
    "0123456789abcdef0123456789abcdef01234567",
)
KEY = "11111111-2222-4333-8444-abcdefabcdef"
NOT_THERE = ("lens_recipes", "jaxtyping", "plotly", "platformdirs", "rich", "tqdm", "typer")

Fault = Callable[["Exchange"], None]


class Seen(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Parcel:
    """A job that was accepted.

    Attributes:
        request: Its envelope.
        blob: Its block.
        last: What is said of it; None before anybody has asked.
        result: What the store holds for it.
        runs: How often it was run.
    """

    request: RequestModel
    blob: bytes
    last: ResponseModel | None = None
    result: bytes = b""
    runs: int = 0


class Exchange(BaseHTTPRequestHandler):
    """One request, and what is answered."""

    server: _Http

    def do_GET(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    @property
    def loopback(self) -> Loopback:
        return self.server.loopback

    @property
    def name(self) -> str:
        """The id at the end of the path."""
        return self.path.split("?")[0].rpartition("/")[2]

    def serve(self) -> None:
        """What is scripted for this route, else what a server does."""
        self.loopback.seen.append(
            Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        )
        self.loopback.next_fault(self.path.split("/")[1])(self)

    def ordinary(self) -> None:
        """As a server without faults."""
        getattr(self, f"on_{self.path.split('/')[1]}", lambda: self.answer(404, b"no such place"))()

    def answer(
        self, status: int, body: Any = b"", headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        """Say it; `length` is what the header claims."""
        plain = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(plain) if length < 0 else length))
        self.end_headers()
        self.wfile.write(plain)

    def say(self, response: ResponseModel) -> None:
        self.answer(200, response.model_dump_json().encode())

    def take(self) -> bytes:
        """The body of the request, whole."""
        return self.rfile.read(int(self.headers["content-length"]))

    def hang_up(self) -> None:
        """End the connection with a reset, as a machine that goes down does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    # -- the routes ----------------------------------------------------

    def on_request(self) -> None:
        self.say(self.loopback.accept(self.take(), self.headers["content-type"]))

    def on_response(self) -> None:
        parcel = self.loopback.parcels.get(self.name)
        if parcel is None:
            self.answer(404, {"detail": f"No response for request {self.name}."})
        else:
            self.say(parcel.last or self.loopback.run(self.name, parcel))

    def on_store(self) -> None:
        self.answer(200, self.loopback.parcels[self.name].result)

    def on_status(self) -> None:
        self.answer(200, {"deployments": {}})

    def on_env(self) -> None:
        self.answer(200, {"python_version": "3.11", "packages": {}})

    def on_ping(self) -> None:
        self.answer(200, "pong")


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    loopback: Loopback

    def handle_error(self, *_: Any) -> None:
        """A client that has gone is no news."""


class Loopback:
    """The server: `with Loopback(model) as server`, a model with its weights.

    Attributes:
        url: Its address.
        parcels: The jobs it has accepted, by id.
        seen: All requests, in order.
        read: The ids of each forward pass that a job has made.
        is_open: Whether it listens.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.port, self.is_open = model, 0, False
        self._running = threading.Lock()
        self._ids = itertools.count()
        self.reset()

    def __enter__(self) -> Loopback:
        self.open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def reset(self) -> None:
        """As if newly started: nothing accepted, nothing scripted. No id is given a second time."""
        self.parcels: dict[str, Parcel] = {}
        self.seen: list[Seen] = []
        self.read: list[list[list[int]]] = []
        self._script: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}

    def open(self) -> None:
        """Listen, on the same port as before."""
        self._http = _Http(("127.0.0.1", self.port), Exchange)
        self._http.loopback, self.port = self, self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.is_open = True

    def close(self) -> None:
        """Listen no more: connections are refused."""
        self.is_open = False
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> int:
        """How many jobs were sent here, accepted or not."""
        return sum(seen.method == "POST" for seen in self.seen)

    def asked(self, route: str) -> list[Seen]:
        """The requests for one route."""
        return [seen for seen in self.seen if seen.path.split("/")[1] == route]

    # -- faults --------------------------------------------------------

    def script(self, route: str, *faults: Fault) -> None:
        """What the next requests for a route ("request", "response", "store", …) get, one fault each."""
        self._script.setdefault(route, []).extend(faults)

    def always(self, route: str, fault: Fault) -> None:
        """What each request for a route gets, after what is scripted."""
        self._always[route] = fault

    def next_fault(self, route: str) -> Fault:
        script = self._script.get(route)
        return script.pop(0) if script else self._always.get(route, ordinary)

    # -- jobs ----------------------------------------------------------

    def accept(self, body: bytes, content_type: str) -> ResponseModel:
        """A job out of a multipart form."""
        form = _form(body, content_type.partition("boundary=")[2].encode())
        number = f"job-{next(self._ids)}"
        self.parcels[number] = Parcel(RequestModel.model_validate_json(form["data"]), form["blob"])
        return ResponseModel(
            id=number, status=Status.RECEIVED, description="Your job has been received."
        )

    def run(self, number: str, parcel: Parcel) -> ResponseModel:
        """Run a block where this package does not exist, and keep what it saved."""
        with self._running:
            parcel.runs += 1
            try:
                parcel.result = self._execute(parcel)
                parcel.last = ResponseModel(
                    id=number,
                    status=Status.COMPLETED,
                    description="Done.",
                    data=f"{self.url}/store/{number}",
                )
            except Exception:
                parcel.last = ResponseModel(
                    id=number, status=Status.ERROR, description=traceback.format_exc()
                )
        return parcel.last

    def _execute(self, parcel: Parcel) -> bytes:
        objects = self.model._remoteable_persistent_objects()
        with self._counted(), strict_local.absent(*NOT_THERE), strict_local.strange_classes():
            sources = dict(linecache.cache)
            tracer = RequestModel.deserialize(
                parcel.blob, objects, compress=parcel.request.compress
            )
            _put_back(sources, tracer.info.frame.f_code.co_filename)
            inc()
            try:
                tracer.execute(tracer.info.code)
                saved = {
                    name: value
                    for name, value in tracer.info.frame.f_locals.items()
                    if id(value) in _saves()
                }
            finally:
                dec()
        return as_result(saved)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.read.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).tolist())

        hook = self.model._module.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def _put_back(sources: dict[str, Any], file: str) -> None:
    """A block that arrives brings its source as that of its file, which in this process is there, and longer."""
    linecache.cache.pop(file, None)
    if file in sources:
        linecache.cache[file] = sources[file]


def _form(body: bytes, boundary: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    fields = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        fields[head.partition(b'name="')[2].partition(b'"')[0].decode()] = content
    return fields


def as_result(saved: Any) -> bytes:
    """What a store holds: as NDIF writes it."""
    file = io.BytesIO()
    torch.save(saved, file)
    return zstandard.ZstdCompressor(level=3).compress(file.getvalue())


# -- what can be scripted ----------------------------------------------


def ordinary(exchange: Exchange) -> None:
    """No fault."""
    exchange.ordinary()


def says(status: int, body: Any = b"", **headers: str) -> Fault:
    """An answer. The request is read first: who answers early resets the connection, and the answer may be lost."""

    def fault(exchange: Exchange) -> None:
        if exchange.command == "POST":
            exchange.take()
        exchange.answer(
            status, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    return fault


def reports(status: Status, text: str = "", data: Any = None) -> Fault:
    """A job's state."""
    return lambda exchange: exchange.say(
        ResponseModel(id=exchange.name, status=status, description=text, data=data)
    )


def hangs_up(exchange: Exchange) -> None:
    """The connection ends before the request is read."""
    exchange.hang_up()


def hangs_up_after_reading(exchange: Exchange) -> None:
    """The connection ends with the request read, and nothing said."""
    if exchange.command == "POST":
        exchange.take()
    exchange.hang_up()


def accepts_and_hangs_up(exchange: Exchange) -> None:
    """The job is accepted, but its sender never hears of it."""
    exchange.loopback.accept(exchange.take(), exchange.headers["content-type"])
    exchange.hang_up()


def breaks_off(exchange: Exchange) -> None:
    """Half of a result."""
    whole = exchange.loopback.parcels[exchange.name].result
    exchange.answer(200, whole[: len(whole) // 2], length=len(whole))


def forgets(exchange: Exchange) -> None:
    """The server knows nothing of its jobs any more."""
    exchange.loopback.parcels.clear()
    exchange.ordinary()


@dataclass
class Clock:
    """Time that passes only where somebody sleeps.

    Attributes:
        now: Seconds.
        slept: All that was slept.
        events: Called one after another, each after one sleep.
    """

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    events: list[Callable[[], Any]] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1.8e9 + self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + 1e-3
        if self.events:
            self.events.pop(0)()


# -- fixtures: pytest_plugins = ["loopback"] ---------------------------


def lay_out(hub: Path, repo: str, checkpoint: Path) -> None:
    """A checkpoint folder as the hub's cache holds it."""
    place = hub / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    (place / "snapshots").mkdir()
    (place / "snapshots" / REVISION).symlink_to(checkpoint)


@contextlib.contextmanager
def hub_at(hub: Path) -> Iterator[None]:
    """Hub ids are looked up there, and no hub is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
        for repo in (REPO, SMOLLM2):
            patch.setitem(nnsight.modeling.huggingface._ID_CACHE, repo, repo)
        yield


@pytest.fixture(scope="session")
def hub(folder, tmp_path_factory):
    """A hub's cache that holds the tiny model."""
    place = tmp_path_factory.mktemp("hub")
    lay_out(place, REPO, folder)
    return place


@pytest.fixture(scope="session")
def _skeleton(hub):
    with hub_at(hub):
        return lr.load(REPO, remote=True)


@pytest.fixture(scope="session")
def _loopback(llama):
    with Loopback(llama) as server:
        yield server


@pytest.fixture
def server(_loopback, monkeypatch):
    """A server of the tiny model, without a past."""
    for name in ("NDIF_API_KEY", "NDIF_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("nnsight.CONFIG.API.APIKEY", None)
    _loopback.reset()
    return _loopback


_lines_of = inspect.getsourcelines
_known: dict[types.FunctionType, Any] = {}


def _lines_once(thing: Any) -> Any:
    """Lines of source; of a function read once, as nnsight asks for those of each that travels, with each job."""
    if not isinstance(thing, types.FunctionType):
        return _lines_of(thing)
    if thing not in _known:
        _known[thing] = _lines_of(thing)
    return _known[thing]


@pytest.fixture
def client(_skeleton, server, hub, monkeypatch):
    """The tiny model as a caller of that server has it: without weights."""
    monkeypatch.setattr(inspect, "getsourcelines", _lines_once)
    with hub_at(hub):
        yield lr.load(_skeleton, remote=server.url)


@pytest.fixture
def clock(monkeypatch):
    """Nothing really sleeps."""
    clock = Clock()
    monkeypatch.setattr(tenacity, "time", clock)
    monkeypatch.setattr(tenacity.nap, "time", clock)
    for module in (chunks, waiting, ndif):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def settings(monkeypatch):
    """Change `remote_settings` for one test: settings(poll_s=0.1)."""

    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(lr.remote_settings, name, value)

    return change


def environment(hub: Path) -> dict[str, str]:
    """For another process that is to find the models of this one."""
    return {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
