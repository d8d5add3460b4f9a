"""Database: what the store needs of a database, in few words. SQLite and PostgreSQL answer to it.

Statements are SQL text that both understand, with `?` for each value. Where they differ, `dialect` says which one it is, and the
place that differs is named for what it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

Row = tuple[Any, ...]


class Dialect(StrEnum):
    """Which database it is."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Duplicate(Exception):
    """A row with this key is there already.

    Args:
        text: What the database says of it; it names the key.
    """


class Transaction(Protocol):
    """Everything in it is stored together, or nothing."""

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""

    @property
    def changed(self) -> int:
        """How many rows it changed so far."""

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Execute a statement and return its rows.

        Raises:
            Duplicate: A key is taken. The transaction cannot go on.
        """

    async def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Execute one statement for many rows."""


class Database(Protocol):
    """An open database."""

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""

    @property
    def parts(self) -> Sequence[Database]:
        """The databases that rooms live in: mostly this one alone, which is the first where there are more."""

    def for_room(self, room_id: str, /) -> Database:
        """Return the one of `parts` that a room lives in, as far as is known."""

    async def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query on committed data. May wait: what was read before may not hold any more after it."""

    async def read_beside(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query that takes long, on committed data, without keeping others waiting."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Give a transaction; leaving the block commits it to the disk, an exception undoes all.

        Raises:
            Unavailable: The database does not take it now; nothing is stored, or it is not known whether it is.
        """

    def erase_soon(self) -> None:
        """Have what was deleted leave the files a moment from now, as far as this database's files are ours."""

    async def erase(self) -> None:
        """Return when what was deleted is in no file any more, as far as this database's files are ours."""

    async def backup(self, target: Path, /) -> None:
        """Copy the database, consistent, while it is in use.

        Raises:
            Conflict: This database has its own tools for that.
        """

    async def close(self) -> None:
        """Close it."""
