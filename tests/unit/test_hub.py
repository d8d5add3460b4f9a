"""Fan-out: who gets which entry, and what a slow connection costs."""

from __future__ import annotations

import asyncio
from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest

from securechat.domain.accounts import Role, User
from securechat.domain.commands import RoomSummary
from securechat.domain.entries import PAGE_BYTES, Entry, EntryType
from securechat.domain.limits import LIMITS
from securechat.domain.ports import RoomBatch, Signal, Typing
from securechat.errors import Unauthorized, Unavailable
from securechat.gateway.arrival import Arrival
from securechat.gateway.connection import ClientConnection
from securechat.gateway.fence import Fence
from securechat.gateway.hub import Hub
from securechat.gateway.message_queue import MessageQueue
from securechat.gateway.roster import Presence, Roster
from securechat.gateway.standing import Standing
from securechat.gateway.writer import TurnWriter
from securechat.ops.metrics import Counters
from securechat.protocol.codec import Block, Form
from support.fakes import ManualClock, principal


class Listener:
    """Stands for a connection."""

    def __init__(self, name: str) -> None:
        self.principal = principal(name)
        self.blocks: list[Block] = []
        self.ephemeral: list[Block] = []
        self.name = name

    def push(self, block: Block) -> None:
        self.blocks.append(block)

    def push_ephemeral(self, block: Block) -> None:
        self.ephemeral.append(block)

    @property
    def told(self) -> list[Any]:
        return [getattr(frame, "seq", None) or frame.type for block in self.blocks for frame in block.frames]


def entry(seq: int, kind: EntryType = EntryType.MESSAGE_SENT, member: str | None = None) -> Entry:
    return Entry(type=kind, room="rm_1", seq=seq, at=1, user="usr_ana", member=member)


def attach(hub: Hub, name: str, *rooms: str) -> Listener:
    listener = Listener(name)
    hub.attach(cast("ClientConnection", listener), f"usr_{name}", dict.fromkeys(rooms, 0))
    return listener


@pytest.fixture
async def hub() -> Hub:
    return Hub(asyncio.get_running_loop(), Counters())


async def test_everybody_in_the_room_gets_the_same_block_the_sender_too(hub: Hub) -> None:
    ana, bob, eve = attach(hub, "ana", "rm_1"), attach(hub, "bob", "rm_1"), attach(hub, "eve", "rm_2")
    hub.deliver([RoomBatch("rm_1", [entry(4), entry(5)])])

    assert ana.told == bob.told == [4, 5]
    assert ana.blocks[0] is bob.blocks[0]
    assert eve.told == []


async def test_a_large_batch_of_large_messages_is_told_in_blocks_that_fit_into_a_record(hub: Hub) -> None:
    ana = attach(hub, "ana", "rm_1")
    body = "\x01" * LIMITS.body_bytes
    batch = [Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=seq, at=1, user="usr_ana", body=body) for seq in range(1, 301)]
    hub.deliver([RoomBatch("rm_1", batch)])

    assert ana.told == list(range(1, 301))
    assert max(len(block.message(Form.PACKED_JSON)) for block in ana.blocks) < PAGE_BYTES


async def test_who_joins_at_6_does_not_get_5(hub: Hub) -> None:
    ana, bob = attach(hub, "ana", "rm_1"), attach(hub, "bob")
    summary = RoomSummary(id="rm_1", kind="public")
    batch = RoomBatch("rm_1", [entry(5), entry(6, EntryType.MEMBER_JOINED, "usr_bob"), entry(7)], {"usr_bob": summary})
    hub.deliver([batch])

    assert ana.told == [5, 6, 7]
    assert bob.told == ["room.opened", 6, 7]


@pytest.mark.parametrize("kind", [EntryType.MEMBER_REMOVED, EntryType.MEMBER_LEFT])
async def test_who_is_removed_at_6_does_not_get_7(hub: Hub, kind: EntryType) -> None:
    ana, bob = attach(hub, "ana", "rm_1"), attach(hub, "bob", "rm_1")
    hub.deliver([RoomBatch("rm_1", [entry(5), entry(6, kind, "usr_bob"), entry(7)])])
    hub.deliver([RoomBatch("rm_1", [entry(8)])])

    assert ana.told == [5, 6, 7, 8]
    assert bob.told == [5, 6, "room.closed"]


