"""Limits that several servers share by way of a real Redis: together they give what one would give."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest

from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.auth.throttle import Throttle
from securechat.bus.redis import RedisBus
from securechat.bus.sequencer import Sequencer
from securechat.domain.ports import Failure, Spend
from securechat.errors import RateLimited
from securechat.server.clock import SystemClock
from securechat.server.limit_sharing import LimitSharing
from support.redis import RedisCluster, RedisNode, cluster, one_node
from support.waiting import until

KEY = b"0123456789abcdef0123456789abcdef"
RATES = {
    "message": Rate(burst=60, per_s=15),
    "login.address": Rate(burst=30, per_s=0.5),
    "login.account": Rate(burst=4, per_s=0.1),
    "quick": Rate(burst=10, per_s=100),
}


class Silent:
    """Stands for a sequencer."""

    def suspect(self) -> None:
        pass


class Server:
    """The limits of one server, and its way to the others."""

    def __init__(self, url: str, prefix: str) -> None:
        clock = SystemClock()
        self.limiter = RateLimiter(dict(RATES))
        self.throttle = Throttle(lambda: self.limiter.rates)
        self.bus = RedisBus(url, KEY, cast("Sequencer", Silent()), clock, prefix=prefix)
        self.sharing = LimitSharing(self.limiter, self.throttle, self.bus, clock)

    def takes(self, what: str, who: str, tries: int = 1) -> int:
        """Try so often and return how often it was let through."""
        given = 0
        for _ in range(tries):
            with contextlib.suppress(RateLimited):
                self.limiter.take(what, who, time.monotonic())
                given += 1
        return given

    def guesses(self, who: str) -> bool:
        try:
            self.throttle.begin("login.account", who, time.monotonic())
        except RateLimited:
            return False
        return True


@contextlib.asynccontextmanager
async def servers(url: str, prefix: str, count: int = 2) -> AsyncIterator[list[Server]]:
    found = [Server(url, prefix) for _ in range(count)]
    tasks = [asyncio.create_task(each.bus.run()) for each in found]
    try:
        await until(lambda: all(not each.bus.links.problem and each.bus.peers == count - 1 for each in found))
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def share(*some: Server) -> None:
    for each in some:
        await each.sharing.share()


@pytest.fixture(scope="module")
def node() -> Iterator[RedisNode]:
    with one_node() as found:
        yield found


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisCluster]:
    with cluster() as found:
        yield found


@pytest.fixture(params=["node", "nodes"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param).url)


async def test_what_one_server_gave_the_other_does_not_give_again(url: str) -> None:
    async with servers(url, "given") as (one, two):
        assert one.takes("message", "usr_ana", 100) == 60
        await share(one)
        assert two.takes("message", "usr_ana", 6) == 6  # It cannot know before it tells a tenth of the burst.
        await share(two)
        assert two.takes("message", "usr_ana", 100) == 0
        assert two.takes("message", "usr_bob", 100) == 60


async def test_over_time_all_servers_together_give_what_one_would(url: str) -> None:
    rate = RATES["quick"]
    async with servers(url, "rate", 3) as found:
        given, began = 0, time.monotonic()
        while (now := time.monotonic()) - began < 1.5:
            given += sum(each.takes("quick", "usr_ana", 50) for each in found)
            await share(*found)
            await asyncio.sleep(0.01)
        fair = rate.burst + rate.per_s * (now - began)
        assert fair * 0.6 < given < fair + 3 * rate.burst, (given, fair)  # One alone gives `fair`, three apart three times that.


async def test_a_bucket_that_is_full_again_is_not_kept(node: RedisNode) -> None:
    async with servers(node.url, "kept") as (one, two):
        assert one.takes("quick", "usr_ana", 10) == 10
        await share(one)
        assert node.ask("KEYS", "{kept*")
        await until(lambda: not node.ask("KEYS", "{kept*"), 1)
        assert two.takes("quick", "usr_ana", 10) == 10


async def test_nothing_is_told_of_who_asks_for_little_and_names_are_not_told_at_all(node: RedisNode) -> None:
    async with servers(node.url, "little") as (one, _):
        assert one.takes("message", "usr_ana", 5) == 5
        await share(one)
        assert not node.ask("KEYS", "{little*")
        assert one.takes("message", "usr_ana", 1) == 1
        await share(one)
        (key,) = node.ask("KEYS", "{little*").splitlines()
        assert "ana" not in key
        assert int(node.ask("PTTL", key)) > 0


async def test_guesses_at_several_servers_are_slowed_down_as_at_one(url: str) -> None:
    async with servers(url, "guess", 3) as found:
        let = 0
        for _ in range(10):
            for each in found:
                let += each.guesses("ana 192.0.2.1")
                await share(each)
        assert let <= 4 + len(found)
        assert all(not each.guesses("ana 192.0.2.1") for each in found)
        assert found[0].guesses("ana 192.0.2.2")


async def test_a_right_password_forgets_at_all_servers_what_was_told_of_the_others(url: str) -> None:
    async with servers(url, "forget") as (one, two):
        for _ in range(3):
            assert one.guesses("ana")
        await share(one)
        assert two.guesses("ana")
        await share(two)
        two.throttle.forgive("login.account", "ana")
        await share(two)
        assert [count for _, count in await two.bus.limits.count([Failure("login.account", "ana", 1)])] == [1]


async def test_while_redis_is_away_each_server_holds_its_part_of_what_guards_and_people_go_on_writing() -> None:
    with one_node() as redis:
        async with servers(redis.url, "away", 3) as (one, two, three):
            await share(one, two, three)
            await asyncio.to_thread(redis.kill)
            await until(lambda: all(each.bus.links.problem for each in (one, two, three)))
            await share(one, two, three)
            assert one.sharing.alone
            assert [each.takes("login.address", "192.0.2.1", 100) for each in (one, two, three)] == [10, 10, 10]
            assert one.takes("message", "usr_ana", 100) == 60
            assert one.guesses("ana")
            assert not one.guesses("ana")  # A third of four.
            one.limiter.change({**RATES, "login.address": Rate(burst=60, per_s=1)})
            assert one.limiter.rates["login.address"].burst == 20
            await asyncio.to_thread(redis.start)
            await until(lambda: all(not each.bus.links.problem for each in (one, two, three)))
            await share(one, two, three)
            assert one.limiter.rates["login.address"].burst == 60
            assert not one.sharing.alone


async def test_what_somebody_else_writes_into_redis_gives_nobody_more_and_locks_nobody_out_for_long(node: RedisNode) -> None:
    async with servers(node.url, "forged") as (one, _):
        assert one.takes("message", "usr_ana", 60) == 60
        await share(one)
        key = node.ask("KEYS", "{forged*")
        node.ask("DEL", key)
        one.limiter.learn("message", "usr_ana", 1e9, time.monotonic())
        assert one.takes("message", "usr_ana", 10) <= 1
        one.limiter.learn("message", "usr_ana", -1e9, time.monotonic())
        with pytest.raises(RateLimited) as caught:
            one.limiter.take("message", "usr_ana", time.monotonic())
        assert caught.value.retry_after_ms is not None
        assert caught.value.retry_after_ms < 2 * 60 / 15 * 1_000


async def test_a_thousand_buckets_are_two_round_trips_each_five_hundred(node: RedisNode) -> None:
    async with servers(node.url, "many") as (one, _):
        began = time.monotonic()
        left = await one.bus.limits.spend(Spend("message", f"usr_{number}", 6, 60, 15) for number in range(1_000))
        print(f"{time.monotonic() - began:.3f} s")
        assert len(left) == 1_000
        assert all(53.9 < level <= 54.1 for _, level in left)


async def test_the_rights_in_redis_that_the_docs_name_are_enough(node: RedisNode) -> None:
    text = (Path(__file__).parents[2] / "docs/howto/several-servers.md").read_text()
    (line,) = re.findall(r"^ACL SETUSER .*$", text, re.MULTILINE)
    assert node.ask(*line.replace(">PASSWORD", ">pw").split()) == "OK"
    node.ask("ACL", "LOG", "RESET")
    async with servers(f"redis://securechat:pw@127.0.0.1:{node.port}", "securechat:bus_x") as (one, two):
        assert one.takes("message", "usr_ana", 100) == 60
        assert one.guesses("ana")
        await share(one, one)
        one.throttle.forgive("login.account", "ana")
        assert two.takes("message", "usr_ana", 6) == 6
        await share(one, two)
        assert two.takes("message", "usr_ana") == 0
        assert not one.sharing.alone
    assert node.ask("ACL", "LOG") == ""
