"""`lens-recipes doctor`: what `examine` found, for a person or as JSON."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lens_recipes.cli.doctor.examine import check_address, examine
from lens_recipes.cli.doctor.packages import OPTIONAL
from lens_recipes.cli.doctor.report import Deployed, Device, Machine, Report, ServerReport
from lens_recipes.views.tables.grids import console_text, string_console

DOCTOR_EXAMPLES = """
Examples:

  lens-recipes doctor

  lens-recipes doctor --remote

  lens-recipes doctor --host http://127.0.0.1:8001 --json | jq .findings

Nothing is sent anywhere without --remote or --host, and a key is never shown.

Exit status: 0 nothing is in the way (there may be warnings and notes), 1 something is, 2 wrong usage, 130 interrupted.
"""

WIDEST = 110  # columns: longer lines of prose are hard to read

MODELS_SHOWN, DIFFERENCES_SHOWN = 20, 8

STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}

STATES = {"RUNNING": "running", "DEPLOYING": "starting", "UNHEALTHY": "broken"}

COLOURS = {"running": "green", "starting": "yellow", "broken": "red"}


def _host(value: str | None) -> str | None:
    if value is not None:
        try:
            check_address(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return value


def doctor_command(
    remote: Annotated[
        bool,
        typer.Option(
            "--remote", help="Also ask the NDIF server: NDIF_HOST, else nnsight's own setting."
        ),
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Also ask the server at this address.", callback=_host),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Look at what is installed and at this machine; with --remote, whether an NDIF server can be used from here."""
    err = Console(stderr=True)
    with (
        contextlib.redirect_stdout(sys.stderr),  # libraries may print while they are imported
        err.status("looking …") if err.is_terminal else contextlib.nullcontext(),
    ):
        report = examine(host or remote)
    if as_json:
        print(report.as_json())
    elif sys.stdout.isatty():
        console = Console()
        console.width = min(console.width, WIDEST)
        render(report, console)
    else:
        print(text(report))
    if not report.ok:
        raise typer.Exit(1)


def text(report: Report, width: int = WIDEST) -> str:
    """The report as plain text."""
    console = string_console(width)
    render(report, console)
    return console_text(console)


def render(report: Report, console: Console) -> None:
    """What is there, what a server said, then what to do."""
    versions = dict(report.packages)
    start = f"lens-recipes {versions.pop('lens-recipes')} · Python {versions.pop('python')} · {report.machine.system}"
    console.print(Text(start, style="bold"))
    packages: list[tuple[str, str | Text]] = [
        (name, version or _bad("missing")) for name, version in versions.items()
    ]
    there = ", ".join(f"{name} {version}" for name, version in report.optional.items() if version)
    absent = ", ".join(
        f"{name} ({OPTIONAL[name]})" for name, version in report.optional.items() if not version
    )
    packages += [
        (what, names) for what, names in (("optional", there), ("not there", absent)) if names
    ]
    for rows in (packages, list(_machine(report)), list(_remote(report))):
        console.print()
        console.print(_grid(rows))
    if report.server is not None and report.server.models:
        console.print()
        _models(report.server, report.server.models, console)
    if report.server is not None and report.server.versions:
        console.print()
        _versions(report, report.server, console)
    console.print()
    _findings(report, console)


def _machine(report: Report) -> Iterable[tuple[str, str | Text]]:
    machine = report.machine
    used = "" if machine.threads in (None, machine.cores) else f", torch uses {machine.threads}"
    yield "processor", f"{machine.cores} core{'' if machine.cores == 1 else 's'}{used}"
    yield "memory", _memory(machine)
    for number, device in enumerate(machine.devices):
        yield f"GPU {number}", f"{device.name} ({device.kind}), {_memory(device)}"
    if not machine.devices:
        yield "GPU", "none that torch can use"
    place = _short(report.smollm2_folder or "")
    yield (
        "smollm2",
        {
            "ready": f"ready in {place}",
            "converted": f"will be converted on first use, into {place}",
            "missing": "not installed",
        }.get(report.smollm2 or "", "unknown"),
    )


