"""The audit log in SQL: appended to inside other transactions, never changed, removed only from its beginning."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec

from securechat.domain.audit import AuditEvent, AuditRecord, Detail, Head, PruneStatement, place
from securechat.domain.ids import new_id
from securechat.domain.ports import AuditQuery
from securechat.errors import Unavailable
from securechat.store.database import Database, Row, Transaction
from securechat.store.locking import for_update

log = logging.getLogger(__name__)

RELAY_AGAIN_S: Final = 5.0
_COLUMNS: Final = "chain, n, at, action, actor, device, address, subject, room, result, reason, details, hash"
_INSERT: Final = f"INSERT INTO audit ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
READ_CHAIN: Final = f"SELECT {_COLUMNS} FROM audit ORDER BY chain, n"  # nosec B608 - our own column names
_CHAIN: Final = "SELECT value FROM settings WHERE key = 'audit_chain'"
_NEW_CHAIN: Final = "INSERT INTO settings (key, value) VALUES ('audit_chain', ?) ON CONFLICT DO NOTHING"
_HEAD: Final = "SELECT chain, n, hash, at FROM audit WHERE chain = ? ORDER BY n DESC LIMIT 1"

_encode: Final = msgspec.json.Encoder(order="sorted").encode
_events_of: Final = msgspec.json.Decoder(list[AuditEvent]).decode
_details_of: Final = msgspec.json.Decoder(dict[str, Detail]).decode


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class SqlAudit:
    """The chain of this server.

    Args:
        database: The open database.
        now_ms: The time that records get, in milliseconds since 1970.
    """

    def __init__(self, database: Database, now_ms: Callable[[], int] = _now_ms) -> None:
        self._db = database
        self._now_ms = now_ms
        self._settling: asyncio.Task[None] | None = None

    async def remember(self, transaction: Transaction, events: Sequence[AuditEvent]) -> None:
        """Store events with what they tell of, as `append` does; in another database than the log, they wait there for `settle`."""
        if transaction.away:
            text = msgspec.json.encode(list(events)).decode()
            await transaction.execute("INSERT INTO audit_pending (id, events) VALUES (?, ?)", (new_id("aup"), text))
        else:
            await self.append(transaction, events)

    async def settle(self) -> None:
        """Take into the log what waits for it in other databases. What cannot be taken now is taken later."""
        again = False
        for part in self._db.parts[1:]:
            try:
                await self.take_from(part)
            except Unavailable:
                again = True
        if again:
            log.warning("the audit log does not take it yet")
            if self._settling is None or self._settling.done():
                self._settling = asyncio.create_task(self._settle_later(), name="audit-relay")

    async def _settle_later(self) -> None:
        await asyncio.sleep(RELAY_AGAIN_S)
        self._settling = None
        await self.settle()

    async def take_from(self, part: Database) -> None:
        """Take into the log what waits for it in another database, each once.

        Raises:
            Unavailable: One of the two databases does not answer.
        """
        for pending, events in await part.read("SELECT id, events FROM audit_pending ORDER BY id"):
            async with self._db.transaction() as transaction:
                taken = "INSERT INTO audit_taken (id) VALUES (?) ON CONFLICT DO NOTHING RETURNING id"
                # Whoever finds it gone again was late: somebody else took it, and forgot by now that they had.
                waits = "SELECT 1 FROM audit_pending WHERE id = ?"
                if await transaction.execute(taken, (pending,)) and await part.read(waits, (pending,)):
                    await self.append(transaction, _events_of(events))
            async with part.transaction() as transaction:
                await transaction.execute("DELETE FROM audit_pending WHERE id = ?", (pending,))
            async with self._db.transaction() as transaction:
                await transaction.execute("DELETE FROM audit_taken WHERE id = ?", (pending,))

    async def append(self, transaction: Transaction, events: Sequence[AuditEvent]) -> None:
        """Append events inside a transaction, as the last thing that it does: others who append wait for its end."""
        chain = await self._own_chain(transaction)
        found = await transaction.execute(_HEAD, (chain,))
        head = Head(*found[0]) if found else None
        at = self._now_ms()
        for event in events:
            record = place(event, head, chain=chain, at=at)
            await transaction.execute(_INSERT, _to_row(record))
            head = Head(record.chain, record.n, record.hash, record.at)

    @staticmethod
    async def _own_chain(transaction: Transaction) -> str:
        """Return the chain, and keep it from everybody else: each record names the one before it, so there is one writer."""
        lock = for_update(transaction)
        while not (chains := await transaction.execute(_CHAIN + lock)):
            await transaction.execute(_NEW_CHAIN, (f"aud_{secrets.token_hex(8)}",))
        return str(chains[0][0])

    async def write(self, events: Sequence[AuditEvent]) -> None:
        """See `AuditStore.write`."""
        async with self._db.transaction() as transaction:
            await self.append(transaction, events)

    async def head(self, chain: str = "") -> Head | None:
        """See `AuditStore.head`."""
        if not chain:
            chains = await self._db.read(_CHAIN)
            chain = str(chains[0][0]) if chains else ""
        found = await self._db.read(_HEAD, (chain,))
        return Head(*found[0]) if found else None

    async def page(self, query: AuditQuery, *, limit: int) -> list[AuditRecord]:
        """See `AuditStore.page`."""
        head = await self.head(query.chain)
        if head is None:
            return []
        rules: list[tuple[str, object]] = [("chain = ?", head.chain)]
        words = ("actor", "subject", "room", "address", "result")
        rules += [(f"{name} = ?", getattr(query, name)) for name in words if getattr(query, name)]
        if query.action.endswith("."):
            rules += [("action >= ?", query.action), ("action < ?", query.action[:-1] + "/")]  # "/" comes after "."
        elif query.action:
            rules.append(("action = ?", query.action))
        for rule, value in (("n < ?", query.before), ("n > ?", query.after), ("at >= ?", query.since), ("at <= ?", query.until)):
            if value is not None:
                rules.append((rule, value))
        order = "DESC" if query.after is None else "ASC"
        where = " AND ".join(rule for rule, _ in rules)
        rows = await self._db.read(
            f"SELECT {_COLUMNS} FROM audit WHERE {where} ORDER BY n {order} LIMIT ?", [value for _, value in rules] + [limit]
        )
        return [_to_record(row) for row in rows]

    async def prune(self, statement: PruneStatement, event: AuditEvent) -> None:
        """See `AuditStore.prune`."""
        async with self._db.transaction() as transaction:
            # First the record of it: the chain always has one.
            await self.append(transaction, [event])
            await transaction.execute("DELETE FROM audit WHERE chain = ? AND n <= ?", (statement.chain, statement.through))


def read_chain(path: Path) -> Iterator[AuditRecord]:
    """Give every record of a database file, chain by chain in order, without trusting anything else in it.

    The file is opened for reading only; a server may be using it. A file of an older schema has no records.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    try:
        db.set_busy_timeout(5_000)
        if list(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'audit'")):
            for row in db.execute(READ_CHAIN):
                yield _to_record(row)
    except apsw.Error as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    finally:
        db.close()


def chain_of(rows: Iterable[Row]) -> Iterator[AuditRecord]:
    """Give the records of rows of `READ_CHAIN`."""
    return (_to_record(row) for row in rows)


def _to_row(record: AuditRecord) -> Row:
    return (
        record.chain, record.n, record.at, record.action, record.actor, record.device, record.address, record.subject, record.room,
        record.result, record.reason, _encode(record.details).decode(), record.hash,
    )  # fmt: skip


def _to_record(row: Row) -> AuditRecord:
    """Return a record as it stands in the database. What is no record any more becomes one whose hash cannot be right."""
    texts = [str(value) for value in row[3:11]]
    try:
        details = _details_of(str(row[11]))
    except msgspec.DecodeError:
        details = {"damaged": str(row[11])}
    return AuditRecord(
        chain=str(row[0]), n=_whole(row[1]), at=_whole(row[2]), action=texts[0], actor=texts[1], device=texts[2], address=texts[3],
        subject=texts[4], room=texts[5], result=texts[6], reason=texts[7], details=details, hash=str(row[12]),
    )  # fmt: skip


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1
