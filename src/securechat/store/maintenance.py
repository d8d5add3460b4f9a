"""What the operator asks of the store."""

from __future__ import annotations

from pathlib import Path

from securechat.store.sqlite import SqliteDatabase


class SqliteMaintenance:
    """Health, counts and copies.

    Args:
        database: The open database.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._db = database

    async def ping(self) -> None:
        """See `Maintenance.ping`."""
        self._db.read("SELECT 1")

    async def counts(self) -> tuple[int, int, int]:
        """See `Maintenance.counts`."""
        users, rooms, entries = self._db.read(
            "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM rooms), (SELECT count(*) FROM entries)"
        )[0]
        return users, rooms, entries

    async def backup(self, path: str) -> None:
        """See `Maintenance.backup`."""
        await self._db.backup(Path(path))
