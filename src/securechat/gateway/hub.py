"""Hub: room → local connections. Fan-out never waits.

A block has one audience: a batch is cut at every entry that changes who may read. Who joins at 6 does not get 5; who is removed
at 6 does not get 7.

A connection hears a room from one place of its log on: the newest `seq` that its `ready` told of. Reading that takes time, and
what is committed meanwhile can be delivered before, while or after it is read. So a connection is *expected* first, and what
happens from then on is noted; when it is attached, what it missed is known, and what it knows already lies below its floor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from securechat.domain.accounts import User
from securechat.domain.commands import ReadState, RoomSummary
from securechat.domain.entries import CHANGES_AUDIENCE, PAGE_BYTES, Entry, EntryType, pieces
from securechat.domain.limits import LIMITS
from securechat.domain.ports import RoomBatch, Signal, Typing
from securechat.errors import Unauthorized
from securechat.gateway.arrival import Arrival, Expected, Outdated
from securechat.gateway.connection import ClientConnection
from securechat.gateway.presence_board import PresenceBoard
from securechat.gateway.roster import Presence
from securechat.ops.metrics import Counters
from securechat.protocol.codec import Block
from securechat.protocol.frames import SignalFrame

SURELY_FIT: Final = PAGE_BYTES // (6 * LIMITS.body_bytes + 1_024)
"""So many entries, as they are told live, are never too large for one block."""


class Follower(Protocol):
    """Who brings entries here in the order of their rooms, and therefore wants to know which rooms matter."""

    def follow(self, room_id: str, seq: int) -> None:
        """Somebody hears this room from here on, and knows everything up to `seq`."""

    def since(self, room_id: str) -> int:
        """Return the `seq` after which everything of this room came here, as far as anything did."""

    def unfollow(self, room_id: str) -> None:
        """Nobody hears this room any more."""

    def settle(self) -> None:
        """Nobody is expected any more."""

    async def sure(self) -> None:
        """Return when everybody here hears the rooms that the store says they are in, and no other."""


class Hub:
    """Who listens to what on this server.

    Args:
        loop: For gathering presence, and closing connections in the next turn.
        counters: What is counted.

    Attributes:
        follower: Who is told which rooms are heard here; none where one server commits everything and is in order anyway.
        presence: Who is shown as online, here and to other servers.
        roles_told: How many roles signals told of.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counters) -> None:
        self._loop = loop
        self._counters = counters
        self.follower: Follower | None = None
        self.presence = PresenceBoard(loop, self)
        self.roles_told = 0
        self._rooms: dict[str, dict[ClientConnection, None]] = {}
        self._newest: dict[str, int] = {}
        """The newest `seq` that was delivered: of rooms with an audience, and of all others while somebody is expected."""
        self._floors: dict[str, dict[ClientConnection, int]] = {}
        """By room: what a connection knows already. A floor goes when delivery has passed it."""
        self._expected: dict[str, dict[ClientConnection, Expected]] = {}
        """By user: connections whose snapshot is being read, and what happened since."""
        self._users: dict[str, dict[ClientConnection, None]] = {}
        self._rooms_of = self.presence.rooms_of

    # ── who is here ──────────────────────────────────────────────────────────────────────────────────────────────────

    def expect(self, connection: ClientConnection, user_id: str, device_id: str) -> None:
        """Note from now on what happens to a session, whose user's rooms are about to be read for this connection."""
        self._expected.setdefault(user_id, {})[connection] = Expected(device_id)

    def forget(self, connection: ClientConnection, user_id: str) -> None:
        """Do not expect the connection any more."""
        expected = self._expected.get(user_id, {})
        expected.pop(connection, None)
        if not expected:
            self._expected.pop(user_id, None)
        if not self._expected:
            self._newest = {room_id: seq for room_id, seq in self._newest.items() if room_id in self._rooms}
            if self.follower is not None:
                self.follower.settle()

    def attach(self, connection: ClientConnection, user_id: str, rooms: Mapping[str, int]) -> Arrival:
        """Let a connection hear the rooms of its user, from the `seq` on after which its snapshot ends.

        Raises:
            Unauthorized: Its session ended meanwhile.
            Outdated: See there. Nothing changed.
        """
        expected = self._expected.get(user_id, {}).get(connection)
        if expected is not None and expected.ended:
            raise Unauthorized("The session has ended.")
        if self.follower is not None:
            for room_id, seq in rooms.items():
                if seq < self._newest.get(room_id, 0) and seq < self.follower.since(room_id):
                    raise Outdated  # The user may have been removed in between, and everything after it is delivered already.
        arrival = Arrival(role=expected.role if expected is not None else None)
        places = dict(rooms)
        for room_id, (seq, summary) in expected.rooms.items() if expected is not None else ():
            if summary is None:
                if places.get(room_id, seq) < seq:
                    del places[room_id]
                    arrival.gone.append(room_id)
            elif room_id not in places:
                places[room_id] = seq - 1
                arrival.opened.append(summary)
        for room_id, seq in places.items():
            self._enter(connection, room_id, seq, arrival)
        connections = self._users.setdefault(user_id, {})
        if not connections:
            before, self._rooms_of[user_id] = self._rooms_of.get(user_id, set()), set()
            if self.presence.is_shown(user_id):  # Back before others were told that they went: the rooms may be others.
                self.presence.tell_others({room_id: {user_id: room_id in places} for room_id in sorted(before ^ places.keys())})
            self.presence.changed(user_id)
        connections[connection] = None
        self._rooms_of[user_id].update(places)
        self.forget(connection, user_id)
        return arrival

    def _enter(self, connection: ClientConnection, room_id: str, seq: int, arrival: Arrival) -> None:
        self._rooms.setdefault(room_id, {})[connection] = None
        newest = self._newest.get(room_id, 0)
        if seq < newest:
            arrival.missed.append((room_id, seq, newest))
        else:
            self._floors.setdefault(room_id, {})[connection] = seq
            if self.follower is not None:
                self.follower.follow(room_id, seq)

    def detach(self, connection: ClientConnection, user_id: str) -> None:
        """Forget a connection."""
        connections = self._users.get(user_id)
        if connections is None or connection not in connections:
            return
        del connections[connection]
        for room_id in sorted(self._rooms_of[user_id]):
            self._leave(room_id, (connection,))
        if not connections:
            del self._users[user_id]
            self.presence.changed(user_id)

    def connections_of(self, user_id: str) -> list[ClientConnection]:
        """Return the connections of a user, oldest first."""
        return list(self._users.get(user_id, ()))

    def users(self) -> list[str]:
        """Return everybody who has a connection here."""
        return list(self._users)

    def is_online(self, user_id: str) -> bool:
        """Return whether a user has a connection here."""
        return user_id in self._users

    def is_online_anywhere(self, user_id: str, room_id: str) -> bool:
        """Return whether a member of a room has a connection to any server."""
        others = self.presence.others
        return user_id in self._users or (others is not None and others.is_online(user_id, room_id))

    def online_in(self, rooms: Iterable[str]) -> dict[str, str]:
        """Return who is online in these rooms, at any server."""
        found: dict[str, str] = {}
        rooms = list(rooms)
        for room_id in rooms:
            for connection in self._rooms.get(room_id, ()):
                if connection.principal is not None:
                    found[connection.principal.user_id] = "online"
        if self.presence.others is not None:
            found |= dict.fromkeys(self.presence.others.online_in(rooms), "online")
        return found

    def present(self) -> Presence:
        """Return who is online here: by room, user → True."""
        found: Presence = {}
        for user_id in self._users:
            for room_id in sorted(self._rooms_of[user_id]):
                found.setdefault(room_id, {})[user_id] = True
        return found

    def show_presence(self, presence: Presence) -> None:
        """Show who came and went."""
        for room_id, people in presence.items():
            if people and room_id in self._rooms:
                self._show_in_room(room_id, {user_id: "online" if online else "offline" for user_id, online in people.items()})

    def _show_in_room(self, room_id: str, presence: dict[str, str]) -> None:
        block = Block([SignalFrame(type="presence.changed", presence=presence)])
        for connection in self._rooms.get(room_id, ()):
            connection.push_ephemeral(block)

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
            self.roles_told += 1
            self.change_role(signal.payload)
        block = Block([_signal_frame(signal.payload)])
        audience = self._users.get(signal.user, {}) if signal.user else self._rooms.get(signal.room, {})
        for connection in tuple(audience):  # As in `_send`.
            if signal.except_user and connection.principal is not None and connection.principal.user_id == signal.except_user:
                continue
            if signal.ephemeral:
                connection.push_ephemeral(block)
            else:
                connection.push(block)

    def change_role(self, user: User) -> None:
        """Let a new server role hold on open connections at once, and on those that are being let in."""
        for expected in self._expected.get(user.id, {}).values():
            expected.role = user.role
        for connection in self._users.get(user.id, ()):
            if connection.principal is not None and connection.principal.role is not user.role:
                connection.principal = msgspec.structs.replace(connection.principal, role=user.role)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """Close connections of a user: of these devices, or all; those that are being let in, too."""
        for expected in self._expected.get(user_id, {}).values():
            expected.ended = expected.ended or device_ids is None or expected.device in device_ids
        for connection in list(self._users.get(user_id, ())):
            if device_ids is None or (connection.principal is not None and connection.principal.device_id in device_ids):
                # In the next turn: who ended their own session gets the answer first.
                self._loop.call_soon(connection.close, code, "session ended")

    def _send(self, room_id: str, entries: list[Entry]) -> None:
        if not entries:
            return
        audience = self._rooms.get(room_id)
        if audience or self._expected:
            self._newest[room_id] = entries[-1].seq
        if not audience:
            return
        self._counters.deliveries += len(entries) * len(audience)
        for some in (entries,) if len(entries) <= SURELY_FIT else pieces(entries):
            block = Block(some)
            if not audience:
                return  # The pieces before were too much for everybody.
            floors = self._floors.pop(room_id, None)
            if floors is not None:
                self._send_above(room_id, block, floors)
                continue
            for connection in tuple(audience):  # One that is too slow is closed here, and leaves the audience.
                connection.push(block)

    def _send_above(self, room_id: str, block: Block, floors: dict[ClientConnection, int]) -> None:
        first, last = block.frames[0].seq, block.frames[-1].seq
        higher = {connection: floor for connection, floor in floors.items() if floor > last}
        if higher:
            self._floors[room_id] = higher
        for connection in tuple(self._rooms[room_id]):
            floor = floors.get(connection, 0)
            if floor < first:
                connection.push(block)
            elif floor < last:
                connection.push(Block([entry for entry in block.frames if entry.seq > floor]))

    def _open(self, batch: RoomBatch, entry: Entry) -> None:
        user_id = entry.member or ""
        summary = batch.opened.get(user_id)
        if summary is not None:
            for expected in self._expected.get(user_id, {}).values():
                expected.rooms[entry.room] = (entry.seq, summary)
        inside = self._rooms.get(batch.room, {})
        entering = [each for each in self._users.get(user_id, ()) if each not in inside]  # Others know of it from their snapshot.
        if summary is not None:
            block = Block([SignalFrame(type="room.opened", summary=summary)])
            for connection in entering:
                connection.push(block)
        connections = self._users.get(user_id, {})
        entering = [each for each in entering if each in connections]  # One that was too slow has left by now.
        if entering:
            self._rooms.setdefault(batch.room, {}).update(dict.fromkeys(entering))
            self._rooms_of[user_id].add(batch.room)
            self.presence.tell_others({batch.room: {user_id: True}})

    def _close(self, entry: Entry) -> None:
        user_id = entry.member or ""
        for expected in self._expected.get(user_id, {}).values():
            expected.rooms[entry.room] = (entry.seq, None)
        inside, floors = self._rooms.get(entry.room, {}), self._floors.get(entry.room, {})
        connections = self._users.get(user_id, {})
        leaving = [each for each in connections if each in inside and floors.get(each, 0) < entry.seq]
        if len(leaving) == len(connections) and connections:
            self._rooms_of[user_id].discard(entry.room)
            self.presence.tell_others({entry.room: {user_id: False}})
        self._leave(entry.room, leaving)
        block = Block([SignalFrame(type="room.closed", room=entry.room)])
        for connection in leaving:
            connection.push(block)

    def _leave(self, room_id: str, connections: Iterable[ClientConnection]) -> None:
        audience = self._rooms.get(room_id)
        if audience is None:
            return
        floors = self._floors.get(room_id)
        for connection in connections:
            audience.pop(connection, None)
            if floors:
                floors.pop(connection, None)
        if floors is not None and not floors:
            del self._floors[room_id]
        if not audience:
            del self._rooms[room_id]
            if not self._expected:
                self._newest.pop(room_id, None)
            if self.follower is not None:
                self.follower.unfollow(room_id)

    # ── several servers: what was missed ─────────────────────────────────────────────────────────────────────────────

    @property
    def expecting(self) -> bool:
        """Whether a snapshot is being read: then every room may matter."""
        return bool(self._expected)

    def is_expected(self, user_id: str) -> bool:
        """Return whether a snapshot is being read for a connection of a user: it may be older than what comes now."""
        return user_id in self._expected

    def hears(self, room_id: str) -> bool:
        """Return whether somebody here hears a room."""
        return room_id in self._rooms

    def rooms_of(self, user_id: str) -> tuple[set[str], set[str]]:
        """Return (rooms that all connections of a user hear, rooms that one of them hears)."""
        connections = self._users.get(user_id, {})
        some = {room_id for room_id in self._rooms_of.get(user_id, ()) if room_id in self._rooms} if connections else set()
        every = {room_id for room_id in some if all(each in self._rooms[room_id] for each in connections)}
        return every, some

    def admit(self, user_id: str, summary: RoomSummary, entries: Sequence[Entry] = ()) -> None:
        """Let a user hear a room from `summary.last_seq` on: they joined, and the entry that said so did not come here.

        Args:
            user_id: Who.
            summary: The room as it is.
            entries: What they missed of it since they joined, up to `summary.last_seq`.
        """
        room_id, inside = summary.id, self._rooms.get(summary.id, {})
        opened = Block([SignalFrame(type="room.opened", summary=summary)])
        blocks = [opened, *map(Block, pieces(list(entries)))] if entries else [opened]
        for connection in [each for each in self._users.get(user_id, ()) if each not in inside]:
            for block in blocks:
                connection.push(block)
            if connection in self._users.get(user_id, {}):  # One that was too slow has left by now.
                self._enter(connection, room_id, summary.last_seq, Arrival())
                if room_id not in self._rooms_of[user_id]:
                    self._rooms_of[user_id].add(room_id)
                    self.presence.tell_others({room_id: {user_id: True}})

    def expel(self, user_id: str, room_id: str) -> None:
        """Let a user not hear a room any more: they are no member, and the entry that said so did not come here."""
        inside = self._rooms.get(room_id, {})
        leaving = [each for each in self._users.get(user_id, ()) if each in inside]
        if leaving:
            self._rooms_of[user_id].discard(room_id)
            self.presence.tell_others({room_id: {user_id: False}})
        self._leave(room_id, leaving)
        block = Block([SignalFrame(type="room.closed", room=room_id)])
        for connection in leaving:
            connection.push(block)


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
