"""Show a report to a person: facts in sections, then the findings."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.cli.doctor.packages import OPTIONAL
from lens_recipes.cli.doctor.report import LEVELS, Device, Machine, Report, ServerReport
from lens_recipes.views.tables.grids import console_text, string_console

Rows = list[tuple[str, str]]

MAX_WIDTH = 110  # columns: longer lines of prose are hard to read
MAX_MODELS = 20
STYLES = {
    "error": "bold red",
    "missing": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "running": "green",
    "starting": "yellow",
    "broken": "red",
}
SMOLLM2 = {
    "ready": "ready in",
    "converted": "will be converted on first use, into",
    "missing": "not installed; it would be in",
    None: "unknown",
}
KEY_SOURCES = {
    "environment": "set in the environment (NDIF_API_KEY)",
    "nnsight": "set in nnsight's configuration",
    None: "not set",
}
KEY_STATES = {
    "accepted": "; accepted: ",
    "unknown": "; unknown to the server",
    "refused": "; refused",
}
MODEL_STATES = {"RUNNING": "running", "DEPLOYING": "starting", "UNHEALTHY": "broken"}


def text(report: Report, width: int = MAX_WIDTH) -> str:
    """Return the report as plain text."""
    console = string_console(width)
    print_report(report, console)
    return console_text(console)


def print_report(report: Report, console: Console) -> None:
    """Print facts and findings, and a line that sums them up."""
    sections = [package_rows(report), machine_rows(report), remote_rows(report)]
    if report.server is not None:
        sections += [model_rows(report.server), version_rows(report, report.server)]
    sections.append(finding_rows(report))
    for rows in filter(None, sections):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(min_width=12, overflow="fold")
        grid.add_column(overflow="fold")
        for name, value in rows:
            first_word = value.partition(" ")[0]
            styled_value = Text(value, STYLES.get(first_word, ""))
            grid.add_row(Text(name, STYLES.get(name, "dim")), styled_value)
        console.print(grid, "")
    levels = [finding.level for finding in report.findings]
    counts = ", ".join(f"{level}s: {levels.count(level)}" for level in LEVELS)
    verdict = Text("Nothing is in the way", "bold green")
    if not report.ok:
        verdict = Text("Something is in the way", "bold red")
    console.print(verdict.append(f" ({counts})."))


def package_rows(report: Report) -> Rows:
    """Return the versions of packages, and what the missing ones would be for."""
    rows = [(package, version or "missing") for package, version in report.packages.items()]
    for package, version in report.optional.items():
        rows.append((package, version or f"not there ({OPTIONAL[package]})"))
    return rows


def machine_rows(report: Report) -> Rows:
    """Return what there is to compute with, and where the embedded model is."""
    machine = report.machine
    threads = machine.threads or "unknown"
    rows = [
        ("system", machine.system),
        ("processor", f"cores: {machine.cores}, threads of torch: {threads}"),
        ("memory", memory(machine)),
    ]
    for number, device in enumerate(machine.devices):
        rows.append((f"GPU {number}", f"{device.name} ({device.kind}), {memory(device)}"))
    if not machine.devices:
        rows.append(("GPU", "none that torch can use"))
    return [*rows, ("smollm2", f"{SMOLLM2[report.smollm2]} {report.smollm2_folder or ''}")]


def memory(part: Machine | Device) -> str:
    """Return the memory of the machine or of a device in words."""
    sizes = {"": part.memory_bytes, " free": part.free_bytes}
    words = [f"{size / 1e9:.1f} GB{suffix}" for suffix, size in sizes.items() if size is not None]
    return ", ".join(words) or "memory unknown"


def remote_rows(report: Report) -> Rows:
    """Return where the key is from, and whether the server answers."""
    server = report.server
    key = KEY_SOURCES[report.key_from]
    if server is None:
        return [("NDIF key", key), ("NDIF server", f"{report.host or 'no address'}, not asked")]
    owner = ", ".join(filter(None, [server.email, *server.tags]))
    key += KEY_STATES.get(server.key or "", "") + owner
    state = "cannot be used"
    if server.answer_s is not None:
        state = f"answers in {server.answer_s * 1000:.0f} ms"
    return [("NDIF key", key), ("NDIF server", f"{server.host} {state}")]


def model_rows(server: ServerReport) -> Rows:
    """Return the deployed models and their states."""
    models = server.models or []
    rows = []
    for model in models[:MAX_MODELS]:
        state = MODEL_STATES.get(model.state, model.state.lower())
        if model.level == "WARM" and state == "running":
            state = "asleep"
        facts = [f"{state} ×{model.replicas}", model.task, (model.revision or "")[:12]]
        rows.append((model.model, " · ".join(filter(None, facts))))
    hidden = len(models) - len(rows)
    if hidden or server.cold:
        rows.append(("and more", f"deployed: {hidden}, on its disk: {server.cold}"))
    return rows


def version_rows(report: Report, server: ServerReport) -> Rows:
    """Return the versions that models depend on, on both sides, then what else differs."""
    different = [difference.package for difference in server.differences]
    versions = server.versions or {}
    rows = []
    for package, version in versions.items():
        mark = ", which differs" if package in different else ""
        rows.append((package, f"here {report.packages[package]}, on the server {version}{mark}"))
    for other in server.differences:
        if other.package not in versions:
            rows.append((other.package, f"here {other.here}, on the server {other.there}"))
    return rows


def finding_rows(report: Report) -> Rows:
    """Return the findings, each with what to do."""
    return [
        (finding.level, f"{finding.about}: {finding.what}\n→ {finding.todo}")
        for finding in report.findings
    ]
