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
    def away(self) -> bool:
        """Whether it is in another database than the audit log."""

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


class UserRows(Protocol):
    """What hangs off users: devices, blocks, commands, passkeys, authenticator apps, recovery codes, accounts at providers.

    It may be in other databases than the users themselves (`users`, `names`), which are at home. Where it is in the same one, all
    of this is the database itself.
    """

    @property
    def spread(self) -> bool:
        """Whether it may be elsewhere."""

    def transaction(self, user_id: str, /) -> AbstractAsyncContextManager[Transaction]:
        """Give a transaction where the rows of a user are. Waits while they are being moved.

        Raises:
            Unavailable: As `Database.transaction`; or they are being moved for too long.
        """

    def transactions(self, user_id: str, /) -> AbstractAsyncContextManager[tuple[Transaction, Transaction]]:
        """Give a transaction at home and one where the rows of a user are: the same one, where that is home.

        Of two, the one at home ends last: what is locked there stays so until the other one is stored. If the block ends without
        an exception, the lock held until then, and both are stored. If the one at home fails after that, the other one is stored,
        and whoever waits is told that nobody knows.

        Raises:
            Unavailable: As `transaction`.
        """

    def claiming(self, kind: str, key: str, user_id: str, /) -> AbstractAsyncContextManager[tuple[Transaction, Transaction]]:
        """Give what `transactions` gives, with a name (see `names`) that is the user's, and stays so if the block ends well.

        Raises:
            Duplicate: It is somebody else's.
            Unavailable: As `transaction`.
        """

    async def take_over(self, home: Transaction, kind: str, key: str, user_id: str, /) -> bool:
        """Take a name whose row is not there, because whoever has it was interrupted; return whether it is the user's now."""

    async def read(self, user_id: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """Return the rows of a query on the rows of one user, as they are at one moment.

        Raises:
            Unavailable: As `transaction`.
        """

    async def read_named(self, kind: str, key: str, sql: str, values: Sequence[object] = (), /) -> list[Row]:
        """Return the rows of a query, whose second column is the user, of whose the name is.

        Raises:
            Unavailable: As `transaction`.
        """

    async def read_all(self, sql: str, values: Sequence[object] = (), /) -> tuple[list[Row], bool]:
        """Return the rows of a query on the rows of all users, whose first column is the user; and whether these are all.

        They are not all when a database does not answer: who has rows elsewhere has them all the same.
        """

    async def change_all(self, transaction: Transaction, sql: str, values: Sequence[object], /) -> list[Row]:
        """Change rows of all users, and return the columns `user_id, id` of each.

        Args:
            transaction: At home. What is elsewhere is stored before it ends.
            sql: An UPDATE that may be done again, and ends with its WHERE.
            values: Of the statement.

        Raises:
            Unavailable: Some are changed, or all.
        """


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

    @property
    def users(self) -> UserRows:
        """What hangs off users, wherever it is."""

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
