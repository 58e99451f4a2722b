"""The database of API keys, as far as NDIF asks it: the server's processes import this as `asyncpg`.

NDIF looks at keys only where it has a Postgres to look them up in. Its one query then goes to the
keys that were given to `NdifServer`; which key it takes, and what it answers for the others, is
NDIF's own.
"""

from __future__ import annotations

import contextlib
import json
import os


class Pool:
    """Some of `asyncpg.Pool`, and of the connections that it gives."""

    @contextlib.asynccontextmanager
    async def acquire(self):
        yield self

    async def fetch(self, query, key):
        """A row for each tag of the key, one with none if it has none, none if it is not a key."""
        tags = json.loads(os.environ["NDIF_TEST_KEYS"]).get(str(key))
        rows = [] if tags is None else tags or [None]
        return [{"user_id": "1", "email": "somebody@example.org", "user_tag": tag} for tag in rows]

    async def close(self):
        """Nothing is open."""


async def create_pool(**_):
    return Pool()
