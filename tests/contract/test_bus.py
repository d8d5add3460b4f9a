"""The contract of `MessageBus`: in one process, over one Redis, over a cluster of three."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import msgspec
import pytest

from securechat.bus import redis as redis_module
from securechat.bus.envelope import Batch, Bye, Disconnect, Sign, Stale, seal
from securechat.bus.links import Links
from securechat.bus.local import LocalBus
from securechat.bus.nodes import look
from securechat.bus.redis import RedisBus
from securechat.bus.sequencer import Sequencer
from securechat.domain.accounts import Role, User
from securechat.domain.breaker import PAUSE_S, BreakerState
from securechat.domain.commands import ReadState, RoomSummary
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import BLOCKS, MessageBus, RoomBatch, Signal, Typing
from securechat.server.clock import SystemClock
from support.ports import free_port
from support.redis import RedisCluster, RedisNode, cluster, one_node
from support.waiting import until

KEY = b"0123456789abcdef0123456789abcdef"


class Receiver:
    """Stands for a hub and its sequencer: it takes everything."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.suspected = 0

    def wants(self, _room_id: str, _joined: object) -> bool:
        return True

    def deliver(self, batches: Sequence[RoomBatch]) -> None:
        self.got += batches

    def receive(self, batches: Sequence[RoomBatch]) -> None:
        self.got += batches

    def show(self, signal: Signal) -> None:
        self.got.append(signal)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        self.got.append((user_id, device_ids, code))

    def suspect(self) -> None:
        self.suspected += 1


class Site:
    """A server's bus, with what came."""

    def __init__(self, bus: Any, receiver: Receiver) -> None:
        self.bus: MessageBus = bus
        self.receiver = receiver

    @property
    def redis(self) -> RedisBus:
        assert isinstance(self.bus, RedisBus)
        return self.bus


def has(site: Site, count: int) -> bool:
    return len(site.receiver.got) == count


@contextlib.asynccontextmanager
async def site(url: str, prefix: str, key: bytes = KEY) -> AsyncIterator[Site]:
    receiver = Receiver()
    bus = RedisBus(url, key, cast("Sequencer", receiver), SystemClock(), prefix=prefix)
    task = asyncio.create_task(bus.run())
    try:
        yield Site(bus, receiver)
    finally:
        await bus.leave()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="module")
def node() -> Iterator[RedisNode]:
    with one_node() as found:
        yield found


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisCluster]:
    with cluster() as found:
        yield found


