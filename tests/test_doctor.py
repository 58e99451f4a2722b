"""The doctor, with patients: a server that answers as NDIF does and worse ones, broken packages, other machines."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import platform
import re
import shlex
import socket
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import nnsight
import nnsight.ndif
import pytest
import torch

import lens_recipes as lr
from lens_recipes.cli.doctor import local as doctor_local
from lens_recipes.cli.doctor import server as doctor_server
from lens_recipes.cli.doctor.command import examine
from lens_recipes.cli.doctor.report import Finding, print_report
from lens_recipes.models import smollm2
from lens_recipes.run.remote.http import http_requests, settings
from lens_recipes.views.tables.grids import console_text, string_console

KEY = "5ec2e7aa-0000-4000-8000-00000ca11ab1e"  # of nobody

# What is installed stays so while the tests run, and takes longest to find out.
local_env = functools.cache(nnsight.ndif.get_local_env)
version, requires = (
    functools.cache(importlib.metadata.version),
    functools.cache(importlib.metadata.requires),
)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """No key, host or proxy of whoever runs the tests; no waiting between two tries."""
    for name in (
        "NDIF_API_KEY",
        "NDIF_HOST",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "CUDA_VISIBLE_DEVICES",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", None)
    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", settings.PUBLIC)
    monkeypatch.setattr(http_requests, "_backoff", lambda state: 0.0)
    monkeypatch.setattr(doctor_server.SETTINGS, "patience_s", 0.05)
    monkeypatch.setattr(nnsight.ndif, "get_local_env", local_env)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", requires)


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    return KEY


@pytest.fixture
def no_network(monkeypatch):
    """Whoever connects or looks up a name fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def deployment(repo, state="RUNNING", level="HOT", task="text-generation", **more):
    model_key = f"nnsight.modeling.transformers.TransformersModel:{repo}:{task}"
    entry = {
        "deployment_level": level,
        "application_state": state,
        "model_key": model_key,
        "repo_id": repo,
    }
    return {**entry, "task": task, "revision": "main", **more}


LLAMA = "meta-llama/Llama-3.1-70B"
DEPLOYMENTS = {
    f"0:ModelActor:{LLAMA}": deployment(LLAMA, "DEPLOYING"),
    f"1:ModelActor:{LLAMA}": deployment(LLAMA),
    "0:ModelActor:asleep": deployment(
        "google/gemma-3-27b-it", level="WARM", task="image-text-to-text"
    ),
    "0:ModelActor:broken": deployment("openai-community/gpt2", "UNHEALTHY"),
    "EleutherAI/pythia-70m": {"deployment_level": "COLD", "repo_id": "EleutherAI/pythia-70m"},
}


def environment(**packages):
    """What /env says of a server that has what this process has, but for these."""
    here = {
        name: local_env()["packages"][name]
        for name in ("nnsight", "torch", "transformers", "numpy")
    }
    return {"python_version": sys.version, "packages": {**here, "ray": "2.60.0", **packages}}


class FakeNdif(ThreadingHTTPServer):
    """What an NDIF server's API answers; `answers` may be changed, `asked` is (path, headers) of each request."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.refusals = [], []  # refusals are sent before anything else
        self.silent, self.over = (
            set(),
            threading.Event(),
        )  # paths that are answered when the test is over
        self.answers = {
            "/ping": "pong",
            "/whoami": {"email": "me@example.org", "tags": ["trusted"]},
            "/status": {"deployments": DEPLOYMENTS, "cluster": {"nodes": {}}},
            "/env": environment(),
        }
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        if self.path in self.server.silent:
            self.server.over.wait(20)
            return
        if self.server.refusals:
            answer = self.server.refusals.pop(0)
        else:
            answer = self.server.answers.get(self.path, (404, {"detail": "Not Found"}))
        status, body, headers = (
            (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
        )
        if status is None:  # no HTTP
            self.wfile.write(body)
            return
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "text/html" if isinstance(body, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with FakeNdif() as fake:
        thread = threading.Thread(target=fake.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield fake
        fake.over.set()
        fake.shutdown()
        thread.join()


@pytest.fixture
def closed():
    """The address of a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def run(cli):
    return cli()


def errors(report):
    return [finding for finding in report.findings if finding.level == "error"]


