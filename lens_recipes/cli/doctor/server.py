"""Find out whether an NDIF server can be used from here: key, models, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
from nnsight import ndif
from packaging.requirements import Requirement

from lens_recipes.cli.doctor.packages import KNOWN, REQUIRED, all_met, meets, one_line
from lens_recipes.cli.doctor.report import Deployed, Difference, Report, ServerReport
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.server import Server
from lens_recipes.run.remote.settings import PUBLIC, RemoteSettings, address, api_key

# Somebody waits: shorter than for a job.
SETTINGS = RemoteSettings(patience_s=2.0, connect_s=5.0, read_s=20.0)

GET_A_KEY = (
    "Get one at https://login.ndif.us or from those who run the server, and set it: "
    "export NDIF_API_KEY=… or, once, nnsight.login() in Python."
)
NO_API = "Is it the address of an NDIF server's API, with https, and is the server up to date?"
TRY_AGAIN = "Try again in a few minutes; if it stays like this, tell those who run the server."
WHY = {
    "nnsight": "a server reads the requests of its own release best",
    "transformers": "a model's modules may have other names and outputs",
    "torch": "numbers may differ in their last digits",
    "python": "syntax that only one of them has fails in a block",
}


def check_remote(report: Report, remote: bool | str) -> None:
    """Look up key and address, and ask a server if `remote` is True or its address."""
    report.key_from = report.key_from or "nnsight"
    with noting_failure(report, "key", "error"):
        if api_key() is None:
            report.key_from = None
    unusable_key = any(finding.about == "key" for finding in report.findings)
    try:
        report.host = address(True)
    except RemoteLensError as error:
        level = "error" if remote is True else "warning"
        remedy = "Set NDIF_HOST to one like https://host or http://127.0.0.1:8001, or unset it."
        report.add(level, "server", error.happened, remedy)
    host = remote if isinstance(remote, str) else report.host
    if remote and host and not unusable_key:
        report.server = ServerReport(host.rstrip("/"))
        ask_all(report, report.server)


def ask_all(report: Report, server: ServerReport) -> None:
    """Ask a server all that there is to ask."""
    with noting_failure(report, "server", "error"):
        client = Server(server.host, SETTINGS)
        ask(client, "/ping", str)
        started = time.perf_counter()  # the first time has loading and shaking hands in it
        ask(client, "/ping", str)
        server.answer_s = round(time.perf_counter() - started, 3)
    if server.answer_s is None:
        return
    with ThreadPoolExecutor() as pool:  # a server that asks others takes its time for each
        status = pool.submit(ask, client, "/status", dict)
        environment = pool.submit(ask, client, "/env", dict)
        if report.key_from is None:
            server.key = "unset"
        else:
            with noting_failure(report, "key", "error"):
                note_owner(report, server, ask(client, "/whoami", dict))
    with noting_failure(report, "models", "error"):
        note_models(report, server, status.result())
    with noting_failure(report, "versions", "warning"):
        note_versions(report, server, environment.result())


@contextlib.contextmanager
def noting_failure(report: Report, about: str, level: str) -> Iterator[None]:
    """Turn a RemoteLensError into a finding; any question may be refused for the key."""
    try:
        yield
    except RemoteLensError as error:
        remedy = error.todo
        if "API key" in error.happened:
            about = "key"
            if report.server is not None:
                report.server.key = "refused" if report.key_from else "unset"
        elif "no /whoami" in error.happened:
            level, remedy = "note", "Run a small job: it is refused if the key is not accepted."
        report.add(level, about, error.happened, remedy)


def ask(client: Server, path: str, kind: type) -> Any:
    """Return the answer to a question, with nothing in it that acts on a terminal.

    Raises:
        RemoteLensError: There is no answer, or it is not of this kind.
    """
    try:
        answer = client.ask(path)
    except RemoteLensError as error:
        raise RemoteLensError(one_line(error.happened), advice(error)) from error
    if not isinstance(answer, kind):
        problem = f"{client.host}{path} answered with something that NDIF servers do not say."
        raise RemoteLensError(problem, NO_API)
    return without_controls(answer)


def without_controls(answer: Any) -> Any:
    """Return an answer in which no text acts on a terminal."""
    if isinstance(answer, dict):
        return {without_controls(key): without_controls(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [without_controls(item) for item in answer]
    return one_line(answer) if isinstance(answer, str) else answer


def advice(error: RemoteLensError) -> str:
    """Say what to do about a question that got no answer."""
    cause = error.__cause__
    if "API key" in error.happened:
        return GET_A_KEY
    if cause is None or isinstance(cause, ValueError):  # there is no such page, or no JSON on it
        return NO_API
    if isinstance(cause, httpx.HTTPStatusError):
        status = cause.response.status_code
        return TRY_AGAIN if status == 429 or status >= 500 else NO_API
    if isinstance(cause, httpx.ReadTimeout):
        return TRY_AGAIN
    hints = ["Is the address right (--host, NDIF_HOST), the server up and this machine online?"]
    for variable in sorted(os.environ):
        if variable.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            hints.append(f"{variable} may lead it astray.")
    if "CERTIFICATE" in error.happened:
        hints.append("Behind a proxy with a certificate of its own, set SSL_CERT_FILE to it.")
    return " ".join(hints)


def note_owner(report: Report, server: ServerReport, answer: dict[str, Any]) -> None:
    """Note whether the key is accepted, as far as the server tells."""
    email, tags = answer.get("email"), answer.get("tags")
    if isinstance(email, str):
        server.email = email
    if isinstance(tags, list):
        server.tags = [tag for tag in tags if isinstance(tag, str)]
    if server.email or server.tags:
        server.key = "accepted"
    elif server.host == PUBLIC:
        server.key = "refused"
        report.add("error", "key", f"{server.host} does not know this key.", GET_A_KEY)
    else:
        server.key = "unknown"
        problem = f"{server.host} does not know this key, or checks none."
        remedy = "If it is open to all, do nothing; else ask those who run it for a key."
        report.add("warning", "key", problem, remedy)


def note_models(report: Report, server: ServerReport, answer: dict[str, Any]) -> None:
    """Note what is deployed: one row for all replicas of a model, in the best of their states."""
    entries = answer.get("deployments")
    if not isinstance(entries, dict):
        raise RemoteLensError(f"{server.host}/status does not list models.", NO_API)
    replicas: dict[str, list[Deployed]] = {}
    for name, entry in entries.items():
        level = entry.get("deployment_level") if isinstance(entry, dict) else None
        if level == "COLD":
            server.cold += 1
        elif level in ("HOT", "WARM"):
            texts = {"repo_id": name, "model_key": name, "application_state": "UNHEALTHY"}
            texts |= {key: str(value) for key, value in entry.items() if value}
            model = Deployed(texts["repo_id"], texts["application_state"], level)
            model.task, model.revision = texts.get("task"), texts.get("revision")
            replicas.setdefault(texts["model_key"], []).append(model)
    best = [replace(min(group, key=delay), replicas=len(group)) for group in replicas.values()]
    server.models = sorted(best, key=lambda model: (delay(model), model.model.lower()))
    if not best:
        remedy = "A job may wait for its model, or be refused: ask those who run the server."
        report.add("note", "models", f"No model is deployed on {server.host}.", remedy)


def delay(model: Deployed) -> tuple[int, bool]:
    """Return a key that sorts models by how soon they answer."""
    states = ["RUNNING", "DEPLOYING", model.state]
    return states.index(model.state), model.level != "HOT"


def note_versions(report: Report, server: ServerReport, answer: dict[str, Any]) -> None:
    """Note what both sides have in different releases; 2.13.0+cpu and +cu130 are the same one."""
    theirs = answer.get("packages")
    python = str(answer.get("python_version", "")).split(" ")[0]
    if not isinstance(theirs, dict) or not python:
        remedy = "Compare versions with those who run the server."
        raise RemoteLensError(f"{server.host}/env does not list packages.", remedy)
    ours = ndif.get_local_env()["packages"]
    critical = [package for package in REQUIRED if package in ndif.CRITICAL_PACKAGES]
    versions = {package: str(theirs[package]) for package in critical if package in theirs}
    server.versions = {"python": python, **versions}
    if minor(python) != minor(platform.python_version()):
        server.differences.append(Difference("python", platform.python_version(), python, False))
    for package in sorted(theirs, key=lambda package: (package not in critical, package.lower())):
        here, there = str(ours.get(package, "local")), str(theirs[package])
        if here != "local" and here.partition("+")[0] != there.partition("+")[0]:
            server.differences.append(Difference(package, here, there, package in critical))
    for difference in server.differences:
        package = difference.package
        if package in WHY:
            level = "warning" if difference.critical else "note"
            problem = f"{package} is {difference.here} here and {difference.there} on the server"
            report.add(level, package, f"{problem}: {WHY[package]}.", way_to_follow(difference))
    # The first known conflict, on a server: a key without trust runs without the model's weights.
    conflict = KNOWN[0].versions
    untrusted = server.key == "accepted" and "trusted" not in server.tags
    if untrusted and all_met(conflict, server.versions.get):
        versions_there = " and ".join(conflict)
        problem = f"{server.host} has {versions_there}: jobs of a key that is not trusted fail."
        remedy = "Ask those who run it for transformers 5.22, or for trust."
        report.add("warning", "transformers", problem, remedy)


def way_to_follow(difference: Difference) -> str:
    """Say how to have here what the server has, if this package runs with it."""
    package, release = difference.package, difference.there.partition("+")[0]
    if package == "python":
        return f"If something fails there, use Python {minor(release)} here, too."
    for wanted in map(Requirement, importlib.metadata.requires("lens-recipes") or []):
        if wanted.name == package and not meets(release, wanted):
            needs = f"lens-recipes needs {package}{wanted.specifier}"
            return f"{needs}: ask those who run the server for that."
    return f"If something fails there: pip install '{package}=={release}'"


def minor(version: str) -> str:
    """Return 3.11 of 3.11.7."""
    return ".".join(version.split(".")[:2])
