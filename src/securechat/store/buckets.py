"""Buckets: 256 that rooms live in, and 256 for what hangs off users; what a database says of those that are not plainly in it.

The table `buckets` (migration 0009) is the truth: it is read inside of the transactions that it guards. What anybody holds in
memory of it may be old, and is found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache
from typing import Final

BUCKETS: Final = 256
"""Of rooms: 0–255. Those of users come after them, 256–511: where the one is says nothing of where the other is."""
USERS: Final = BUCKETS
"""The first bucket of users."""
ALL: Final = 2 * BUCKETS
MOVING: Final = "moving"
FENCED: Final = "fenced"
AWAY: Final = "away"
ABSENT: Final = "absent"
ELSEWHERE: Final = "SC003"
"""SQLSTATE of a commit to a room that lives elsewhere, or is being moved at this moment."""
GONE: Final = "SELECT coalesce(array_agg(bucket), '{}') AS gone FROM buckets WHERE state IN ('away', 'absent')"
WAIT_S: Final = 10.0
"""How long somebody waits for a bucket that is being moved."""
PAUSE_S: Final = 0.02


class Elsewhere(Exception):
    """A room is not in this database, or is being moved at this moment. Nothing is stored.

    Args:
        rooms: Of which one is meant.
    """

    def __init__(self, rooms: Collection[str]) -> None:
        super().__init__()
        self.rooms = rooms


@lru_cache(maxsize=50_000)
def bucket_of(room_id: str) -> int:
    """Return the bucket of a room, 0–255, as `securechat_bucket` does in PostgreSQL."""
    return hashlib.sha256(room_id.encode()).digest()[0]


def user_bucket_of(user_id: str) -> int:
    """Return the bucket of a user, 256–511."""
    return USERS + bucket_of(user_id)
