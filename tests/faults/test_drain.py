"""SIGTERM under load: everybody is told, nothing that was answered is lost, and the process is gone in time."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial

import pytest

from support.fault_world import World, assert_none, greedy
from support.server_process import eventually_async

TOLD = 4000


def ended(world: World, times: int) -> bool:
    """Return whether every connection was ended this many times."""
    return all(len(client.closes) >= times for client in world.clients)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_server_told_to_stop_answers_says_goodbye_and_ends(world: World, *, tls: bool) -> None:
    await world.start(talkers=5, listeners=2, readers=1, url=world.server.tls_url if tls else "")
    took = []
    for stop in range(1, 4):
        await world.acknowledges(80)
        began = time.monotonic()
        assert await world.server.terminate(5) == 0
        took.append(time.monotonic() - began)
        await world.until(partial(ended, world, stop))
        assert [client.closes for client in world.clients] == [[TOLD] * stop] * len(world.clients)
        assert [client.drains for client in world.clients] == [stop] * len(world.clients)
        await world.server.start()
    await world.quiet()
    assert_none(await world.verdict())
    assert world.server.complaints() == []
    print(f"stopped {len(took)} times in {max(took):.2f} s at most, {world.history.acknowledged} messages acknowledged")


async def test_a_server_told_to_stop_waits_for_a_commit_on_a_slow_disk(world: World) -> None:
    await world.server.start("--slow-disk", "1.5")

    async def is_up() -> bool:
        return "server" not in (await world.server.readiness())[1]

    await eventually_async(is_up)
    client = world.client(0)
    await client.start()
    client.post(world.rooms[0], "slow")
    await world.until(lambda: client.unanswered == 1)
    world.server.signal(signal.SIGTERM)
    await world.until(lambda: client.drains == 1)
    status, checks = await world.server.readiness()
    assert (status, checks["server"]) == (503, "draining"), "who comes anew to see whether it is ready does not see it drain"
    assert await world.server.answers("/readyz") == (0, b""), "a person who comes anew is let in"
    assert await world.server.ended(8) == 0
    await world.server.start()
    await world.quiet()
    assert_none(await world.verdict())


async def test_a_server_told_to_stop_does_not_close_the_store_under_what_it_reads(world: World) -> None:
    await world.start(talkers=3, listeners=1)
    await world.acknowledges(100)
    asking = await greedy(world, 2, 250)
    reading = [asyncio.ensure_future(each.closed(60)) for each in asking]
    await world.acknowledges(5)
    assert await world.server.terminate(5) == 0
    await asyncio.gather(*reading)
    for each in asking:
        each.end()
    assert world.server.complaints() == []
    await world.server.start()
    await world.quiet()
    assert_none(await world.verdict())
