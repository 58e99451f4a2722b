"""What `lens-recipes doctor` finds: facts in words, then findings, as text or as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.terminal import escape_terminal

LEVELS = {"error": "bold red", "warning": "yellow", "note": "cyan"}  # the worst first, with a style


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
class Report:
    """All that `examine` finds. The key itself is nowhere in it."""

    packages: dict[str, str] = field(default_factory=dict)  # versions
    machine: dict[str, str] = field(default_factory=dict)
    remote: dict[str, str] = field(default_factory=dict)  # the key and the server
    models: dict[str, str] = field(default_factory=dict)  # the states of what the server holds
    versions: dict[str, str] = field(default_factory=dict)  # here and on the server
    findings: list[Finding] = field(default_factory=list)  # the worst first

    @property
    def ok(self) -> bool:
        """Tell whether nothing is in the way."""
        return all(finding.level != "error" for finding in self.findings)

    def add(self, level: str, about: str, what: str, todo: str) -> None:
        """Add a finding, as text in which nothing acts on a terminal."""
        self.findings.append(Finding(level, about, one_line(what), todo))
        self.findings.sort(key=lambda finding: list(LEVELS).index(finding.level))

    def as_json(self) -> str:
        """Return the report as one JSON object."""
        header = {"format": "lens-recipes/doctor", "version": 1, "ok": self.ok}
        return json.dumps(header | dataclasses.asdict(self), ensure_ascii=False)


def print_report(report: Report, console: Console) -> None:
    """Print facts and findings, and a line that sums them up."""
    findings = []
    for finding in report.findings:
        findings += [(finding.level, finding.what), ("", f"→ {finding.todo}")]
    facts = [report.packages, report.machine, report.remote, report.models, report.versions]
    for rows in [*(part.items() for part in facts), findings]:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=12, overflow="fold")
        grid.add_column(overflow="fold")
        for name, value in rows:
            grid.add_row(Text(name, LEVELS.get(name, "dim")), Text(value))
        if rows:
            console.print(grid, "")
    if report.ok:
        console.print(Text("Nothing is in the way.", "bold green"))
    else:
        console.print(Text("Something is in the way.", "bold red"))


def one_line(words: object) -> str:
    """Return anything as one line in which nothing acts on a terminal."""
    return " ".join(escape_terminal(str(words)).split())
