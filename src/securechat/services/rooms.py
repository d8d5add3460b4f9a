"""RoomService: create, find, enter, leave, change rooms and their members."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import OPERATOR, Principal, Role, clean_name
from securechat.domain.audit import by
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ids import ALPHABET, ROOM
from securechat.domain.limits import LIMITS
from securechat.domain.ports import AccountStore, LogStore, LogTransaction
from securechat.domain.rooms import RoomKind, RoomRole, RoomState
from securechat.errors import Ambiguous, Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from securechat.services.room_log import Operation, RoomLog

AMBIGUOUS_SHOWN: Final = 10
"""Rooms that are named when a name fits several."""


def _several(name: str, found: Sequence[c.RoomSummary]) -> str:
    """Return what somebody is told whose words fit several rooms."""
    listed = ", ".join(f"#{room.name} ({room.id}, {room.kind})" for room in found)
    return f"Several rooms fit {name}: {listed}. Write its name exactly, or its id."


def direct_room_id(one: str, other: str) -> str:
    """Return the id of the direct room of two users: the same whoever asks first, so that there can only be one."""
    digest = int.from_bytes(hashlib.blake2b(":".join(sorted((one, other))).encode(), digest_size=10).digest(), "big")
    return ROOM + "_" + "".join(ALPHABET[(digest >> shift) & 31] for shift in range(0, 80, 5))


class RoomService:
    """Everything about rooms but the messages in them.

    Args:
        room_log: Where changes go.
        log_store: Where rooms are read.
        accounts: Where people are read.
        new_id: Makes ids.
        is_online: Whether a user, who is a member of a room, has a connection.
    """

    def __init__(
        self,
        room_log: RoomLog,
        log_store: LogStore,
        accounts: AccountStore,
        new_id: Callable[[str], str],
        is_online: Callable[[str, str], bool],
    ) -> None:
        self._room_log = room_log
        self._log_store = log_store
        self._accounts = accounts
        self._new_id = new_id
        self._is_online = is_online

    async def create(self, who: Principal, command: c.RoomCreate) -> c.RoomSummary:
        """Create a room with its first members."""
        policy.require(who, "room.create")
        name = clean_name(command.name.removeprefix("#"), "name")
        topic = clean_name(command.topic, "topic", most=LIMITS.topic_chars) if command.topic.strip() else ""
        room_id = self._new_id(ROOM)
        others = [user_id for user_id in dict.fromkeys(command.members) if user_id != who.user_id]
        await self._require_users(others)
        await self._require_space([*others, who.user_id])

        def decide(transaction: LogTransaction, now: int) -> None:
            writer = _Writer(transaction, room_id, who, now)
            writer.add(EntryType.ROOM_CREATED, kind=command.kind, name=name, topic=topic)
            if who.role is not Role.OPERATOR:
                writer.add(EntryType.MEMBER_JOINED, member=who.user_id, role=RoomRole.OWNER.value)
            for user_id in others:
                writer.add(EntryType.MEMBER_JOINED, member=user_id, role=RoomRole.MEMBER.value)
            transaction.record(by(who, "room.create", room=room_id, kind=command.kind, members=len(others)))

        await self._room_log.perform(Operation(decide, room_id))
        return await self._summary(who, room_id)

    async def direct(self, who: Principal, command: c.RoomDirect) -> c.RoomSummary:
        """Open the direct room with somebody."""
        policy.require(who, "room.direct")
        if command.user == who.user_id:
            raise InvalidInput("A direct room is with somebody else.", field="user")
        await self._require_users([command.user])
        if who.role is Role.GUEST and not await self._meet(who.user_id, command.user):
            raise NotFound(f"No user {command.user}.")
        if who.user_id in await self._accounts.blocks(command.user):
            raise Forbidden("This person does not take messages from you.")
        room_id = direct_room_id(who.user_id, command.user)
        if await self._log_store.room(room_id, user_id=who.user_id) is None:
            await self._require_space([who.user_id, command.user])

        def decide(transaction: LogTransaction, now: int) -> None:
            if transaction.room(room_id) is not None:
                return
            writer = _Writer(transaction, room_id, who, now)
            writer.add(EntryType.ROOM_CREATED, kind=RoomKind.DIRECT.value, name="", topic="")
            for user_id in (who.user_id, command.user):
                writer.add(EntryType.MEMBER_JOINED, member=user_id, role=RoomRole.MEMBER.value)

        await self._room_log.perform(Operation(decide, room_id))
        return await self._summary(who, room_id)

    async def update(self, who: Principal, command: c.RoomUpdate) -> c.RoomSummary:
        """Change a room's name or topic."""
        name = None if command.name is None else clean_name(command.name.removeprefix("#"), "name")
        topic = command.topic
        if topic is not None:
            topic = clean_name(topic, "topic", most=LIMITS.topic_chars) if topic.strip() else ""

        def decide(transaction: LogTransaction, now: int) -> None:
            room = policy.require_in(who, "room.update", transaction.room(command.room), command.room)
            if name is not None:
                policy.require_in(who, "room.rename", room, command.room)
            if topic is not None:
                policy.require_in(who, "room.topic", room, command.room)
            new_name = None if name == room.name else name
            new_topic = None if topic == room.topic else topic
            if new_name is not None or new_topic is not None:
                _Writer(transaction, room.id, who, now).add(EntryType.ROOM_UPDATED, name=new_name, topic=new_topic)
                event = by(who, "room.update", room=room.id, name=new_name is not None, topic=new_topic is not None)
                transaction.record(event)

        await self._room_log.perform(Operation(decide, command.room))
        return await self._summary(who, command.room)

    async def join(self, who: Principal, command: c.RoomJoin) -> c.RoomSummary:
        """Join a public room; being in it already is fine."""
        await self._require_space([who.user_id])

        def decide(transaction: LogTransaction, now: int) -> None:
            room = policy.require_in(who, "room.join", transaction.room(command.room), command.room)
            _add_member(transaction, room, who, who.user_id, now)

        await self._room_log.perform(Operation(decide, command.room))
        return await self._summary(who, command.room)

    async def leave(self, who: Principal, command: c.RoomLeave) -> c.Done:
        """Leave a room."""

        def decide(transaction: LogTransaction, now: int) -> None:
            room = policy.require_in(who, "room.leave", transaction.room(command.room), command.room)
            _Writer(transaction, room.id, who, now).add(EntryType.MEMBER_LEFT, member=who.user_id)

        await self._room_log.perform(Operation(decide, command.room))
        return c.Done()

    async def bring_in(self, user_id: str, room_ids: Sequence[str]) -> None:
        """Add somebody to rooms as the server itself: what an invitation promised."""
        for room_id in room_ids:
            await self.add(OPERATOR.at("server"), c.MemberAdd(room=room_id, user=user_id))

    async def add(self, who: Principal, command: c.MemberAdd) -> c.Done:
        """Bring somebody in; their being in it already is fine."""
        # A room that is not theirs to see answers before the person does: neither says that the other exists.
        policy.require_in(who, "member.add", await self._log_store.room(command.room, user_id=who.user_id), command.room)
        await self._require_users([command.user])
        await self._require_space([command.user])

        def decide(transaction: LogTransaction, now: int) -> None:
            room = policy.require_in(who, "member.add", transaction.room(command.room), command.room)
            if _add_member(transaction, room, who, command.user, now):
                transaction.record(by(who, "member.add", subject=command.user, room=room.id))

        await self._room_log.perform(Operation(decide, command.room))
        return c.Done()

    async def remove(self, who: Principal, command: c.MemberRemove) -> c.Done:
        """Remove somebody who stands below."""
        role = await self._role_of(command.user)

        def decide(transaction: LogTransaction, now: int) -> None:
            room = self._with_target(who, "member.remove", transaction.room(command.room), command, role)
            _Writer(transaction, room.id, who, now).add(EntryType.MEMBER_REMOVED, member=command.user)
            transaction.record(by(who, "member.remove", subject=command.user, room=room.id))

        await self._room_log.perform(Operation(decide, command.room))
        return c.Done()

    async def change_role(self, who: Principal, command: c.MemberRole) -> c.Done:
        """Give a member another role; having it already is fine."""
        role = await self._role_of(command.user)
        wanted = RoomRole(command.role)

        def decide(transaction: LogTransaction, now: int) -> None:
            grant = policy.LEVEL[wanted]
            room = self._with_target(who, "member.role", transaction.room(command.room), command, role, grant=grant)
            if not policy.may_hold(role, wanted):
                raise Forbidden(f"A {role.value} cannot be {wanted.value} of a room.")
            if not policy.keeps_an_owner(room, command.user, wanted):
                raise Conflict("A room keeps an owner: make somebody else owner first.")
            if room.members[command.user] is not wanted:
                _Writer(transaction, room.id, who, now).add(EntryType.MEMBER_CHANGED, member=command.user, role=wanted.value)
                transaction.record(by(who, "member.role", subject=command.user, room=room.id, role=wanted.value))

        await self._room_log.perform(Operation(decide, command.room))
        return c.Done()

    async def permit(self, who: Principal, command: c.RoomPermit) -> c.RoomSummary:
        """Say which role an action needs here."""
        if command.action not in policy.OPEN:
            raise InvalidInput(f"A room decides about {', '.join(sorted(policy.OPEN))}.", field="action")

        def decide(transaction: LogTransaction, now: int) -> None:
            room = policy.require_in(who, "room.permit", transaction.room(command.room), command.room)
            found = {action: role.value for action, role in room.permissions.items() if action != command.action}
            if command.role is not None:
                found[command.action] = command.role
            if found != room.permissions:
                _Writer(transaction, room.id, who, now).add(EntryType.ROOM_UPDATED, permissions=found)
                transaction.record(by(who, "room.permit", room=room.id, right=command.action, role=command.role or "default"))

        await self._room_log.perform(Operation(decide, command.room))
        return await self._summary(who, command.room)

    async def list_members(self, who: Principal, command: c.MemberList) -> c.Members:
        """List the members of a room."""
        room = await self._log_store.room(command.room, user_id=who.user_id)
        policy.require_in(who, "member.list", room, command.room)
        found = await self._log_store.members(command.room, after=command.cursor, limit=command.limit + 1)
        more = len(found) > command.limit
        found = found[: command.limit]
        return c.Members(
            members=[
                c.Member(user=user, role=role.value, presence="online" if self._is_online(user.id, command.room) else "offline")
                for user, role in sorted(found, key=lambda each: (each[0].display_name.casefold(), each[0].username))
            ],
            next_cursor=found[-1][0].id if more else None,
        )

    async def list_own(self, who: Principal, _command: c.RoomList) -> c.Rooms:
        """List one's own rooms; the operator sees public ones with `room.browse`."""
        return await self._log_store.heads(who.user_id)

    async def browse(self, who: Principal, command: c.RoomBrowse) -> c.Rooms:
        """List public rooms."""
        policy.require(who, "room.browse")
        found = await self._log_store.browse(
            user_id=who.user_id, query=command.query.removeprefix("#"), after=command.cursor, limit=command.limit + 1
        )
        rooms = found.rooms[: command.limit]
        more = len(found.rooms) > command.limit
        return c.Rooms(rooms=rooms, next_cursor=rooms[-1].name if more else None, complete=found.complete)

    async def get(self, who: Principal, command: c.RoomGet) -> c.RoomSummary:
        """Get a room that one may see."""
        return await self._summary(who, command.room)

    async def lookup(self, who: Principal, command: c.RoomLookup) -> c.RoomSummary:
        """Find a room by name."""
        name = clean_name(command.name.removeprefix("#"), "name")
        found = await self._log_store.lookup(who.user_id, name)
        if not found:
            raise NotFound(f"No room {name} that you can see.")
        fitting = [await self._summary(who, room_id, command.name) for room_id in found[:AMBIGUOUS_SHOWN]]
        if len(found) > 1:
            raise Ambiguous(_several(name, fitting))
        return fitting[0]

    async def list_commands(self, who: Principal, command: c.CommandList) -> c.BotCommands:
        """List what the bots of a room answer to."""
        policy.require_in(who, "command.list", await self._log_store.room(command.room, user_id=who.user_id), command.room)
        return c.BotCommands(commands=await self._accounts.commands(command.room))

    async def _summary(self, who: Principal, room_id: str, what: str = "") -> c.RoomSummary:
        what = what or room_id
        policy.require_in(who, "room.get", await self._log_store.room(room_id, user_id=who.user_id), what)
        summary = await self._log_store.head(who.user_id, room_id)
        if summary is None:
            raise NotFound(f"No room {what} that you can see.")
        return summary

    async def _role_of(self, user_id: str) -> Role:
        account = await self._accounts.account(user_id=user_id) if user_id else None
        return Role.GUEST if account is None else account.user.role

    @staticmethod
    def _with_target(
        who: Principal, action: str, room: RoomState | None, command: c.MemberRemove | c.MemberRole, role: Role, *, grant: int = -1
    ) -> RoomState:
        """Return the room if somebody may do this to one of its members."""
        oneself = command.user == who.user_id and action == "member.role"
        target = -1 if room is None or oneself else policy.level(command.user, role, room)
        room = policy.require_in(who, action, room, command.room, target=target, grant=grant)
        if command.user not in room.members:
            raise NotFound("This person is not a member.")
        return room

    async def _meet(self, one: str, other: str) -> bool:
        """Return whether two people are in a room together."""
        rooms = await self._log_store.heads(one)
        for summary in rooms.rooms:
            room = await self._log_store.room(summary.id, user_id=other)
            if room is not None and other in room.members:
                return True
        if not rooms.complete:
            raise Unavailable("A database in which they may meet does not answer.", retry_after_ms=1_000)
        return False

    async def _require_space(self, user_ids: list[str]) -> None:
        for user_id in user_ids:
            if await self._log_store.count_rooms(user_id) >= LIMITS.rooms:
                raise Conflict(f"Nobody is in more than {LIMITS.rooms} rooms.")

    async def _require_users(self, user_ids: list[str]) -> None:
        found = {user.id for user in await self._accounts.users(user_ids) if not user.disabled}
        for user_id in user_ids:
            if user_id not in found:
                raise NotFound(f"No user {user_id}.")


