"""What the operator asks of the store."""

from __future__ import annotations

from pathlib import Path

from securechat.store.database import Database


class SqlMaintenance:
    """Health, counts and copies.

    Args:
        database: The open database.
    """

    def __init__(self, database: Database) -> None:
        self._db = database

    async def ping(self) -> None:
        """See `Maintenance.ping`."""
        for part in self._db.parts:
            await part.read("SELECT 1")

    async def counts(self) -> tuple[int, int, int]:
        """See `Maintenance.counts`."""
        ((users,),) = await self._db.read("SELECT count(*) FROM users")
        rooms = entries = 0
        for part in self._db.parts:
            ((some_rooms, some_entries),) = await part.read("SELECT (SELECT count(*) FROM rooms), (SELECT count(*) FROM entries)")
            rooms, entries = rooms + some_rooms, entries + some_entries
        return users, rooms, entries

    async def backup(self, path: str) -> None:
        """See `Maintenance.backup`."""
        await self._db.backup(Path(path))
