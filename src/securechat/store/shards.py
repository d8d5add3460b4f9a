"""ShardedDatabase: the home database, and others that rooms live in, and what hangs off users.

Home has everything that belongs to no room and no user (users themselves, names, keys of keys, the audit log) and, at first, all
of it. Which buckets are where, each database says for itself, in a table that is read inside of the transactions that it guards.
So what is in memory here is only a guess: a wrong one is found out by whoever acts on it, and then read again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from securechat.domain.ids import new_id
from securechat.errors import Conflict, Shutdown, Unavailable
from securechat.store.buckets import ABSENT, ALL, AWAY, BUCKETS, USERS, bucket_of
from securechat.store.database import Row
from securechat.store.migrate import HEAD
from securechat.store.postgres import PostgresDatabase, current_postgres, open_pool, read_all
from securechat.store.postgres_pool import RETRY_MS, PostgresPool
from securechat.store.spread_users import SpreadUsers

log = logging.getLogger(__name__)

HOME: Final = "home"
SHARDS: Final = "shards"
"""Setting at home: (name of this installation, names of its shards)."""
SHARD: Final = "shard"
"""Setting of a shard: (name of the installation, its own name)."""
READ_TRIES: Final = 5
READ_PAUSE_S: Final = 0.02
_BUCKETS: Final = "SELECT bucket, state, shard FROM buckets"
_ARRIVES: Final = "DELETE FROM buckets WHERE bucket = $1 AND state = 'absent'"
_HELD: Final = "SELECT state FROM buckets WHERE bucket = $1 FOR UPDATE"
_LET_GO: Final = "SELECT 1 FROM buckets WHERE bucket = $1 AND state = 'away' AND shard = $2"


class Registered(msgspec.Struct, array_like=True):
    """What home knows of its shards."""

    store: str
    names: list[str]


class ShardedDatabase(PostgresDatabase):
    """Home itself, for everything that belongs to no room. See `Database`.

    Args:
        pool: Connections to home.
        others: The other databases, by name.
    """

    def __init__(self, pool: PostgresPool, others: Mapping[str, PostgresDatabase]) -> None:
        super().__init__(pool)
        self.home = PostgresDatabase(pool)
        self.names = [HOME, *others]
        self._parts: list[PostgresDatabase] = [self, *others.values()]
        self._places = [0] * ALL
        self._reading: asyncio.Task[bool] | None = None
        self.users = SpreadUsers(self)

    @property
    def parts(self) -> Sequence[PostgresDatabase]:
        """See `Database.parts`: home first."""
        return self._parts

    def place(self, room_id: str) -> int:
        """Return the number of the part that a room lives in, as far as is known."""
        return self.place_of(bucket_of(room_id))

    def place_of(self, bucket: int) -> int:
        """Return the number of the part that a bucket is in, as far as is known."""
        return self._places[bucket]

    def for_room(self, room_id: str, /) -> PostgresDatabase:
        """See `Database.for_room`."""
        return self._parts[self.place(room_id)]

    def buckets(self, name: str) -> list[int]:
        """Return which buckets of rooms a database has."""
        place = self.names.index(name)
        return [bucket for bucket in range(BUCKETS) if self._places[bucket] == place]

    def user_buckets(self, name: str) -> list[int]:
        """Return which buckets of users a database has, as numbers from 0 on."""
        place = self.names.index(name)
        return [bucket - USERS for bucket in range(USERS, ALL) if self._places[bucket] == place]

    async def refresh(self) -> bool:
        """Read where the buckets are, and return whether one is elsewhere than before. One reads for all who want it.

        Raises:
            Unavailable: A database does not answer.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh(), name="shards")
        return await asyncio.shield(self._reading)

    async def _refresh(self) -> bool:
        for _ in range(READ_TRIES):
            said = await asyncio.gather(*(self._not_plain(part) for part in self._parts))
            here = [[place for place, rows in enumerate(said) if _is_here(rows, bucket)] for bucket in range(ALL)]
            if all(len(places) < 2 for places in here):
                break
            await asyncio.sleep(READ_PAUSE_S)  # It left the one after that was asked, and came to the other before.
        else:
            log.error("a bucket is in two databases", extra={"shards": self.names})
            raise Unavailable("The shards contradict each other.", retry_after_ms=RETRY_MS)
        places = list(self._places)
        for bucket, found in enumerate(here):
            place = found[0] if found else await self._arrives(bucket, said)
            if place is not None:  # Else it was read while it moved: whoever needs it asks again.
                places[bucket] = place
        changed = places != self._places
        self._places = places
        return changed

    @staticmethod
    async def _not_plain(part: PostgresDatabase) -> dict[int, tuple[str, str]]:
        return {row[0]: (row[1], row[2]) for row in await part.fetch(_BUCKETS)}

    async def _arrives(self, bucket: int, said: Sequence[Mapping[int, tuple[str, str]]]) -> int | None:
        """Let a bucket arrive that left one database for another, if whoever moves it does not."""
        for source, rows in enumerate(said):
            state, shard = rows.get(bucket, ("", ""))
            if state == AWAY and shard in self.names:
                place = self.names.index(shard)
                if said[place].get(bucket, ("", ""))[0] == ABSENT:
                    return place if await arrives(self._parts[source], self._parts[place], bucket, shard) else None
        return None

    async def close(self) -> None:
        """See `Database.close`."""
        if self._reading is not None:
            await asyncio.wait({self._reading})
        await asyncio.gather(super().close(), *(part.close() for part in self._parts[1:]))