class _Writer:
    """Append entries of one room, one after the other."""

    __slots__ = ("_now", "_room_id", "_transaction", "_who")

    def __init__(self, transaction: LogTransaction, room_id: str, who: Principal, now: int) -> None:
        self._transaction = transaction
        self._room_id = room_id
        self._who = who
        self._now = now

    def add(
        self,
        entry_type: EntryType,
        *,
        member: str | None = None,
        role: str | None = None,
        kind: str | None = None,
        name: str | None = None,
        topic: str | None = None,
        permissions: dict[str, str] | None = None,
    ) -> None:
        room = self._transaction.room(self._room_id)
        # Whom the operator brings in, an invitation mostly, joins: nobody in the room knows the operator.
        joins = entry_type is EntryType.MEMBER_JOINED and self._who.role is Role.OPERATOR
        self._transaction.append(
            Entry(
                type=entry_type,
                room=self._room_id,
                seq=(room.last_seq if room else 0) + 1,
                at=self._now,
                user=member if joins and member else self._who.user_id,
                member=member,
                role=role,
                kind=kind,
                name=name,
                topic=topic,
                permissions=permissions,
            )
        )


def _add_member(transaction: LogTransaction, room: RoomState, who: Principal, user_id: str, now: int) -> bool:
    """Add a member; return whether they were not one already."""
    if user_id in room.members:
        return False
    if len(room.members) >= LIMITS.members:
        raise Conflict(f"A room has at most {LIMITS.members} members.")
    _Writer(transaction, room.id, who, now).add(EntryType.MEMBER_JOINED, member=user_id, role=RoomRole.MEMBER.value)
    return True