async def test_who_is_removed_and_comes_back_in_one_batch_misses_what_was_between(hub: Hub) -> None:
    attach(hub, "ana", "rm_1")
    bob = attach(hub, "bob", "rm_1")
    entries = [entry(6, EntryType.MEMBER_REMOVED, "usr_bob"), entry(7), entry(8, EntryType.MEMBER_JOINED, "usr_bob"), entry(9)]
    hub.deliver([RoomBatch("rm_1", entries)])

    assert bob.told == [6, "room.closed", 8, 9]


async def test_a_detached_connection_gets_nothing_and_leaves_nothing_behind(hub: Hub) -> None:
    bob = attach(hub, "bob", "rm_1", "rm_2")
    hub.detach(cast("ClientConnection", bob), "usr_bob")
    hub.deliver([RoomBatch("rm_1", [entry(5)])])

    assert bob.told == []
    assert hub._rooms == hub._users == {}


# ── a snapshot takes time to be read ─────────────────────────────────────────────────────────────────────────────────


def expect(hub: Hub, name: str) -> Listener:
    listener = Listener(name)
    hub.expect(cast("ClientConnection", listener), f"usr_{name}", f"dev_{name}1")
    return listener


def arrive(hub: Hub, listener: Listener, **rooms: int) -> Arrival:
    return hub.attach(cast("ClientConnection", listener), f"usr_{listener.name}", rooms)


def deliver(hub: Hub, *entries: Entry, opened: dict[str, RoomSummary] | None = None) -> None:
    hub.deliver([RoomBatch("rm_1", list(entries), opened or {})])


@pytest.mark.parametrize("others", [0, 1])
async def test_what_the_snapshot_told_of_is_not_delivered_again(hub: Hub, others: int) -> None:
    present = [attach(hub, "ana", "rm_1") for _ in range(others)]
    bob = expect(hub, "bob")
    arrival = arrive(hub, bob, rm_1=6)  # The snapshot was faster than the bus.
    deliver(hub, entry(5))
    deliver(hub, entry(6), entry(7))
    deliver(hub, entry(8))

    assert arrival.missed == []
    assert bob.told == [7, 8]
    assert all(each.told == [5, 6, 7, 8] for each in present)
    assert not hub._floors


@pytest.mark.parametrize("others", [0, 1])
async def test_what_was_delivered_after_the_snapshot_is_missed_and_known(hub: Hub, others: int) -> None:
    for _ in range(others):
        attach(hub, "ana", "rm_1")
    bob = expect(hub, "bob")
    deliver(hub, entry(5), entry(6))
    arrival = arrive(hub, bob, rm_1=4)
    deliver(hub, entry(7))

    assert arrival.missed == [("rm_1", 4, 6)]
    assert bob.told == [7]


async def test_who_is_removed_while_the_snapshot_is_read_hears_nothing(hub: Hub) -> None:
    attach(hub, "ana", "rm_1")
    bob = expect(hub, "bob")
    deliver(hub, entry(6, EntryType.MEMBER_REMOVED, "usr_bob"))
    arrival = arrive(hub, bob, rm_1=5)
    deliver(hub, entry(7))

    assert arrival.gone == ["rm_1"]
    assert bob.told == []


async def test_a_removal_that_the_snapshot_knows_of_does_not_count_again(hub: Hub) -> None:
    attach(hub, "ana", "rm_1")
    bob = expect(hub, "bob")
    arrive(hub, bob, rm_1=7)  # Removed at 6, back at 7: the bus is behind.
    deliver(hub, entry(6, EntryType.MEMBER_REMOVED, "usr_bob"))
    deliver(hub, entry(7, EntryType.MEMBER_JOINED, "usr_bob"), opened={"usr_bob": RoomSummary(id="rm_1", kind="public")})
    deliver(hub, entry(8))

    assert bob.told == [8]


async def test_who_joins_while_the_snapshot_is_read_hears_the_room(hub: Hub) -> None:
    attach(hub, "ana", "rm_1")
    bob = expect(hub, "bob")
    summary = RoomSummary(id="rm_1", kind="public")
    deliver(hub, entry(5), entry(6, EntryType.MEMBER_JOINED, "usr_bob"), entry(7), opened={"usr_bob": summary})
    arrival = arrive(hub, bob)
    deliver(hub, entry(8))

    assert arrival.opened == [summary]
    assert arrival.missed == [("rm_1", 5, 7)]
    assert bob.told == [8]


