"""The user's key for NDIF, which no text shows."""

from __future__ import annotations

from collections.abc import Generator

import httpx

HEADER = "ndif-api-key"
HIDDEN = "<key>"


class ApiKey(httpx.Auth):
    """A key that httpx puts into a request, and that nothing else takes out.

    Neither its repr nor a traceback that shows local variables holds the key.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return HIDDEN

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Put the key into a request, as httpx asks for it."""
        request.headers[HEADER] = self._secret
        yield request

    def hide_in(self, text: str) -> str:
        """Return a text without the key, should it hold it."""
        return text.replace(self._secret, HIDDEN)


def hide_key(text: str, key: ApiKey | None) -> str:
    """Return a text without the key, should there be one and the text hold it."""
    if key is None:
        return text
    return key.hide_in(text)
