"""Several servers on one log over a network that loses, doubles and reorders: every connection gets each entry once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar, cast

import pytest

from securechat.bus import memberships as memberships_module
from securechat.bus.sequencer import Sequencer
from securechat.domain.commands import RoomSummary
from securechat.domain.entries import Entry, EntryType, Page
from securechat.domain.ports import LogStore, RoomBatch
from securechat.errors import Unavailable
from securechat.gateway.arrival import Outdated
from securechat.gateway.connection import ClientConnection
from securechat.gateway.hub import Hub
from securechat.ops.metrics import Counters
from securechat.protocol.codec import Block
from support.fakes import principal

T = TypeVar("T")
ROOMS = ("rm_0", "rm_1")
USERS = tuple(f"usr_{name}" for name in ("ana", "bob", "eve"))


class Log:
    """The database: it answers a moment later, and with what was committed when it was asked."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[Entry]] = {room: [] for room in ROOMS}
        self.members: dict[str, set[str]] = {room: set() for room in ROOMS}
        self.down = False
        self.calls: list[str] = []
        self.heard: list[tuple[str, int]] = []

    def append(self, room: str, kind: EntryType = EntryType.MESSAGE_SENT, member: str | None = None) -> RoomBatch:
        entry = Entry(type=kind, room=room, seq=len(self.rooms[room]) + 1, at=1, user="usr_ana", member=member)
        self.rooms[room].append(entry)
        opened = {}
        if kind is EntryType.MEMBER_JOINED:
            assert member is not None
            self.members[room].add(member)
            opened[member] = self.summary(member, room)
        elif kind is EntryType.MEMBER_REMOVED:
            self.members[room].discard(member or "")
        return RoomBatch(room, [entry], opened)

    def summary(self, user: str, room: str) -> RoomSummary:
        role = "member" if user in self.members[room] else None
        return RoomSummary(id=room, kind="private", last_seq=len(self.rooms[room]), role=role)

    async def _answer(self, what: str, found: T) -> T:
        self.calls.append(what)
        if self.down:
            raise Unavailable("down")
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        return found

    async def page(self, room_id: str, *, after: int | None = None, limit: int) -> Page:
        entries = self.rooms[room_id]
        found = entries[-limit:] if after is None else entries[after : after + limit]
        return await self._answer("page", Page(room=room_id, entries=found, last_seq=len(entries)))

    def hear(self, batches: Sequence[RoomBatch], /) -> None:
        self.heard += [(batch.room, entry.seq) for batch in batches for entry in batch.entries]

    def lane(self, _room_id: str, /) -> int:
        return 0

    def refusal(self, _lane: int, /) -> None:
        return None

    async def head(self, user_id: str, room_id: str) -> RoomSummary:
        return await self._answer("head", self.summary(user_id, room_id))

    async def heads(self, user_id: str) -> list[RoomSummary]:
        found = [self.summary(user_id, room) for room in ROOMS if user_id in self.members[room]]
        return await self._answer("heads", found)

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        return await self._answer("newest", {room: len(self.rooms[room]) for room in room_ids if room in self.rooms})

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        found = {user: {room for room in ROOMS if user in self.members[room]} for user in user_ids}
        return await self._answer("rooms_of", found)


class Listener:
    """A connection: it judges each thing that it is told at once."""

    def __init__(self, log: Log, user: str) -> None:
        self.log = log
        self.user = user
        self.principal = principal(user.removeprefix("usr_"))
        self.at: dict[str, int] = {}
        """By room that it hears: the newest seq that it knows."""
        self.heard: list[tuple[str, int]] = []

    def start(self, room: str, seq: int) -> None:
        self.at[room] = seq

    def push(self, block: Block) -> None:
        for frame in cast("list[Any]", block.frames):
            if isinstance(frame, Entry):
                self.hear(frame)
            elif frame.type == "room.opened":
                assert frame.summary.id not in self.at, "opened twice"
                self.at[frame.summary.id] = -1
            else:
                assert frame.type == "room.closed"
                del self.at[frame.room]

    def hear(self, entry: Entry) -> None:
        known = self.at[entry.room]
        if known == -1:
            known = entry.seq - 1  # The first one after it was opened.
        assert entry.seq == known + 1, f"{self.user} knows {known} of {entry.room} and gets {entry.seq}"
        assert self._may(entry), f"{self.user} gets {entry}"
        self.heard.append((entry.room, entry.seq))
        self.at[entry.room] = entry.seq

    def _may(self, entry: Entry) -> bool:
        """Return whether this user was a member when the entry was made; their own removal is the last that they see."""
        inside = False
        for each in self.log.rooms[entry.room][: entry.seq]:
            if each.member == self.user:
                inside = each.type is EntryType.MEMBER_JOINED or each.seq == entry.seq
        return inside

    def push_ephemeral(self, block: Block) -> None:
        pass


