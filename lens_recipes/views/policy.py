"""What a page may do: run the scripts that were written into it, and nothing else.

A Content-Security-Policy is the second lock. The first is that no text on a page acts as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)

# Plotly writes style sheets into the page, and takes pictures of its figures.
LOOKS = "style-src 'unsafe-inline'; img-src data: blob:"

# Neither follows from `default-src`.
NEVER = "form-action 'none'; base-uri 'none'"


def content_policy(script_sources: Iterable[str]) -> str:
    """Return the policy of a page that runs some scripts, and of which no request leaves.

    Args:
        script_sources: Where scripts may come from, as a policy names it: see `script_hash`.
    """
    sources = " ".join(script_sources)
    return f"default-src 'none'; script-src {sources}; {LOOKS}; {NEVER}"


def script_hash(script: str) -> str:
    """Return the hash by which a policy names a script that stands in the page."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def hashes_of_scripts(html: str) -> list[str]:
    """Return the hashes of the scripts in HTML that plotly wrote: there, all texts are JSON."""
    return [script_hash(script) for script in INLINE_SCRIPT.findall(html)]
