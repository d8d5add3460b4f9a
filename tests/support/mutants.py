"""What breaks a real server on purpose: failpoints end it at a chosen moment, mutants take one promise away.

Each patches one real method of the running classes before the command line starts. Nothing of it exists in the server's own code.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw

from securechat.crypto.encryption import Content, EncryptionManager
from securechat.domain.entries import CHANGES_AUDIENCE, Entry, EntryType
from securechat.domain.ports import RoomBatch
from securechat.gateway import connection as connection_module
from securechat.gateway import gateway as gateway_module
from securechat.gateway.connection import ClientConnection
from securechat.gateway.conversation import Conversation
from securechat.gateway.hub import Hub
from securechat.protocol.codec import Block
from securechat.services.room_log import Operation, RoomLog
from securechat.store import log as log_module
from securechat.store import sqlite as sqlite_module
from securechat.store import storage_jobs as storage_jobs_module
from securechat.store.log import SqliteLog
from securechat.store.log_work import LogWork
from securechat.store.sqlite import SqliteDatabase

EXIT: Final = 137
"""Exit status of a failpoint: that of a process killed with -9."""


def wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method by what `make` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


# ── failpoints ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _before_commit(count: int) -> None:
    hits = itertools.count(1)

    def make(commit: Any) -> Any:
        def wrapper(self: SqliteDatabase) -> None:
            if next(hits) >= count:
                os._exit(EXIT)
            commit(self)

        return wrapper

    wrap(SqliteDatabase, "_commit", make)


def _after_commit(count: int) -> None:
    hits = itertools.count(1)

    def make(commit: Any) -> Any:
        def wrapper(self: SqliteDatabase) -> None:
            commit(self)
            if next(hits) >= count:
                os._exit(EXIT)

        return wrapper

    wrap(SqliteDatabase, "_commit", make)


def _before_ack(count: int) -> None:
    """End at the first answer after the `count`-th commit."""
    commits = itertools.count(1)
    armed = False

    def make_commit(commit: Any) -> Any:
        def wrapper(self: SqliteDatabase) -> None:
            nonlocal armed
            commit(self)
            armed = armed or next(commits) >= count

        return wrapper

    def make_complete(complete: Any) -> Any:
        def wrapper(self: Conversation, frame_id: str, result: Any) -> None:
            if armed:
                os._exit(EXIT)
            complete(self, frame_id, result)

        return wrapper

    wrap(SqliteDatabase, "_commit", make_commit)
    wrap(Conversation, "_complete", make_complete)


def _mid_fanout(count: int) -> None:
    """End in the middle of an audience: some have the block on their wire, the others never see it."""
    hits = itertools.count(1)

    def make(send: Any) -> Any:
        def wrapper(self: Hub, room_id: str, entries: list[Entry]) -> None:
            audience = list(self._rooms.get(room_id, ()))
            if entries and len(audience) > 1 and next(hits) >= count:
                block = Block(entries)
                for connection in audience[: len(audience) // 2]:
                    connection.push(block)
                    connection.flush()
                os._exit(EXIT)
            send(self, room_id, entries)

        return wrapper

    wrap(Hub, "_send", make)


FAILPOINTS: Final[dict[str, Callable[[int], None]]] = {
    "before_commit": _before_commit,
    "after_commit": _after_commit,
    "before_ack": _before_ack,
    "mid_fanout": _mid_fanout,
}


# ── mutants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ack_before_commit() -> None:
    """Answer as soon as it is decided; store afterwards."""

    def make(attempt: Any) -> Any:
        async def wrapper(self: RoomLog, lane: Any, batch: list[Operation], **more: bool) -> Any:
            commit = self._store.commit

            async def eager(work: Any, number: int = 0) -> Any:
                async def decided(transaction: Any) -> Any:
                    result = await work(transaction)
                    for operation in batch:
                        operation.done(operation.result)
                        operation.done = lambda _result: None
                    for _ in range(3):  # Let the answers leave.
                        await asyncio.sleep(0)
                    return result

                return await commit(decided, number)

            self._store.commit = eager  # type: ignore[method-assign]
            try:
                return await attempt(self, lane, batch, **more)
            finally:
                self._store.commit = commit  # type: ignore[method-assign]

        return wrapper

    wrap(RoomLog, "_attempt", make)


def _synchronous(value: str) -> None:
    def make(connect: Any) -> Any:
        def wrapper(path: Any) -> apsw.Connection:
            db: apsw.Connection = connect(path)
            db.pragma("synchronous", value)
            return db

        return wrapper

    wrap(sqlite_module, "_connect", make)


def _drop_deliveries() -> None:
    """Lose one delivery of a thousand, without a word."""
    blocks = itertools.count(1)

    def make(push: Any) -> Any:
        def wrapper(self: ClientConnection, block: Block) -> None:
            if next(blocks) % 1_000:
                push(self, block)

        return wrapper

    wrap(ClientConnection, "push", make)


def _forget_cmid() -> None:
    """A repeated send is a new message."""

    def make_init(init: Any) -> Any:
        def wrapper(self: SqliteDatabase, path: Any) -> None:
            init(self, path)
            self._writer.execute("DROP INDEX IF EXISTS entries_cmid")

        return wrapper

    wrap(SqliteDatabase, "__init__", make_init)
    wrap(log_module._Transaction, "sent", lambda _sent: lambda _self, _key: None)


def _swap_entries() -> None:
    """Now and then, two neighbours of a block change places."""
    blocks = itertools.count(1)

    def make(send: Any) -> Any:
        def wrapper(self: Hub, room_id: str, entries: list[Entry]) -> None:
            if len(entries) > 1 and next(blocks) % 5 == 0:
                entries = [entries[1], entries[0], *entries[2:]]
            send(self, room_id, entries)

        return wrapper

    wrap(Hub, "_send", make)


def _deliver_without_cut(*, at_join: bool, at_leave: bool) -> Callable[[Hub, Sequence[RoomBatch]], None]:
    def deliver(self: Hub, batches: Sequence[RoomBatch]) -> None:
        for batch in batches:
            stretch: list[Entry] = []
            gone: list[Entry] = []
            for entry in batch.entries:
                if entry.type not in CHANGES_AUDIENCE:
                    stretch.append(entry)
                elif entry.type is EntryType.MEMBER_JOINED:
                    if at_join:
                        self._send(batch.room, stretch)
                        stretch = []
                    self._open(batch, entry)
                    stretch.append(entry)
                elif at_leave:
                    self._send(batch.room, [*stretch, entry])
                    self._close(entry)
                    stretch = []
                else:
                    stretch.append(entry)
                    gone.append(entry)
            self._send(batch.room, stretch)
            for entry in gone:
                self._close(entry)

    return deliver


def _no_cut_at_join() -> None:
    wrap(Hub, "deliver", lambda _deliver: _deliver_without_cut(at_join=False, at_leave=True))


def _no_cut_at_removal() -> None:
    wrap(Hub, "deliver", lambda _deliver: _deliver_without_cut(at_join=True, at_leave=False))


def _sequence_order() -> None:
    """Take `seq` as from a sequence: what a transaction took and did not store is gone, and the next one goes on after it."""

    def make(commit: Any) -> Any:
        async def wrapper(self: SqliteLog, work: Any, lane: int = 0) -> Any:
            rooms = dict(self._rooms)
            try:
                return await commit(self, work, lane)
            except BaseException:
                self._rooms |= rooms
                raise

        return wrapper

    wrap(SqliteLog, "commit", make)


def _reuse_nonce() -> None:
    """Now and then, a record is sealed with the nonce of the one before it."""

    def make(seal: Any) -> Any:
        def wrapper(self: EncryptionManager, kind: Content, content: bytes, timestamp_ms: int) -> Any:
            if self.seq and self.seq % 16 == 0:
                self._iv ^= self.seq ^ (self.seq - 1)
                try:
                    return seal(self, kind, content, timestamp_ms)
                finally:
                    self._iv ^= (self.seq - 1) ^ (self.seq - 2)
            return seal(self, kind, content, timestamp_ms)

        return wrapper

    wrap(EncryptionManager, "seal_pieces", make)


def _keep_sessions() -> None:
    """A session that ended keeps its connections."""
    wrap(Hub, "disconnect", lambda _disconnect: lambda _self, **_whom: None)


def _leak_task() -> None:
    """Each connection leaves a task behind that waits for ever."""
    leaked: list[asyncio.Task[Any]] = []

    def make(disconnected: Any) -> Any:
        def wrapper(self: ClientConnection, transport: Any) -> None:
            disconnected(self, transport)
            leaked.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))

        return wrapper

    wrap(ClientConnection, "on_ws_disconnected", make)


def _swallow_cancel() -> None:
    """Work in the background takes a cancellation for a mistake like any other, and goes on."""

    def make(look_after: Any) -> Any:
        async def wrapper(self: Any) -> None:
            while True:
                try:
                    await look_after(self)
                except asyncio.CancelledError:
                    continue

        return wrapper

    wrap(gateway_module.Gateway, "look_after", make)


def _skip_audit() -> None:
    """What a group commit does is not recorded."""
    wrap(LogWork, "record", lambda _record: lambda _self, _event: None)


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "ack_before_commit": _ack_before_commit,
    "synchronous_off": lambda: _synchronous("off"),
    "synchronous_normal": lambda: _synchronous("normal"),
    "drop_deliveries": _drop_deliveries,
    "forget_cmid": _forget_cmid,
    "swap_entries": _swap_entries,
    "no_cut_at_join": _no_cut_at_join,
    "no_cut_at_removal": _no_cut_at_removal,
    "sequence_order": _sequence_order,
    "reuse_nonce": _reuse_nonce,
    "keep_sessions": _keep_sessions,
    "leak_task": _leak_task,
    "swallow_cancel": _swallow_cancel,
    "skip_audit": _skip_audit,
}


# ── circumstances ────────────────────────────────────────────────────────────────────────────────────────────────────


def slow_disk(seconds: float) -> None:
    """Make each commit take longer, so that batches grow."""

    def make(commit: Any) -> Any:
        def wrapper(self: SqliteDatabase) -> None:
            time.sleep(seconds)
            commit(self)

        return wrapper

    wrap(SqliteDatabase, "_commit", make)


def short_heartbeat(ping_s: float, pong_s: float) -> None:
    """Notice silence sooner, so that a test need not wait half a minute."""
    for module, name, value in (
        (connection_module, "PING_S", ping_s),
        (connection_module, "PONG_S", pong_s),
        (gateway_module, "LOOK_AFTER_S", min(0.2, ping_s / 2)),
    ):
        setattr(module, name, value)


def slow_publish(seconds: float) -> None:
    """Widen the moment between the commit and the fan-out, in which a connection may come."""

    def make(by_room: Any) -> Any:
        async def wrapper(self: RoomLog, appended: Sequence[Entry]) -> Any:
            result = await by_room(self, appended)
            await asyncio.sleep(seconds)
            return result

        return wrapper

    wrap(RoomLog, "_by_room", make)


def small_storage_steps(rows: int) -> None:
    """Have jobs of the store take many steps, so that there are many moments between them."""
    storage_jobs_module.STEP_ROWS = rows  # type: ignore[misc]


def frequent_checkpoints(pages: int) -> None:
    """Fold the WAL into the database, and start it again, far more often."""
    for name, value in (("CHECKPOINT_PAGES", pages), ("RESTART_PAGES", 3 * pages)):
        setattr(sqlite_module, name, value)
