"""`lens-recipes doctor`: look at everything, show what was found."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from typing import Annotated

import typer
from rich.console import Console

from lens_recipes.arrays.text import escape_terminal
from lens_recipes.cli.doctor import machine, packages
from lens_recipes.cli.doctor.report import LEVELS, Report
from lens_recipes.cli.doctor.text import MAX_WIDTH, print_report, text
from lens_recipes.cli.outputs import write_for_programs
from lens_recipes.run.remote.addresses import is_server, shown_address


def doctor_command(
    remote: Annotated[
        bool,
        typer.Option(
            "--remote", help="Also ask the NDIF server: NDIF_HOST, else nnsight's own setting."
        ),
    ] = False,
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="Also ask the server at this address.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Check packages and machine; with --remote, also whether an NDIF server can be used."""
    if host is not None and not is_server(host):
        raise typer.BadParameter(no_address(host), param_hint="--host")
    with (
        contextlib.redirect_stdout(sys.stderr),  # libraries may print while they are imported
        Console(stderr=True).status("looking …"),
    ):
        report = examine(host or remote)
    if as_json:
        write_for_programs(report.as_json() + "\n")
    elif sys.stdout.isatty():
        print_report(report, Console(width=min(Console().width, MAX_WIDTH)))
    else:
        print(text(report))
    if not report.ok:
        raise typer.Exit(1)


def examine(remote: bool | str = False) -> Report:
    """Look at this machine and, if asked to, at a server.

    It is for places where something is broken: each fault is a finding instead of an error, and
    nothing that can be broken is imported before it is tried.

    Args:
        remote: False: no network at all. True: the server that remote=True means elsewhere. Or an
            address.

    Raises:
        ValueError: `remote` is no address.
    """
    if isinstance(remote, str) and not is_server(remote):
        raise ValueError(no_address(remote))
    needed = {
        package: packages.version(package) for package in ("lens-recipes", *packages.REQUIRED)
    }
    report = Report(
        packages={"python": platform.python_version(), **needed},
        optional={package: packages.version(package) for package in packages.OPTIONAL},
        machine=machine.measure_machine(),
        key_from="environment" if os.environ.get("NDIF_API_KEY") else None,
    )
    packages.check_requirements(report)
    usable = packages.check_imports(report)
    if "torch" in usable:
        machine.check_devices(report)
    packages.check_known_conflicts(report)
    packages.check_chrome(report)
    if "lens_recipes.models.load" in usable:
        machine.check_smollm2(report)
    if "lens_recipes.run.remote.server" in usable:
        from lens_recipes.cli.doctor.server import check_remote

        check_remote(report, remote)
    report.findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return report


def no_address(host: str) -> str:
    """Say that `host` is not an address, without what may be secret in it."""
    shown = escape_terminal(shown_address(host).partition("?")[0])
    example = "one is like https://host or http://127.0.0.1:8001"
    return f"{shown!r} is no address of a server: {example}."


DOCTOR_EXAMPLES = """
Examples:

  lens-recipes doctor

  lens-recipes doctor --remote

  lens-recipes doctor --host http://127.0.0.1:8001 --json | jq .findings

Nothing is sent anywhere without --remote or --host, and a key is never shown.

Exit status: 0 nothing is in the way (there may be warnings and notes), 1 something is, 2 wrong
usage, 130 interrupted.
"""
