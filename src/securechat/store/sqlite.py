"""SqliteDatabase: one writer, many reads, on the event loop's thread; only what waits for the disk leaves it.

A statement of ours costs 3–30 µs and touches the page cache; handing it to a thread costs more than that, and on a busy loop each
hand-over of the interpreter lock can cost milliseconds (ADR 0003). COMMIT and checkpoints wait for the disk: they run in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import apsw

from securechat.errors import Unavailable
from securechat.store.database import Dialect, Duplicate, Row
from securechat.store.disk_thread import DiskThread
from securechat.store.user_rows import UsersHere

_TAKEN: Final = {apsw.SQLITE_CONSTRAINT_UNIQUE, apsw.SQLITE_CONSTRAINT_PRIMARYKEY}
CHECKPOINT_PAGES: Final = 16_000
"""WAL pages after which a checkpoint runs (64 MiB): most of it beside the writer."""
ERASE_DELAY_S: Final = 1.0
"""How long after a deletion the WAL, which still holds the text, is emptied."""


class SqliteTransaction:
    """See `Transaction`. Nothing in it waits: `run` is `execute` for those who know that.

    Args:
        writer: The connection that writes, with a transaction begun.

    Attributes:
        committed: Whether it is on the disk: also where the block ends with a `CancelledError`.
    """

    __slots__ = ("_before", "_writer", "committed")

    dialect = Dialect.SQLITE
    away = False

    def __init__(self, writer: apsw.Connection) -> None:
        self._writer = writer
        self.committed = False
        self._before = writer.total_changes()

    @property
    def changed(self) -> int:
        """See `Transaction.changed`."""
        return self._writer.total_changes() - self._before

    def run(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Execute a statement and return its rows."""
        return self._writer.execute(sql, values).fetchall()

    def run_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Execute one statement for many rows."""
        self._writer.executemany(sql, rows)

    async def execute(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Transaction.execute`."""
        try:
            return self.run(sql, values)
        except apsw.ConstraintError as error:
            if getattr(error, "extendedresult", 0) in _TAKEN:
                raise Duplicate(str(error)) from error
            raise

    async def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """See `Transaction.execute_many`."""
        self.run_many(sql, rows)


class SqliteDatabase:
    """The connections to one database file. See `Database`; `read` never waits, so nothing comes in between two of them.

    Args:
        path: The file; its schema is up to date.
    """

    dialect = Dialect.SQLITE

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = UsersHere(self)
        self._writer = _connect(path)
        self._reader = _connect(path)
        self._checkpointer = _connect(path)
        self._write_lock = asyncio.Lock()
        self._disk = DiskThread("sqlite-commit")
        self._background = DiskThread("sqlite-checkpoint")
        self._closed = False
        self._wal_pages = 0
        self._checkpointing: asyncio.Task[None] | None = None
        self._erasing: asyncio.TimerHandle | None = None
        self._erase_task: asyncio.Task[None] | None = None
        self._writer.set_wal_hook(self._count_wal)

    @property
    def parts(self) -> Sequence[SqliteDatabase]:
        """See `Database.parts`."""
        return (self,)

    def for_room(self, _room_id: str, /) -> SqliteDatabase:
        """See `Database.for_room`."""
        return self

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query on committed data, at once."""
        return self._reader.execute(sql, values).fetchall()

    async def read(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Database.read`."""
        return self.rows(sql, values)

    async def read_beside(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """See `Database.read_beside`."""
        rows: list[Row] = []
        await self._background.to_the_end(lambda: rows.extend(self._checkpointer.execute(sql, values)))
        return rows

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """Give a transaction; leaving the block commits to the disk, an exception undoes all.

        Who is cancelled during the commit waits for its end all the same: `committed` says how it ended.

        Raises:
            Unavailable: The disk is full or failed, or the database is closed; nothing is stored.
        """
        async with self._write_lock:
            if self._closed:
                raise Unavailable("The server stops.", retry_after_ms=1_000)
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = SqliteTransaction(self._writer)

            def _commit() -> None:
                self._commit()
                transaction.committed = True

            try:
                yield transaction
                await self._disk.to_the_end(_commit)
            except BaseException as error:
                self._roll_back()
                if isinstance(error, apsw.FullError | apsw.IOError | apsw.BusyError):
                    raise Unavailable("The disk does not take the data.") from error
                raise
        if self._wal_pages > CHECKPOINT_PAGES and self._checkpointing is None:
            self._checkpointing = asyncio.create_task(self._checkpoint())

    def erase_soon(self) -> None:
        """Empty the WAL a moment from now: a deletion zeroed the text in the file, and the WAL still holds it."""
        if self._erasing is None:
            self._erasing = asyncio.get_running_loop().call_later(ERASE_DELAY_S, self._start_erasing)

    async def erase(self) -> None:
        """Empty the WAL now, and return when what was deleted is in no file any more."""
        await self._erase()

    async def backup(self, target: Path) -> None:
        """Copy the database, consistent, while it is in use."""
        await self._background.to_the_end(lambda: self._copy_to(target))

    async def close(self) -> None:
        """Fold the WAL into the file and close it."""
        if self._erasing is not None:
            self._erasing.cancel()
        for task in (self._checkpointing, self._erase_task):
            if task is not None:
                with suppress(apsw.Error):
                    await task
        async with self._write_lock:
            self._closed = True
            with suppress(apsw.Error):
                await self._disk.to_the_end(self._truncate)
        self._disk.close()
        self._background.close()
        for connection in (self._reader, self._checkpointer, self._writer):
            connection.close()

    def _commit(self) -> None:
        self._writer.execute("COMMIT")

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def _count_wal(self, _connection: object, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    async def _checkpoint(self) -> None:
        try:
            # The first takes all that there is. What is written meanwhile is little, but its first sync costs 20 ms, so that is
            # taken beside the writer, too. The last one finds next to nothing, takes 1 ms, and lets the next write begin the WAL
            # anew; else it would only grow.
            for _ in range(2):
                await self._background.to_the_end(self._passive)
            async with self._write_lock:
                # By the writer: what takes long beside it, a backup for example, uses the other connection and its thread.
                await self._disk.to_the_end(self._finish_checkpoint)
        finally:
            self._checkpointing = None

    def _start_erasing(self) -> None:
        self._erasing = None
        self._erase_task = asyncio.create_task(self._erase())

    async def _erase(self) -> None:
        async with self._write_lock:
            await self._disk.to_the_end(self._truncate)

    def _passive(self) -> None:
        self._checkpointer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _finish_checkpoint(self) -> None:
        self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _truncate(self) -> None:
        self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._wal_pages = 0

    def _copy_to(self, target: Path) -> None:
        copy = apsw.Connection(str(target))
        try:
            with copy.backup("main", self._checkpointer, "main") as backup:
                while not backup.done:
                    backup.step(1_000)
            copy.pragma("journal_mode", "delete")
        finally:
            copy.close()


def _connect(path: Path) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=200)
    db.set_busy_timeout(5_000)
    db.pragma("journal_mode", "wal")
    db.pragma("synchronous", "full")  # An acknowledged message survives power loss.
    db.pragma("secure_delete", "on")  # Deleted text is overwritten in the file.
    db.pragma("wal_autocheckpoint", 0)  # `_checkpoint` does it beside the writer.
    db.pragma("cache_size", -65_536)
    db.pragma("temp_store", "memory")
    return db
