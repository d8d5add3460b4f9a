"""SpreadUsers: what hangs off users in several databases, by bucket.

Users themselves and names are at home. What needs both is ordered:

- *A lock on the user* at home is held until what it guards is stored in the other database; if it was lost before, the caller is
  told that it failed, and gives nothing out.
- *Names* (ids of passkeys, accounts at providers) are claimed at home before the row is there, and given back after it is gone.
  Whose a name is, home says: a row without its name is nobody's way in. A name without its row is taken over by who wants it.

Every statement finds out whether the user is in the database that was asked, as of that moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from securechat.errors import Unavailable
from securechat.store.buckets import ALL, PAUSE_S, USERS, WAIT_S, user_bucket_of
from securechat.store.database import Duplicate, Row, Transaction
from securechat.store.locking import lock_user
from securechat.store.names import claim_free
from securechat.store.postgres import PostgresDatabase, PostgresTransaction
from securechat.store.postgres_pool import RETRY_MS

if TYPE_CHECKING:
    from securechat.store.shards import ShardedDatabase

CHANGE_S: Final = 7.0
"""How long a change of all users waits for buckets: less than PostgreSQL lets a transaction rest."""
_GONE: Final = "state IN ('away', 'absent')"
_ELSEWHERE: Final = "SELECT 1 WHERE securechat_users_elsewhere($1::text[])"
_ONE: Final = (
    f"SELECT g.gone, q.* FROM (SELECT EXISTS (SELECT 1 FROM buckets WHERE bucket = ? AND {_GONE}) AS gone) AS g"  # nosec B608 - our own words
    " LEFT JOIN (SELECT true AS found, w.* FROM (QUERY) AS w) AS q ON true"
)
"""The rows of a query, each after whether the bucket is elsewhere at that moment: at least one row of that."""
_ALL: Final = (
    "SELECT CASE WHEN row_number() OVER () = 1 THEN g.gone END, q.* FROM"
    f" (SELECT coalesce(array_agg(bucket), '{{}}') AS gone FROM buckets WHERE bucket >= {USERS} AND {_GONE}) AS g"  # nosec B608 - our own words
    " LEFT JOIN (SELECT true AS found, w.* FROM (QUERY) AS w) AS q ON true"
)
"""The rows of a query, one of them after the buckets that are elsewhere at that moment: at least one row of that."""
_CLOSED: Final = (
    f"SELECT bucket FROM buckets WHERE bucket >= {USERS} AND ({_GONE} OR (state = 'fenced' AND until > clock_timestamp()))"  # nosec B608 - ours
)
_HAS: Final = {
    "passkey": "SELECT 1 FROM passkeys WHERE user_id = ? AND id = ?",
    "external": "SELECT 1 FROM externals WHERE user_id = ? AND issuer || ' ' || subject = ?",
}
_OWNER: Final = "SELECT owner FROM names WHERE kind = ? AND key = ?"


class SpreadUsers:
    """See `UserRows`.

    Args:
        shards: All databases.
    """

    spread = True

    def __init__(self, shards: ShardedDatabase) -> None:
        self._shards = shards

    # ── one user ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def transaction(self, user_id: str, /) -> AsyncIterator[Transaction]:
        """See `UserRows.transaction`."""
        until = _in(WAIT_S)
        while True:
            part = self._part(user_id)
            async with part.transaction() as own:
                if await self._is_here(own, user_id, part):
                    yield own
                    return
            await self._again(until)

    @asynccontextmanager
    async def transactions(self, user_id: str, /) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """See `UserRows.transactions`. Nothing is locked at home while it waits for a bucket."""
        until = _in(WAIT_S)
        while True:
            part = self._part(user_id)
            if part is self._shards:
                async with part.transaction() as both:
                    if await self._is_here(both, user_id, part):
                        yield both, both
                        return
            else:
                async with self._shards.transaction() as home, part.transaction() as own:
                    if await self._is_here(own, user_id, part):
                        yield home, own
                        return
            await self._again(until)

    @asynccontextmanager
    async def claiming(self, kind: str, key: str, user_id: str, /) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """See `UserRows.claiming`. The name is stored first, so that there is no row without one; it may stay without its row."""
        async with self._shards.transaction() as home:
            await lock_user(home, user_id)
            if not await claim_free(home, kind, key, user_id) and not await self.take_over(home, kind, key, user_id):
                raise Duplicate("names_pkey")
        async with self.transactions(user_id) as (home, own):
            await lock_user(home, user_id)
            if await home.execute(_OWNER, (kind, key)) != [(user_id,)]:  # Somebody took it over, or gave all of them back.
                raise Duplicate("names_pkey")
            if await own.execute(_HAS[kind], (user_id, key)):  # The name is theirs because they have it already.
                raise Duplicate("names_pkey")
            yield home, own

    async def take_over(self, home: Transaction, kind: str, key: str, user_id: str, /) -> bool:
        """See `UserRows.take_over`. Who is about to store the row holds the owner's lock."""
        rows = await home.execute(f"{_OWNER} FOR UPDATE", (kind, key))
        if not rows:  # It was given back a moment ago.
            return await claim_free(home, kind, key, user_id)
        owner = rows[0][0]
        if owner == user_id:
            return True
        await lock_user(home, owner)
        if await self.read(owner, _HAS[kind], (owner, key)):
            return False
        await home.execute("UPDATE names SET owner = ? WHERE kind = ? AND key = ?", (user_id, kind, key))
        return True

    async def read(self, user_id: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """See `UserRows.read`."""
        query, until = _ONE.replace("QUERY", sql), _in(WAIT_S)
        while True:
            rows = await self._part(user_id).read(query, (user_bucket_of(user_id), *values))
            if not rows[0][0]:
                return [row[2:] for row in rows if row[1]]
            await self._again(until)

    async def read_named(self, kind: str, key: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """See `UserRows.read_named`."""
        owners = await self._shards.read(_OWNER, (kind, key))
        return [row for row in await self.read(owners[0][0], sql, values) if row[1] == owners[0][0]] if owners else []

    def _part(self, user_id: str) -> PostgresDatabase:
        return self._shards.parts[self._shards.place_of(user_bucket_of(user_id))]

    async def _is_here(self, own: PostgresTransaction, user_id: str, part: PostgresDatabase) -> bool:
        """Return whether a transaction may change what a user has; from here to its end nobody fences it."""
        own.away = part is not self._shards
        return not await own.fetch(_ELSEWHERE, [user_id])

    async def _again(self, until: float) -> None:
        if _in(0) > until:
            raise Unavailable("This account is being moved.", retry_after_ms=RETRY_MS)
        if not await self._shards.refresh():
            await asyncio.sleep(PAUSE_S)

    # ── all users ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read_all(self, sql: str, values: Sequence[object] = (), /) -> tuple[list[Row], bool]:
        """See `UserRows.read_all`. A bucket that none or two had was on its way between them: then all are asked again."""
        query, until = _ALL.replace("QUERY", sql), _in(WAIT_S)
        while True:
            answers = await asyncio.gather(*(self._rows(part, query, values) for part in self._shards.parts))
            silent = {place for place, rows in enumerate(answers) if rows is None}
            found: list[Row] = []
            count: Counter[int] = Counter()
            for rows in answers:
                if rows is not None:
                    gone = set(next(row[0] for row in rows if row[0] is not None))
                    count.update(bucket for bucket in range(USERS, ALL) if bucket not in gone)
                    found += [row[2:] for row in rows if row[1] and user_bucket_of(row[2]) not in gone]
            asked = [bucket for bucket in range(USERS, ALL) if self._shards.place_of(bucket) not in silent or count[bucket]]
            if all(count[bucket] == 1 for bucket in asked):
                return found, not silent
            await self._again(until)

    @staticmethod
    async def _rows(part: PostgresDatabase, query: str, values: Sequence[object]) -> list[Row] | None:
        try:
            return await part.read(query, values)
        except Unavailable:
            return None

    async def change_all(self, _transaction: Transaction, sql: str, values: Sequence[object], /) -> list[Row]:
        """See `UserRows.change_all`. What is fenced is waited for; what moved meanwhile is changed where it is now."""
        found: dict[Row, None] = {}
        left = set(range(USERS, ALL))
        until = _in(CHANGE_S)
        while True:
            for part in self._shards.parts:
                async with part.transaction() as own:
                    closed = {row[0] for row in await own.fetch(_CLOSED)}
                    here = " AND NOT (256 + securechat_bucket(user_id) = ANY (?)) RETURNING user_id, id"
                    rows = await own.execute(sql + here, (*values, sorted(closed)))
                found.update(dict.fromkeys(rows))
                left &= closed
            if not left:
                return list(found)
            await self._again(until)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
