"""A real server, once trusted and once sandboxed, one after the other; the models it serves, as its client has them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import huggingface_hub.constants
import nnsight
import nnsight.modeling.huggingface
import pytest
from nnsight.schema.request import RequestModel

import lens_recipes

sys.path.insert(0, str(Path(__file__).parent))

from server import LLAVA, SMOLLM2, TINY, NdifServer, models

REPOS = {"smollm2": SMOLLM2, "tiny": TINY, "tiny-llava": LLAVA}


# The kinds of server that tests share, in the order in which they run.
KINDS = {
    "server": {"execution_timeout": 60},
    "sandbox_server": {"execution_timeout": 60, "sandbox": True},
    "guarded_server": {
        "execution_timeout": 5,
        "keys": {str(uuid.uuid4()): ["trusted"]},
        "environment": {"NDIF_MIN_NNSIGHT_VERSION": nnsight.__version__},
    },
}


def pytest_collection_modifyitems(items):
    """The tests of one kind of server together: there is one at a time, and each takes half a minute to start."""

    def kind(item) -> int:
        either = getattr(item, "callspec", None) and item.callspec.params.get("any_server")
        names = {*getattr(item, "fixturenames", ()), either}
        return max((number for number, name in enumerate(KINDS) if name in names), default=0)

    items.sort(key=kind)


@pytest.fixture(scope="session")
def home():
    """An HF_HOME with the served models; this process takes hub ids from there too, and asks no hub."""
    with models() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "hub"))
        for repo in REPOS.values():
            patch.setitem(nnsight.modeling.huggingface._ID_CACHE, repo, repo)
        yield place


_running: dict[str, NdifServer] = {}


def _only(home, kind: str) -> NdifServer:
    """The server of this kind; one of another kind is stopped first (each holds its models in memory)."""
    if kind not in _running:
        while _running:
            _running.popitem()[1].stop()
        _running[kind] = NdifServer(home, **KINDS[kind]).start()
    return _running[kind]


@pytest.fixture(scope="session", autouse=True)
def _stopped_at_the_end():
    yield
    while _running:
        _running.popitem()[1].stop()


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch):
    """Whoever runs the tests may have a key and a server."""
    for name in ("NDIF_API_KEY", "NDIF_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)


@pytest.fixture
def server(home):
    """A server that trusts its callers."""
    return _only(home, "server")


@pytest.fixture
def guarded_server(home):
    """A server that wants a key, a client that is not too old, and blocks that take less than five seconds."""
    return _only(home, "guarded_server")


@pytest.fixture
def another(home):
    """A server of the test's own, which it may stop: stopped at the end."""
    with contextlib.ExitStack() as stack:

        def make(**options) -> NdifServer:
            server = NdifServer(home, **options)
            stack.callback(server.stop)
            return server

        yield make


@pytest.fixture
def untrusted(monkeypatch):
    """Requests of this test say that their caller is not to be trusted."""
    metadata = RequestModel.metadata

    def distrusted(self):
        return json.dumps({**json.loads(metadata(self)), "trusted": False})

    monkeypatch.setattr(RequestModel, "metadata", distrusted)


@pytest.fixture
def sandbox_server(home, untrusted):
    """A server that runs this test's requests as the public one runs a stranger's."""
    return _only(home, "sandbox_server")


@pytest.fixture(params=["server", "sandbox_server"], ids=["trusted", "sandbox"])
def any_server(request):
    """Both kinds, one test after another."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def _skeletons(home):
    return {name: lens_recipes.load(repo, remote=True) for name, repo in REPOS.items()}


@pytest.fixture
def client(_skeletons):
    """A served model ("smollm2" or "tiny") as a caller has it, without weights; recipes run it on `server`."""
    return lambda server, name="smollm2": lens_recipes.load(_skeletons[name], remote=server.url)


@pytest.fixture(scope="session")
def here(home, smollm2):
    """The same model with its weights, in this process: the oracle."""
    loaded = {name: lens_recipes.load(home.parent / name) for name in ("tiny", "tiny-llava")}
    return {"smollm2": smollm2, **loaded}.__getitem__


@pytest.fixture
def settings(monkeypatch):
    """Change `remote_settings` for one test: settings(patience_s=1)."""

    def change(**values) -> None:
        for name, value in values.items():
            monkeypatch.setattr(lens_recipes.remote_settings, name, value)

    return change


@pytest.fixture
def elsewhere(home):
    """Start another Python process, which finds the served models as this one does: elsewhere(server, "-c", code)."""
    with contextlib.ExitStack() as stack:

        def start(server, *arguments, **options) -> subprocess.Popen:
            environment = {
                k: v for k, v in os.environ.items() if k not in ("HF_HUB_CACHE", "NDIF_API_KEY")
            }
            environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "NDIF_HOST": server.url}
            environment["NNSIGHT_CONFIG"] = str(
                home / "nnsight.yaml"
            )  # which is not there, so it holds no key
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
            )  # fmt: skip
            stack.callback(_end, process)
            return process

        yield start


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
