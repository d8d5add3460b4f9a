"""Move a bucket of what hangs off users: see `handing_over`.

Nothing counts how often a user's rows change, so they are compared: a bucket is 256 slices, by the second byte of what it is
chosen by, and a slice whose digests differ is copied. Behind the fence all of them are compared once more: whatever was changed,
by whom ever, is found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from securechat.errors import Conflict
from securechat.store.buckets import USERS
from securechat.store.handing_over import FEW, NOT_HERE, BucketMoved, HandOver, digest, index

TABLES: Final = ("devices", "blocks", "commands", "totp", "passkeys", "recovery_codes", "externals")
"""All that hangs off users. `users` and `names` stay at home."""
CLEANED: Final = 16
"""Slices that are cleaned in one transaction."""
_EVERY_USER: Final = " UNION ".join(f"SELECT user_id FROM {table}" for table in TABLES)  # nosec B608 - our own names
COUNTS: Final = (
    "SELECT (SELECT count(*) FROM rooms), (SELECT count(*) FROM entries),"
    f" (SELECT count(*) FROM ({_EVERY_USER}) AS every), (SELECT count(*) FROM devices)"  # nosec B608 - our own names
)
"""How many rooms, entries, users with anything, and devices a database has."""
_SLICE: Final = "securechat_slice(user_id) = $1"
_SLICES: Final = "securechat_slice(user_id) = ANY ($1::bigint[])"
_BUCKET: Final = "securechat_slice(user_id) BETWEEN $1 AND $2"

Digests = dict[int, frozenset[tuple[Any, ...]]]
"""Slice → (table, count, digest) of each table that has something of it."""


class UserMove(HandOver):
    """One move of one bucket of users."""

    def __init__(self, source: Any, target: Any, bucket: int, names: tuple[str, str]) -> None:
        super().__init__(source, target, bucket, names)
        self._rows = 0

    async def _prepare(self) -> None:
        for connection in (self._source, self._target):
            for table in TABLES:
                await index(connection, table, "securechat_slice", "user_id")

    async def _copy(self) -> None:
        before = None
        while True:
            await self._go_on()
            different = await self._different()
            if not different or (before is not None and (len(different) <= FEW or len(different) >= before)):
                return
            for each in different:
                await self._go_on()
                await self._take(each)
            before = len(different)

    async def _copy_rest(self) -> None:
        changed = await self._different()
        for each in changed:
            await self._take(each)
        if await self._different(changed):  # The others are as they were when they were compared.
            raise Conflict(f"Users of bucket {self._bucket % USERS} are not the same after copying: they stay where they are.")

    async def _clean(self) -> None:
        await clean_users(self._source, self._bucket)

    def _moved(self) -> BucketMoved:
        return BucketMoved(self._bucket % USERS, *self._names, "users", rows=self._rows, pause_ms=round(self._pause_s * 1_000))

    async def _different(self, among: Sequence[int] | None = None) -> list[int]:
        """Return the slices in which the two are not the same, of these or of all."""
        if among is not None and not among:
            return []
        columns = {table: await self._columns(table) for table in TABLES}
        here, there = await asyncio.gather(
            self._digests(self._source, columns, among), self._digests(self._target, columns, among)
        )  # fmt: skip
        if among is None:
            self._rows = sum(part[1] for parts in here.values() for part in parts)
        return sorted(each for each in here.keys() | there.keys() if here.get(each) != there.get(each))

    async def _digests(self, connection: Any, columns: Mapping[str, Sequence[str]], among: Sequence[int] | None) -> Digests:
        """Return the digests of slices, all of one moment."""
        parts = [
            f"SELECT securechat_slice(user_id) AS slice, '{table}' AS tab, {digest(columns[table])}"  # nosec B608 - ours
            f" FROM {table} WHERE {_BUCKET if among is None else _SLICES} GROUP BY 1"
            for table in TABLES
        ]
        values = _slices(self._bucket) if among is None else (among,)
        found: dict[int, set[tuple[Any, ...]]] = {}
        for row in await connection.fetch(" UNION ALL ".join(parts), *values):
            found.setdefault(row[0], set()).add(tuple(row[1:]))
        return {each: frozenset(rows) for each, rows in found.items()}

    async def _take(self, each: int) -> None:
        """Have a slice at the target as it is at one moment at the source."""
        async with self._source.transaction(isolation="repeatable_read", readonly=True), self._target.transaction():
            for table in TABLES:
                await self._replace(table, _SLICE, (each,))


async def clean_users(connection: Any, bucket: int) -> None:
    """Delete what a bucket left behind in a database that it is not in. May be done again."""
    tables = " UNION ".join(f"SELECT securechat_slice(user_id) FROM {table} WHERE {_BUCKET}" for table in TABLES)  # nosec B608 - ours
    slices = sorted(row[0] for row in await connection.fetch(tables, *_slices(bucket)))
    for at in range(0, len(slices), CLEANED):
        async with connection.transaction():
            if not await connection.fetchval(NOT_HERE, bucket):
                raise Conflict(f"Bucket {bucket % USERS} of users is here: nothing of it is deleted.")
            for table in TABLES:
                await connection.execute(
                    f"DELETE FROM {table} WHERE {_SLICES}", slices[at : at + CLEANED]  # nosec B608 - ours
                )  # fmt: skip
    await connection.execute(
        "UPDATE buckets SET state = 'absent', shard = '', until = NULL WHERE bucket = $1 AND state = 'away'", bucket
    )


def _slices(bucket: int) -> tuple[int, int]:
    """Return the first and the last slice of a bucket."""
    first = (bucket - USERS) * 256
    return first, first + 255
