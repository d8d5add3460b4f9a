"""Second factors in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from securechat.domain.audit import AuditEvent
from securechat.domain.ports import PasskeyRecord, TotpRecord
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Duplicate, Row, Transaction
from securechat.store.locking import lock_user
from securechat.store.names import release

_PASSKEY: Final = "id, user_id, name, public_key, sign_count, created_at, last_used_at"
_EVER: Final = 2**62
Transactions = AbstractAsyncContextManager[tuple[Transaction, Transaction]]


class SqlFactors:
    """The second factors' part of the store. Each writing method is one transaction.

    Args:
        database: The open database.
        audit: The audit log in it.
    """

    def __init__(self, database: Database, audit: SqlAudit | None = None) -> None:
        self._db = database
        self._users = database.users
        self._audit = audit or SqlAudit(database)
        self._events: tuple[AuditEvent, ...] = ()
        self._told_until = _EVER

    def recording(self, *events: AuditEvent) -> SqlFactors:
        """See `FactorStore.recording`."""
        found = SqlFactors(self._db, self._audit)
        found._events = events
        return found

    async def totp(self, user_id: str) -> TotpRecord | None:
        """See `FactorStore.totp`."""
        rows = await self._users.read(user_id, "SELECT sealed_secret, last_step FROM totp WHERE user_id = ?", (user_id,))
        return TotpRecord(bytes(rows[0][0]), rows[0][1]) if rows else None

    async def set_totp(self, user_id: str, sealed_secret: bytes, last_step: int, at: int) -> bool:
        """See `FactorStore.set_totp`."""
        rows = await self._write(
            user_id,
            "INSERT INTO totp (user_id, sealed_secret, last_step, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING user_id",
            (user_id, sealed_secret, last_step, at),
        )
        return bool(rows)

    async def use_totp(self, user_id: str, step: int) -> bool:
        """See `FactorStore.use_totp`."""
        sql = "UPDATE totp SET last_step = ? WHERE user_id = ? AND last_step < ? RETURNING user_id"
        return bool(await self._write(user_id, sql, (step, user_id, step)))

    async def reseal_totp(self, user_id: str, old: bytes, new: bytes) -> None:
        """See `FactorStore.reseal_totp`."""
        sql = "UPDATE totp SET sealed_secret = ? WHERE user_id = ? AND sealed_secret = ?"
        await self._write(user_id, sql, (new, user_id, old))

    async def remove_totp(self, user_id: str) -> bool:
        """See `FactorStore.remove_totp`."""
        return bool(await self._write(user_id, "DELETE FROM totp WHERE user_id = ? RETURNING user_id", (user_id,)))

    async def passkeys(self, user_id: str) -> list[PasskeyRecord]:
        """See `FactorStore.passkeys`."""
        sql = f"SELECT {_PASSKEY} FROM passkeys WHERE user_id = ? ORDER BY created_at DESC, id"
        rows = await self._users.read(user_id, sql, (user_id,))
        return [PasskeyRecord(*row) for row in rows]

    async def passkey(self, passkey_id: str) -> PasskeyRecord | None:
        """See `FactorStore.passkey`."""
        sql = f"SELECT {_PASSKEY} FROM passkeys WHERE id = ?"
        rows = await self._users.read_named("passkey", passkey_id, sql, (passkey_id,))
        return PasskeyRecord(*rows[0]) if rows else None

    async def add_passkey(self, passkey: PasskeyRecord) -> bool:
        """See `FactorStore.add_passkey`."""
        try:
            async with self._noting(self._users.claiming("passkey", passkey.id, passkey.user_id)) as (_, own):
                await own.execute(
                    f"INSERT INTO passkeys ({_PASSKEY}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # nosec B608 - our own names
                    (
                        passkey.id, passkey.user_id, passkey.name, passkey.public_key, passkey.sign_count, passkey.created_at,
                        passkey.last_used_at,
                    ),
                )  # fmt: skip
        except Duplicate:
            return False
        return True

    async def use_passkey(self, user_id: str, passkey_id: str, old_count: int, new_count: int, at: int) -> bool:
        """See `FactorStore.use_passkey`."""
        sql = "UPDATE passkeys SET sign_count = ?, last_used_at = ? WHERE user_id = ? AND id = ? AND sign_count = ? RETURNING id"
        return bool(await self._write(user_id, sql, (new_count, at, user_id, passkey_id, old_count)))

    async def remove_passkey(self, user_id: str, passkey_id: str) -> bool:
        """See `FactorStore.remove_passkey`."""
        async with self._noting(self._users.transactions(user_id)) as (home, own):
            await lock_user(home, user_id)
            await release(home, "passkey", user_id, passkey_id)
            sql = "DELETE FROM passkeys WHERE id = ? AND user_id = ? RETURNING id"
            return bool(await own.execute(sql, (passkey_id, user_id)))

    async def set_recovery_codes(self, user_id: str, hashes: Sequence[str]) -> None:
        """See `FactorStore.set_recovery_codes`."""
        async with self._noting(self._users.transactions(user_id)) as (home, own):
            await lock_user(home, user_id)
            await own.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user_id,))
            for each in hashes:
                await own.execute("INSERT INTO recovery_codes (user_id, code_hash) VALUES (?, ?)", (user_id, each))

    async def use_recovery_code(self, user_id: str, code_hash: str) -> bool:
        """See `FactorStore.use_recovery_code`."""
        sql = "DELETE FROM recovery_codes WHERE user_id = ? AND code_hash = ? RETURNING user_id"
        return bool(await self._write(user_id, sql, (user_id, code_hash)))

    async def count_recovery_codes(self, user_id: str) -> int:
        """See `FactorStore.count_recovery_codes`."""
        return int((await self._users.read(user_id, "SELECT count(*) FROM recovery_codes WHERE user_id = ?", (user_id,)))[0][0])

    async def has_factor(self, user_id: str) -> bool:
        """See `FactorStore.has_factor`."""
        sql = "SELECT EXISTS (SELECT 1 FROM totp WHERE user_id = ?) OR EXISTS (SELECT 1 FROM passkeys WHERE user_id = ?)"
        return bool((await self._users.read(user_id, sql, (user_id, user_id)))[0][0])

    async def clear_factors(self, user_id: str) -> None:
        """See `FactorStore.clear_factors`."""
        async with self._noting(self._users.transactions(user_id)) as (home, own):
            await lock_user(home, user_id)
            await release(home, "passkey", user_id)
            for table in ("totp", "passkeys", "recovery_codes"):
                await own.execute(f"DELETE FROM {table} WHERE user_id = ?", (user_id,))  # nosec B608 - one of the three words above

    async def confirmed_at(self, user_id: str, device_id: str) -> int:
        """See `FactorStore.confirmed_at`."""
        sql = "SELECT confirmed_at FROM devices WHERE user_id = ? AND id = ?"
        rows = await self._users.read(user_id, sql, (user_id, device_id))
        return int(rows[0][0]) if rows else 0

    async def confirm(self, user_id: str, device_id: str, at: int) -> None:
        """See `FactorStore.confirm`."""
        await self._write(user_id, "UPDATE devices SET confirmed_at = ? WHERE user_id = ? AND id = ?", (at, user_id, device_id))

    async def ended_since(self, at: int) -> list[tuple[str, str]]:
        """See `FactorStore.ended_since`. What a database that does not answer has of them is told when it answers again."""
        since = min(at, self._told_until)
        rows, whole = await self._users.read_all("SELECT user_id, id FROM devices WHERE revoked_at >= ?", (since,))
        self._told_until = _EVER if whole else since
        return [(row[0], row[1]) for row in rows]

    @asynccontextmanager
    async def _noting(self, transactions: Transactions) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """Give transactions that take along what is to be remembered, if they change anything where the user's rows are."""
        async with transactions as (home, own):
            yield home, own
            noted = self._events and own.changed
            if noted:
                await self._audit.remember(own, self._events)
        if noted and own.away:
            await self._audit.settle()

    async def _write(self, user_id: str, sql: str, values: Sequence[object]) -> list[Row]:
        async with self._noting(self._alone(user_id)) as (_, own):
            return await own.execute(sql, values)

    @asynccontextmanager
    async def _alone(self, user_id: str) -> AsyncIterator[tuple[Transaction, Transaction]]:
        async with self._users.transaction(user_id) as own:
            yield own, own
