"""The suite is proved on servers that are broken on purpose: each must be noticed, and the whole one must pass the same run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from support import checker
from support.fault_world import World, assert_none

Scenario = Callable[[World, list[str]], Awaitable[None]]


async def ends_before_a_commit(world: World, mutant: list[str]) -> None:
    """Three times, far from the start: not every commit is one of messages (a device comes in, a token is used)."""
    faults = [*mutant, "--failpoint", "before_commit:60"]
    await world.start(talkers=3, faults=faults)
    for again in (faults, faults, []):
        await world.server.ended(30)
        await world.server.start(*again)


async def loses_power(world: World, mutant: list[str]) -> None:
    await world.start(talkers=3, faults=[*mutant, "--storage", "lose"])
    await world.until(lambda: world.history.acknowledged >= 80)
    await world.server.kill()
    await world.server.start(*mutant, "--storage", "lose")


async def talks(world: World, mutant: list[str]) -> None:
    await world.start(talkers=3, listeners=2, faults=[*mutant, "--slow-disk", "0.01"])
    await world.until(lambda: world.history.acknowledged >= 200)


async def talks_for_long(world: World, mutant: list[str]) -> None:
    """Thousands of deliveries, so that one of a thousand is among them."""
    await world.start(talkers=3, listeners=5, faults=mutant)
    await world.until(lambda: world.history.acknowledged >= 1_500)


async def come_and_go(world: World, mutant: list[str]) -> None:
    await world.start(talkers=0, listeners=5, faults=[*mutant, "--slow-disk", "0.02"])
    await world.crowd(talkers=3, guests=2, visits=10)


MUTANTS: Final[dict[str, tuple[Scenario, str]]] = {
    "ack_before_commit": (ends_before_a_commit, "I1"),
    "synchronous_off": (loses_power, "I1"),
    "synchronous_normal": (loses_power, "I1"),
    "drop_deliveries": (talks_for_long, "I5"),
    "forget_cmid": (talks, "I9"),
    "swap_entries": (talks, "I5"),
    "no_cut_at_join": (come_and_go, "I6"),
    "no_cut_at_removal": (come_and_go, "I6"),
}


@pytest.mark.alone
@pytest.mark.parametrize("mutant", list(MUTANTS))
async def test_a_broken_server_is_noticed(world: World, mutant: str) -> None:
    scenario, invariant = MUTANTS[mutant]
    await scenario(world, ["--mutant", mutant])
    await world.give_up_waiting(5)
    violations = await world.verdict()
    assert invariant in {violation.invariant for violation in violations}, checker.summary(violations)
    print(
        f"{mutant}: {checker.summary(violations).splitlines()[0]}; for example {next(v for v in violations if v.invariant == invariant)}"
    )


@pytest.mark.parametrize(
    "scenario", [ends_before_a_commit, loses_power, talks, talks_for_long, come_and_go], ids=lambda each: each.__name__
)
async def test_the_whole_server_passes_the_same_run(world: World, scenario: Scenario) -> None:
    await scenario(world, [])
    await world.quiet()
    assert_none(await world.verdict())
