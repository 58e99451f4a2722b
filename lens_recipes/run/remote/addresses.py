"""Addresses of servers: what is one, and who can listen on the way. Needs nothing that can be missing."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit


def is_address(url: Any) -> bool:
    """Whether it is an address on the web, with nothing in it that two readers could take for two things."""
    try:
        parts = urlsplit(str(url))
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets, or a port that is no number
        return False
    return known and str(url).isprintable() and not {*str(url)} & {" ", "\\"}


def is_server(host: str) -> bool:
    """Whether it is an address alone: without a password, a query or a fragment."""
    return is_address(host) and not {*host} & {"@", "?", "#"}


def is_private(url: str) -> bool:
    """Whether nobody can listen: https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def shown_address(host: str) -> str:
    """An address without what may be a password in it."""
    return host.rsplit("@", 1)[-1]
