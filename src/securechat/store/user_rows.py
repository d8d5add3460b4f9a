"""UsersHere: what hangs off users is in the database that everything is in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from securechat.store.database import Database, Row, Transaction
from securechat.store.names import claim


class UsersHere:
    """See `UserRows`.

    Args:
        database: The one database.
    """

    spread = False

    def __init__(self, database: Database) -> None:
        self._db = database

    def transaction(self, _user_id: str, /) -> AbstractAsyncContextManager[Transaction]:
        """See `UserRows.transaction`."""
        return self._db.transaction()

    @asynccontextmanager
    async def transactions(self, _user_id: str, /) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """See `UserRows.transactions`."""
        async with self._db.transaction() as transaction:
            yield transaction, transaction

    @asynccontextmanager
    async def claiming(self, kind: str, key: str, user_id: str, /) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """See `UserRows.claiming`. In SQLite, the row itself finds out that it is somebody else's."""
        async with self._db.transaction() as transaction:
            await claim(transaction, kind, key, user_id)
            yield transaction, transaction

    async def take_over(self, _home: Transaction, _kind: str, _key: str, _user_id: str, /) -> bool:
        """See `UserRows.take_over`. Here a name and its row are stored together."""
        return False

    async def read(self, _user_id: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """See `UserRows.read`."""
        return await self._db.read(sql, values)

    async def read_named(self, _kind: str, _key: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """See `UserRows.read_named`. The row itself says whose it is."""
        return await self._db.read(sql, values)

    async def read_all(self, sql: str, values: Sequence[object] = (), /) -> tuple[list[Row], bool]:
        """See `UserRows.read_all`."""
        return await self._db.read(sql, values), True

    async def change_all(self, transaction: Transaction, sql: str, values: Sequence[object], /) -> list[Row]:
        """See `UserRows.change_all`."""
        return await transaction.execute(f"{sql} RETURNING user_id, id", values)
