"""StorageJobs: what has to be sealed, opened, sealed again, wrapped again or erased in the whole store, a little at a time.

A job is a row. Each step is one transaction that changes a few rows and moves the job's cursor with them, so a job goes on where it
was after any end of the process. A running server works on jobs, one after the other, at most a fifth of the time; without
one, a room that is shredded is erased by who shreds it.

    seal     `at_rest` was switched on: texts that are there are sealed
    unseal   it was switched off: they are opened
    reseal   `storage rotate --messages`: every text is sealed with a new key; then the old keys are destroyed
    rewrap   `storage rotate`: rooms' keys are wrapped with the new organisation key
    erase    a room was shredded: what was sealed with its destroyed keys, and what was not sealed, is removed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from securechat.crypto.at_rest import Damaged, version_in
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import Storage, StorageJob
from securechat.domain.ports import Clock
from securechat.errors import Conflict, Unavailable
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Dialect, Duplicate, Row, Transaction
from securechat.store.keys import KeyStore
from securechat.store.locking import for_update
from securechat.store.rows import to_entry
from securechat.store.sealing import COLUMNS, SETTING, Sealer, Sealing

log = logging.getLogger(__name__)

STEP_ROWS: Final = 200
"""Rows of one step: some milliseconds on the loop."""
REST: Final = 4.0
"""How much longer than a step the pause after it is."""
RETRY_S: Final = 5.0
"""Pause after a step that the disk did not take, or that broke; doubled each time that it breaks again,"""
RETRY_MOST_S: Final = 300.0
"""Up to this."""
SHOWN: Final = 10
"""Jobs told by `status`: those that wait and the newest."""

_JOB: Final = "id, kind, room_id, cursor_room, cursor_seq, until_seq, done, damaged, total, started_at, finished_at"
_NEXT: Final = (
    f"SELECT {COLUMNS}, room_id FROM entries WHERE (room_id, seq) > (?, ?) AND (body IS NOT NULL OR sealed IS NOT NULL)"
    " ORDER BY room_id, seq LIMIT ?"
)
_BEING_MOVED: Final = "SELECT 1 FROM buckets WHERE until > clock_timestamp() LIMIT 1"
"""What a move compares must not change in silence."""
_MOVING: Final = "Rooms are being moved. Wait until that is finished: securechat db shards list"
_SET: Final = "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_BY_ID: Final = f"SELECT {_JOB} FROM storage_jobs WHERE id = ?"
_TOTALS: Final = {
    "seal": "SELECT count(*) FROM entries WHERE body IS NOT NULL",
    "unseal": "SELECT count(*) FROM entries WHERE sealed IS NOT NULL",
    "reseal": "SELECT count(*) FROM entries WHERE body IS NOT NULL OR sealed IS NOT NULL",
    "rewrap": "SELECT count(*) FROM room_keys WHERE wrapped IS NOT NULL",
}
_OPPOSITE: Final = ("seal", "unseal", "reseal")
"""Jobs that a change of `at_rest` makes pointless."""


class _Job:
    """A row of `storage_jobs`."""

    __slots__ = (
        "cursor_room", "cursor_seq", "damaged", "done", "finished_at", "id", "kind", "room_id", "started_at", "total", "until_seq",
    )  # fmt: skip

    def __init__(self, row: Row) -> None:
        (
            self.id, self.kind, self.room_id, self.cursor_room, self.cursor_seq, self.until_seq, self.done, self.damaged,
            self.total, self.started_at, self.finished_at,
        ) = row  # fmt: skip


class StorageJobs:
    """Keeps the whole store in the form that is wanted. See `domain.ports.StorageKeeper`.

    Args:
        database: The open database.
        sealing: Seals and opens.
        clock: For dates and pauses.
        audit: The audit log in the database.
        leads: Whether this server works on jobs, where they are several; None for the only one.

    Attributes:
        problem: Why the work does not go on at this moment, one line; empty when all is well.
    """

    def __init__(
        self,
        database: Database,
        sealing: Sealing,
        clock: Clock,
        audit: SqlAudit | None = None,
        leads: Callable[[], bool] | None = None,
    ) -> None:
        self._db = database
        self._audit = audit or SqlAudit(database)
        self._sealing = sealing
        self._keys: KeyStore = sealing.keys
        self._clock = clock
        self._leads = leads or (lambda: True)
        self._look_s = RETRY_S if leads else None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    async def load(self) -> None:
        """Take over whether texts are sealed, and the keys if they can be had, before anything is written."""
        self._sealing.on = await self._recorded()
        with suppress(Unavailable):  # `start` says so; a single command may not need them.
            await self._keys.require_org_keys()

    # ── what the server and the operator ask ─────────────────────────────────────────────────────────────────────────

    async def start(self, *, on: bool) -> None:
        """Unlock the keys, take the setting, and begin to work on jobs.

        Raises:
            Unavailable: The keys cannot be had: nothing is served without them.
        """
        await self._keys.unlock()
        if on != await self._recorded():
            now = self._clock.now_ms()
            # The setting is with the first, which comes last: until then, all is done again.
            for part in reversed(self._db.parts):
                async with part.transaction() as transaction:
                    if part is self._db:
                        await transaction.execute(_SET, (SETTING, "on" if on else "off"))
                    await transaction.execute(
                        f"UPDATE storage_jobs SET finished_at = ? WHERE finished_at IS NULL AND kind IN {_OPPOSITE}",  # nosec B608 - ours
                        (now,),
                    )
                    await _add_job(transaction, "seal" if on else "unseal", now)
            self._sealing.on = on
            log.info("encryption at rest switched", extra={"at_rest": "on" if on else "off"})
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="storage-jobs")

    async def stop(self) -> None:
        """Finish the step that is under way, and no more."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await self._task

    async def erase(self, room: str) -> None:
        """See `StorageKeeper.erase`."""
        self._wake.set()
        while self._task is None and (found := await self._first(room)) is not None:
            part, job = found
            await self.step(job.id, part)

    async def status(self) -> Storage:
        """See `StorageKeeper.status`."""
        sealed = clear = live = destroyed = 0
        rows: list[Row] = []
        for part in self._db.parts:
            ((some_sealed, some_clear),) = await part.read_beside("SELECT count(sealed), count(body) FROM entries")
            ((some_live, some_gone),) = await part.read("SELECT count(wrapped), count(destroyed_at) FROM room_keys")
            sealed, clear = sealed + some_sealed, clear + some_clear
            live, destroyed = live + some_live, destroyed + some_gone
            rows += await part.read(
                f"SELECT {_JOB} FROM storage_jobs"
                " ORDER BY finished_at IS NOT NULL, CASE WHEN finished_at IS NULL THEN id ELSE -id END LIMIT ?",
                (SHOWN,),
            )
        org = await self._db.read("SELECT version, kek FROM org_keys ORDER BY version DESC LIMIT 1")
        return Storage(
            at_rest="on" if self._sealing.on else "off",
            running=self._task is not None,
            keys=self._keys.provider.description,
            kek=org[0][1] if org else 0,
            org_key=org[0][0] if org else 0,
            room_keys=live,
            shredded_keys=destroyed,
            sealed=sealed,
            clear=clear,
            damaged=self._sealing.damaged,
            problem=self.problem,
            jobs=[_told(_Job(row)) for row in rows],
        )

    async def rotate(self, *, messages: bool, event: AuditEvent | None = None) -> None:
        """See `StorageKeeper.rotate`."""
        if messages and not self._sealing.on:
            raise Conflict("Messages are not encrypted: there is nothing to encrypt again.")
        for part in self._db.parts:
            if await part.read("SELECT 1 FROM storage_jobs WHERE finished_at IS NULL"):
                raise Conflict("A job is under way. Wait until it is finished: securechat storage status")
            if part.dialect is Dialect.POSTGRESQL and await part.read(_BEING_MOVED):
                raise Conflict(_MOVING)
        await self._keys.unlock()
        loop = asyncio.get_running_loop()
        kek = await loop.run_in_executor(None, self._keys.provider.create)
        now = self._clock.now_ms()

        async def add_jobs(transaction: Transaction) -> None:
            if transaction.dialect is Dialect.POSTGRESQL and await transaction.execute(_BEING_MOVED):
                raise Conflict(_MOVING)  # It began meanwhile.
            await _add_job(transaction, "rewrap", now)
            if messages:
                await transaction.execute(
                    "UPDATE room_keys SET retired_at = ? WHERE retired_at IS NULL AND destroyed_at IS NULL", (now,)
                )
                await _add_job(transaction, "reseal", now)

        async def with_it(transaction: Transaction) -> None:
            await add_jobs(transaction)
            if event is not None:
                await self._audit.append(transaction, [event])

        try:
            await self._keys.add_org_key(kek, with_it)
        except Duplicate:
            raise Conflict("Somebody else rotates the keys at this moment.") from None
        for part in self._db.parts[1:]:  # Where this is interrupted, keys stay as they are: rotate again.
            async with part.transaction() as transaction:
                await add_jobs(transaction)
        self._keys.forget_all()
        log.info("storage keys rotated", extra={"kek": kek, "org_key": self._keys.org_version, "messages": messages})
        self._wake.set()

    # ── work ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        """Work until `stop`. What breaks is told, and tried again later: nobody's chat depends on it, so it ends no server."""
        tries = 0
        while not self._stopping.is_set():
            try:
                if not self._leads():
                    await self._rest(RETRY_S)
                    continue
                await self._look_again()
                self._wake.clear()
                while not self._stopping.is_set() and (found := await self._first()) is not None:
                    part, job = found
                    began = self._clock.monotonic()
                    await self.step(job.id, part)
                    self.problem, tries = "", 0
                    await self._rest((self._clock.monotonic() - began) * REST)
            except Exception as error:  # noqa: BLE001 - told below, whatever it is
                tries += 1
                await self._rest(self._trouble(error, tries))
                self._wake.set()

    async def _look_again(self) -> None:
        """Return when there may be a job. Where servers are several, another one may have added it: then it is looked at times."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._look_s):
                await self._wake.wait()

    def _trouble(self, error: Exception, tries: int) -> float:
        """Tell why a step was not done; return how long to leave it alone."""
        if isinstance(error, Unavailable):
            self.problem = f"A storage job waits: {error.detail}"
            log.warning("a storage job waits", extra={"error": error.detail})
            return RETRY_S
        pause = min(RETRY_MOST_S, RETRY_S * 2.0 ** min(tries - 1, 16))
        self.problem = f"A storage job broke {tries} times, and is tried again: {type(error).__name__}. See the log."
        log.error("a storage job broke, and is tried again", extra={"tries": tries, "pause_s": pause}, exc_info=error)
        return pause

    async def _rest(self, pause_s: float) -> None:
        """Leave the loop to others; not after `stop`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    async def _first(self, erased: str = "") -> tuple[Database, _Job] | None:
        """Return the job that is next, and where; with a room, the one that erases it."""
        for part in self._db.parts:
            rows = await part.read(
                f"SELECT {_JOB} FROM storage_jobs WHERE finished_at IS NULL AND (? = '' OR (kind = 'erase' AND room_id = ?))"
                " ORDER BY kind <> 'erase', id LIMIT 1",
                (erased, erased),
            )
            if rows:
                return part, _Job(rows[0])
        return None

    async def step(self, job_id: int, part: Database | None = None) -> None:
        """Do one step of a job, in the database that it is in.

        Raises:
            Unavailable: The disk does not take it, or rooms are being moved; nothing changed.
        """
        part = part or self._db
        job = _Job((await part.read(_BY_ID, (job_id,)))[0])
        total = await self._count(part, job) if job.total is None else job.total
        sealer: Sealer | None = None
        async with part.transaction() as transaction:
            if transaction.dialect is Dialect.POSTGRESQL and await transaction.execute(_BEING_MOVED):
                raise Unavailable("Rooms are being moved.")
            # Another server may have done a step meanwhile, or be about to.
            job = _Job((await transaction.execute(_BY_ID + for_update(transaction), (job_id,)))[0])
            if job.finished_at is not None:
                return
            job.total = total
            if job.kind == "rewrap":
                finished = await self._rewrap(transaction, job)
            elif job.kind == "erase":
                finished = await self._erase(transaction, job)
            else:
                sealer = self._sealing.sealer(transaction, self._clock.now_ms())
                finished = await self._convert(transaction, job, sealer)
            if finished:
                await self._finish(transaction, job)
            await transaction.execute(
                "UPDATE storage_jobs SET cursor_room = ?, cursor_seq = ?, done = ?, damaged = ?, total = ? WHERE id = ?",
                (job.cursor_room, job.cursor_seq, job.done, job.damaged, job.total, job.id),
            )
        for key in sealer.made if sealer is not None else ():
            self._keys.adopt(key)
        if finished:
            await self._clean_up(job)

    @staticmethod
    async def _count(part: Database, job: _Job) -> int:
        if job.kind == "erase":
            sql = "SELECT count(*) FROM entries WHERE room_id = ? AND seq < ? AND (body IS NOT NULL OR sealed IS NOT NULL)"
            rows = await part.read_beside(sql, (job.room_id, job.until_seq))
        else:
            rows = await part.read_beside(_TOTALS[job.kind])
        return int(rows[0][0])

    async def _convert(self, transaction: Transaction, job: _Job, sealer: Sealer) -> bool:
        """Seal, open or seal again what comes next; return whether that was the last."""
        rows = await transaction.execute(_NEXT + for_update(transaction), (job.cursor_room, job.cursor_seq, STEP_ROWS))
        changed: list[Sequence[object]] = []
        for row in rows:
            entry, sealed = to_entry(row[-1], row), row[11]
            if sealed is not None:
                if job.kind == "seal" or (job.kind == "reseal" and not await self._is_retired(entry.room, sealed)):
                    continue
                await self._sealing.open([entry], [row[:-1]])
                if entry.body is None:
                    # Destroyed, or damaged: left as it is. A destroyed key's texts are removed by their own job.
                    job.damaged += entry.deleted == entry.seq
                    continue
            elif job.kind == "unseal":
                continue
            if job.kind == "unseal":
                changed.append((entry.body, None, entry.room, entry.seq))
            else:
                await sealer.prepare(entry)
                changed.append((None, sealer.seal(entry, row[8]), entry.room, entry.seq))
        await transaction.execute_many("UPDATE entries SET body = ?, sealed = ? WHERE room_id = ? AND seq = ?", changed)
        job.done += len(changed)
        if rows:
            job.cursor_room, job.cursor_seq = rows[-1][-1], rows[-1][0]
        return len(rows) < STEP_ROWS

    async def _is_retired(self, room_id: str, sealed: bytes) -> bool:
        await self._keys.load(room_id, (version_in(sealed),))
        try:
            return self._sealing.key_of(room_id, sealed).retired
        except Damaged:
            return True

    async def _rewrap(self, transaction: Transaction, job: _Job) -> bool:
        newest = self._keys.org_version
        rows = await transaction.execute(
            "SELECT room_id, version, org_version, wrapped FROM room_keys"  # nosec B608 - our own names
            " WHERE (room_id, version) > (?, ?) AND org_version <> ? AND wrapped IS NOT NULL ORDER BY room_id, version LIMIT ?"
            + for_update(transaction),
            (job.cursor_room, job.cursor_seq, newest, STEP_ROWS),
        )
        for room_id, version, org_version, wrapped in rows:
            job.cursor_room, job.cursor_seq = room_id, version
            try:
                data_key = self._keys.unwrap_room_key(room_id, version, org_version, wrapped)
            except Damaged:
                job.damaged += 1
                log.error("a stored key is damaged", extra={"room": room_id, "version": version})  # noqa: TRY400 - tells nothing
                continue
            again = self._keys.wrap_room_key(room_id, version, newest, data_key)
            await transaction.execute(
                "UPDATE room_keys SET org_version = ?, wrapped = ? WHERE room_id = ? AND version = ?",
                (newest, again, room_id, version),
            )
            job.done += 1
        return len(rows) < STEP_ROWS

    @staticmethod
    async def _erase(transaction: Transaction, job: _Job) -> bool:
        """Leave of each message what a deletion leaves."""
        rows = await transaction.execute(
            "UPDATE entries SET body = NULL, sealed = NULL, deleted_seq = ? WHERE room_id = ? AND seq IN (SELECT seq FROM entries"
            " WHERE room_id = ? AND seq > ? AND seq < ? AND (body IS NOT NULL OR sealed IS NOT NULL) ORDER BY seq LIMIT ?)"
            " RETURNING seq",
            (job.until_seq, job.room_id, job.room_id, job.cursor_seq, job.until_seq, STEP_ROWS),
        )
        last = max((row[0] for row in rows), default=job.cursor_seq)
        end = job.until_seq if len(rows) < STEP_ROWS else last + 1
        await transaction.execute(
            "DELETE FROM reactions WHERE room_id = ? AND seq > ? AND seq < ?", (job.room_id, job.cursor_seq, end)
        )
        job.cursor_seq = last
        job.done += len(rows)
        return len(rows) < STEP_ROWS

    async def _finish(self, transaction: Transaction, job: _Job) -> None:
        await transaction.execute("UPDATE storage_jobs SET finished_at = ? WHERE id = ?", (self._clock.now_ms(), job.id))
        if job.kind == "reseal" and not job.damaged:
            await transaction.execute("DELETE FROM room_keys WHERE retired_at IS NOT NULL AND destroyed_at IS NULL", ())

    async def _clean_up(self, job: _Job) -> None:
        """Remove from the files what is no longer in the tables."""
        if job.kind == "reseal":
            self._keys.forget_all()
        await self._db.erase()
        log.info("storage job finished", extra={"job": job.kind, "rows": job.done, "damaged": job.damaged})

    async def _recorded(self) -> bool:
        rows = await self._db.read("SELECT value FROM settings WHERE key = ?", (SETTING,))
        return bool(rows) and rows[0][0] == "on"


async def _add_job(transaction: Transaction, kind: str, at: int) -> None:
    await transaction.execute(
        "INSERT INTO storage_jobs (kind, room_id, cursor_room, cursor_seq, done, damaged, started_at)"
        " VALUES (?, '', '', 0, 0, 0, ?)",
        (kind, at),
    )


def _told(job: _Job) -> StorageJob:
    return StorageJob(
        kind=job.kind, room=job.room_id, done=job.done, total=job.total, damaged=job.damaged, started_at=job.started_at,
        finished_at=job.finished_at,
    )  # fmt: skip
