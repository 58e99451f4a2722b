"""Whether an NDIF server can be used from here: key, models, versions."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from lens_recipes.cli.doctor.packages import KNOWN, REQUIRED, has, meets
from lens_recipes.cli.doctor.report import Deployed, Difference, Finding, ServerReport, one_line
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.server import Server
from lens_recipes.run.remote.settings import PUBLIC, RemoteSettings

SETTINGS = RemoteSettings(
    patience_s=2.0, connect_s=5.0, read_s=20.0
)  # somebody waits: shorter than for a job

GET_A_KEY = (
    "Get one at https://login.ndif.us or from those who run the server, and set it: export NDIF_API_KEY=… or, once, "
    "nnsight.login() in Python."
)

WHY = {
    "nnsight": "a server reads the requests of its own release best",
    "transformers": "a model's modules may have other names and outputs",
    "torch": "numbers may differ in their last digits",
    "python": "syntax that only one of them has fails in a block",
}

# What a request or a result is made with: first among those that differ.
TRAVELS = (
    "numpy",
    "cloudpickle",
    "zstandard",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "pydantic",
)


class _Silence(Exception):
    """A question that got no answer: what to tell, and the HTTP status if there was one."""

    def __init__(self, what: str, todo: str, status: int | None = None) -> None:
        super().__init__(what)
        self.what, self.todo, self.status = what, todo, status


def _ask(server: Server, path: str, kind: type) -> Any:
    """What the server answers, if it is of this kind.

    Raises:
        _Silence: it is not, or there is none.
    """
    try:
        answer = server.ask(path)
        if isinstance(answer, kind):
            return _inert(answer)
    except RemoteLensError as error:
        if not isinstance(error.__cause__, ValueError):  # no JSON
            response = getattr(error.__cause__, "response", None)
            status = 404 if error.__cause__ is None else getattr(response, "status_code", None)
            what = one_line(error.happened)
            raise _Silence(what, _advice(status, what), status) from error
    what = f"{server.host}{path} answered with something that NDIF servers do not say."
    raise _Silence(what, "Is it the address of an NDIF server's API, and not of its web page?")


def _inert(answer: Any) -> Any:
    """Without what acts on a terminal."""
    if isinstance(answer, dict):
        return {_inert(key): _inert(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_inert(item) for item in answer]
    return one_line(answer) if isinstance(answer, str) else answer


def _advice(status: int | None, happened: str) -> str:
    """What to do about a refusal, or where `status` is None about a connection."""
    if status in (401, 403):
        return GET_A_KEY
    if status == 404:
        return "Is it the address of an NDIF server's API, and of one that is up to date?"
    if status is not None and 300 <= status < 400:
        return "Use the address that it sends you to: https instead of http, perhaps."
    if status is not None and status < 500 and status != 429:
        return "Is it the address of an NDIF server's API?"
    if status is not None or "ReadTimeout" in happened:
        return "Try again in a few minutes; if it stays like this, tell those who run the server."
    if "CERTIFICATE" in happened:
        return "Is the address right? Behind a proxy that has a certificate of its own, set SSL_CERT_FILE to it."
    proxies = sorted(
        name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy")
    )
    behind = f" {' and '.join(proxies)} may lead it astray." if proxies else ""
    return (
        f"Is the address right (--host, NDIF_HOST), the server up and this machine online?{behind}"
    )


def examine_server(
    told: ServerReport, packages: dict[str, str | None], findings: list[Finding]
) -> None:
    """Ask a server all that there is to ask, and note it in `told` and in `findings`."""
    try:
        server = Server(told.host, SETTINGS)
    except RemoteLensError as error:  # no key, or one that would be read on the way
        about = "server" if "plain http" in error.happened else "key"
        findings.append(Finding("error", about, error.happened, error.todo))
        return
    try:
        _ask(server, "/ping", str)
        started = (
            time.perf_counter()
        )  # again: the first time has loading, looking up and shaking hands in it
        _ask(server, "/ping", str)
    except _Silence as silence:
        refused = silence.status in (401, 403)
        told.key = "refused" if refused else None
        findings.append(
            Finding("error", "key" if refused else "server", silence.what, silence.todo)
        )
        return
    told.answer_s = round(time.perf_counter() - started, 3)
    jobs = (_identity, _models, _compare)
    with ThreadPoolExecutor(
        len(jobs)
    ) as pool:  # a server that has to ask others takes its time for each
        for found in pool.map(lambda job: list(job(server, told, packages)), jobs):
            findings += found
    findings += _sandbox(told)


def _identity(server: Server, told: ServerReport, _: Any) -> Iterator[Finding]:
    """Whether the key is accepted, as far as the server says."""

    if not server.key:
        told.key = "unset"
        return
    try:
        answer = _ask(server, "/whoami", dict)
    except _Silence as silence:
        if silence.status == 404:
            todo = "Run a small job: a key that is not accepted is said then."
            yield Finding("note", "key", f"{told.host} does not tell whose key it is given.", todo)
        elif silence.status in (400, 401, 403):
            told.key = "refused"
            yield Finding("error", "key", silence.what, GET_A_KEY)
        else:
            yield Finding("error", "key", silence.what, silence.todo)
        return
    email, tags = answer.get("email"), answer.get("tags")
    told.email = email if isinstance(email, str) else None
    told.tags = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    told.key = "accepted" if told.email or told.tags else "unknown"
    if told.key == "unknown" and told.host == PUBLIC:
        told.key = "refused"
        yield Finding("error", "key", f"{told.host} does not know this key.", GET_A_KEY)
    elif told.key == "unknown":
        what = f"{told.host} does not know this key, or checks none."
        todo = (
            "If it is for everybody, there is nothing to do; else ask those who run it for a key."
        )
        yield Finding("warning", "key", what, todo)


def _models(server: Server, told: ServerReport, _: Any) -> Iterator[Finding]:
    """What is deployed: one row for the replicas of a model, its best state."""
    try:
        answer = _ask(server, "/status", dict)
        entries = answer.get("deployments")
        if not isinstance(entries, dict):
            raise _Silence(
                f"{told.host}/status does not list models.",
                "Is it the address of an NDIF server's API?",
            )
    except _Silence as silence:
        yield Finding("error", "models", silence.what, silence.todo)
        return
    replicas: dict[str, list[Deployed]] = {}
    for name, entry in entries.items():
        level = entry.get("deployment_level") if isinstance(entry, dict) else None
        told.cold += level == "COLD"
        if level in ("HOT", "WARM"):
            one = Deployed(
                str(entry.get("repo_id") or name),
                str(entry.get("application_state") or "UNHEALTHY"),
                level,
            )
            one.task, one.revision = (
                str(entry[key]) if entry.get(key) else None for key in ("task", "revision")
            )
            replicas.setdefault(str(entry.get("model_key") or name), []).append(one)
    best = [
        dataclasses.replace(min(group, key=_rank), replicas=len(group))
        for group in replicas.values()
    ]
    told.models = sorted(best, key=lambda model: (_rank(model), model.model.lower()))
    if not told.models:
        todo = "A job may have to wait until the server has loaded its model, or be refused: ask those who run it."
        yield Finding("note", "models", f"No model is deployed on {told.host}.", todo)


def _rank(model: Deployed) -> tuple[int, int]:
    """What answers soonest first."""
    states = ("RUNNING", "DEPLOYING")
    return states.index(model.state) if model.state in states else len(states), int(
        model.level != "HOT"
    )


def _compare(
    server: Server, told: ServerReport, packages: dict[str, str | None]
) -> Iterator[Finding]:
    """Packages that both have in different releases; 2.13.0+cpu and 2.13.0+cu130 are one release."""
    from nnsight.ndif import CRITICAL_PACKAGES, get_local_env

    try:
        answer = _ask(server, "/env", dict)
        theirs, python = answer.get("packages"), str(answer.get("python_version", "")).split(" ")[0]
        if not isinstance(theirs, dict) or not python:
            what = f"{told.host}/env does not list packages."
            raise _Silence(what, "Compare versions with those who run the server.")
    except _Silence as silence:
        yield Finding(
            "warning", "versions", f"Versions cannot be compared: {silence.what}", silence.todo
        )
        return
    ours = {
        **get_local_env()["packages"],
        **{name: packages[name] for name in REQUIRED if packages[name]},
    }
    critical = [name for name in REQUIRED if name in CRITICAL_PACKAGES]
    told.versions = {
        "python": python,
        **{name: str(theirs[name]) for name in critical if name in theirs},
    }
    order = sorted(
        theirs, key=lambda name: (name not in critical, name not in TRAVELS, name.lower())
    )
    pairs = [
        (name, str(ours[name]), str(theirs[name]))
        for name in order
        if name in ours and ours[name] != "local"
    ]
    differ = [
        Difference(name, a, b, name in critical)
        for name, a, b in pairs
        if _release(a) != _release(b)
    ]
    if _minor(sys.version) != _minor(python):
        differ.insert(0, Difference("python", platform.python_version(), python, False))
    told.differences = differ
    for one in differ:
        if one.critical or one.package == "python":
            what = f"{one.package} is {one.here} here and {one.there} on the server: {WHY[one.package]}."
            yield Finding("warning" if one.critical else "note", one.package, what, _follow(one))


def _follow(one: Difference) -> str:
    """How to have here what the server has, if this package runs with it."""
    if one.package == "python":
        return f"If something fails there, use Python {_minor(one.there)} here, too."
    release = _release(one.there)
    own = [Requirement(text) for text in importlib.metadata.requires("lens-recipes") or []]
    refused = [
        wanted for wanted in own if wanted.name == one.package and not meets(release, wanted)
    ]
    if refused:
        return f"lens-recipes needs {one.package}{refused[0].specifier}: ask those who run the server for that."
    return f"If something fails there: pip install '{one.package}=={release}'"


def _sandbox(told: ServerReport) -> Iterator[Finding]:
    """The first row of KNOWN, on a server: what a key without trust runs in is built without the weights."""
    skeletons = KNOWN[0].installed
    if (
        told.key == "accepted"
        and "trusted" not in told.tags
        and has(skeletons, (told.versions or {}).get)
    ):
        what = f"{told.host} has {' and '.join(skeletons)}, with which jobs of a key that is not trusted fail."
        yield Finding(
            "warning",
            "transformers",
            what,
            "Ask those who run it for transformers 5.22, or for trust.",
        )


def _release(version: str) -> str:
    """2.13.0 of 2.13.0+cpu."""
    try:
        return Version(version).public
    except InvalidVersion:
        return version


def _minor(version: str) -> str:
    """3.11 of 3.11.7."""
    return ".".join(version.split(".")[:2])
