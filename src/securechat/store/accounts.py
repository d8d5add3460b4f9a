"""People, bots, devices, invitations and links in SQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from securechat.domain.accounts import Device, Role, User, words_of
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import BotCommand, Invite
from securechat.domain.ports import Account, DeviceRecord, LinkRecord, SessionRecord
from securechat.errors import NameTaken, Unavailable
from securechat.store.account_rows import DEVICE, DEVICE_WIDTH, of, to_command, to_device, to_invite, to_session
from securechat.store.audit import SqlAudit
from securechat.store.database import Database, Duplicate, Row, Transaction
from securechat.store.locking import lock_owners, lock_user
from securechat.store.names import claim
from securechat.store.rows import name_key, to_user

_USER: Final = "id, username, display_name, role, disabled_at"
_WORDS: Final = "replace(replace(replace(' ' || username || ' ' || name_key, '.', ' '), '-', ' '), '_', ' ')"
"""All words of both names, a space before each: what `domain.accounts.fits` compares."""
_ESCAPE: Final = "!"
RETRY_MS: Final = 1_000
_INVITE: Final = "code, uses_left, expires_at, rooms, created_by"


class SqlAccounts:
    """The accounts' half of the store. Each writing method is one transaction.

    Args:
        database: The open database.
        audit: The audit log in it.
    """

    def __init__(self, database: Database, audit: SqlAudit | None = None) -> None:
        self._db = database
        self._users = database.users
        self._audit = audit or SqlAudit(database)
        self._events: tuple[AuditEvent, ...] = ()

    def recording(self, *events: AuditEvent) -> SqlAccounts:
        """See `AccountStore.recording`."""
        found = SqlAccounts(self._db, self._audit)
        found._events = events
        return found

    async def create_user(self, user: User, password_hash: str | None, at: int) -> None:
        """See `AccountStore.create_user`."""
        try:
            async with self._transaction() as transaction:
                await claim(transaction, "username", user.username, user.id)
                await transaction.execute(
                    "INSERT INTO users (id, username, display_name, name_key, role, password_hash, created_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (user.id, user.username, user.display_name, name_key(user.display_name), user.role.value, password_hash, at),
                )
        except Duplicate as error:
            raise NameTaken(f"The username {user.username} is taken.", field="username") from error

    async def account(self, *, user_id: str = "", username: str = "") -> Account | None:
        """See `AccountStore.account`."""
        rows = await self._db.read(
            f"SELECT {_USER}, password_hash FROM users WHERE {'id' if user_id else 'username'} = ?",
            (user_id or username,),
        )
        return Account(to_user(rows[0]), rows[0][5]) if rows else None

    async def users(self, user_ids: Collection[str]) -> list[User]:
        """See `AccountStore.users`."""
        if not user_ids:
            return []
        marks = ", ".join("?" * len(user_ids))
        return [to_user(row) for row in await self._db.read(f"SELECT {_USER} FROM users WHERE id IN ({marks})", tuple(user_ids))]

    async def find_users(self, *, query: str = "", after: str = "", limit: int) -> list[User]:
        """See `AccountStore.find_users`."""
        patterns = [f"% {word.replace(_ESCAPE, _ESCAPE * 2).replace('%', _ESCAPE + '%')}%" for word in words_of(query)]
        fitting = "".join(f" AND {_WORDS} LIKE ? ESCAPE '{_ESCAPE}'" for _ in patterns)
        rows = await self._db.read(
            f"SELECT {_USER} FROM users WHERE username > ?{fitting} ORDER BY username <> ?, username LIMIT ?",
            (after, *patterns, name_key(query), limit),
        )
        return [to_user(row) for row in rows]

    async def count_users(self) -> int:
        """See `AccountStore.count_users`."""
        return int((await self._db.read("SELECT count(*) FROM users WHERE role <> 'bot'"))[0][0])

    async def update_user(
        self,
        user_id: str,
        *,
        display_name: str | None = None,
        password_hash: str | None = None,
        role: Role | None = None,
        disabled_at: int | None = None,
        enable: bool = False,
    ) -> bool:
        """See `AccountStore.update_user`."""
        sql = (
            "UPDATE users SET display_name = coalesce(?, display_name), name_key = coalesce(?, name_key),"
            " password_hash = coalesce(?, password_hash), role = coalesce(?, role),"
            " disabled_at = CASE WHEN ? THEN NULL ELSE coalesce(?, disabled_at) END WHERE id = ? RETURNING id"
        )
        values = (
            display_name,
            None if display_name is None else name_key(display_name),
            password_hash,
            None if role is None else role.value,
            enable,
            disabled_at,
            user_id,
        )
        if password_hash is None:
            return bool(await self._write(sql, values))
        # Whose sessions cannot be ended now keeps the password: they would be told that it failed, and old sessions would go on.
        async with self._both(user_id) as (home, _):
            return bool(await home.execute(sql, values))

    async def set_role(self, user_id: str, role: Role) -> bool:
        """See `AccountStore.set_role`."""
        async with self._transaction() as transaction:
            await lock_owners(transaction)
            rows = await transaction.execute(
                "UPDATE users SET role = ? WHERE id = ? AND (role <> 'owner' OR ? = 'owner' OR EXISTS (SELECT 1 FROM users o"
                " WHERE o.role = 'owner' AND o.disabled_at IS NULL AND o.id <> users.id)) RETURNING id",
                (role.value, user_id, role.value),
            )
        return bool(rows)

    async def create_device(
        self,
        device: Device,
        user_id: str,
        *,
        refresh_hash: str | None = None,
        refresh_family: str | None = None,
        token_hash: str | None = None,
        password_hash: str | None = None,
        passkey: str | None = None,
    ) -> bool:
        """See `AccountStore.create_device`."""
        at = device.created_at
        async with self._both(user_id) as (home, own):
            user = await lock_user(home, user_id)
            if user is None or (user[1] is not None and token_hash is None) or password_hash not in {None, user[0]}:
                return False
            rows = await own.execute(
                "INSERT INTO devices (id, user_id, name, address, created_at, last_seen_at, refreshed_at, refresh_family,"
                " refresh_hash, token_hash, confirmed_at) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
                " WHERE CAST(? AS TEXT) IS NULL OR EXISTS (SELECT 1 FROM passkeys WHERE id = ? AND user_id = ?) RETURNING id",
                (
                    device.id, user_id, device.name, device.address, at, at, at, refresh_family, refresh_hash, token_hash,
                    at if refresh_hash else 0, passkey, passkey, user_id,
                ),
            )  # fmt: skip
        return bool(rows)

    async def device(self, device_id: str) -> DeviceRecord | None:
        """See `AccountStore.device`."""
        return await self._find_device("id = ?", (device_id,))

    async def session(
        self, *, user_id: str = "", device_id: str = "", token_hash: str = "", blocks: bool = False
    ) -> SessionRecord | None:
        """See `AccountStore.session`."""
        where, values = ("d.id = ?", [device_id]) if device_id else ("d.token_hash = ?", [token_hash])
        if user_id:  # Then one of sixteen partitions is looked into: a tenth of the time, for each who comes.
            where, values = f"{where} AND d.user_id = ?", [*values, user_id]
        if self._users.spread:
            return await self._spread_session(user_id, where, values, blocks=blocks)
        blocked = ("b.blocked", " LEFT JOIN blocks b ON b.user_id = u.id") if blocks else ("NULL", "")
        rows = await self._db.read(
            f"SELECT {of('d', DEVICE)}, {of('u', _USER)}, {blocked[0]} FROM devices d JOIN users u ON u.id = d.user_id"
            f"{blocked[1]} WHERE {where}",
            values,
        )
        return to_session(rows, rows[0][DEVICE_WIDTH:]) if rows else None

    async def _spread_session(self, user_id: str, where: str, values: Sequence[str], *, blocks: bool) -> SessionRecord | None:
        """Find a session where its user's rows are, then the user at home.

        Both are as they were at a moment after this began: a session that had ended, or an account that was locked, is found so.
        """
        blocked = ("b.blocked", " LEFT JOIN blocks b ON b.user_id = d.user_id") if blocks else ("NULL AS blocked", "")
        wanted = f"{of('d', DEVICE)}, {blocked[0]} FROM devices d{blocked[1]} WHERE {where}"
        if user_id:
            rows = await self._users.read(user_id, f"SELECT {wanted}", values)
        else:
            rows = await self._find(f"d.user_id AS owner, {wanted}", values)
        users = await self._db.read(f"SELECT {_USER} FROM users WHERE id = ?", (rows[0][1],)) if rows else []
        return to_session(rows, users[0]) if users else None

    async def device_by_family(self, family_hash: str) -> DeviceRecord | None:
        """See `AccountStore.device_by_family`."""
        return await self._find_device("refresh_family = ?", (family_hash,))

    async def rotate_refresh(self, user_id: str, device_id: str, old_hash: str, new_hash: str, at: int, address: str) -> bool:
        """See `AccountStore.rotate_refresh`."""
        rows = await self._write_own(
            user_id,
            "UPDATE devices SET refresh_hash = ?, previous_hash = ?, refreshed_at = ?, last_seen_at = ?, address = ?"
            " WHERE user_id = ? AND id = ? AND refresh_hash = ? AND revoked_at IS NULL RETURNING id",
            (new_hash, old_hash, at, at, address, user_id, device_id, old_hash),
        )
        return bool(rows)

    async def devices(self, user_id: str) -> list[Device]:
        """See `AccountStore.devices`."""
        rows = await self._users.read(
            user_id,
            "SELECT id, name, created_at, last_seen_at, address FROM devices WHERE user_id = ? AND revoked_at IS NULL"
            " AND app IS NULL ORDER BY created_at DESC, id",
            (user_id,),
        )
        return [Device(id=row[0], name=row[1], created_at=row[2], last_seen_at=row[3], address=row[4]) for row in rows]

    async def revoke_devices(self, user_id: str, device_id: str | None, at: int, *, keep: str | None = None) -> list[str]:
        """See `AccountStore.revoke_devices`."""
        rows = await self._write_own(
            user_id,
            "UPDATE devices SET revoked_at = ?, refresh_hash = NULL, token_hash = NULL"
            " WHERE user_id = ? AND revoked_at IS NULL AND id = coalesce(?, id) AND id IS DISTINCT FROM ? RETURNING id",
            (at, user_id, device_id, keep),
        )
        return [str(row[0]) for row in rows]

    async def create_invite(self, invite: Invite, created_by: str) -> None:
        """See `AccountStore.create_invite`."""
        await self._write(
            "INSERT INTO invites (code, created_by, uses_left, expires_at, rooms) VALUES (?, ?, ?, ?, ?)",
            (invite.code, created_by, invite.uses_left, invite.expires_at, msgspec.json.encode(invite.rooms).decode()),
        )

    async def invite(self, code: str, at: int) -> tuple[Invite, str] | None:
        """See `AccountStore.invite`."""
        rows = await self._db.read(
            f"SELECT {_INVITE} FROM invites WHERE code = ? AND uses_left > 0 AND expires_at > ?",
            (code, at),
        )
        return (to_invite(rows[0]), str(rows[0][4])) if rows else None

    async def use_invite(self, code: str, at: int) -> bool:
        """See `AccountStore.use_invite`."""
        rows = await self._write(
            "UPDATE invites SET uses_left = uses_left - 1 WHERE code = ? AND uses_left > 0 AND expires_at > ? RETURNING code",
            (code, at),
        )
        return bool(rows)

    async def unuse_invite(self, code: str) -> None:
        """See `AccountStore.unuse_invite`."""
        await self._write("UPDATE invites SET uses_left = uses_left + 1 WHERE code = ?", (code,))

    async def invites(self, at: int) -> list[Invite]:
        """See `AccountStore.invites`."""
        rows = await self._db.read(
            f"SELECT {_INVITE} FROM invites WHERE uses_left > 0 AND expires_at > ? ORDER BY expires_at DESC, code",
            (at,),
        )
        return [to_invite(row) for row in rows]

    async def revoke_invite(self, code: str) -> bool:
        """See `AccountStore.revoke_invite`."""
        return bool(await self._write("DELETE FROM invites WHERE code = ? RETURNING code", (code,)))

    async def create_link(self, token_hash: str, link: LinkRecord) -> None:
        """See `AccountStore.create_link`."""
        async with self._transaction() as transaction:
            await transaction.execute(
                "DELETE FROM links WHERE kind = ? AND user_id IS NOT DISTINCT FROM ?", (link.kind, link.user_id)
            )
            await transaction.execute(
                "INSERT INTO links (token_hash, kind, user_id, expires_at) VALUES (?, ?, ?, ?)",
                (token_hash, link.kind, link.user_id, link.expires_at),
            )

    async def use_link(self, token_hash: str, kind: str, at: int) -> LinkRecord | None:
        """See `AccountStore.use_link`."""
        rows = await self._write(
            "DELETE FROM links WHERE token_hash = ? AND kind = ? RETURNING kind, user_id, expires_at", (token_hash, kind)
        )
        return LinkRecord(rows[0][0], rows[0][1], rows[0][2]) if rows and rows[0][2] > at else None

    async def set_block(self, user_id: str, blocked: str, *, on: bool) -> None:
        """See `AccountStore.set_block`."""
        if on:
            sql = "INSERT INTO blocks (user_id, blocked) VALUES (?, ?) ON CONFLICT DO NOTHING"
        else:
            sql = "DELETE FROM blocks WHERE user_id = ? AND blocked = ?"
        await self._write_own(user_id, sql, (user_id, blocked))

    async def blocks(self, user_id: str) -> list[str]:
        """See `AccountStore.blocks`."""
        rows = await self._users.read(user_id, "SELECT blocked FROM blocks WHERE user_id = ? ORDER BY blocked", (user_id,))
        return [str(row[0]) for row in rows]

    async def every_block(self) -> dict[str, set[str]]:
        """See `AccountStore.every_block`."""
        rows, whole = await self._users.read_all("SELECT user_id, blocked FROM blocks")
        if not whole:
            raise _incomplete()
        found: dict[str, set[str]] = {}
        for user_id, blocked in rows:
            found.setdefault(user_id, set()).add(blocked)
        return found

    async def set_commands(self, bot: str, commands: Sequence[BotCommand]) -> None:
        """See `AccountStore.set_commands`."""
        async with self._own(bot) as own:
            await own.execute("DELETE FROM commands WHERE user_id = ?", (bot,))
            await own.execute_many(
                "INSERT INTO commands (user_id, name, definition) VALUES (?, ?, ?)",
                [(bot, command.name, msgspec.json.encode(command).decode()) for command in commands],
            )

    async def commands(self, room_id: str) -> list[BotCommand]:
        """See `AccountStore.commands`."""
        place = self._db.for_room(room_id)
        if self._users.spread or place is not self._db:  # The room is in another database than what hangs off its members.
            found = {row[0] for row in await place.read("SELECT user_id FROM members WHERE room_id = ?", (room_id,))}
            rows, whole = await self._users.read_all("SELECT user_id, name, definition FROM commands")
            if not whole:
                raise _incomplete()
            locked = await self._db.read("SELECT id FROM users WHERE role = 'bot' AND disabled_at IS NOT NULL", ())
            found -= {row[0] for row in locked}
            return [to_command((row[2], row[0])) for row in sorted(rows, key=lambda row: (row[1], row[0])) if row[0] in found]
        rows = await self._db.read(
            "SELECT c.definition, c.user_id FROM commands c JOIN members m ON m.user_id = c.user_id"
            " JOIN users u ON u.id = c.user_id WHERE m.room_id = ? AND u.disabled_at IS NULL ORDER BY c.name, c.user_id",
            (room_id,),
        )
        return [to_command(row) for row in rows]

    async def setting(self, key: str) -> str | None:
        """See `AccountStore.setting`."""
        rows = await self._db.read("SELECT value FROM settings WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    async def set_setting(self, key: str, value: str) -> None:
        """See `AccountStore.set_setting`."""
        await self._write(
            "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        """Give a transaction at home that takes along what is to be remembered, if it changes anything."""
        async with self._db.transaction() as transaction:
            yield transaction
            noted = await self._note(transaction, changed=transaction.changed)
        if noted:
            self._events = ()

    @asynccontextmanager
    async def _own(self, user_id: str) -> AsyncIterator[Transaction]:
        """As `_transaction`, where the rows of a user are."""
        async with self._users.transaction(user_id) as own:
            yield own
            noted = await self._note(own, changed=own.changed)
        await self._noted(own, noted=noted)

    @asynccontextmanager
    async def _both(self, user_id: str) -> AsyncIterator[tuple[Transaction, Transaction]]:
        """As `_transaction`, at home and where the rows of a user are."""
        async with self._users.transactions(user_id) as (home, own):
            yield home, own
            noted = await self._note(own if own.changed else home, changed=home.changed + own.changed)
        await self._noted(own, noted=noted)

    async def _note(self, transaction: Transaction, *, changed: int) -> bool:
        noted = bool(changed and self._events)
        if noted:
            await self._audit.remember(transaction, self._events)
        return noted

    async def _noted(self, own: Transaction, *, noted: bool) -> None:
        if noted:
            self._events = ()
            if own.away:
                await self._audit.settle()

    async def _write(self, sql: str, values: Sequence[object]) -> list[Row]:
        async with self._transaction() as transaction:
            return await transaction.execute(sql, values)

    async def _write_own(self, user_id: str, sql: str, values: Sequence[object]) -> list[Row]:
        async with self._own(user_id) as own:
            return await own.execute(sql, values)

    async def _find_device(self, where: str, values: Sequence[object]) -> DeviceRecord | None:
        rows = await self._find(f"user_id AS owner, {DEVICE} FROM devices WHERE {where}", values)
        return to_device(rows[0]) if rows else None

    async def _find(self, wanted: str, values: Sequence[object]) -> list[Row]:
        """Return rows of whoever's they are.

        Args:
            wanted: What follows SELECT. The first column says whose a row is, and is left out.
            values: Of the query.

        Raises:
            Unavailable: There are none, and a database in which there may be some does not answer: nobody is told that a session
                has ended because of that.
        """
        rows, whole = await self._users.read_all(f"SELECT {wanted}", values)
        if not rows and not whole:
            raise _incomplete()
        return [row[1:] for row in rows]


def _incomplete() -> Unavailable:
    return Unavailable("A database in which it may be does not answer.", retry_after_ms=RETRY_MS)