def _is_here(rows: Mapping[int, tuple[str, str]], bucket: int) -> bool:
    return bucket not in rows or rows[bucket][0] not in {AWAY, ABSENT}


async def arrives(source: PostgresDatabase, target: PostgresDatabase, bucket: int, name: str) -> bool:
    """Let a bucket be plainly at the target, whose name that is: all of it is, since the source let go of it. May be done twice.

    Whoever read where it is may have done so long ago, and it may have moved on since. While its row at the target is held, it
    stays absent there: if the source says even then that it went there, it did.

    Returns:
        Whether it is there.
    """
    async with target.transaction() as transaction:
        if await transaction.fetch(_HELD, bucket) != [(ABSENT,)] or not await source.fetch(_LET_GO, bucket, name):
            return False
        await transaction.fetch(_ARRIVES, bucket)
    return True


async def registered(home: PostgresDatabase) -> Registered:
    """Return what home knows of its shards."""
    rows: list[Row] = await home.fetch("SELECT value FROM settings WHERE key = $1", SHARDS)
    return msgspec.json.decode(rows[0][0], type=Registered) if rows else Registered("", [])


async def open_sharded(home: PostgresDatabase, urls: Mapping[str, str], *, connections: int) -> PostgresDatabase:
    """Open the shards that home has, beside it.

    Args:
        home: The open database.
        urls: Name → address of each.
        connections: To each, at most.

    Raises:
        Shutdown: One of them is not known here, does not answer, or is another's.
    """
    others: dict[str, PostgresDatabase] = {}
    try:
        known = await registered(home)
        if unknown := sorted(set(known.names) - set(urls)):
            raise Shutdown(f"Rooms or users live in {', '.join(unknown)}, too: database_shards has to say where that is.")  # noqa: TRY301 - one way out
        for name in known.names:
            others[name] = PostgresDatabase(await open_pool(urls[name], connections=connections))
            await _require_own(others[name], known.store, name)
        if not urls:
            return home
        found = ShardedDatabase(home.pool, others)
        await found.refresh()
    except BaseException:
        for part in (home, *others.values()):
            await part.close()
        raise
    return found


async def _require_own(part: PostgresDatabase, store: str, name: str) -> None:
    rows = await part.fetch("SELECT value FROM settings WHERE key = $1", SHARD)
    if not rows or msgspec.json.decode(rows[0][0]) != [store, name]:
        raise Shutdown(f"database_shards: what is at the address of {name} is not that shard of this installation.")


async def problem_of(url: str, name: str, known: Registered | None) -> str:
    """Return what is wrong with a shard, for a program that is no server; nothing when it can be used.

    Args:
        url: Where it is said to be.
        name: What it is called.
        known: What home knows; None when it does not answer.
    """
    try:
        there = await current_postgres(url)
        if there != HEAD:
            return f"schema {there}, code {HEAD}"
        rows = await read_all(url, "SELECT value FROM settings WHERE key = 'shard'")
    except (Shutdown, ValueError) as error:
        return str(error)
    if known is not None and (not rows or msgspec.json.decode(rows[0][0]) != [known.store, name]):
        return "what is there is not this shard of this installation"
    return ""


async def add(home: PostgresDatabase, name: str, url: str) -> None:
    """Take a database in as a shard, without anything in it. May be done again.

    Raises:
        Conflict: There is something in it, or it is a shard of another installation.
        Shutdown: It does not answer.
    """
    known = await registered(home)
    store = known.store or new_id("str")
    part = PostgresDatabase(await open_pool(url, connections=3))
    try:
        async with part.transaction() as transaction:
            filled = any([await transaction.fetch(f"SELECT 1 FROM {table} LIMIT 1") for table in ("rooms", "users", "devices")])
            rows = await transaction.fetch("SELECT value FROM settings WHERE key = $1", SHARD)
            mine = rows and msgspec.json.decode(rows[0][0]) == [store, name]
            if not mine and (filled or rows):
                raise Conflict("There is something in this database: an empty one is wanted.")
            if not mine:
                own = msgspec.json.encode([store, name]).decode()
                await transaction.fetch("INSERT INTO settings (key, value) VALUES ($1, $2)", SHARD, own)
                await transaction.fetch("INSERT INTO buckets SELECT each, 'absent', '' FROM generate_series(0, 511) AS each")
        names = msgspec.json.encode(Registered(store, sorted({*known.names, name}))).decode()
        async with home.transaction() as transaction:
            await transaction.fetch(
                "INSERT INTO settings (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                SHARDS, names,
            )  # fmt: skip
    finally:
        await part.close()
