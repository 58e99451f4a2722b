"""What is installed, what of it is known to go wrong, and whether a server can be used: `lens-recipes doctor`.

This is for places where something is broken, so nothing that can be is imported before it is looked at, and each fault
is a `Finding` instead of an error.
"""

from __future__ import annotations

import os
import platform

from .addresses import is_server, shown
from .display import printable
from .doctor_machine import embedded, machine
from .doctor_packages import OPTIONAL, REQUIRED, chrome, imports, known, requirements, version
from .doctor_report import Finding, Report, ServerReport
from .errors import RemoteLensError


def examine(remote: bool | str = False) -> Report:
    """Look at this machine and, if asked to, at a server.

    Args:
        remote: False for no network at all; True for the server that remote=True means elsewhere; or an address.

    Raises:
        ValueError: `remote` is no address.

    Example:
        >>> import lens_recipes.doctor
        >>> lens_recipes.doctor.examine().packages["nnsight"]
        '0.8.1'
    """
    if isinstance(remote, str):
        check_address(remote)
    findings: list[Finding] = []
    packages = {"python": platform.python_version(), "lens-recipes": version("lens-recipes")}
    packages |= {name: version(name) for name in REQUIRED}
    findings += requirements()
    usable = imports(findings)
    report = Report(packages, {name: version(name) for name in OPTIONAL}, machine(findings, "torch" in usable))
    findings += [*known(), *chrome()]
    if "lens_recipes.models" in usable:
        report.smollm2, report.smollm2_folder = embedded(findings)
    report.key_from, key_is_fine = _key(findings, "lens_recipes.ndif" in usable)
    if "lens_recipes.ndif" in usable:
        report.host = _host(findings, remote is True)
        host = remote if isinstance(remote, str) else report.host
        if remote and host and key_is_fine:
            report.server = ServerReport(host.rstrip("/"))
            from .doctor_server import examine_server  # needs nnsight, which may be what is broken

            examine_server(report.server, report.packages, findings)
    levels = ("error", "warning", "note")
    report.findings = sorted(findings, key=lambda finding: levels.index(finding.level))
    return report


def check_address(host: str) -> None:
    """Raise ValueError unless `host` is the address of a server; needs neither nnsight nor torch."""
    if not is_server(host):
        named = printable(shown(host).partition("?")[0])
        raise ValueError(f'{named!r} is no address of a server: one is like "https://host" or "http://127.0.0.1:8001".')


def _key(findings: list[Finding], nnsight_is_there: bool) -> tuple[str | None, bool]:
    """Where the key is from, and whether it can be sent. Its value goes no further."""
    source = "environment" if os.environ.get("NDIF_API_KEY") else None
    if not nnsight_is_there:
        return source, False
    from .ndif import api_key

    try:
        return (source or "nnsight") if api_key() else None, True
    except RemoteLensError as error:
        findings.append(Finding("error", "key", error.happened, error.todo))
        return source or "nnsight", False


def _host(findings: list[Finding], asked: bool) -> str | None:
    """The address that remote=True means."""
    from .ndif import address

    try:
        return address(True)
    except RemoteLensError as error:
        todo = "Set NDIF_HOST to one like https://host or http://127.0.0.1:8001, or unset it for NDIF's own."
        findings.append(Finding("error" if asked else "warning", "server", error.happened, todo))
        return None
