"""`lens-recipes doctor`: look at everything, show what was found."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer
from rich.console import Console

from lens_recipes.cli.common.outputs import stdout_console, write_for_programs
from lens_recipes.cli.doctor import local
from lens_recipes.cli.doctor.report import Report, one_line, print_report
from lens_recipes.run.remote.http.addresses import is_server, shown_address


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
    with (
        contextlib.redirect_stdout(sys.stderr),  # libraries may print while they are imported
        Console(stderr=True).status("looking …"),
    ):
        report = examine(remote if host is None else host)
    if as_json:
        write_for_programs(report.as_json() + "\n")
    else:
        print_report(report, stdout_console())
    if not report.ok:
        raise typer.Exit(1)


def examine(remote: bool | str = False) -> Report:
    """Look at this machine and, if asked to, at a server: True for NDIF, or its address.

    Where something is broken, it is a finding instead of an error.

    Raises:
        ValueError: `remote` is no address.
    """
    if isinstance(remote, str) and not is_server(remote):
        shown = one_line(shown_address(remote))
        example = "one is like https://host or http://127.0.0.1:8001"
        raise ValueError(f"--host: {shown!r} is no address of a server; {example}.")
    report = Report()
    local.check_packages(report)
    local.check_machine(report)
    usable = local.check_imports(report)
    if "torch" in usable:
        local.check_devices(report)
    if local.LOAD in usable:
        local.check_smollm2(report)
    if local.SERVER in usable:
        from lens_recipes.cli.doctor.server import check_remote

        check_remote(report, remote)
    return report


DOCTOR_EXAMPLES = """
Examples:

  lens-recipes doctor

  lens-recipes doctor --remote

  lens-recipes doctor --host http://127.0.0.1:8001 --json | jq .findings

Nothing is sent anywhere without --remote or --host, and a key is never shown.

Exit status: 0 nothing is in the way (there may be warnings and notes), 1 something is, 2 wrong
usage, 130 interrupted.
"""
