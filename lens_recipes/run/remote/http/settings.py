"""Which server, with which key, and within which limits."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nnsight.schema.config import CONFIG

from lens_recipes.errors import RemoteLensError
from lens_recipes.run.remote.http.addresses import is_server, shown_address
from lens_recipes.run.remote.http.key import ApiKey

PUBLIC = "https://api.ndif.us"


@dataclass
class RemoteSettings:
    """Limits of time and size for runs on a server; `lens_recipes.remote_settings` is in force.

    Attributes:
        patience_s: How long a server that cannot be reached, or has no time (429, 503), is asked
            again.
        timeout_s: How long a recipe waits for its jobs; None for as long as they take.
        connect_s: How long one request may take to connect.
        read_s: How long an answer may take, beside the time for its bytes at 256 KiB a second.
        poll_s: Longest time between two questions for a job's state.
        max_back_bytes: Most that one run may bring back, by its estimate.
        max_server_bytes: Most memory that one batch may take on the server beside the model.
        tokens_per_job: Batches share a job up to so many tokens; a larger one is a job by itself.
        back_bytes_per_job: The same for the bytes of the job's result.
    """

    patience_s: float = 60.0
    timeout_s: float | None = None
    connect_s: float = 10.0
    read_s: float = 60.0
    poll_s: float = 2.0
    max_back_bytes: int = 256 * 2**20
    max_server_bytes: int = 8 * 2**30
    tokens_per_job: int = 16384
    back_bytes_per_job: int = 32 * 2**20


remote_settings = RemoteSettings()


def api_key() -> ApiKey | None:
    """Return the user's key: of the environment now, else of nnsight's own configuration.

    Raises:
        RemoteLensError: it cannot be a key. Whatever would send it complains with the key in its
            message.
    """
    key = (os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise RemoteLensError(
            "the API key that is set is none: it holds characters that no key has.",
            "Copy it again from https://login.ndif.us, and set it with NDIF_API_KEY or "
            "nnsight.login().",
        )
    return ApiKey(key) if key else None


def address(remote: bool | str) -> str:
    """Return the address of the server that `remote` means; True is the one nnsight knows.

    Raises:
        RemoteLensError: it is no address of a server.
    """
    host = str(remote)
    remedy = (
        'Pass remote=True for NDIF, an address like "https://host" or "http://127.0.0.1:8001", '
        'or "local".'
    )
    if remote is True:
        host = os.environ.get("NDIF_HOST") or CONFIG.API.HOST
        remedy = "Set NDIF_HOST to one like https://host or http://127.0.0.1:8001, or unset it."
    if not is_server(host):
        raise RemoteLensError(f"{shown_address(host)!r} is no address of a server.", remedy)
    return host.rstrip("/")