def _memory(of: Machine | Device) -> str:
    if of.memory_bytes is None:
        return "memory unknown"
    free = "" if of.free_bytes is None else f", {of.free_bytes / 1e9:.1f} GB free"
    return f"{of.memory_bytes / 1e9:.1f} GB{free}"


def _remote(report: Report) -> Iterable[tuple[str, str | Text]]:
    server = report.server
    sources = {
        "environment": "set in the environment (NDIF_API_KEY)",
        "nnsight": "set in nnsight's configuration",
    }
    key = sources.get(report.key_from or "", "not set")
    if server is not None and server.key in ("accepted", "unknown", "refused"):
        whose = ", ".join([*filter(None, [server.email]), *server.tags])
        key += {"accepted": f"; accepted: {whose}", "unknown": "; unknown to the server"}.get(
            server.key, "; refused"
        )
    yield "NDIF key", key
    if server is None:
        yield "NDIF server", f"{report.host or 'no address'}, not asked"
    elif server.answer_s is None:
        yield "NDIF server", Text.assemble(f"{server.host} ", _bad("cannot be used"))
    else:
        yield "NDIF server", f"{server.host} answers in {server.answer_s * 1000:.0f} ms"


def _models(server: ServerReport, models: list[Deployed], console: Console) -> None:
    table = _table("deployed model", "state", "task", "revision")
    for model in models[:MODELS_SHOWN]:
        state = STATES.get(model.state, model.state.lower())
        shown = "asleep" if model.level == "WARM" and state == "running" else state
        times = "" if model.replicas == 1 else f" ×{model.replicas}"
        table.add_row(
            Text(model.model, overflow="fold"),
            Text(shown + times, style=COLOURS.get(shown, "")),
            Text(model.task or ""),
            Text((model.revision or "")[:12]),
        )
    console.print(table)
    more = [f"{len(models) - MODELS_SHOWN} more deployed"] if len(models) > MODELS_SHOWN else []
    more += [f"{server.cold} more on its disk"] if server.cold else []
    if more:
        console.print(Text(f"… and {', '.join(more)}", style="dim"))


def _versions(report: Report, server: ServerReport, console: Console) -> None:
    """Python and what models depend on, the same or not; then what else is not the same."""
    table = _table("", "here", "on the server", "")
    different = {difference.package for difference in server.differences}
    rows = [
        (name, str(report.packages[name]), there) for name, there in (server.versions or {}).items()
    ]
    critical = set(server.versions or ())
    others = [
        (one.package, one.here, one.there)
        for one in server.differences
        if one.package not in critical
    ]
    for name, here, there in [*rows, *others[:DIFFERENCES_SHOWN]]:
        mark = (
            Text("differs", style="yellow" if name in critical else "")
            if name in different
            else Text("")
        )
        table.add_row(Text(name), Text(here), Text(there), mark)
    console.print(table)
    if len(others) > DIFFERENCES_SHOWN:
        console.print(
            Text(f"… and {len(others) - DIFFERENCES_SHOWN} more that differ: --json", style="dim")
        )


def _findings(report: Report, console: Console) -> None:
    """Each with what to do, then one line that says how things are."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for finding in report.findings:
        todo = Table.grid(padding=(0, 1))
        todo.add_row(Text("→", style="bold"), Text(finding.todo))
        table.add_row(Text(finding.level, style=STYLES[finding.level]), Text(finding.what))
        table.add_row("", todo)
    if report.findings:
        console.print(table)
        console.print()
    counts = {level: sum(finding.level == level for finding in report.findings) for level in STYLES}
    said = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items() if n)
    verdict = "Nothing is in the way" if report.ok else "Something is in the way"
    console.print(
        Text(
            f"{verdict}{f': {said}' if said else ''}.",
            style="bold green" if report.ok else "bold red",
        )
    )


# -- pieces ------------------------------------------------------------


def _grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="dim", min_width=12)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value if isinstance(value, Text) else Text(value))
    return grid


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number > 0, min_width=12 if number == 0 else None)
    return table


def _bad(word: str) -> Text:
    return Text(word, style=STYLES["error"])


def _short(path: str) -> str:
    """A path, with ~ for this user's own folder."""
    home = str(Path.home())
    return f"~{path.removeprefix(home)}" if path.startswith(home + os.sep) else path
