"""What `lens-recipes doctor` found, as plain data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

from lens_recipes.arrays.text import escape_terminal


@dataclass(frozen=True)
class Finding:
    """Something to know.

    Attributes:
        level: "error" is in the way of this package or of the server that was asked for; a "warning" may be; a "note"
            matters to some programs only.
        about: The package or part that it is about, the same word each time.
        what: What was found.
        todo: What to do.
    """

    level: Literal["error", "warning", "note"]
    about: str
    what: str
    todo: str


@dataclass
class Device:
    """One accelerator, as torch names it."""

    kind: str
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None


@dataclass
class Machine:
    """What there is to compute with. Memory is None where the system does not say."""

    system: str
    cores: int
    threads: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    devices: list[Device] = field(default_factory=list)


@dataclass
class Deployed:
    """One model on a server, its replicas as one.

    Attributes:
        level: HOT is on a GPU, WARM is in memory and wakes on request.
        state: RUNNING, DEPLOYING, UNHEALTHY or what else the server says.
    """

    model: str
    state: str
    level: str
    task: str | None = None
    revision: str | None = None
    replicas: int = 1


@dataclass(frozen=True)
class Difference:
    """A package, or "python", of another release here than on the server; critical where models depend on it."""

    package: str
    here: str
    there: str
    critical: bool


@dataclass
class ServerReport:
    """What a server said.

    Attributes:
        host: Its address.
        answer_s: How long it took to answer; None if it did not.
        key: "accepted", "unknown" (it does not know the key, or checks none), "refused", "unset", or None if it did
            not say.
        email, tags: Whose key that is, and what it may do.
        models: What is deployed; None if it did not say.
        cold: How many more models lie on its disk.
        versions: Python and the critical packages on the server; None if it did not say.
        differences: Those that both have in different releases, the critical ones first.
    """

    host: str
    answer_s: float | None = None
    key: str | None = None
    email: str | None = None
    tags: list[str] = field(default_factory=list)
    models: list[Deployed] | None = None
    cold: int = 0
    versions: dict[str, str] | None = None
    differences: list[Difference] = field(default_factory=list)


@dataclass
class Report:
    """What `examine` found. `print(report)` is what the command shows.

    Attributes:
        packages: Version of each package that is needed, and of Python; None for one that is missing.
        optional: The same of those that only some uses need.
        machine: Processor, memory and accelerators.
        smollm2: Whether the embedded model is "ready", to be "converted" on first use, "missing", or None: unknown.
        smollm2_folder: Where it is, or will be.
        key_from: "environment", "nnsight" (its configuration), or None where no key is set. The key itself is nowhere
            in a report.
        host: The server that remote=True means.
        server: What the server said, if it was asked.
        findings: What to know and to do, the worst first.
    """

    packages: dict[str, str | None]
    optional: dict[str, str | None]
    machine: Machine
    smollm2: str | None = None
    smollm2_folder: str | None = None
    key_from: str | None = None
    host: str | None = None
    server: ServerReport | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is in the way."""
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> str:
        """The whole report as one JSON object: the attributes, and `ok`."""
        told = {
            "format": "lens-recipes/doctor",
            "version": 1,
            "ok": self.ok,
            **dataclasses.asdict(self),
        }
        return json.dumps(told, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        from lens_recipes.cli.doctor.command import text

        return text(self)


def one_line(text: str) -> str:
    """Any text as one line in which nothing acts on a terminal."""
    return " ".join(escape_terminal(text).split())
