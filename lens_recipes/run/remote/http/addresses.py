"""Addresses of servers: which strings are one, and who can listen on the way.

`lens-recipes doctor` looks at addresses where packages may be missing, so nothing but the standard
library is imported here.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit


def is_address(url: Any) -> bool:
    """Return whether this is an address on the web that every reader takes for the same one."""
    text = str(url)
    try:
        parts = urlsplit(text)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets, or of a port that is no number
        return False
    return is_web and text.isprintable() and " " not in text and "\\" not in text


def is_server(host: str) -> bool:
    """Return whether this is the address of a server, without a password, a query or a fragment."""
    return is_address(host) and not any(character in host for character in "@?#")


def is_private(url: str) -> bool:
    """Return whether nobody on the way can listen: it is https, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def shown_address(host: str) -> str:
    """Return an address without the parts of it that may hold a password or a key."""
    without_password = host.rsplit("@", 1)[-1]
    return without_password.partition("?")[0]
