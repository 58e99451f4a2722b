"""Find out whether an NDIF server can be used from here: key, models, versions."""

from __future__ import annotations

import importlib.metadata
import os
import re
from typing import Any

from lens_recipes.cli.doctor.report import Report, one_line
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.http.faults import GET_A_KEY, strange_answer
from lens_recipes.run.remote.http.settings import PUBLIC, RemoteSettings, address, api_key
from lens_recipes.run.remote.server import Server

# Somebody waits: shorter than for a job.
SETTINGS = RemoteSettings(patience_s=2.0, connect_s=5.0, read_s=20.0)

DEPENDENCIES = {  # how bad it is if the server has another release, and why
    "python": ("note", "syntax that only one of them has fails in a block"),
    "nnsight": ("warning", "a server reads the requests of its own release best"),
    "torch": ("warning", "numbers may differ in their last digits"),
    "transformers": ("warning", "a model's modules may have other names and outputs"),
}
STATES = {"RUNNING": "running", "DEPLOYING": "starting"}
BEST_FIRST = ("running", "asleep", "starting", "broken")


def check_remote(report: Report, remote: bool | str) -> None:
    """Look up key and address, and ask a server if `remote` is True or its address."""
    level, state = "warning", "not asked"
    if remote:
        level, state = "error", "cannot be used"
    try:
        host = address(remote or True)
        key = "set in nnsight's configuration" if api_key() else "not set"
        if api_key() and os.environ.get("NDIF_API_KEY"):
            key = "set in the environment (NDIF_API_KEY)"
        report.remote = {"NDIF key": key, "NDIF server": f"{host}, {state}"}
        if not remote:
            return
        server = Server(host, SETTINGS)
        if server.ask("/ping") != "pong":
            raise strange_answer(host)
    except RemoteLensError as error:
        add_fault(report, "server", level, error)
        return
    report.remote["NDIF server"] = f"{host}, answers"
    for path, about, level, note in QUESTIONS:
        if path == "/whoami" and server.key is None:
            continue
        try:
            note(report, host, server.ask(path))
        except RemoteLensError as error:
            add_fault(report, about, level, error)
        except (AttributeError, KeyError, TypeError):  # the answer is of another form
            add_fault(report, about, level, strange_answer(host))


def add_fault(report: Report, about: str, level: str, error: RemoteLensError) -> None:
    """Add a finding for a question without an answer; any may be refused for the key."""
    # What it says to do, but for what leads to a job, or to this very command.
    sentences = re.split(r"(?<=[.?]) ", error.todo)
    steps = [sentence for sentence in sentences if not re.search("doctor|job", sentence)]
    if "API key" in error.happened:
        about = "key"
    if "no /whoami" in error.happened:
        level, steps = "note", ["Run a small job: it is refused if the key is not accepted."]
    report.add(level, about, error.happened, " ".join(steps))


def note_owner(report: Report, host: str, answer: Any) -> None:
    """Note whether the key is accepted, as far as the server tells."""
    email = answer.get("email")
    if isinstance(email, str):
        owner = ", ".join([email, *(answer.get("tags") or [])])
        report.remote["NDIF key"] += f"; accepted: {one_line(owner)}"
    elif host == PUBLIC:
        raise RemoteLensError(f"{host} does not know this API key.", GET_A_KEY)
    else:
        report.remote["NDIF key"] += "; unknown to the server"
        problem = f"{host} does not know this key, or checks none."
        remedy = "If it is open to all, do nothing; else ask those who run it for a key."
        report.add("warning", "key", problem, remedy)


def note_models(report: Report, host: str, answer: Any) -> None:
    """Note what is deployed: one row for all replicas of a model, in the best of their states."""
    replicas: dict[str, list[int]] = {}
    for name, entry in answer["deployments"].items():
        level = isinstance(entry, dict) and entry.get("deployment_level")
        if level not in ("HOT", "WARM"):  # on a GPU, or in memory; else on its disk only
            continue
        words = [entry.get("repo_id", name), entry.get("task"), entry.get("revision")]
        model = one_line(" · ".join(str(word) for word in words if word))
        state = STATES.get(entry.get("application_state"), "broken")
        if state == "running" and level == "WARM":
            state = "asleep"
        replicas.setdefault(model, []).append(BEST_FIRST.index(state))
    for model, ranks in sorted(replicas.items(), key=lambda item: (min(item[1]), item[0])):
        report.models[model] = f"{BEST_FIRST[min(ranks)]} ×{len(ranks)}"
    if not replicas:
        remedy = "A job may wait for its model, or be refused: ask those who run the server."
        report.add("note", "models", f"No model is deployed on {host}.", remedy)


def note_versions(report: Report, host: str, answer: Any) -> None:
    """Note what the server has in another release than there is here."""
    theirs = answer["packages"] | {"python": answer["python_version"].split(" ")[0]}
    for package, (level, reason) in DEPENDENCIES.items():
        here, there = report.packages[package], one_line(theirs.get(package, "none"))
        report.versions[package] = f"here {here}, on the server {there}"
        same_python = package == "python" and here.split(".")[:2] == there.split(".")[:2]
        if same_python or here.partition("+")[0] == there.partition("+")[0]:
            continue
        report.versions[package] += ", which differs"
        problem = f"{package} is {here} here and {there} on the server: {reason}."
        remedy = f"If something fails there: pip install '{package}=={there}'."
        for text in importlib.metadata.requires("lens-recipes") or []:
            if text.startswith(package):
                remedy += f" But lens-recipes needs {text}."
        if package == "python":
            remedy = f"If something fails there, use Python {there} here, too."
        report.add(level, package, problem, remedy)


QUESTIONS = (
    # path, what it is about, how bad it is to have no answer, what reads the answer
    ("/whoami", "key", "error", note_owner),
    ("/status", "models", "error", note_models),
    ("/env", "versions", "warning", note_versions),
)