def differing(report):
    return [
        package for package, words in report.versions.items() if words.endswith("which differs")
    ]


def of(report, about):
    return [finding for finding in report.findings if finding.about == about]


def text(report, width=110):
    """What the command prints."""
    console = string_console(width)
    print_report(report, console)
    return console_text(console)


# -- without a server --------------------------------------------------


@pytest.mark.usefixtures("no_network", "key")
def test_without_remote_there_is_no_network(run):
    report = examine()
    assert report.ok
    assert report.remote["NDIF server"] == f"{settings.PUBLIC}, not asked"
    assert report.packages["torch"] == torch.__version__
    assert report.packages["nnsight"] == "0.8.1"
    assert re.search(r", [1-9]\d* cores$", report.machine["system"])
    size, free = re.findall(r"[\d.]+(?= GB)", report.machine["memory"])
    assert float(size) > float(free) > 0
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert f"transformers  {report.packages['transformers']}" in out
    assert "NDIF key      set in the environment" in out
    assert "https://api.ndif.us, not asked" in out


KEYS = {
    "": "format version ok packages machine remote models versions findings",
    "machine": "system memory threads of torch GPU smollm2",
    "remote": "NDIF key NDIF server",
    "versions": "python nnsight torch transformers",
    "findings": "level about what todo",
}


def test_json_is_one_object_with_known_keys(run, server, key):
    server.answers["/env"] = environment(transformers="5.0.0")
    status, out, err = run("doctor", "--host", server.url, "--json")
    assert (status, err) == (0, "")
    assert out.count("\n") == 1
    told = json.loads(out)
    assert told["format"] == "lens-recipes/doctor"
    assert told["version"] == 1
    assert told["ok"] is True
    parts = {name: told[name] for name in ("machine", "remote", "versions")}
    parts |= {"": told, "findings": told["findings"][0]}
    assert {name: " ".join(part) for name, part in parts.items()} == KEYS


def test_a_report_is_shown_as_the_command_shows_it(run):
    report = examine()
    assert "nnsight       0.8.1" in text(report)
    assert text(report).splitlines()[-1].startswith("Nothing is in the way")


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(server, key, width):
    server.answers["/env"] = environment(transformers="5.0.0", torch="2.6.0+cu126")
    server.answers["/status"] = {
        "deployments": {**DEPLOYMENTS, "long": deployment("org/" + "x" * 200)}
    }
    lines = text(examine(server.url), width).splitlines()
    assert max(map(len, lines)) <= width


# -- a server that is well ---------------------------------------------


def test_a_server_that_is_well(run, server, key):
    report = examine(server.url)
    assert report.ok
    assert report.remote["NDIF server"] == f"{server.url}, answers"
    assert report.remote["NDIF key"].endswith("accepted: me@example.org, trusted")
    assert [*report.models.items()] == [
        (f"{LLAMA} · text-generation · main", "running ×2"),  # both replicas, in the better state
        ("google/gemma-3-27b-it · image-text-to-text · main", "asleep ×1"),
        ("openai-community/gpt2 · text-generation · main", "broken ×1"),
    ]
    assert differing(report) == []
    assert {headers["ndif-api-key"] for _, headers in server.asked} == {key}
    assert {path for path, _ in server.asked} == {"/ping", "/whoami", "/status", "/env"}

    status, out, err = run("doctor", "--host", server.url)
    assert (status, err) == (0, "")
    assert "accepted: me@example.org, trusted" in out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows[LLAMA][-2:] == ["running", "×2"]
    assert rows["google/gemma-3-27b-it"][-2:] == ["asleep", "×1"]
    assert rows["openai-community/gpt2"][-2:] == ["broken", "×1"]


