"""Accounts at other providers, apps, codes and scoped sessions in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from securechat.domain.accounts import User
from securechat.domain.audit import AuditEvent
from securechat.domain.ports import AppRecord, CodeRecord, ExternalRecord, ScopedDevice
from securechat.errors import Conflict, NameTaken
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Duplicate, Row, Transaction
from securechat.store.locking import lock_user
from securechat.store.names import claim, claim_free, release
from securechat.store.rows import name_key

KEPT_MS: Final = 86_400_000
"""How long a code that ended is remembered: using it again tells of a thief."""
_EXTERNAL: Final = "id, user_id, issuer, subject, name, created_at, last_used_at"
_APP: Final = "id, name, secret_hash, redirect_uris, scopes, device_flow, created_by, created_at"
_CODE: Final = "hash, app, scopes, expires_at, user_id, redirect_uri, challenge, user_code, decision, used_at, device_id, polled_at"
_WAYS: Final = "(SELECT count(*) FROM passkeys WHERE user_id = ?) + (SELECT count(*) FROM externals WHERE user_id = ?)"
"""Into an account, beside its password."""


class SqlOAuth:
    """See `OAuthStore`.

    Args:
        database: The open database.
        audit: The audit log in it.
    """

    def __init__(self, database: Database, audit: SqlAudit | None = None) -> None:
        self._db = database
        self._users = database.users
        self._audit = audit or SqlAudit(database)

    # ── accounts at other providers ──────────────────────────────────────────────────────────────────────────────────

    async def external(self, issuer: str, subject: str) -> ExternalRecord | None:
        """See `OAuthStore.external`."""
        sql = f"SELECT {_EXTERNAL} FROM externals WHERE issuer = ? AND subject = ?"
        rows = await self._users.read_named("external", _external_key(issuer, subject), sql, (issuer, subject))
        return ExternalRecord(*rows[0]) if rows else None

    async def externals(self, user_id: str) -> list[ExternalRecord]:
        """See `OAuthStore.externals`."""
        sql = f"SELECT {_EXTERNAL} FROM externals WHERE user_id = ? ORDER BY created_at, id"
        return [ExternalRecord(*row) for row in await self._users.read(user_id, sql, (user_id,))]

    async def add_external(self, record: ExternalRecord, event: AuditEvent) -> bool:
        """See `OAuthStore.add_external`."""
        try:
            async with self._users.claiming("external", _external_key(record.issuer, record.subject), record.user_id) as (_, own):
                added = await _insert_external(own, record)
                if added:
                    await self._audit.remember(own, [event])
        except Duplicate:
            return False
        await self._settle(own)
        return added

    async def register_external(self, user: User, record: ExternalRecord, at: int, event: AuditEvent) -> None:
        """See `OAuthStore.register_external`.

        In another database, the account at the provider is stored before the user is: as long as there is no name that leads to it,
        it is nobody's.
        """
        try:
            async with self._users.transactions(user.id) as (home, own):
                await claim(home, "username", user.username, user.id)
                await home.execute(
                    "INSERT INTO users (id, username, display_name, name_key, role, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (user.id, user.username, user.display_name, name_key(user.display_name), user.role.value, at),
                )
                key = _external_key(record.issuer, record.subject)
                free = await claim_free(home, "external", key, user.id) or await self._users.take_over(
                    home, "external", key, user.id
                )
                if not free or not await _insert_external(own, record):
                    raise Conflict("This account opens an account here already.")
                await self._audit.append(home, [event])
        except Duplicate as error:
            raise NameTaken(f"The username {user.username} is taken.", field="username") from error

    async def use_external(self, user_id: str, external_id: str, at: int) -> None:
        """See `OAuthStore.use_external`."""
        async with self._users.transaction(user_id) as own:
            await own.execute("UPDATE externals SET last_used_at = ? WHERE user_id = ? AND id = ?", (at, user_id, external_id))

    async def remove_external(self, user_id: str, external_id: str, event: AuditEvent) -> bool:
        """See `OAuthStore.remove_external`."""
        sql = f"DELETE FROM externals WHERE id = ? AND user_id = ? AND {_WAYS} > ? RETURNING issuer, subject"
        async with self._users.transactions(user_id) as (home, own):
            user = await lock_user(home, user_id)
            others = 0 if user is not None and user[0] is not None else 1
            rows = await own.execute(sql, (external_id, user_id, user_id, user_id, others))
            if rows:
                await release(home, "external", user_id, _external_key(*rows[0]))
                await self._audit.remember(own, [event])
        await self._settle(own)
        return bool(rows)

    async def count_ways_in(self, user_id: str) -> int:
        """See `OAuthStore.count_ways_in`."""
        ((ways,),) = await self._users.read(user_id, f"SELECT {_WAYS}", (user_id, user_id))
        return int(ways) + len(await self._db.read("SELECT 1 FROM users WHERE id = ? AND password_hash IS NOT NULL", (user_id,)))

    # ── apps ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add_app(self, app: AppRecord, event: AuditEvent) -> None:
        """See `OAuthStore.add_app`."""
        values = (
            app.id, app.name, app.secret_hash, _list(app.redirect_uris), _list(app.scopes), int(app.device_flow), app.created_by,
            app.created_at,
        )  # fmt: skip
        await self._write(f"INSERT INTO apps ({_APP}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id", values, event)

    async def app(self, app_id: str) -> AppRecord | None:
        """See `OAuthStore.app`."""
        rows = await self._db.read(f"SELECT {_APP} FROM apps WHERE id = ?", (app_id,))
        return _to_app(rows[0]) if rows else None

    async def apps(self) -> list[AppRecord]:
        """See `OAuthStore.apps`."""
        return [_to_app(row) for row in await self._db.read(f"SELECT {_APP} FROM apps ORDER BY name, id")]

    async def remove_app(self, app_id: str, at: int, event: AuditEvent) -> list[tuple[str, str]] | None:
        """See `OAuthStore.remove_app`."""
        async with self._db.transaction() as transaction:
            if not await transaction.execute("DELETE FROM apps WHERE id = ? RETURNING id", (app_id,)):
                return None
            await transaction.execute("DELETE FROM codes WHERE app = ?", (app_id,))
            sql = "UPDATE devices SET revoked_at = ?, refresh_hash = NULL WHERE app = ? AND revoked_at IS NULL"
            ended = await self._users.change_all(transaction, sql, (at, app_id))  # Nobody opens one: the codes are held.
            await self._audit.append(transaction, [event])
        return [(row[0], row[1]) for row in ended]

    # ── codes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def add_code(self, code: CodeRecord, at: int, event: AuditEvent | None) -> None:
        """See `OAuthStore.add_code`."""
        async with self._db.transaction() as transaction:
            await transaction.execute("DELETE FROM codes WHERE expires_at < ?", (at - KEPT_MS,))
            await transaction.execute(
                f"INSERT INTO codes ({_CODE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # nosec B608 - our own names
                (
                    code.hash, code.app, _list(code.scopes), code.expires_at, code.user_id, code.redirect_uri, code.challenge,
                    code.user_code, code.decision, code.used_at, code.device_id, code.polled_at,
                ),
            )  # fmt: skip
            if event is not None:
                await self._audit.append(transaction, [event])

    async def code(self, code_hash: str) -> CodeRecord | None:
        """See `OAuthStore.code`."""
        rows = await self._db.read(f"SELECT {_CODE} FROM codes WHERE hash = ?", (code_hash,))
        return _to_code(rows[0]) if rows else None

    async def waiting_code(self, user_code: str, at: int) -> CodeRecord | None:
        """See `OAuthStore.waiting_code`."""
        sql = f"SELECT {_CODE} FROM codes WHERE user_code = ? AND user_code <> '' AND decision = '' AND expires_at > ?"
        rows = await self._db.read(sql, (user_code, at))
        return _to_code(rows[0]) if rows else None

    async def decide_code(self, code_hash: str, user_id: str, *, approve: bool, event: AuditEvent) -> bool:
        """See `OAuthStore.decide_code`."""
        sql = "UPDATE codes SET user_id = ?, decision = ? WHERE hash = ? AND decision = '' RETURNING hash"
        return bool(await self._write(sql, (user_id, "yes" if approve else "no", code_hash), event))

    async def poll_code(self, code_hash: str, at: int) -> None:
        """See `OAuthStore.poll_code`."""
        await self._write("UPDATE codes SET polled_at = ? WHERE hash = ?", (at, code_hash), None)

    async def use_code(self, code_hash: str, device: ScopedDevice, event: AuditEvent) -> bool:
        """See `OAuthStore.use_code`."""
        async with self._users.transactions(device.user_id) as (home, own):
            sql = "UPDATE codes SET used_at = ?, device_id = ? WHERE hash = ? AND used_at = 0 RETURNING hash"
            if not await home.execute(sql, (device.created_at, device.id, code_hash)):
                return False
            await _insert_device(own, device)
            await self._audit.remember(own, [event])
        await self._settle(own)
        return True

    # ── sessions of apps, and personal tokens ────────────────────────────────────────────────────────────────────────

    async def add_scoped_device(self, device: ScopedDevice, event: AuditEvent) -> None:
        """See `OAuthStore.add_scoped_device`."""
        async with self._users.transaction(device.user_id) as own:
            await _insert_device(own, device)
            await self._audit.remember(own, [event])
        await self._settle(own)

    async def scoped_devices(self, user_id: str) -> list[ScopedDevice]:
        """See `OAuthStore.scoped_devices`."""
        rows = await self._users.read(
            user_id,
            "SELECT id, user_id, name, app, scopes, created_at, last_seen_at, address, expires_at FROM devices"
            " WHERE user_id = ? AND app IS NOT NULL AND revoked_at IS NULL ORDER BY created_at DESC, id",
            (user_id,),
        )
        return [
            ScopedDevice(row[0], row[1], row[2], row[3], str(row[4]).split(), row[5], row[6], address=row[7], expires_at=row[8])
            for row in rows
        ]

    async def end_app(self, user_id: str, app_id: str, at: int, event: AuditEvent) -> list[str]:
        """See `OAuthStore.end_app`."""
        async with self._users.transaction(user_id) as own:
            rows = await own.execute(
                "UPDATE devices SET revoked_at = ?, refresh_hash = NULL WHERE user_id = ? AND app = ? AND revoked_at IS NULL"
                " RETURNING id",
                (at, user_id, app_id),
            )
            if rows:
                await self._audit.remember(own, [event])
        await self._settle(own)
        return [str(row[0]) for row in rows]

    async def _settle(self, own: Transaction) -> None:
        if own.away:
            await self._audit.settle()

    async def _write(self, sql: str, values: Sequence[object], event: AuditEvent | None) -> list[Row]:
        """Execute one statement at home; what is to be remembered is written if it returned a row."""
        async with self._db.transaction() as transaction:
            rows = await transaction.execute(sql, values)
            if rows and event is not None:
                await self._audit.append(transaction, [event])
        return rows


async def _insert_external(transaction: Transaction, record: ExternalRecord) -> bool:
    rows = await transaction.execute(
        f"INSERT INTO externals ({_EXTERNAL}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",  # nosec B608 - our own names
        (
            record.id, record.user_id, record.issuer, record.subject, record.name, record.created_at, record.last_used_at,
        ),
    )  # fmt: skip
    return bool(rows)


def _external_key(issuer: str, subject: str) -> str:
    """Return what is unique in the whole store; an issuer is a URL, which has no space in it."""
    return f"{issuer} {subject}"


async def _insert_device(transaction: Transaction, device: ScopedDevice) -> None:
    await transaction.execute(
        "INSERT INTO devices (id, user_id, name, address, created_at, last_seen_at, refreshed_at, refresh_family, refresh_hash,"
        " token_hash, app, scopes, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            device.id, device.user_id, device.name, device.address, device.created_at, device.last_seen_at, device.created_at,
            device.refresh_family, device.refresh_hash, device.token_hash, device.app, " ".join(device.scopes),
            device.expires_at,
        ),
    )  # fmt: skip


def _list(texts: list[str]) -> str:
    return msgspec.json.encode(texts).decode()


def _to_app(row: Row) -> AppRecord:
    return AppRecord(row[0], row[1], row[2], _texts(row[3]), _texts(row[4]), bool(row[5]), row[6], row[7])


def _to_code(row: Row) -> CodeRecord:
    return CodeRecord(row[0], row[1], _texts(row[2]), *row[3:])


def _texts(text: str) -> list[str]:
    return msgspec.json.decode(text, type=list[str])
