"""A Hugging Face hub on this machine: it serves files of repositories, and lists them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

Files = dict[str, bytes]


class FakeHub:
    """The hub: `with FakeHub({"owner/name@main": {"file": b"…"}}) as hub`; a space is "spaces/owner/name@main".

    Attributes:
        asked: The paths of all requests, in order.
        url: Its address.
    """

    def __init__(self, repositories: dict[str, Files]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []

    def __enter__(self) -> FakeHub:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Exchange)
        self._http.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Exchange(BaseHTTPRequestHandler):
    """One request."""

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.serve()

    def do_GET(self) -> None:
        self.serve()

    def serve(self) -> None:
        hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(path)
        if path.startswith("/api/"):
            kind, _, rest = path.removeprefix("/api/").partition("/")
            repository, _, revision = rest.partition("/tree/")
            prefix = "spaces/" if kind == "spaces" else ""
            files = hub.repositories.get(f"{prefix}{repository}@{revision.strip('/')}")
            if files is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            listed = [
                {"type": "file", "path": name, "size": len(body), "oid": COMMIT}
                for name, body in files.items()
            ]
            return self.answer(200, json.dumps(listed).encode(), {})
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        for known, files in hub.repositories.items():
            if known == f"{repository}@{revision}" or (
                revision == COMMIT and known.startswith(f"{repository}@")
            ):
                if name in files:
                    return self.answer(200, files[name], {})
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextlib.contextmanager
def asked_instead(url: str, cache: Path) -> Iterator[None]:
    """The client asks this hub, and keeps what it gets in an own folder."""
    constants = huggingface_hub.constants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        huggingface_hub.close_session()
        yield
    huggingface_hub.close_session()