class Server:
    """A hub with its sequencer, and who is connected."""

    def __init__(self, log: Log, poll_s: float = 0.003) -> None:
        self.log = log
        self.hub = Hub(asyncio.get_running_loop(), Counters())
        self.sequencer = Sequencer(self.hub, cast("LogStore", log), gap_s=0.0005, poll_s=poll_s, resync_s=1_000)
        self.hub.follower = self.sequencer
        self.listeners: list[Listener] = []
        self.task = asyncio.create_task(self.sequencer.run())

    async def connect(self, user: str) -> Listener:
        listener = Listener(self.log, user)
        connection = cast("ClientConnection", listener)
        self.hub.expect(connection, user, listener.principal.device_id)
        try:
            while True:
                heads = await self.log.heads(user)
                with contextlib.suppress(Outdated):
                    arrival = self.hub.attach(connection, user, {head.id: head.last_seq for head in heads})
                    break
        finally:
            self.hub.forget(connection, user)
        for head in heads:
            listener.start(head.id, head.last_seq)
        # As the gateway does: what was missed is written before what is queued, with nothing in between here.
        for room, after, upto in arrival.missed:
            listener.at.setdefault(room, after)
            for entry in self.log.rooms[room][after:upto]:
                listener.hear(entry)
        for room in arrival.gone:
            listener.at.pop(room, None)
        for summary in arrival.opened:
            listener.at.setdefault(summary.id, -1)
        self.listeners.append(listener)
        return listener

    def disconnect(self, listener: Listener) -> None:
        self.listeners.remove(listener)
        self.hub.detach(cast("ClientConnection", listener), listener.user)

    def is_complete(self) -> bool:
        return all(
            {room: len(self.log.rooms[room]) for room in ROOMS if each.user in self.log.members[room]} == each.at
            for each in self.listeners
        )


@contextlib.asynccontextmanager
async def servers(log: Log, count: int, *, poll_s: float = 0.003) -> AsyncIterator[list[Server]]:
    found = [Server(log, poll_s) for _ in range(count)]
    try:
        yield found
    finally:
        for server in found:
            server.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await server.task


async def until(condition: Callable[[], bool], *servers: Server) -> None:
    async with asyncio.timeout(10):
        while not condition():
            for server in servers:
                if server.task.done():
                    await server.task
            await asyncio.sleep(0.0005)


class Network:
    """Loses, doubles, delays."""

    def __init__(self, servers: list[Server], seed: int) -> None:
        self.servers = servers
        self.random = random.Random(seed)
        self.waiting: list[tuple[Server, RoomBatch]] = []
        self.lost_at: set[int] = set()

    def publish(self, sender: Server, batch: RoomBatch) -> None:
        for number, server in enumerate(self.servers):
            copies = 1 if server is sender else self.random.choice((0, 1, 1, 1, 2))
            if not copies:
                self.lost_at.add(number)
            self.waiting += [(server, batch)] * copies

    def step(self) -> None:
        """Bring one of the messages that wait, whichever."""
        if self.waiting:
            server, batch = self.waiting.pop(self.random.randrange(min(6, len(self.waiting))))
            server.sequencer.deliver([batch])
        if self.lost_at and self.random.random() < 0.2:
            self.servers[self.lost_at.pop()].sequencer.suspect()  # A counter skipped.


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_the_network_does_every_connection_gets_each_entry_once_in_order(seed: int) -> None:
    chance = random.Random(seed)
    random.seed(seed)
    log = Log()
    async with servers(log, 3) as group:
        network = Network(group, seed)
        for room in ROOMS:
            log.append(room, EntryType.ROOM_CREATED)
            log.append(room, EntryType.MEMBER_JOINED, chance.choice(USERS))
        arriving: list[asyncio.Task[Listener]] = []
        for _ in range(150):
            server, room = chance.choice(group), chance.choice(ROOMS)
            match chance.randrange(12):
                case 0 | 1:
                    connect: Coroutine[Any, Any, Listener] = server.connect(chance.choice(USERS))
                    arriving.append(asyncio.create_task(connect))
                case 2 if server.listeners:
                    server.disconnect(chance.choice(server.listeners))
                case 3 | 4:
                    user = chance.choice(USERS)
                    kind = EntryType.MEMBER_REMOVED if user in log.members[room] else EntryType.MEMBER_JOINED
                    network.publish(server, log.append(room, kind, user))
                case 5 | 6 | 7:
                    network.publish(server, log.append(room))
                case _:
                    pass
            for _ in range(chance.randrange(3)):
                network.step()
            await asyncio.sleep(0 if chance.random() < 0.9 else 0.001)
        await asyncio.gather(*arriving)
        while network.waiting or network.lost_at:
            network.step()
        await until(lambda: all(server.is_complete() for server in group), *group)


