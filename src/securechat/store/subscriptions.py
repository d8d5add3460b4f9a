"""Subscriptions and dead letters in SQL. They are at home, wherever their rooms live: see docs/explanation/data-placement.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from securechat.domain.audit import AuditEvent
from securechat.domain.subscriptions import (
    LETTERS_MAX,
    ROOM_MAX,
    DeadLetterRecord,
    Progress,
    SubscriptionRecord,
    SubscriptionState,
)
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Dialect, Row, Transaction

_COLUMNS: Final = (
    "id, room_id, url, types, state, reason, cursor_seq, secret, old_secret, old_until, created_by, created_at, attempts, first_at,"
    " next_at, failing_since, delivered_at"
)
_LETTER: Final = "subscription_id, room_id, seq, reason, status, attempts, first_at, last_at, replay_at"
_OF: Final = "subscription_id = ? AND (CAST(? AS bigint) IS NULL OR seq = ?)"
_MOVE: Final = (
    "UPDATE subscriptions SET cursor_seq = ?, attempts = ?, first_at = ?, next_at = ?, failing_since = ?, reason = ?,"
    " delivered_at = ? WHERE id = ?"
)
_BURY: Final = (
    f"INSERT INTO dead_letters ({_LETTER}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (subscription_id, seq) DO UPDATE SET"
    " reason = excluded.reason, status = excluded.status, attempts = dead_letters.attempts + excluded.attempts,"
    " last_at = excluded.last_at, replay_at = 0"
)


class SqlSubscriptions:
    """See `SubscriptionStore`.

    Args:
        database: The open database.
        audit: The audit log in it.
    """

    def __init__(self, database: Database, audit: SqlAudit | None = None) -> None:
        self._db = database
        self._audit = audit or SqlAudit(database)

    async def add(self, record: SubscriptionRecord) -> bool:
        """See `SubscriptionStore.add`."""
        async with self._db.transaction() as transaction:
            await _lock_room(transaction, record.room)
            ((count,),) = await transaction.execute("SELECT count(*) FROM subscriptions WHERE room_id = ?", (record.room,))
            if count >= ROOM_MAX:
                return False
            await transaction.execute(
                f"INSERT INTO subscriptions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # nosec B608 - our own names
                (
                    record.id, record.room, record.url, " ".join(record.types), record.state.value, record.reason, record.cursor,
                    record.secret, record.old_secret, record.old_until, record.created_by, record.created_at, record.attempts,
                    record.first_at, record.next_at, record.failing_since, record.delivered_at,
                ),
            )  # fmt: skip
        return True

    async def activate(self, subscription: str, cursor: int) -> bool:
        """See `SubscriptionStore.activate`."""
        sql = "UPDATE subscriptions SET state = 'active', cursor_seq = ? WHERE id = ? AND state = 'pending' RETURNING id"
        return bool(await self._write(sql, (cursor, subscription), None))

    async def find(self, subscription: str) -> SubscriptionRecord | None:
        """See `SubscriptionStore.find`."""
        rows = await self._db.read(f"SELECT {_COLUMNS} FROM subscriptions WHERE id = ?", (subscription,))
        return _to_record(rows[0]) if rows else None

    async def of_room(self, room: str = "") -> list[tuple[SubscriptionRecord, int]]:
        """See `SubscriptionStore.of_room`."""
        rows = await self._db.read(
            f"SELECT {_COLUMNS}, (SELECT count(*) FROM dead_letters d WHERE d.subscription_id = s.id) FROM subscriptions s"
            " WHERE room_id = ? OR ? = '' ORDER BY created_at, id",
            (room, room),
        )
        return [(_to_record(row), int(row[17])) for row in rows]

    async def pause(self, subscription: str, event: AuditEvent) -> bool:
        """See `SubscriptionStore.pause`."""
        sql = "UPDATE subscriptions SET state = 'paused' WHERE id = ? AND state = 'active' RETURNING id"
        return bool(await self._write(sql, (subscription,), event))

    async def resume(self, subscription: str, event: AuditEvent) -> bool:
        """See `SubscriptionStore.resume`."""
        sql = (
            "UPDATE subscriptions SET state = 'active', reason = '', attempts = 0, first_at = 0, next_at = 0, failing_since = 0"
            " WHERE id = ? AND state IN ('paused', 'disabled') RETURNING id"
        )
        return bool(await self._write(sql, (subscription,), event))

    async def remove(self, subscription: str) -> bool:
        """See `SubscriptionStore.remove`."""
        async with self._db.transaction() as transaction:
            rows = await transaction.execute("DELETE FROM subscriptions WHERE id = ? RETURNING id", (subscription,))
            await transaction.execute("DELETE FROM dead_letters WHERE subscription_id = ?", (subscription,))
        return bool(rows)

    async def rotate(self, subscription: str, secret: bytes, old_until: int, event: AuditEvent) -> bool:
        """See `SubscriptionStore.rotate`."""
        sql = "UPDATE subscriptions SET old_secret = secret, old_until = ?, secret = ? WHERE id = ? RETURNING id"
        return bool(await self._write(sql, (old_until, secret, subscription), event))

    async def reseal(self, subscription: str, old: bytes, new: bytes) -> None:
        """See `SubscriptionStore.reseal`."""
        await self._write("UPDATE subscriptions SET secret = ? WHERE id = ? AND secret = ?", (new, subscription, old), None)
        sql = "UPDATE subscriptions SET old_secret = ? WHERE id = ? AND old_secret = ?"
        await self._write(sql, (new, subscription, old), None)

    async def letters(self, subscription: str, *, after: int = 0, limit: int) -> list[DeadLetterRecord]:
        """See `SubscriptionStore.letters`."""
        rows = await self._db.read(
            f"SELECT {_LETTER} FROM dead_letters WHERE subscription_id = ? AND seq > ? ORDER BY seq LIMIT ?",
            (subscription, after, limit),
        )
        return [DeadLetterRecord(*row) for row in rows]

    async def replay(self, subscription: str, seq: int | None, at: int, event: AuditEvent) -> int:
        """See `SubscriptionStore.replay`."""
        sql = f"UPDATE dead_letters SET replay_at = ? WHERE {_OF} RETURNING seq"  # nosec B608 - our own names
        return len(await self._write(sql, (at, subscription, seq, seq), event))

    async def drop(self, subscription: str, seq: int | None, event: AuditEvent) -> int:
        """See `SubscriptionStore.drop`."""
        sql = f"DELETE FROM dead_letters WHERE {_OF} RETURNING seq"  # nosec B608 - our own names
        return len(await self._write(sql, (subscription, seq, seq), event))

    # ── what the relay needs ─────────────────────────────────────────────────────────────────────────────────────────

    async def active(self) -> list[SubscriptionRecord]:
        """See `SubscriptionStore.active`."""
        return [_to_record(row) for row in await self._db.read(f"SELECT {_COLUMNS} FROM subscriptions WHERE state = 'active'")]

    async def replays(self) -> list[DeadLetterRecord]:
        """See `SubscriptionStore.replays`."""
        rows = await self._db.read(
            f"SELECT {_LETTER} FROM dead_letters WHERE replay_at > 0"
            " AND subscription_id IN (SELECT id FROM subscriptions WHERE state = 'active') ORDER BY subscription_id, seq"
        )
        return [DeadLetterRecord(*row) for row in rows]

    async def move(self, progress: Sequence[Progress]) -> None:
        """See `SubscriptionStore.move`."""
        async with self._db.transaction() as transaction:
            await transaction.execute_many(_MOVE, [_moved(each) for each in progress])

    async def bury(self, letter: DeadLetterRecord, progress: Progress | None) -> bool:
        """See `SubscriptionStore.bury`."""
        async with self._db.transaction() as transaction:
            sql = "SELECT count(*) FROM dead_letters WHERE subscription_id = ? AND seq <> ?"
            ((count,),) = await transaction.execute(sql, (letter.subscription, letter.seq))
            if count >= LETTERS_MAX:
                return False
            if not await transaction.execute("SELECT 1 FROM subscriptions WHERE id = ?", (letter.subscription,)):
                return True  # It was deleted meanwhile, and its letters with it.
            await transaction.execute(
                _BURY,
                (
                    letter.subscription, letter.room, letter.seq, letter.reason, letter.status, letter.attempts, letter.first_at,
                    letter.last_at, 0,
                ),
            )  # fmt: skip
            if progress is not None:
                await transaction.execute(_MOVE, _moved(progress))
        return True

    async def revive(self, subscription: str, seq: int) -> None:
        """See `SubscriptionStore.revive`."""
        await self._write("DELETE FROM dead_letters WHERE subscription_id = ? AND seq = ?", (subscription, seq), None)

    async def disable(self, subscription: str, reason: str, event: AuditEvent) -> bool:
        """See `SubscriptionStore.disable`."""
        sql = "UPDATE subscriptions SET state = 'disabled', reason = ? WHERE id = ? AND state = 'active' RETURNING id"
        return bool(await self._write(sql, (reason, subscription), event))

    async def count_letters(self) -> int:
        """See `SubscriptionStore.count_letters`."""
        return int((await self._db.read("SELECT count(*) FROM dead_letters"))[0][0])

    async def _write(self, sql: str, values: Sequence[object], event: AuditEvent | None) -> list[Row]:
        """Execute one statement; what is to be remembered is written if it returned a row."""
        async with self._db.transaction() as transaction:
            rows = await transaction.execute(sql, values)
            if rows and event is not None:
                await self._audit.append(transaction, [event])
        return rows


async def _lock_room(transaction: Transaction, room: str) -> None:
    """Let one transaction at a time count the subscriptions of a room. The room itself may live in another database."""
    if transaction.dialect is Dialect.POSTGRESQL:
        await transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (f"subscriptions {room}",))


def _to_record(row: Row) -> SubscriptionRecord:
    return SubscriptionRecord(
        row[0], row[1], row[2], tuple(str(row[3]).split()), SubscriptionState(row[4]), row[5], row[6], bytes(row[7]),
        None if row[8] is None else bytes(row[8]), row[9], row[10], row[11], row[12], row[13], row[14], row[15], row[16],
    )  # fmt: skip


def _moved(progress: Progress) -> Row:
    return (
        progress.cursor, progress.attempts, progress.first_at, progress.next_at, progress.failing_since, progress.reason,
        progress.delivered_at, progress.subscription,
    )  # fmt: skip
