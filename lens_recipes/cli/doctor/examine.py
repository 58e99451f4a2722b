"""What is installed, what of it is known to go wrong, and whether a server can be used: `lens-recipes doctor`.

This is for places where something is broken, so nothing that can be is imported before it is looked at, and each fault
is a `Finding` instead of an error.
"""

from __future__ import annotations

import os
import platform

from lens_recipes.arrays.text import escape_terminal
from lens_recipes.cli.doctor.machine import embedded, machine
from lens_recipes.cli.doctor.packages import (
    OPTIONAL,
    REQUIRED,
    chrome,
    imports,
    known,
    requirements,
    version,
)
from lens_recipes.cli.doctor.report import Finding, Report, ServerReport
from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.addresses import is_server, shown_address


def examine(remote: bool | str = False) -> Report:
    """Look at this machine and, if asked to, at a server.

    Args:
        remote: False for no network at all; True for the server that remote=True means elsewhere; or an address.

    Raises:
        ValueError: `remote` is no address.

    Example:
        >>> from lens_recipes.cli.doctor.examine import examine
        >>> examine().packages["nnsight"]
        '0.8.1'
    """
    if isinstance(remote, str):
        check_address(remote)
    findings: list[Finding] = []
    packages = {"python": platform.python_version(), "lens-recipes": version("lens-recipes")}
    packages |= {name: version(name) for name in REQUIRED}
    findings += requirements()
    usable = imports(findings)
    report = Report(
        packages, {name: version(name) for name in OPTIONAL}, machine(findings, "torch" in usable)
    )
    findings += [*known(), *chrome()]
    if "lens_recipes.models.load" in usable:
        report.smollm2, report.smollm2_folder = embedded(findings)
    report.key_from, key_is_fine = _key(findings, "lens_recipes.run.remote.server" in usable)
    if "lens_recipes.run.remote.server" in usable:
        report.host = _host(findings, remote is True)
        host = remote if isinstance(remote, str) else report.host
        if remote and host and key_is_fine:
            report.server = ServerReport(host.rstrip("/"))
            from lens_recipes.cli.doctor.server import (
                examine_server,  # needs nnsight, which may be what is broken
            )

            examine_server(report.server, report.packages, findings)
    levels = ("error", "warning", "note")
    report.findings = sorted(findings, key=lambda finding: levels.index(finding.level))
    return report


def check_address(host: str) -> None:
    """Raise ValueError unless `host` is the address of a server; needs neither nnsight nor torch."""
    if not is_server(host):
        named = escape_terminal(shown_address(host).partition("?")[0])
        raise ValueError(
            f'{named!r} is no address of a server: one is like "https://host" or "http://127.0.0.1:8001".'
        )


def _key(findings: list[Finding], nnsight_is_there: bool) -> tuple[str | None, bool]:
    """Where the key is from, and whether it can be sent. Its value goes no further."""
    source = "environment" if os.environ.get("NDIF_API_KEY") else None
    if not nnsight_is_there:
        return source, False
    from lens_recipes.run.remote.settings import api_key

    try:
        return (source or "nnsight") if api_key() else None, True
    except RemoteLensError as error:
        findings.append(Finding("error", "key", error.happened, error.todo))
        return source or "nnsight", False


def _host(findings: list[Finding], asked: bool) -> str | None:
    """The address that remote=True means."""
    from lens_recipes.run.remote.settings import address

    try:
        return address(True)
    except RemoteLensError as error:
        todo = "Set NDIF_HOST to one like https://host or http://127.0.0.1:8001, or unset it for NDIF's own."
        findings.append(Finding("error" if asked else "warning", "server", error.happened, todo))
        return None