async def test_where_something_was_lost_one_looks_again_soon() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1, poll_s=1_000) as (server,):
        await server.connect("usr_ana")
        log.append("rm_0")  # The bus says nothing of this one, nor of those after it.
        server.sequencer.suspect()
        await until(server.is_complete, server)
        for _ in range(3):
            log.append("rm_0")
            await until(server.is_complete, server)
        assert log.heard == [("rm_0", seq) for seq in range(2, 6)]  # Else what is written next would stand on something older.


async def test_who_comes_in_while_a_gap_is_read_is_told_which_room_they_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_bob")
    async with servers(log, 1) as (server,):
        await server.connect("usr_bob")
        eve = await server.connect("usr_eve")
        ana = Listener(log, "usr_ana")
        connection = cast("ClientConnection", ana)
        server.hub.expect(connection, "usr_ana", ana.principal.device_id)
        for user in ("usr_ana", "usr_eve"):
            log.append("rm_0", EntryType.MEMBER_JOINED, user)  # Their messages are never to come.
        head = log.head

        async def late(user_id: str, room_id: str) -> RoomSummary:
            found = await head(user_id, room_id)
            if ana not in server.listeners:
                server.hub.attach(connection, "usr_ana", {})  # Her snapshot is older than the join.
                server.listeners.append(ana)
            return found

        monkeypatch.setattr(log, "head", late)
        server.sequencer.deliver([log.append("rm_0")])
        await until(lambda: ana.at.get("rm_0") == eve.at.get("rm_0") == 4, server)


async def test_who_is_let_in_after_a_gap_was_read_hears_the_room_that_they_joined_meanwhile() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_bob")
    async with servers(log, 1) as (server,):
        bob = await server.connect("usr_bob")
        ana = Listener(log, "usr_ana")
        connection = cast("ClientConnection", ana)
        server.hub.expect(connection, "usr_ana", ana.principal.device_id)
        late = log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
        server.sequencer.deliver([log.append("rm_0")])
        await until(lambda: bob.at["rm_0"] == 3, server)
        server.sequencer.deliver([late])
        arrival = server.hub.attach(connection, "usr_ana", {})  # Her snapshot is older than the join.
        assert [(summary.id, arrival.missed) for summary in arrival.opened] == [("rm_0", [("rm_0", 1, 3)])]


async def test_who_was_removed_behind_what_was_heard_first_is_not_let_in_with_an_older_snapshot() -> None:
    """The removal is not here yet, and what follows it is delivered: nobody would hear of the removal in time."""
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana = Listener(log, "usr_ana")
        connection = cast("ClientConnection", ana)
        server.hub.expect(connection, "usr_ana", ana.principal.device_id)
        older = {head.id: head.last_seq for head in await log.heads("usr_ana")}
        log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_ana")
        server.sequencer.deliver([log.append("rm_0")])
        with pytest.raises(Outdated):
            server.hub.attach(connection, "usr_ana", older)
        assert server.hub.is_expected("usr_ana")
        server.hub.attach(connection, "usr_ana", {head.id: head.last_seq for head in await log.heads("usr_ana")})
        server.sequencer.deliver([log.append("rm_0")])  # She would say so.


@pytest.mark.parametrize("devices", [1, 2])
async def test_a_join_that_comes_after_a_snapshot_told_of_it_is_known_to_who_is_let_in_later(devices: int) -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_bob")
    async with servers(log, 1) as (server,):
        ana = Listener(log, "usr_ana")
        connection = cast("ClientConnection", ana)
        server.hub.expect(connection, "usr_ana", ana.principal.device_id)
        late = log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
        await server.connect("usr_bob")
        if devices == 2:
            await server.connect("usr_ana")
        server.sequencer.deliver([late])
        server.hub.attach(connection, "usr_ana", {})  # Her snapshot is older than the join.
        server.listeners.append(ana)
        await until(lambda: ana.at == {"rm_0": 2}, server)