@pytest.mark.parametrize(("devices", "ends"), [({"dev_bob1"}, True), (None, True), ({"dev_bob2"}, False)])
async def test_a_session_that_ends_while_the_snapshot_is_read_lets_nobody_in(
    hub: Hub, devices: set[str] | None, *, ends: bool
) -> None:
    attach(hub, "ana", "rm_1")
    bob = expect(hub, "bob")
    hub.disconnect(user_id="usr_bob", device_ids=devices, code=4401)
    if ends:
        with pytest.raises(Unauthorized):
            arrive(hub, bob, rm_1=5)
    else:
        arrive(hub, bob, rm_1=5)
    deliver(hub, entry(6))

    assert bob.told == ([] if ends else [6])


async def test_a_role_that_changes_while_the_snapshot_is_read_is_known(hub: Hub) -> None:
    bob = expect(hub, "bob")
    hub.show(Signal(payload=User(id="usr_bob", username="bob", display_name="Bob", role=Role.GUEST), user="usr_bob"))

    assert arrive(hub, bob).role is Role.GUEST


async def test_what_is_noted_for_those_who_are_expected_goes_with_them(hub: Hub) -> None:
    bob = expect(hub, "bob")
    deliver(hub, entry(5))
    hub.forget(cast("ClientConnection", bob), "usr_bob")

    assert not hub._newest
    assert not hub._expected


async def test_typing_goes_to_the_others_only(hub: Hub) -> None:
    ana, bob = attach(hub, "ana", "rm_1"), attach(hub, "bob", "rm_1")
    hub.show(Signal(Typing("rm_1", "usr_ana"), room="rm_1", except_user="usr_ana"))

    assert (len(ana.ephemeral), len(bob.ephemeral)) == (0, 1)


async def test_a_storm_of_logins_is_one_presence_signal_per_room(hub: Hub) -> None:
    watcher = attach(hub, "ana", "rm_1")
    for number in range(50):
        attach(hub, f"user{number}", "rm_1")
    hub.presence._show()

    assert len(watcher.ephemeral) == 1
    assert len(cast("Any", watcher.ephemeral[0].frames[0]).presence) == 51


def test_a_queue_gives_answers_then_events_in_order_then_ephemerals() -> None:
    queue = MessageQueue()
    queue.put_ephemeral(b"E")
    assert queue.put(b"first")
    assert queue.put(b"second")
    assert queue.put_frame(b'{"a":1}')

    assert queue.take(Form.JSON) == [b'\x81\x09[{"a":1}]', b"first", b"second", b"E"]
    assert queue.take(Form.JSON) == []
    assert queue.size == 0


def test_a_block_is_queued_by_reference() -> None:
    queue, block = MessageQueue(), b"x" * 1_000
    queue.put(block)

    assert queue.take(Form.JSON)[0] is block


def test_a_full_queue_sheds_ephemerals_first() -> None:
    queue = MessageQueue()
    queue.put_ephemeral(b"e" * 1_000)

    assert queue.put(b"m" * (LIMITS.queue_bytes - 500))
    assert queue.take(Form.JSON)[-1][-1:] == b"m"


def test_answers_are_packed_for_a_record() -> None:
    queue = MessageQueue()
    queue.put_frame(b'{"a":1}')

    assert queue.take(Form.PACKED_JSON) == [b'\x00\x00\x00\x09[{"a":1}]']


