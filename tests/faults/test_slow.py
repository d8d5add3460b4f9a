"""Who does not read, and who is not there any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from support.fault_world import Latency, World, assert_none
from support.raw_socket import PING, RawSocket, frame
from support.server_process import eventually_async
from support.tcp_proxy import TcpProxy

MIB = 2**20
SLOW = 4


class Flood:
    """A client that pours into a room, while others talk in another one and are measured.

    2.4 MB/s: the kernel takes some of it for each reader that stopped, the server at most 1 MiB.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._client = world.client(3)
        self._talkers = [world.client(number) for number in range(3)]

    async def start(self) -> None:
        """Connect, talk, and pour for a moment: the first messages of a server are no measure."""
        await asyncio.gather(*(client.start() for client in self._world.clients))
        for client in self._talkers:
            self._world.talk(client, [self._world.rooms[1]])
        await self.pour(lambda: True, 300)

    async def pour(self, enough: Callable[[], bool], count: int = 3_600) -> Latency:
        """Pour until it is enough and this many sends of the others were answered; return how fast.

        So many take 7 s, in which the WAL reaches the size at which a checkpoint runs: there is one in every measure, or nearly.
        """
        self._world.forget_latencies()
        turn = asyncio.get_running_loop().time()
        while not enough() or sum(len(client.latencies) for client in self._talkers) < count:
            self._client.post(self._world.rooms[0], "x" * 12_000)
            turn += 0.005
            await asyncio.sleep(turn - asyncio.get_running_loop().time())
        return Latency.of([each for client in self._talkers for each in client.latencies])


@pytest.mark.alone
async def test_13_readers_that_stop_are_closed_and_nobody_else_notices(world: World) -> None:
    """The control is the same flood without them. Who else uses the machine can only add: one of three rounds has to be as fast."""
    await world.server.start()
    world.apart()
    flood = Flood(world)
    await flood.start()
    before: list[dict[str, int]] = []
    found: list[tuple[Latency, Latency]] = []
    for round_ in range(1, 4):
        control = await flood.pour(lambda: True)
        rss = world.server.rss()
        slow = [await RawSocket.open(world.server.http_port, receive_buffer=4_096) for _ in range(SLOW)]
        for number, each in enumerate(slow):
            ready = await each.authenticate(world.bot(10 + number).token)
            if round_ == 1:
                before.append({room["id"]: room["last_seq"] for room in ready["rooms"]})

        async def noticed_with(count: int = round_ * SLOW, base: int = rss) -> int:
            async def closed_as_slow() -> bool:
                return await world.server.metric("slow_consumers") == count

            await eventually_async(closed_as_slow, 30, "the slow ones are noticed")
            return world.server.rss() - base

        # What was under way while they opened waited for this process, which opened them: it is answered before the measure begins.
        await flood.pour(lambda: True, 100)
        noticed = asyncio.create_task(noticed_with())
        during = await flood.pour(noticed.done)
        grown = await noticed
        codes = await asyncio.gather(*(each.closed() for each in slow))
        for each in slow:
            each.end()
        assert set(codes) <= {4008, 1006}, codes  # 1006: what was on the wire before the close frame took too long to read.
        found.append((control, during))
        if during.unchanged_from(control):
            break

    async def slow_ones_gone() -> bool:
        return await world.server.metric("connections") == 4

    await eventually_async(slow_ones_gone, 15, "the slow ones are closed")
    # They come back, resume where they were, and get everything.
    late = [world.client(10 + number, resume=False) for number in range(SLOW)]
    for client, seqs in zip(late, before, strict=True):
        client.last = dict(seqs)
    await asyncio.gather(*(client.start() for client in late))
    await world.quiet()
    assert_none(await world.verdict())
    assert all(client.closes == [] for client in world.clients), [client.closes for client in world.clients]
    assert world.server.complaints() == []
    assert grown < SLOW * MIB + 10 * MIB, f"{grown / MIB:.1f} MiB"
    told = "; ".join(f"{control} without them, {during} with them" for control, during in found)
    assert during.unchanged_from(control), told
    print(f"closed with {codes}; memory +{grown / MIB:.1f} MiB; {told}")


async def test_a_client_far_behind_in_bytes_gets_everything_when_it_resumes(world: World) -> None:
    """Below 1,000 entries, and far above what may wait for a connection."""
    await world.start(talkers=0, listeners=1)
    for number in range(300):
        world.clients[0].post(world.rooms[0], f"{number} " + "y" * 12_000)
        await world.until(lambda: world.clients[0].unanswered < 20)
    await world.until(lambda: world.clients[0].unanswered == 0)
    late = world.client(5)
    library = world.reader(0)
    await asyncio.gather(late.start(), library.start())
    await world.quiet(within_s=15)
    assert_none(await world.verdict())
    assert late.closes == []
    assert library.client.connects == 1


async def test_a_burst_larger_than_what_may_wait_closes_nobody_who_reads(world: World) -> None:
    """All of it becomes one commit, and one block."""
    await world.start(talkers=0, listeners=6)
    for client in world.clients[:3]:
        for _ in range(60):
            client.post(world.rooms[0], "z" * 16_000)
    await world.quiet()
    assert_none(await world.verdict())
    assert [client.closes for client in world.clients] == [[]] * 6


async def test_answers_to_pings_do_not_gather_for_a_client_that_does_not_read(world: World) -> None:
    """What a server needs once, some libraries for example, may come in the first round."""
    await world.server.start()
    pings = frame(b"p" * 125, PING) * 500
    grown: list[float] = []
    for number in range(2):
        deaf = await RawSocket.open(world.server.http_port, receive_buffer=4_096)
        await deaf.authenticate(world.bot(number).token)
        rss = await world.server.settled_rss()
        for _ in range(1_000):  # 65 MB of pings
            try:
                async with asyncio.timeout(3):
                    if not await deaf.flush(pings):
                        break
            except TimeoutError:
                break  # The server stopped reading: as good as closing.
        grown.append((world.server.rss() - rss) / MIB)
        deaf.end()
        if grown[-1] < 16:
            return
    pytest.fail(f"{grown} MiB wait for one client")


@pytest.mark.parametrize("sends", [False, True], ids=["silent", "with sends under way"])
async def test_a_client_that_vanishes_is_noticed_by_its_silence_and_comes_back_complete(world: World, *, sends: bool) -> None:
    ping_s, pong_s = 1.0, 1.0
    await world.server.start("--heartbeat", f"{ping_s},{pong_s}")
    async with TcpProxy(world.server.http_port) as proxy:
        gone = world.client(0, url=f"ws://127.0.0.1:{proxy.port}")
        stays = [world.client(number) for number in (1, 2)]
        await asyncio.gather(*(client.start() for client in world.clients))
        for client in stays:
            world.talk(client, world.rooms)
        await world.until(lambda: world.history.acknowledged >= 40)
        began = asyncio.get_running_loop().time()
        proxy.vanish()
        if sends:
            for number in range(5):
                gone.post(world.rooms[0], f"into the void {number}")
        await world.until(lambda: proxy.ended_by_server > 0, 20)
        took = asyncio.get_running_loop().time() - began
        await world.until(lambda: ("presence.changed", "") in stays[0].signals)
        proxy.come_back()
        await world.until(lambda: len(gone.closes) == 1 and gone.ready.is_set())
        await world.quiet()
        assert_none(await world.verdict())
    assert ping_s + pong_s <= took + 0.5
    assert took < ping_s + pong_s + 8, f"{took:.1f} s"
    print(f"noticed after {took:.1f} s (ping {ping_s} s + pong {pong_s} s)")
