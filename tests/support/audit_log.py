"""An audit log in a folder for tests: written by the real parts, changed by hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.domain.audit import AuditEvent
from securechat.ops.audit import ALL, EACH, Auditor
from securechat.ops.audit_key import AuditKey
from securechat.ops.audit_verify import Report
from securechat.ops.checkpoints import Checkpoints
from securechat.server.audit import verify_folder
from securechat.server.datadir import AUDIT_KEY, DataDir
from securechat.store.audit import SqlAudit
from securechat.store.migrate import migrate
from securechat.store.sqlite import SqliteDatabase
from support.fakes import ManualClock

FREE = {EACH: Rate(1e6, 1e6), ALL: Rate(1e6, 1e6)}


class AuditFolder:
    """A data folder with an audit log, and a folder elsewhere.

    `open` and `close` stand for a server's start and stop; in between, `sql` is whoever has the database in hand.
    """

    def __init__(self, root: Path, clock: ManualClock | None = None) -> None:
        self.data = DataDir(root)
        self.elsewhere = root.with_name(root.name + "-elsewhere")
        self.clock = clock or ManualClock()
        for folder in (root, self.data.keys, self.data.audit):
            folder.mkdir(parents=True, exist_ok=True)
        self.database: SqliteDatabase
        self.store: SqlAudit
        self.auditor: Auditor

    def open(self, *, rates: dict[str, Rate] | None = None, checkpoint_s: float = 60.0, keep_days: int = 0) -> AuditFolder:
        migrate(self.data.database)
        self.database = SqliteDatabase(self.data.database)
        self.store = SqlAudit(self.database, self.clock.now_ms)
        checkpoints = Checkpoints(AuditKey(self.data.keys / AUDIT_KEY), self.data.audit, self.elsewhere)
        limiter = RateLimiter(rates or FREE)
        self.auditor = Auditor(self.store, checkpoints, limiter, self.clock, lambda: checkpoint_s, lambda: keep_days)
        return self

    async def close(self) -> None:
        await self.auditor.flush()
        await self.database.close()

    async def write(self, count: int, *, checkpoint_every: int = 5, step_s: float = 1.0) -> None:
        """Write records, a second apart, with a checkpoint after each few."""
        for number in range(1, count + 1):
            self.clock.forward(step_s)
            event = AuditEvent(
                action="user.disable", actor="usr_ana", device="dev_1", address="10.0.0.1", subject=f"usr_{number}", room="rm_1",
                reason="r", details={"number": number},
            )  # fmt: skip
            await self.auditor.record(event)
            if number % checkpoint_every == 0:
                await self.auditor.checkpoint()

    def sql(self, statement: str, *values: Any) -> list[Any]:
        db = sqlite3.connect(self.data.database)
        try:
            with db:
                return db.execute(statement, values).fetchall()
        finally:
            db.close()

    def change(self, work: Callable[[sqlite3.Connection], None]) -> None:
        db = sqlite3.connect(self.data.database)
        with db:
            work(db)
        db.close()

    def verify(self, *, elsewhere: bool = True, trusted: tuple[Path, ...] = ()) -> Report:
        return verify_folder(self.data, self.elsewhere if elsewhere else None, trusted)
