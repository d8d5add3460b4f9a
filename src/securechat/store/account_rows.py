"""Rows of accounts and what they stand for: devices, sessions, bots' commands, invitations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from securechat.domain.commands import BotCommand, Invite
from securechat.domain.ports import DeviceRecord, SessionRecord
from securechat.store.database import Row
from securechat.store.rows import to_user

DEVICE: Final = "id, user_id, revoked_at, refresh_hash, previous_hash, refreshed_at, address, app, scopes, expires_at"
DEVICE_WIDTH: Final = len(DEVICE.split())


def of(table: str, columns: str) -> str:
    """Return columns as those of a table."""
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


def to_session(rows: Sequence[Row], user: Row) -> SessionRecord:
    """Make a session of rows that begin with `DEVICE` and end with somebody who is blocked, or nobody."""
    blocked = sorted(row[-1] for row in rows if row[-1] is not None)
    return SessionRecord(to_device(rows[0][:DEVICE_WIDTH]), to_user(user), blocked)


def to_device(row: Sequence[Any]) -> DeviceRecord:
    """Make a device of the columns `DEVICE`."""
    device_id, user_id, revoked_at, refresh_hash, previous_hash, refreshed_at, address, app, scopes, expires_at = row
    return DeviceRecord(
        device_id, user_id, revoked_at is not None, refresh_hash, previous_hash, refreshed_at, address, app,
        None if app is None else frozenset(str(scopes or "").split()), expires_at,
    )  # fmt: skip


def to_command(row: Row) -> BotCommand:
    """Make a command of the columns `definition, user_id`."""
    return msgspec.structs.replace(msgspec.json.decode(row[0], type=BotCommand), bot=row[1])


def to_invite(row: Row) -> Invite:
    """Make an invitation of the columns `code, uses_left, expires_at, rooms`."""
    return Invite(code=row[0], uses_left=row[1], expires_at=row[2], rooms=msgspec.json.decode(row[3], type=list[str]))