@pytest.fixture(params=["local", "node", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "local":
        return ""
    return str(request.getfixturevalue("node" if request.param == "node" else "nodes").url)


@pytest.fixture
async def sites(url: str) -> AsyncIterator[list[Site]]:
    """Two servers; with the bus of one process, the same one twice."""
    if not url:
        receivers = [Receiver(), Receiver()]
        bus = LocalBus()
        for each in receivers:
            bus.attach(each)
        yield [Site(bus, each) for each in receivers]
        return
    prefix = secrets.token_hex(4)
    async with site(url, prefix) as one, site(url, prefix) as two:
        await until(lambda: knows_all(one, two) and knows_all(two, one))
        yield [one, two]


def knows_all(site_: Site, other: Site) -> bool:
    """Return whether a server is connected, and heard another one on each channel: on the first message it may be in doubt."""
    peer = site_.redis._peers.get(other.redis.sender)
    return peer is not None and len(peer.numbers) == len(site_.redis._channels) and not site_.redis.links.problem


def message(room: str, seq: int, **more: Any) -> Entry:
    return Entry(type=EntryType.MESSAGE_SENT, room=room, seq=seq, at=1, user="usr_ana", device="dev_1", cmid=f"c{seq}", **more)


async def test_everybody_gets_what_was_committed_as_it_was_and_in_its_order(sites: list[Site]) -> None:
    summary = RoomSummary(id="rm_1", kind="private", last_seq=2, members=2, role="member", permissions={"message.send": "member"})
    joined = Entry(type=EntryType.MEMBER_JOINED, room="rm_1", seq=2, at=1, user="usr_ana", member="usr_bob", role="member")
    batches = [
        RoomBatch("rm_1", [message("rm_1", 1, body="a \U0001f600 text"), joined], {"usr_bob": summary}),
        *(RoomBatch(f"rm_{number}", [message(f"rm_{number}", 1)]) for number in range(2, 40)),
    ]
    sites[0].bus.publish(batches)
    assert sites[0].receiver.got == batches, "nobody here waits for anything"
    sites[0].bus.publish([RoomBatch("rm_1", [message("rm_1", 3)])])
    for each in sites:
        await until(partial(has, each, len(batches) + 1))
        assert [batch.entries for batch in each.receiver.got if batch.room == "rm_1"] == [batches[0].entries, [message("rm_1", 3)]]
        assert next(batch for batch in each.receiver.got if batch.room == "rm_1").opened == {"usr_bob": summary}
        assert {batch.room for batch in each.receiver.got} == {batch.room for batch in batches}


async def test_signals_and_ends_of_sessions_reach_everybody(sites: list[Site]) -> None:
    user = User(id="usr_ana", username="ana", display_name="Ana", role=Role.ADMIN)
    signals = [
        Signal(Typing("rm_1", "usr_ana"), room="rm_1", except_user="usr_ana"),
        Signal(ReadState(room="rm_1", read_seq=3, unread=1), user="usr_ana", ephemeral=False),
        Signal(user, room="rm_1", ephemeral=False),
        Signal(RoomSummary(id="rm_1", kind="direct", peer=user), user="usr_ana"),
    ]
    for signal in signals:
        sites[0].bus.signal(signal)
    sites[0].bus.disconnect(user_id="usr_ana", device_ids=["dev_1"], code=4401)
    sites[0].bus.disconnect(user_id="usr_ana", device_ids=None, code=4401)
    for each in sites:
        await until(partial(has, each, 6))
        assert [got for got in each.receiver.got if not isinstance(got, Signal)] == [
            ("usr_ana", ["dev_1"], 4401), ("usr_ana", None, 4401),
        ]  # fmt: skip
        assert all(signal in each.receiver.got for signal in signals)


@pytest.mark.parametrize("url", ["node", "cluster"], indirect=True)
class TestRedis:
    """What only a bus over a network can get wrong."""

    async def test_what_is_committed_together_is_one_message_for_each_channel(self, sites: list[Site]) -> None:
        one, two = sites
        before = sum(one.redis._numbers.values())
        one.bus.publish([RoomBatch(f"rm_{room}", [message(f"rm_{room}", 1)]) for room in range(100)])
        await until(lambda: len(two.receiver.got) == 100)
        channels = len(one.redis._channels)
        assert sum(one.redis._numbers.values()) - before <= channels + 2 * channels  # There are heartbeats, too.

    async def test_what_memory_keeps_is_forgotten_at_the_others(self, sites: list[Site]) -> None:
        heard: list[list[str]] = [[], []]
        for number, each in enumerate(sites):
            each.bus.on_stale(BLOCKS, heard[number].append)
        sites[0].bus.invalidate(BLOCKS, "usr_ana")
        await until(lambda: heard[1] == ["usr_ana"])
        assert heard[0] == []

    async def test_117_what_is_not_made_with_the_key_or_comes_again_is_refused(self, sites: list[Site], url: str) -> None:
        two = sites[1].redis
        heard: list[str] = []
        two.on_stale(BLOCKS, heard.append)
        channel = two._channels[0]
        now = SystemClock().now_ms()
        good = seal(KEY, channel, b"12345678", 7, now, [Stale(BLOCKS, "usr_ana")])
        two._received(channel, good)
        assert heard.count("usr_ana") == 1
        forged = {
            "another key": seal(b"x" * 32, channel, b"12345678", 8, now, [Stale(BLOCKS, "usr_eve")]),
            "another channel": seal(KEY, channel + b"0", b"12345678", 8, now, [Stale(BLOCKS, "usr_eve")]),
            "a changed byte": good[:-1] + b"\x00",
            "a changed number": good[:47] + b"\x09" + good[48:],
            "no message": b"hello",
            "nothing": b"",
        }
        for what, each in forged.items():
            before = two.refusals.forged
            two._received(channel, each)
            assert two.refusals.forged == before + 1, what
        for what, each in {
            "the same": good,
            "an old one of somebody new": seal(KEY, channel, b"87654321", 1, now - 120_000, [Stale(BLOCKS, "usr_eve")]),
        }.items():
            before = two.refusals.repeated
            two._received(channel, each)
            assert two.refusals.repeated == before + 1, what
        assert [key for key in heard if key] == ["usr_ana"]

    async def test_what_a_server_said_is_not_taken_again_when_it_is_gone(self, sites: list[Site], url: str) -> None:
        """Nor is what it said before it was silent; what it says after that is."""
        two = sites[1]
        channel = two.redis._channels[0]
        now = SystemClock().now_ms()
        heard: list[str] = []
        two.bus.on_stale(BLOCKS, heard.append)
        for sender, silent in ((b"12345678", False), (b"23456789", True)):
            said = [seal(KEY, channel, sender, number, now, [Stale(BLOCKS, f"usr_{number}")]) for number in (1, 2, 3, 4)]
            two.redis._received(channel, said[0])
            two.redis._received(channel, said[1])
            if silent:
                two.redis._peers[sender].heard_at = float("-inf")
            else:
                two.redis._received(channel, seal(KEY, channel, sender, 3, now, [Bye()]))
            await until(lambda sender=sender: sender not in two.redis._peers)  # type: ignore[misc]
            heard.clear()
            before = two.redis.refusals.repeated
            two.redis._received(channel, said[0])
            two.redis._received(channel, said[1])
            assert two.redis.refusals.repeated == before + 2
            assert [key for key in heard if key] == []
            two.redis._received(channel, said[3])
            assert [key for key in heard if key] == ["usr_4"]

    async def test_what_memory_keeps_is_read_again_when_a_server_vanishes(self, sites: list[Site], url: str) -> None:
        """It may have changed something, and ended before it could say so."""
        two = sites[1]
        heard: list[str] = []
        channel = two.redis._channels[0]
        two.redis._received(channel, seal(KEY, channel, b"12345678", 1, SystemClock().now_ms(), []))
        two.bus.on_stale(BLOCKS, heard.append)
        two.redis._peers[b"12345678"].heard_at = float("-inf")
        await until(lambda: b"12345678" not in two.redis._peers)
        assert heard == [""]

    async def test_what_this_version_does_not_know_ends_no_connection(self, sites: list[Site], url: str) -> None:
        """A server of a newer version may say it; what it says beside it is taken, and what was lost is looked for."""
        one, two = sites
        channel = two.redis._channels[0]
        unknown = Sign("poll", msgspec.Raw(msgspec.msgpack.encode({})), "rm_1", "", "", ephemeral=False)
        newer = Batch("rm_1", [], msgspec.Raw(msgspec.msgpack.encode([{"type": "poll.begun"}])), msgspec.Raw(b"\x80"))
        losses, suspected = two.redis.links.traffic.losses, two.receiver.suspected
        now = SystemClock().now_ms()
        message_ = seal(KEY, channel, b"12345678", 1, now, [unknown, newer, Disconnect("usr_ana", None, 4401)])
        one.redis.links.put(channel, message_)
        await until(lambda: two.receiver.got)
        assert two.receiver.got == [("usr_ana", None, 4401)]
        assert two.redis.links.traffic.losses == losses
        assert two.receiver.suspected > suspected
        assert two.redis.refusals.unknown == 2

    async def test_a_message_that_is_missing_is_suspected(self, sites: list[Site], url: str) -> None:
        one, two = sites
        for channel in one.redis._numbers:
            one.redis._numbers[channel] += 1  # As if one had been dropped.
        before = two.receiver.suspected
        one.bus.publish([RoomBatch("rm_1", [message("rm_1", 1)])])
        await until(lambda: two.receiver.suspected > before)

    @pytest.mark.parametrize(("number", "missed"), [(1, False), (2, True)])
    async def test_who_is_heard_first_in_the_middle_of_what_they_say_may_have_been_missed(
        self, sites: list[Site], url: str, number: int, *, missed: bool
    ) -> None:
        """This server listened, and that one's way to Redis was broken: nothing skips, since nothing came before."""
        two, channel = sites[1], sites[1].redis._channels[0]
        before = two.receiver.suspected
        two.redis._received(channel, seal(KEY, channel, b"12345678", number, SystemClock().now_ms(), []))
        assert (two.receiver.suspected > before) is missed

    async def test_who_is_online_is_told_in_pieces_and_taken_over_as_a_whole(
        self, sites: list[Site], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = sites
        monkeypatch.setattr(redis_module, "PIECE", 3)
        monkeypatch.setattr(redis_module, "ASK_S", 0.0)
        roster = {f"rm_{room}": {f"usr_{user}": True for user in range(room)} for room in range(1, 9)}
        told: list[tuple[Mapping[str, Mapping[str, bool]], bool]] = []

        class Elsewhere:
            def present(self, _server: bytes, rooms: Mapping[str, Mapping[str, bool]], *, first: bool) -> None:
                told.append(({room: dict(people) for room, people in rooms.items()}, first))

            def gone(self, server: bytes) -> None:
                pass

            def roster(self) -> Mapping[str, Mapping[str, bool]]:
                return roster

        one.redis.elsewhere = Elsewhere()
        two.redis.elsewhere = Elsewhere()
        told.clear()
        before = one.redis._numbers[one.redis._channels[0]]
        one.redis._asked = True
        one.redis._answer()
        assert one.redis._numbers[one.redis._channels[0]] - before == 12
        await until(lambda: told)
        assert told[0] == (roster, True)
        one.redis.show_presence({"rm_1": {"usr_9": True}})
        await until(lambda: ({"rm_1": {"usr_9": True}}, False) in told)
        assert all(rooms == roster for rooms, first in told if first), "whoever asks again gets all of it again"

    async def test_a_server_that_ends_says_so_and_one_that_is_silent_is_gone(
        self, sites: list[Site], url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = sites
        gone: list[bytes] = []

        class Elsewhere:
            def present(self, _server: bytes, _rooms: Mapping[str, Mapping[str, bool]], *, first: bool) -> None:
                pass

            def gone(self, server: bytes) -> None:
                gone.append(server)

            def roster(self) -> Mapping[str, Mapping[str, bool]]:
                return {}

        two.redis.elsewhere = Elsewhere()
        with monkeypatch.context() as patched:
            patched.setattr(redis_module, "GONE_S", -1.0)
            await until(lambda: one.redis.sender in gone)
        await until(lambda: two.redis.peers == 1)  # It is not, after all.
        before = len(gone)
        await one.redis.leave()
        await until(lambda: len(gone) > before)


async def _comes_back(sites: list[Site], down: Callable[[], Awaitable[None] | None], up: Callable[[], None]) -> None:
    one, two = sites
    down()
    began = time.monotonic()
    one.bus.publish([RoomBatch("rm_1", [message("rm_1", 1)])])
    assert time.monotonic() - began < 0.05
    assert one.receiver.got, "people here are told"
    await until(lambda: one.redis.links.problem and two.redis.links.problem)
    suspected = two.receiver.suspected
    await until(lambda: two.receiver.suspected > suspected)
    dropped = one.redis.links.traffic.dropped
    one.bus.publish([RoomBatch("rm_1", [message("rm_1", 2)])])
    await until(lambda: one.redis.links.traffic.dropped > dropped)
    up()
    await until(lambda: not one.redis.links.problem and not two.redis.links.problem)
    two.receiver.got.clear()
    one.bus.publish([RoomBatch("rm_1", [message("rm_1", 3)])])
    await until(lambda: any(batch.entries[0].seq == 3 for batch in two.receiver.got))


async def test_redis_that_is_killed_and_comes_back_is_used_again(node: RedisNode) -> None:
    async with site(node.url, "killed") as one, site(node.url, "killed") as two:
        await until(lambda: one.redis.peers == two.redis.peers == 1)
        await _comes_back([one, two], node.kill, node.start)


async def test_others_are_told_before_people_here(node: RedisNode, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(node.url, "first") as one:
        await until(lambda: not one.redis.links.problem)
        with socket.create_connection(("127.0.0.1", node.port), timeout=10) as elsewhere:
            elsewhere.sendall(b"SSUBSCRIBE first:0\r\n")
            assert b"ssubscribe" in elsewhere.recv(100)
            said = b""

            def deliver(_batches: Sequence[RoomBatch]) -> None:
                nonlocal said
                while b"left at once" not in said:
                    said += elsewhere.recv(10_000)  # The loop stands still meanwhile: what has not left by now never comes.

            monkeypatch.setattr(one.receiver, "deliver", deliver)
            one.bus.publish([RoomBatch("rm_1", [message("rm_1", 1, body="left at once")])])
            assert said


async def test_redis_that_hangs_holds_nobody_up(node: RedisNode) -> None:
    async with site(node.url, "hangs") as one, site(node.url, "hangs") as two:
        await until(lambda: one.redis.peers == two.redis.peers == 1)
        await _comes_back([one, two], node.pause, node.resume)


async def test_a_channel_that_moves_to_another_node_is_followed(nodes: RedisCluster) -> None:
    async with site(nodes.url, "moves") as one, site(nodes.url, "moves") as two:
        await until(lambda: one.redis.peers == two.redis.peers == 1)
        channel = one.redis._channels[0]
        slot = int(nodes.nodes[0].ask("CLUSTER", "KEYSLOT", channel.decode()))
        before = one.redis.links._by_channel[channel]
        nodes.move(slot)
        await until(lambda: (link := one.redis.links._by_channel.get(channel)) is not None and link is not before and link.up)
        numbers = iter(range(1, 10_000))

        def arrives() -> bool:
            seq = next(numbers)
            one.bus.publish([RoomBatch(room, [message(room, seq)]) for room in (f"rm_{each}" for each in range(64))])
            return len({batch.room for batch in two.receiver.got}) == 64

        await until(arrives)


async def test_an_operator_is_told_whether_all_nodes_answer(node: RedisNode, nodes: RedisCluster) -> None:
    assert await look(node.url) == 1
    assert await look(nodes.url) == 3
    with pytest.raises(ConnectionError):
        await look(f"redis://127.0.0.1:{free_port()}")


async def test_a_channel_that_no_node_has_is_a_problem(nodes: RedisCluster) -> None:
    """What is published there goes nowhere, and no connection fails."""
    async with site(nodes.url, "lost") as one:
        await until(lambda: not one.redis.links.problem)
        suspected = one.receiver.suspected
        slot = nodes.nodes[0].ask("CLUSTER", "KEYSLOT", one.redis._channels[0].decode())
        owner = next(each for each in nodes.nodes if nodes.owns(each, int(slot)))
        for each in nodes.nodes:
            each.ask("CLUSTER", "DELSLOTS", slot)
        one.redis.links._look.set()
        await until(lambda: "no node has 1 " in one.redis.links.problem)
        assert one.receiver.suspected > suspected
        assert len(one.redis.links._by_channel) == len(one.redis._channels) - 1
        owner.ask("CLUSTER", "ADDSLOTS", slot)
        one.redis.links._look.set()
        await until(lambda: not one.redis.links.problem, 30)


async def test_who_may_listen_and_not_speak_is_left_alone_for_longer_and_longer(node: RedisNode) -> None:
    node.ask("ACL", "SETUSER", "mute", "on", ">pw", "+@all", "-spublish", "~*", "&*")
    try:
        async with site(node.url.replace("redis://", "redis://mute:pw@"), "mute") as one:
            await until(lambda: one.redis.links.traffic.losses >= 3)
            assert "spublish" in one.redis.links.problem
            assert one.receiver.suspected <= 1, "nobody was connected, so nothing new was lost"
            breaker = one.redis.links.breakers["redis"]
            assert breaker.opens == 1, "it never closed in between"
            assert breaker._pause_s > PAUSE_S
            node.ask("ACL", "SETUSER", "mute", "+spublish")
            await until(lambda: not one.redis.links.problem)
    finally:
        node.ask("ACL", "DELUSER", "mute")


async def test_a_mistake_in_one_message_is_told_and_the_next_one_comes(
    node: RedisNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site(node.url, "mistaken") as one, site(node.url, "mistaken") as two:
        await until(lambda: one.redis.peers == two.redis.peers == 1)

        def mistaken(_signal: Signal) -> None:
            raise KeyError("a mistake")

        monkeypatch.setattr(one.receiver, "show", mistaken)
        two.bus.signal(Signal(Typing("rm_1", "usr_1"), room="rm_1"))
        suspected = one.receiver.suspected
        await until(lambda: one.redis.refusals.mistakes == 1)
        two.bus.signal(Signal(Typing("rm_1", "usr_1"), room="rm_1"))
        await until(lambda: one.redis.refusals.mistakes == 2)
        assert [record.message for record in caplog.records if record.exc_info] == [
            "a message on the bus could not be taken; more are only counted"
        ]
        assert one.receiver.suspected > suspected
        assert one.redis.links.traffic.losses == 0
        two.bus.publish([RoomBatch("rm_1", [message("rm_1", 1)])])
        await until(partial(has, one, 1))


async def test_a_link_is_replaced_while_it_is_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one waits until the old one is out."""
    begun: list[object] = []

    async def hangs(link: Any, _came_up: Any) -> None:
        begun.append(link)
        if len(begun) == 1:
            raise ConnectionError("gone")
        await asyncio.Event().wait()

    monkeypatch.setattr("securechat.bus.links._Link.run", hangs)
    links = Links("redis+cluster://127.0.0.1:1", [b"a", b"b"], lambda _channel, _message: None, lambda: None)
    links._arrange({("127.0.0.1", 1): [b"a", b"b"]})
    await until(links._look.is_set)
    links._arrange({("127.0.0.1", 1): [b"a", b"b"]})
    await until(lambda: len(begun) == 2)
    assert links.breakers["redis 1"].state is BreakerState.HALF_OPEN
    links._arrange({("127.0.0.1", 1): [b"a"]})
    await until(lambda: len(begun) == 3)
    for task in links._tasks.values():
        task.cancel()


async def test_a_cancellation_that_the_library_loses_ends_the_links_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `asyncio.wait_for` of Python 3.11 does when the answer comes in the same turn."""
    asked = asyncio.Event()

    async def placed(_alive: object) -> Mapping[tuple[str, int], list[bytes]]:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return {}

    links = Links("redis+cluster://127.0.0.1:1", [b"0"], lambda _channel, _message: None, lambda: None)
    monkeypatch.setattr(links._nodes, "placed", placed)
    running = asyncio.create_task(links.run())
    await asked.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=5)

    assert done
    assert running.cancelled()


async def test_a_transport_that_was_just_closed_is_a_lost_connection_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write_too_late(_link: Any, _came_up: Any) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    monkeypatch.setattr("securechat.bus.links._Link.run", write_too_late)
    links = Links("redis://127.0.0.1:1", [b"x"], lambda _channel, _message: None, lambda: None)
    running = asyncio.create_task(links.run())
    try:
        async with asyncio.timeout(10):
            while links.traffic.losses < 2:
                await asyncio.sleep(0.01)
        assert links.problem.startswith("RuntimeError")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("of", ["a node", "the question who has what"])
async def test_a_timer_that_is_early_does_not_meet_a_breaker_that_is_still_open(monkeypatch: pytest.MonkeyPatch, of: str) -> None:
    lost: list[Any] = []
    asked = 0
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))
    real = asyncio.sleep

    async def early(seconds: float) -> None:
        await real(seconds * 0.9)

    async def refuses(*_given: object) -> None:
        nonlocal asked
        asked += 1
        raise ConnectionRefusedError

    monkeypatch.setattr(f"securechat.bus.{'links._Link.run' if of == 'a node' else 'nodes.Nodes.placed'}", refuses)
    monkeypatch.setattr("securechat.bus.links.asyncio.sleep", early)
    links = Links("redis://127.0.0.1:1", [b"x"], lambda _channel, _message: None, lambda: None)
    running = asyncio.create_task(links.run())
    try:
        async with asyncio.timeout(20):
            while asked < 3:
                assert not running.done()
                await real(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    gc.collect()
    assert lost == []
