"""ServerLocks: how servers on one PostgreSQL know of each other, by advisory locks that end with the connection that holds them.

serving   whoever serves holds it: alone without a bus, shared with one. So nobody serves beside a server that does not hear them.
leading   one of those that serve has it, and does what is to be done once: storage jobs, checkpoints and pruning of the audit log,
          rotating keys.
knows     of how many shards it knows, which says its key: rooms do not move while somebody serves who would not find them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

import asyncpg

from securechat.errors import Conflict, Shutdown
from securechat.store.postgres_pool import NOT_NOW, OPTIONS

log = logging.getLogger(__name__)

SERVING: Final = 0x5EC_5E4E
LEADING: Final = 0x5EC_1EAD
KNOWS: Final = 0x5EC_5AAD
"""First key; the second one is how many."""
USERS_TOO: Final = 1_000
"""More than that: this server looks for what hangs off users in them, too."""
LOOK_S: Final = 2.0
"""Between two looks whether the connection lives, and whether there is nobody who leads."""
PATIENCE_S: Final = 6.0
"""How long somebody else may be in the way: one who is just being stopped, or looks whether they are alone."""
RETRY_S: Final = 0.2

_BESIDE: Final = (
    "Another server uses this database, and one of the two has no redis_url: people on one would not hear those on the other."
    " Stop it, or give both redis_url and the same bus_key (docs/howto/several-servers.md)."
)


class ServerLocks:
    """The locks of one server.

    Args:
        url: Of the database.
        shared: Whether this server has a bus, and others may serve beside it.

    Attributes:
        leads: Whether this server is the one that does what is to be done once.
        alone: Whether it was the only one when it began to serve.
    """

    def __init__(self, url: str, *, shared: bool) -> None:
        self._url = url
        self._shared = shared
        self._knows = 0
        self._connection: Any = None
        self.leads = False
        self.alone = True

    async def enter(self) -> None:
        """Begin to serve.

        Raises:
            Shutdown: Somebody else serves, and not all have a bus; or the database does not answer.
        """
        try:
            if not await self._serve(begins=True):
                raise Shutdown(_BESIDE)
        except (*NOT_NOW, asyncpg.PostgresError) as error:
            raise Shutdown(f"The database does not take us: {error}") from error

    async def knows(self, shards: int) -> None:
        """Say of how many shards this server knows. Before it says so, it knows of none.

        Raises:
            Shutdown: The database does not answer.
        """
        before, self._knows = self._knows, USERS_TOO + shards
        try:
            await self._connection.execute("SELECT pg_advisory_lock_shared($1, $2)", KNOWS, self._knows)
            await self._connection.execute("SELECT pg_advisory_unlock_shared($1, $2)", KNOWS, before)
        except (*NOT_NOW, asyncpg.PostgresError) as error:
            raise Shutdown(f"The database does not take us: {error}") from error

    async def run(self) -> None:
        """Hold the locks, for ever.

        Raises:
            Shutdown: The connection was lost, and meanwhile somebody began to serve without a bus.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if self._connection is None:
                    if not await self._serve(begins=False):
                        log.critical("another server took the database")
                        raise Shutdown(_BESIDE)
                elif self.leads:
                    await self._connection.execute("SELECT 1")
                else:
                    await self._try_to_lead()
            except (*NOT_NOW, asyncpg.PostgresError) as error:
                log.warning("the locks of this server are lost", extra={"error": str(error)})
                await self._end()

    async def leave(self) -> None:
        """Serve no longer."""
        await self._end()

    async def _serve(self, *, begins: bool) -> bool:
        """Try for a while to hold the lock of those who serve; return whether it is held."""
        # Who serves alone, and comes back to find somebody else, must not serve beside them for as long as it hopes.
        patience_s = PATIENCE_S if begins or self._shared else RETRY_S
        for _ in range(round(patience_s / RETRY_S)):
            if await self._try(begins=begins):
                return True
            await asyncio.sleep(RETRY_S)
        await self._end()
        return False

    async def _try(self, *, begins: bool) -> bool:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._url, **OPTIONS)
            self._connection.add_termination_listener(self._lost)
        connection = self._connection
        # Who comes back does not look whether it is alone: after an end of the database all come back in the same moment.
        looks = begins or not self._shared
        alone = looks and await connection.fetchval("SELECT pg_try_advisory_lock($1)", SERVING)
        if begins:
            self.alone = alone
        if self._shared:
            held = await connection.fetchval("SELECT pg_try_advisory_lock_shared($1)", SERVING)
            if alone:
                await connection.execute("SELECT pg_advisory_unlock($1)", SERVING)
        else:
            held = alone
        if held:
            await connection.execute("SELECT pg_advisory_lock_shared($1, $2)", KNOWS, self._knows)
            await self._try_to_lead()
        return bool(held)

    async def _try_to_lead(self) -> None:
        connection = self._connection
        self.leads = await connection.fetchval("SELECT pg_try_advisory_lock($1)", LEADING) and not connection.is_closed()
        if self.leads:
            log.info("this server leads: it works on jobs")

    def _lost(self, connection: object) -> None:
        """Lead no longer, at once: the lock went with the connection, and somebody else may have it before we look."""
        if connection is self._connection:
            self.leads = False

    async def _end(self) -> None:
        self.leads = False
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*NOT_NOW, asyncpg.PostgresError):
                await connection.close(timeout=1)


async def require_known(connection: Any, shards: int, *, users: bool = False) -> None:
    """Refuse what wants every server to know of this many shards.

    Args:
        connection: To home.
        shards: How many.
        users: Whether it is about users: servers of before 0011 look for them at home.

    Raises:
        Conflict: One does not.
    """
    count = await connection.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = $1 AND objsubid = 2"
        f" AND (objid::bigint % {USERS_TOO} < $2 OR ($3 AND objid::bigint < {USERS_TOO}))"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        KNOWS, shards, users,
    )  # fmt: skip
    if count:
        raise Conflict(
            f"{count} of the servers that run do not know of all databases: they would not find what is moved. Start them again, in"
            " this version and with the same database_shards (docs/howto/shards.md)."
        )
