"""What `lens-recipes doctor` finds, as plain data: `--json` prints exactly these fields."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

LEVELS = ("error", "warning", "note")


@dataclass
class Finding:
    """Something to know, and what to do.

    An "error" stops this package, or the server that was asked for; a "warning" may stop it; a
    "note" matters to some programs only. `about` is the package or part, always the same word.
    """

    level: str
    about: str
    what: str
    todo: str


@dataclass
class Device:
    """An accelerator, as torch names it."""

    kind: str
    name: str
    memory_bytes: int | None = None
    free_bytes: int | None = None


@dataclass
class Machine:
    """The means to compute with; None is what the system does not tell."""

    system: str
    cores: int
    threads: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    devices: list[Device] = field(default_factory=list)


@dataclass
class Deployed:
    """A model on a server, all replicas as one; HOT is on a GPU, WARM is in memory and wakes."""

    model: str
    state: str
    level: str
    task: str | None = None
    revision: str | None = None
    replicas: int = 1


@dataclass
class Difference:
    """A package, or "python", in two releases; critical where models depend on it."""

    package: str
    here: str
    there: str
    critical: bool


@dataclass
class ServerReport:
    """The answers of a server; None is what it did not tell."""

    host: str
    answer_s: float | None = None
    key: str | None = None  # "accepted", "unknown" (or none is checked), "refused", "unset"
    email: str | None = None  # of the owner of the key
    tags: list[str] = field(default_factory=list)  # what the key allows
    models: list[Deployed] | None = None
    cold: int = 0  # models that lie on its disk only
    versions: dict[str, str] | None = None  # of Python and the critical packages
    differences: list[Difference] = field(default_factory=list)  # the critical ones first


@dataclass
class Report:
    """All that `examine` finds. The key itself is nowhere in it."""

    packages: dict[str, str | None]  # versions by name; None: missing
    optional: dict[str, str | None]
    machine: Machine
    smollm2: str | None = None  # "ready", "converted" (on first use), "missing"; None: unknown
    smollm2_folder: str | None = None
    key_from: str | None = None  # "environment", "nnsight" (its configuration)
    host: str | None = None  # what remote=True means
    server: ServerReport | None = None  # if it was asked
    findings: list[Finding] = field(default_factory=list)  # the worst first

    @property
    def ok(self) -> bool:
        """Tell whether nothing is in the way."""
        return all(finding.level != "error" for finding in self.findings)

    def add(self, level: str, about: str, what: str, todo: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(level, about, what, todo))

    def as_json(self) -> str:
        """Return the report as one JSON object."""
        header = {"format": "lens-recipes/doctor", "version": 1, "ok": self.ok}
        return json.dumps(header | dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