def test_remote_is_the_host_of_the_environment(run, server, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", server.url + "/")
    status, out, _ = run("doctor", "--remote", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["remote"] == {"NDIF key": "not set", "NDIF server": f"{server.url}, answers"}
    assert "/whoami" not in [path for path, _ in server.asked]


def test_a_key_of_nnsights_configuration(monkeypatch, server):
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", KEY)
    report = examine(server.url)
    assert report.remote["NDIF key"].startswith("set in nnsight's configuration; accepted")


def test_versions_are_compared_by_release(run, server, key):
    """Critical ones first and with what to install; another build of a release is the same release."""
    release = torch.__version__.partition("+")[0]
    server.answers["/env"] = environment(
        torch=f"{release}+cu999", transformers="5.23.0", numpy="1.99.0", rich="1.0", nnsight="0.7.0"
    )
    server.answers["/env"]["python_version"] = "3.99.1 (main, Jan  1 2026) \n[GCC 13]"
    report = examine(server.url)
    assert report.ok
    assert differing(report) == ["python", "nnsight", "transformers"]
    assert report.versions["python"].startswith(
        f"here {platform.python_version()}, on the server 3.99.1"
    )
    (transformers,) = [
        finding for finding in of(report, "transformers") if finding.level == "warning"
    ]
    assert "pip install 'transformers==5.23.0'" in transformers.todo
    (nnsight_,) = of(report, "nnsight")
    assert "lens-recipes needs nnsight<0.9,>=0.8.1" in nnsight_.todo
    assert (transformers.level, nnsight_.level) == ("warning", "warning")
    (python,) = of(report, "python")
    assert (python.level, "3.99" in python.todo) == ("note", True)
    _, out, _ = run("doctor", "--host", server.url)
    rows = {line.split()[0]: line.rstrip() for line in out.splitlines() if line.strip()}
    assert rows["transformers"].endswith("differs")
    assert rows["torch"].endswith("+cu999")


def test_a_server_without_models(server):
    server.answers["/status"] = {"deployments": {}}
    report = examine(server.url)
    assert report.ok
    assert of(report, "models")[0].level == "note"


# -- servers that are not well -----------------------------------------


def test_a_server_that_is_down(run, closed, key):
    status, out, err = run("doctor", "--host", closed)
    assert (status, err) == (1, "")
    assert f"{closed} cannot be reached" in out
    assert "→" in out
    report = examine(closed)
    assert [finding.about for finding in errors(report)] == ["server"]
    assert report.remote["NDIF server"] == f"{closed}, cannot be used"
    assert report.packages["torch"] == torch.__version__


def test_a_proxy_is_named_and_its_password_is_not(closed, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:1")
    (finding,) = errors(examine(closed))
    assert "HTTPS_PROXY" in finding.todo
    assert "secret" not in str(finding)


@pytest.fixture(scope="module")
def here():
    """What is found without a server."""
    return examine().findings


HTML = (200, b"<html><body>Welcome to the <b>router</b></body></html>")


@pytest.mark.parametrize(
    ("path", "answer", "about", "level"),
    [
        ("/ping", HTML, "server", "error"),
        ("/ping", {"pong": True}, "server", "error"),
        ("/ping", (404, {"detail": "Not Found"}), "server", "error"),
        ("/ping", (500, b"<html>oops</html>"), "server", "error"),
        ("/ping", (301, b"", {"Location": "https://elsewhere/"}), "server", "error"),
        ("/ping", (403, b"<html>Forbidden</html>"), "key", "error"),
        ("/whoami", HTML, "key", "error"),
        ("/whoami", ["me"], "key", "error"),
        ("/whoami", (401, {"detail": "Missing or invalid API key."}), "key", "error"),
        ("/whoami", (400, {"detail": f"Invalid API key format: '{KEY}'."}), "key", "error"),
        ("/whoami", (503, {"detail": "Auth backend unavailable."}), "key", "error"),
        ("/whoami", (404, {"detail": "Not Found"}), "key", "note"),
        ("/whoami", {"email": None, "tags": []}, "key", "warning"),
        ("/whoami", {"email": 3, "tags": "many"}, "key", "warning"),
        ("/status", HTML, "models", "error"),
        ("/status", {"deployments": [1]}, "models", "error"),
        (
            "/status",
            {"deployments": {"a": 1, "b": {"deployment_level": ["HOT"]}}},
            "models",
            "note",
        ),
        ("/status", (503, {"detail": "compute backend is reconnecting."}), "models", "error"),
        ("/status", (504, {"detail": "Timed out waiting for cluster status."}), "models", "error"),
        ("/env", HTML, "versions", "warning"),
        ("/env", {"packages": "many"}, "versions", "warning"),
        ("/env", {"python_version": "3.11", "packages": []}, "versions", "warning"),
        ("/env", (404, {"detail": "Not Found"}), "versions", "warning"),
    ],
)
def test_what_is_wrong_with_a_server_is_one_finding(server, key, here, path, answer, about, level):
    """What it is about, how bad, and what to do; all the other questions are answered."""
    server.answers[path] = answer
    report = examine(server.url)
    found = [finding for finding in report.findings if finding not in here]
    assert [(finding.about, finding.level) for finding in found] == [(about, level)]
    assert found[0].todo
    assert report.ok == (level != "error")
    assert KEY not in report.as_json() + text(report)
    if path != "/ping":
        assert report.remote["NDIF server"].endswith("answers")
        assert (report.models == {}) == (path == "/status")


def test_ndif_itself_knows_all_of_its_keys(server, key, monkeypatch):
    monkeypatch.setattr(settings, "PUBLIC", server.url)
    monkeypatch.setattr(doctor_server, "PUBLIC", server.url)
    server.answers["/whoami"] = {"email": None, "tags": []}
    report = examine(server.url)
    assert "does not know" in of(report, "key")[0].what
    assert [finding.about for finding in errors(report)] == ["key"]


def test_a_busy_server_is_asked_again(server):
    server.refusals = [(503, {"detail": "busy"}), (429, {"detail": "slow down"})]
    assert examine(server.url).ok
    assert [path for path, _ in server.asked][:3] == ["/ping"] * 3


def test_a_server_that_does_not_answer_is_not_waited_for(server, monkeypatch):
    """The other questions have their answers."""
    monkeypatch.setattr(doctor_server.SETTINGS, "read_s", 0.5)
    server.silent.add("/status")
    report = examine(server.url)
    (finding,) = errors(report)
    assert finding.about == "models"
    assert "ReadTimeout" in finding.what
    assert "in a few minutes" in finding.todo
    assert "torch" in report.versions


def test_versions_that_are_none_are_shown_as_they_are(server, key):
    server.answers["/env"] = environment(torch="nightly", transformers="", nnsight=3)
    server.answers["/whoami"] = {"email": "me@example.org", "tags": []}
    report = examine(server.url)
    assert report.ok
    there = [report.versions[package].split("server ")[1] for package in differing(report)]
    assert there == [f"{version}, which differs" for version in ("3", "nightly", "")]


def test_text_of_a_server_does_nothing_to_the_terminal(server):
    server.answers["/status"] = {"deployments": {"x": deployment("evil\x1b[2J/[red]model\n\u202e")}}
    server.answers["/env"] = environment(rich="\x1b]0;title\x07")
    report = examine(server.url)
    (model,) = report.models
    assert model.startswith("evil⟨1B⟩[2J/[red]model ⟨202E⟩")
    assert "[red]model" in text(report)
    assert not {"\x1b", "\x07", "\u202e"} & set(text(report))


# -- the key -----------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_a_server_that_repeats_the_key_does_not_make_us_repeat_it(
    run, server, key, capsys, caplog, status
):
    said = {
        "email": key,
        "tags": [key],
        "deployments": {key: deployment(f"org/{key}")},
        "detail": f"bad: {key}",
    }
    body = {**said, "python_version": key, "packages": {key: key, "torch": key, "rich": key}}
    server.answers = dict.fromkeys(("/whoami", "/status", "/env"), (status, body)) | {
        "/ping": "pong"
    }
    caplog.set_level(0)
    report = examine(server.url)
    told = [
        report.as_json(),
        text(report),
        repr(report),
        caplog.text,
        *capsys.readouterr(),
    ]
    for more in ([], ["--json"]):
        told += map(str, run("doctor", "--host", server.url, *more))
    server.answers["/ping"] = (status, {"detail": key}) if status != 200 else key
    told += map(str, run("doctor", "--host", server.url))
    assert KEY not in "".join(told)
    assert "<key>" in report.as_json()


def test_a_server_that_repeats_the_key_in_what_is_no_http(run, server, key):
    server.answers["/ping"] = (None, f"{key}\r\n\r\n".encode())
    status, out, err = run("doctor", "--host", server.url)
    assert status == 1
    assert "broke off" in out
    assert "<key>" in out
    assert KEY not in out + err


@pytest.mark.parametrize("bad", [KEY[:8] + "\n" + KEY[8:], KEY[:8] + "é" + KEY[8:]])
def test_a_key_that_cannot_be_sent_is_not_sent(run, server, monkeypatch, bad):
    monkeypatch.setenv("NDIF_API_KEY", bad)
    status, out, err = run("doctor", "--host", server.url)
    assert status == 1
    assert "characters that no key has" in out
    assert KEY[:8] not in out + err
    assert server.asked == []


@pytest.mark.usefixtures("no_network", "key")
def test_a_key_does_not_travel_where_others_read_it(run):
    status, out, err = run("doctor", "--host", "http://192.0.2.1")
    assert status == 1
    assert "plain http" in out
    assert KEY not in out + err


@pytest.mark.usefixtures("no_network")
def test_ndif_without_a_key_is_not_asked(run):
    status, out, _ = run("doctor", "--remote")
    assert status == 1
    assert "needs an API key" in out
    assert "https://login.ndif.us" in out


# -- wrong usage -------------------------------------------------------


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--host local", ["--host", "'local'", "https://host"]),
        ("--host http://h:port", ["--host", "no address"]),
        ("--host 'http://[::1'", ["--host", "no address"]),
        ("--host ''", ["--host", "no address"]),
        ("--host https://me:secret@h", ["--host", "'h'"]),
        (f"--host https://h/?key={KEY}", ["--host", "'https://h/'"]),
        ("--host", ["--host", "argument"]),
        ("--json -", ["argument"]),
        ("--model smollm2", ["--model"]),
    ],
)
def test_wrong_usage_is_status_2_and_one_message(run, arguments, words):
    status, out, err = run("doctor", *shlex.split(arguments))
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert "secret" not in err
    assert KEY not in err
    assert all(word in err for word in words)