@pytest.mark.parametrize(("size", "fits"), [(1, LIMITS.queue_blocks), (LIMITS.queue_bytes // 4, 4)])
def test_a_queue_has_a_limit_in_bytes_and_in_blocks(size: int, fits: int) -> None:
    queue = MessageQueue()
    results = [queue.put(b"x" * size) for _ in range(fits + 1)]

    assert results == [True] * fits + [False]


async def test_a_connection_is_flushed_once_per_turn_however_much_it_got() -> None:
    writer = TurnWriter(asyncio.get_running_loop(), Fence(ManualClock()))
    flushed: list[str] = []

    class Connection:
        def flush(self) -> None:
            flushed.append("flush")

    writer.mark(Connection())
    writer.mark(Connection())
    assert flushed == []
    await asyncio.sleep(0)
    assert flushed == ["flush", "flush"]


class ManualLoop:
    """A loop whose time a test moves; what is to be called later is called by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, _call: Any) -> float:
        return delay_s


def test_who_comes_and_goes_all_the_time_is_shown_at_most_once_in_three_seconds() -> None:
    loop = ManualLoop()
    hub = Hub(cast("Any", loop), Counters())
    watcher = attach(hub, "ana", "rm_1")
    flapping = attach(hub, "bob", "rm_1")
    for _ in range(20):  # Ten seconds, a change every half second.
        hub.presence._show()
        loop.now += 0.5
        if hub.is_online("usr_bob"):
            hub.detach(cast("ClientConnection", flapping), "usr_bob")
        else:
            flapping = attach(hub, "bob", "rm_1")
    loop.now += 4
    hub.presence._show()
    shown = [cast("Any", block.frames[0]).presence.get("usr_bob") for block in watcher.ephemeral]

    assert len([each for each in shown if each]) <= 5
    assert shown[-1] == "online"
    assert hub.is_online("usr_bob")


async def test_a_role_that_changes_changes_on_open_connections(hub: Hub) -> None:
    ana, bob = attach(hub, "ana", "rm_1"), attach(hub, "bob", "rm_1")
    hub.show(Signal(User(id="usr_ana", username="ana", display_name="Ana", role=Role.ADMIN), user="usr_ana", ephemeral=False))

    assert (ana.principal.role, bob.principal.role) == (Role.ADMIN, Role.MEMBER)
    assert ana.told == ["user.updated"]


async def test_other_servers_are_told_of_memberships_that_were_set_right(hub: Hub) -> None:
    told: list[Presence] = []
    hub.presence.others = Roster(hub.present, hub.is_online, hub.show_presence, told.append)
    attach(hub, "ana")
    hub.admit("usr_ana", RoomSummary(id="rm_1", kind="private", last_seq=3))
    hub.admit("usr_ana", RoomSummary(id="rm_1", kind="private", last_seq=3))
    hub.expel("usr_ana", "rm_1")
    hub.expel("usr_ana", "rm_1")
    assert told == [{"rm_1": {"usr_ana": True}}, {"rm_1": {"usr_ana": False}}]


async def test_other_servers_are_told_what_changed_while_somebody_was_away_for_a_moment(hub: Hub) -> None:
    told: list[Presence] = []
    hub.presence.others = Roster(hub.present, hub.is_online, hub.show_presence, told.append)
    ana = attach(hub, "ana", "rm_1", "rm_2")
    hub.presence._show()
    hub.detach(cast("ClientConnection", ana), "usr_ana")
    attach(hub, "ana", "rm_2", "rm_3")
    assert told == [
        {"rm_1": {"usr_ana": True}, "rm_2": {"usr_ana": True}},
        {"rm_1": {"usr_ana": False}, "rm_3": {"usr_ana": True}},
    ]


async def test_a_role_that_was_read_does_not_undo_one_that_came_meanwhile(hub: Hub) -> None:
    """Which of the two is newer nobody knows: so it is read again."""
    ana = attach(hub, "ana", "rm_1")
    user = User(id="usr_ana", username="ana", display_name="Ana", role=Role.ADMIN)
    hub.show(Signal(user, room="rm_1", ephemeral=False))
    reads = 0

    class Accounts:
        async def users(self, _ids: list[str]) -> list[User]:
            nonlocal reads
            reads += 1
            if reads == 1:
                hub.show(Signal(msgspec.structs.replace(user, role=Role.MEMBER), room="rm_1", ephemeral=False))
                return [user]
            return [msgspec.structs.replace(user, role=Role.MEMBER)]

    nothing = cast("Any", MagicMock())
    standing = Standing(hub, nothing, cast("Any", Accounts()), nothing, ManualClock())
    await standing._read_roles()
    assert (ana.principal.role, reads) == (Role.MEMBER, 2)


async def test_roles_that_could_not_be_read_are_read_the_next_time(hub: Hub) -> None:
    ana = attach(hub, "ana", "rm_1")
    failures = [OSError("could not open file"), Unavailable("away", retry_after_ms=1)]

    class Accounts:
        async def users(self, _ids: list[str]) -> list[User]:
            if failures:
                raise failures.pop(0)
            return [User(id="usr_ana", username="ana", display_name="Ana", role=Role.ADMIN)]

    async def nobody(_within_ms: int) -> list[tuple[str, str]]:
        return []

    standing = Standing(hub, cast("Any", MagicMock()), cast("Any", Accounts()), nobody, ManualClock())
    standing.roles_changed("usr_ana")
    with pytest.raises(OSError, match="could not open"):
        await standing.look()
    await standing.look()
    await standing.look()
    assert ana.principal.role is Role.ADMIN