async def test_a_join_that_waits_for_what_comes_before_it_is_not_forgotten_with_a_room_that_nobody_hears() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        await server.connect("usr_ana")
        eve = await server.connect("usr_eve")
        server.sequencer.deliver([log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_ana")])
        message = log.append("rm_0")
        server.sequencer.deliver([log.append("rm_0", EntryType.MEMBER_JOINED, "usr_eve")])
        server.sequencer.settle()  # Somebody came in.
        server.sequencer.deliver([message])
        assert eve.at == {"rm_0": 4}


async def test_a_gap_is_held_until_what_is_missing_comes() -> None:
    log = Log()
    first = log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana = await server.connect("usr_ana")
        second, third, fourth = (log.append("rm_0") for _ in range(3))
        server.sequencer.deliver([third])
        assert ana.at["rm_0"] == 1
        server.sequencer.deliver([second, first, fourth, second])
        assert ana.at["rm_0"] == 4
        assert (server.sequencer.figures.repeated, server.sequencer.figures.healed) == (2, 0)


async def test_what_never_comes_is_read_from_the_log_when_the_store_answers_again() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana = await server.connect("usr_ana")
        log.append("rm_0")
        log.down = True
        server.sequencer.deliver([log.append("rm_0")])
        await until(lambda: log.calls.count("page") + log.calls.count("newest") > 2, server)
        assert ana.at["rm_0"] == 1
        log.down = False
        await until(lambda: ana.at["rm_0"] == 3, server)
        log.append("rm_0")  # Nobody says so: the poll finds it.
        await until(lambda: ana.at["rm_0"] == 4, server)


async def test_a_join_and_a_removal_that_got_lost_are_found_when_a_loss_is_suspected() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana, bob = await server.connect("usr_ana"), await server.connect("usr_bob")
        log.append("rm_1")
        log.append("rm_1", EntryType.MEMBER_JOINED, "usr_bob")  # A room that nobody here hears.
        log.append("rm_1")
        log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_ana")
        server.sequencer.suspect()
        await until(lambda: bob.at == {"rm_1": 3} and ana.at == {}, server)
        assert bob.heard == [("rm_1", 2), ("rm_1", 3)], "from the join on"
        server.sequencer.deliver([log.append("rm_1")])
        assert bob.at == {"rm_1": 4}


async def test_a_join_that_lies_too_far_back_opens_the_room_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    async with servers(log, 1) as (server,):
        bob = await server.connect("usr_bob")
        log.append("rm_1", EntryType.MEMBER_JOINED, "usr_bob")
        monkeypatch.setattr(memberships_module, "PAGE", 3)
        for _ in range(3):
            log.append("rm_1")
        server.sequencer.suspect()
        await until(lambda: bob.at == {"rm_1": -1}, server)
        server.sequencer.deliver([log.append("rm_1")])
        assert bob.heard == [("rm_1", 5)]


async def test_who_wants_to_be_sure_waits_until_everything_is_set_right(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana = await server.connect("usr_ana")
        log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_ana")
        failures, rooms_of = [Unavailable("away", retry_after_ms=1)], log.rooms_of

        async def at_the_second_try(users: list[str]) -> dict[str, set[str]]:
            if failures:
                raise failures.pop()
            return await rooms_of(users)

        monkeypatch.setattr(log, "rooms_of", at_the_second_try)
        await asyncio.wait_for(server.sequencer.sure(), 10)
        assert (ana.at, failures) == ({}, [])


async def test_a_membership_is_not_set_right_by_what_is_older_than_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        await server.connect("usr_ana")
        bob = await server.connect("usr_bob")
        joined = log.append("rm_0", EntryType.MEMBER_JOINED, "usr_bob")
        asked: list[str] = []

        async def head(user_id: str, room_id: str) -> RoomSummary:
            summary = log.summary(user_id, room_id)
            if not asked:  # What is on its way comes while the store answers.
                server.sequencer.deliver([joined, log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_bob")])
            asked.append(room_id)
            return summary

        async def no_gap_is_closed(_room_id: str) -> None:
            """Not meanwhile."""

        monkeypatch.setattr(log, "head", head)
        monkeypatch.setattr(server.sequencer, "_heal", no_gap_is_closed)
        server.sequencer.memberships._doubts.add(("usr_bob", "rm_0"))
        server.sequencer.suspect()
        await until(lambda: len(asked) > 1, server)
        assert bob.at == {}


async def test_a_second_connection_with_an_older_snapshot_still_hears_what_the_first_one_knew() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_bob")
    async with servers(log, 1) as (server,):
        bob = Listener(log, "usr_bob")
        connection = cast("ClientConnection", bob)
        server.hub.expect(connection, "usr_bob", bob.principal.device_id)
        snapshot = await log.heads("usr_bob")
        log.append("rm_0", EntryType.MEMBER_REMOVED, "usr_bob")  # Its message is never to come.
        ana = await server.connect("usr_ana")
        server.hub.attach(connection, "usr_bob", {head.id: head.last_seq for head in snapshot})
        bob.start("rm_0", 2)
        await until(lambda: bob.at == {}, server)
        server.sequencer.deliver([log.append("rm_0")])
        assert ana.at == {"rm_0": 4}


async def test_a_room_that_nobody_hears_costs_nothing() -> None:
    log = Log()
    log.append("rm_0", EntryType.MEMBER_JOINED, "usr_ana")
    async with servers(log, 1) as (server,):
        ana = await server.connect("usr_ana")
        server.sequencer.deliver([log.append("rm_1", EntryType.MEMBER_JOINED, "usr_eve"), log.append("rm_1")])
        assert server.sequencer.followed == 1
        server.disconnect(ana)
        await until(lambda: server.sequencer.followed == 0, server)