@pytest.mark.parametrize("remote", ["local", "host:80", "ftp://host", "https://me:secret@host"])
def test_a_wrong_address_is_a_ValueError(remote):
    with pytest.raises(ValueError, match="no address of a server") as error:
        examine(remote)
    assert "secret" not in str(error.value)


@pytest.mark.usefixtures("no_network")
def test_a_wrong_NDIF_HOST_is_a_finding(run, monkeypatch):
    """Where no server is wanted, it is only a warning."""
    monkeypatch.setenv("NDIF_HOST", "api.ndif.us")
    assert run("doctor")[0] == 0
    status, out, _ = run("doctor", "--remote")
    assert status == 1
    assert "'api.ndif.us' is no address" in out
    assert "NDIF_HOST" in out


def test_a_wrong_NDIF_HOST_does_not_matter_to_host(server, monkeypatch):
    monkeypatch.setenv("NDIF_HOST", "http://me:secret@host:port")
    report = examine(server.url)
    assert report.ok
    assert "secret" not in report.as_json()


# -- what is installed -------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """Let packages have other versions; None for a package that is not there."""

    def are(**versions):
        def pretended(package):
            if package in versions and versions[package] is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return versions.get(package) or version(package)

        monkeypatch.setattr(importlib.metadata, "version", pretended)

    return are


