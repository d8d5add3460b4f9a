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
        await self._db.read("SELECT 1")

    async def counts(self) -> tuple[int, int, int]:
        """See `Maintenance.counts`."""
        rows = await self._db.read(
            "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM rooms), (SELECT count(*) FROM entries)"
        )
        users, rooms, entries = rows[0]
        return users, rooms, entries

    async def backup(self, path: str) -> None:
        """See `Maintenance.backup`."""
        await self._db.backup(Path(path))
