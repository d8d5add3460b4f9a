"""Hub: room → local connections. Fan-out never waits.

A block has one audience: a batch is cut at every entry that changes who may read. Who joins at 6 does not get 5; who is removed
at 6 does not get 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from securechat.domain.accounts import User
from securechat.domain.commands import ReadState, RoomSummary
from securechat.domain.entries import CHANGES_AUDIENCE, Entry, EntryType
from securechat.domain.ports import RoomBatch, Signal, Typing
from securechat.gateway.connection import ClientConnection
from securechat.ops.metrics import Counters
from securechat.protocol.codec import Block
from securechat.protocol.frames import SignalFrame

PRESENCE_DELAY_S: Final = 0.5
"""Changes of presence gather this long: a storm of logins becomes one signal per room."""
FLAP_S: Final = 3.0
"""Who comes and goes all the time is shown at most once in this time, as what they are in the end."""


class Hub:
    """Who listens to what on this server.

    Args:
        loop: For gathering presence.
        counters: What is counted.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counters) -> None:
        self._loop = loop
        self._counters = counters
        self._rooms: dict[str, dict[ClientConnection, None]] = {}
        self._users: dict[str, dict[ClientConnection, None]] = {}
        self._rooms_of: dict[str, set[str]] = {}
        self._presence: dict[str, None] = {}
        self._shown: set[str] = set()
        self._shown_at: dict[str, float] = {}
        self._presence_timer: asyncio.TimerHandle | None = None

    # ── who is here ──────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, connection: ClientConnection, user_id: str, rooms: Iterable[str]) -> None:
        """Let a connection hear the rooms of its user."""
        for room_id in rooms:
            self._rooms.setdefault(room_id, {})[connection] = None
        connections = self._users.setdefault(user_id, {})
        if not connections:
            self._rooms_of[user_id] = set()
            self._changed(user_id)
        connections[connection] = None
        self._rooms_of[user_id].update(rooms)

    def detach(self, connection: ClientConnection, user_id: str) -> None:
        """Forget a connection."""
        connections = self._users.get(user_id)
        if connections is None or connection not in connections:
            return
        del connections[connection]
        for room_id in self._rooms_of[user_id]:
            self._leave(room_id, (connection,))
        if not connections:
            del self._users[user_id]
            self._changed(user_id)

    def connections_of(self, user_id: str) -> list[ClientConnection]:
        """Return the connections of a user, oldest first."""
        return list(self._users.get(user_id, ()))

    def is_online(self, user_id: str) -> bool:
        """Return whether a user has a connection here."""
        return user_id in self._users

    def online_among(self, user_ids: Iterable[str]) -> dict[str, str]:
        """Return the presence of those who are online."""
        return {user_id: "online" for user_id in user_ids if user_id in self._users}

    def online_in(self, rooms: Iterable[str]) -> dict[str, str]:
        """Return who is online in these rooms."""
        found: dict[str, str] = {}
        for room_id in rooms:
            for connection in self._rooms.get(room_id, ()):
                if connection.principal is not None:
                    found[connection.principal.user_id] = "online"
        return found

    # ── fan-out ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def deliver(self, batches: Sequence[RoomBatch]) -> None:
        """Send committed entries to those who may read them."""
        for batch in batches:
            stretch: list[Entry] = []
            for entry in batch.entries:
                if entry.type not in CHANGES_AUDIENCE:
                    stretch.append(entry)
                elif entry.type is EntryType.MEMBER_JOINED:
                    self._send(batch.room, stretch)
                    self._open(batch, entry)
                    stretch = [entry]
                else:
                    self._send(batch.room, [*stretch, entry])
                    self._close(entry)
                    stretch = []
            self._send(batch.room, stretch)

    def show(self, signal: Signal) -> None:
        """Send a signal to those whom it is for."""
        if isinstance(signal.payload, User):
            self._change_role(signal.payload)
        block = Block([_signal_frame(signal.payload)])
        audience = self._users.get(signal.user, {}) if signal.user else self._rooms.get(signal.room, {})
        for connection in tuple(audience):  # As in `_send`.
            if signal.except_user and connection.principal is not None and connection.principal.user_id == signal.except_user:
                continue
            if signal.ephemeral:
                connection.push_ephemeral(block)
            else:
                connection.push(block)

    def _change_role(self, user: User) -> None:
        """Let a new server role hold on open connections at once."""
        for connection in self._users.get(user.id, ()):
            if connection.principal is not None and connection.principal.role is not user.role:
                connection.principal = msgspec.structs.replace(connection.principal, role=user.role)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """Close connections of a user: of these devices, or all."""
        for connection in list(self._users.get(user_id, ())):
            if device_ids is None or (connection.principal is not None and connection.principal.device_id in device_ids):
                # In the next turn: who ended their own session gets the answer first.
                self._loop.call_soon(connection.close, code, "session ended")

    def _send(self, room_id: str, entries: list[Entry]) -> None:
        audience = self._rooms.get(room_id)
        if not entries or not audience:
            return
        block = Block(entries)
        self._counters.deliveries += len(entries) * len(audience)
        for connection in tuple(audience):  # One that is too slow is closed here, and leaves the audience.
            connection.push(block)

    def _open(self, batch: RoomBatch, entry: Entry) -> None:
        user_id = entry.member or ""
        connections = self._users.get(user_id)
        if not connections:
            return
        summary = batch.opened.get(user_id)
        if summary is not None:
            block = Block([SignalFrame(type="room.opened", summary=summary)])
            for connection in tuple(connections):
                connection.push(block)
            if not connections:
                return
        self._rooms.setdefault(batch.room, {}).update(connections)
        self._rooms_of[user_id].add(batch.room)

    def _close(self, entry: Entry) -> None:
        user_id = entry.member or ""
        connections = self._users.get(user_id)
        if not connections:
            return
        self._leave(entry.room, connections)
        self._rooms_of[user_id].discard(entry.room)
        block = Block([SignalFrame(type="room.closed", room=entry.room)])
        for connection in tuple(connections):
            connection.push(block)

    def _leave(self, room_id: str, connections: Iterable[ClientConnection]) -> None:
        audience = self._rooms.get(room_id)
        if audience is None:
            return
        for connection in connections:
            audience.pop(connection, None)
        if not audience:
            del self._rooms[room_id]

    # ── presence ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self, user_id: str) -> None:
        self._presence[user_id] = None
        if self._presence_timer is None:
            self._presence_timer = self._loop.call_later(PRESENCE_DELAY_S, self._show_presence)

    def _show_presence(self) -> None:
        self._presence_timer = None
        by_room: dict[str, dict[str, str]] = {}
        now = self._loop.time()
        flapping = {user_id: None for user_id in self._presence if now - self._shown_at.get(user_id, -FLAP_S) < FLAP_S}
        for user_id in self._presence:
            if user_id in flapping:
                continue
            online = user_id in self._users
            if online == (user_id in self._shown):
                continue  # Came and went, or the other way round, while it gathered.
            self._shown_at[user_id] = now
            (self._shown.add if online else self._shown.discard)(user_id)
            for room_id in self._rooms_of.get(user_id, ()):
                by_room.setdefault(room_id, {})[user_id] = "online" if online else "offline"
            if not online:
                self._rooms_of.pop(user_id, None)
        self._presence = flapping
        self._shown_at = {user_id: at for user_id, at in self._shown_at.items() if now - at < FLAP_S}
        if flapping:
            self._presence_timer = self._loop.call_later(PRESENCE_DELAY_S, self._show_presence)
        for room_id, presence in by_room.items():
            self._show_in_room(room_id, presence)

    def _show_in_room(self, room_id: str, presence: dict[str, str]) -> None:
        block = Block([SignalFrame(type="presence.changed", presence=presence)])
        for connection in self._rooms.get(room_id, ()):
            connection.push_ephemeral(block)


def _signal_frame(payload: Any) -> SignalFrame:
    match payload:
        case Typing(room=room, user=user):
            return SignalFrame(type="typing.started", room=room, user=user)
        case ReadState():
            return SignalFrame(type="read.updated", room=payload.room, read_seq=payload.read_seq, unread=payload.unread)
        case User():
            return SignalFrame(type="user.updated", user=payload.id, person=payload)
        case RoomSummary():
            return SignalFrame(type="room.opened", summary=payload)
    raise TypeError(type(payload))