@pytest.mark.parametrize(
    ("package", "version", "wanted"),
    [
        ("nnsight", "0.9.0", "nnsight<0.9,>=0.8.1"),
        ("nnsight", "0.7.0", "nnsight<0.9,>=0.8.1"),
        ("transformers", "4.57.6", "transformers>=5.23"),
        ("torch", "2.4.1+cu121", "torch>="),
        ("plotly", None, "plotly>=6.1.1"),
    ],
)
def test_what_this_package_needs_and_has_not_is_an_error(run, installed, package, version, wanted):
    installed(**{package: version})
    status, out, _ = run("doctor", "--json")
    assert status == 1
    told = json.loads(out)
    (finding,) = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert finding["about"] == package
    assert f"pip install '{wanted}" in finding["todo"]
    assert told["packages"][package] == (version or "missing")
    status, out, _ = run("doctor")
    assert status == 1
    assert (version or "missing") in out


def test_optional_packages_may_be_absent(run, installed):
    """The extra that brings it stands beside it."""
    installed(pandas=None, kaleido=None)
    status, out, _ = run("doctor")
    assert status == 0
    assert 'pandas        missing extra == "frames"' in out
    assert 'kaleido       missing extra == "png"' in out


def test_a_package_that_is_on_the_path_alone_is_an_error(installed):
    installed(**{"lens-recipes": None})
    (finding,) = errors(examine())
    assert finding.about == "lens-recipes"
    assert finding.todo == "pip install 'lens-recipes'"


