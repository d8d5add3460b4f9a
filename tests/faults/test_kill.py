"""kill -9: at any moment under load, at chosen points of a commit, and with a disk that forgets what was not synced."""

from __future__ import annotations

import pytest

from support.fault_world import World, assert_none

KILLS = 12


async def test_75_a_server_killed_twelve_times_under_load_keeps_every_promise(world: World) -> None:
    await world.start(talkers=5, listeners=1, readers=2)
    for _kill in range(KILLS):
        await world.acknowledges(world.rng.randrange(40, 160))
        await world.server.kill()
        await world.server.start()
    await world.quiet()
    assert_none(await world.verdict())
    print(f"{KILLS} kills, {world.history.acknowledged} messages acknowledged, {world.entries_seen()} entries received")


@pytest.mark.parametrize("point", ["before_commit", "after_commit", "before_ack", "mid_fanout"])
async def test_a_server_that_ends_at_a_point_of_a_commit_keeps_every_promise(world: World, point: str) -> None:
    counts = [5, 17, 41, 80]
    await world.start(talkers=4, listeners=1, readers=1, faults=["--failpoint", f"{point}:{counts[0]}"])
    for count in [*counts[1:], None]:
        assert await world.server.ended(30) == 137
        await world.server.start(*([] if count is None else ["--failpoint", f"{point}:{count}"]))
    await world.acknowledges(50)
    await world.quiet()
    assert_none(await world.verdict())
    print(f"{point}: {len(counts)} ends, {world.history.acknowledged} messages acknowledged")


@pytest.mark.parametrize("storage", ["lose", "tear"])
async def test_a_power_cut_loses_nothing_that_was_acknowledged(world: World, storage: str) -> None:
    def disk(cut: int) -> list[str]:
        return ["--checkpoints", "40", "--storage", storage if storage == "lose" else f"{storage}:{world.seed + cut}"]

    cuts = 6
    await world.start(talkers=4, listeners=1, readers=1, faults=disk(0))
    for cut in range(1, cuts + 1):
        await world.acknowledges(world.rng.randrange(40, 160))
        await world.server.kill()
        await world.server.start(*disk(cut))
    await world.quiet()
    assert_none(await world.verdict())
    print(f"{storage}: {cuts} power cuts, {world.history.acknowledged} messages acknowledged")