@pytest.mark.parametrize(
    ("module", "kind", "server_is_asked"),
    [
        ("torch", OSError, False),
        ("transformers", RuntimeError, False),
        ("lens_recipes.models.load", ImportError, True),
    ],
)
def test_a_package_that_cannot_be_imported_is_told(
    run, server, monkeypatch, module, kind, server_is_asked
):
    """Also torch, and what needs it: the rest of the report is there."""
    real = importlib.import_module

    def broken(name, *more):
        if name == module or (name.startswith("lens_recipes.") and not server_is_asked):
            raise kind("libcudart.so.99: cannot open\nshared object file")
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", broken)
    status, out, err = run("doctor", "--host", server.url, "--json")
    assert (status, err) == (1, "")
    told = json.loads(out)
    (finding,) = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert finding["about"] == module.partition(".")[0].replace("_", "-")
    assert "libcudart.so.99: cannot open shared object file" in finding["what"]
    assert told["packages"]["torch"] == torch.__version__
    assert ("NDIF server" in told["remote"]) == server_is_asked
    assert run("doctor")[0] == 1


# -- the machine -------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """Two NVIDIA GPUs of 80 GB, the second lent to somebody else."""

    def free(index):
        if index:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 60 * 10**9, 80 * 10**9

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    of = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: of)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)


@pytest.mark.usefixtures("gpus")
def test_gpus_and_their_memory(run):
    machine = examine().machine
    assert machine["GPU 0"] == "NVIDIA H100 (cuda), 80.0 GB, 60.0 GB free"
    assert machine["GPU 1"] == "NVIDIA H100 (cuda), 80.0 GB"
    _, out, _ = run("doctor")
    assert "GPU 0             NVIDIA H100 (cuda), 80.0 GB, 60.0 GB free" in out


def test_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 24 * 10**9)
    assert examine().machine["GPU 0"] == "Apple GPU (mps), 24.0 GB"


def test_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    """A torch for CPUs, or an old driver; not where it is hidden on purpose."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(doctor_local, "NVIDIA", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = of(examine(), "torch")
    assert "built for CPUs only" in finding.what

    def old_driver():
        warnings.warn(
            "CUDA initialization: The NVIDIA driver on your system is too old", stacklevel=2
        )
        return False

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", old_driver)
    (finding,) = of(examine(), "torch")
    assert finding.level == "warning"
    assert "driver on your system is too old" in finding.what
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert of(examine(), "torch") == []


def test_a_container_may_have_less_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_local, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("2000000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    assert examine().machine["memory"] == "2.0 GB, 1.5 GB free"
    (tmp_path / "memory.max").write_text("max\n")
    assert examine().machine["memory"] != "2.0 GB, 1.5 GB free"


# -- the embedded model ------------------------------------------------


@pytest.mark.usefixtures("smollm2")
def test_the_embedded_model_is_where_load_looks(run):
    report = examine()
    assert report.machine["smollm2"] == f"ready in {smollm2.folder()}"
    assert "smollm2           ready in " in run("doctor")[1]


def test_the_embedded_model_before_its_first_use(tmp_path, monkeypatch, run):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(smollm2, "convert", None)  # nobody converts
    report = examine()
    assert report.machine["smollm2"].startswith(f"will be converted on first use, into {tmp_path}")
    assert of(report, "smollm2") == []
    assert list(tmp_path.iterdir()) == []
    assert "converted on first use" in run("doctor")[1]


def test_the_embedded_model_without_its_package(tmp_path, monkeypatch):
    def missing():
        raise lr.LensError("not installed")

    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.setattr(smollm2, "_gguf", missing)
    report = examine()
    assert report.machine["smollm2"] == "not installed"
    assert report.ok
    (finding,) = of(report, "smollm2")
    assert finding.level == "warning"
    assert smollm2.WHEEL in finding.todo


def test_findings_come_worst_first(installed, server):
    installed(nnsight="0.9.0")
    server.answers["/env"] = environment(torch="2.5.0")
    server.answers["/env"]["python_version"] = "3.99.1"
    levels = [finding.level for finding in examine(server.url).findings]
    assert levels == ["error", "warning", "warning", "note"]
    assert all(
        isinstance(finding, Finding) and finding.what and finding.todo
        for finding in examine(server.url).findings
    )
