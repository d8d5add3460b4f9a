"""Redis as it is run in earnest: with TLS, with a user that may do little, with replicas that take over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from contract.test_bus import has, message, site
from securechat.domain.ports import RoomBatch
from support.certificates import Files
from support.redis import RedisNode, cluster
from support.waiting import until

HOWTO = Path(__file__).parents[2] / "docs/howto/several-servers.md"
RULES = re.findall(r"^ACL SETUSER (.*)$", HOWTO.read_text(), re.MULTILINE)[0].replace(">PASSWORD", ">a-password").split()
PREFIX = "securechat:bus_x"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RedisNode]:
    files = Files(tmp_path)
    files.good("localhost", "127.0.0.1")
    found = RedisNode(tls=(files.ca.path, files.cert, files.key))
    yield found
    found.close()


async def test_servers_meet_over_tls_as_a_user_that_may_do_little(node: RedisNode) -> None:
    assert node.ask("ACL", "SETUSER", *RULES) == "OK"
    node.ask("ACL", "SETUSER", "default", "off")
    url = node.url.replace("rediss://", "rediss://securechat:a-password@")
    async with site(url, PREFIX) as one, site(url, PREFIX) as two:
        await until(lambda: one.redis.peers == two.redis.peers == 1)
        one.bus.publish([RoomBatch("rm_1", [message("rm_1", 1)])])
        await until(partial(has, two, 1))
        assert one.redis.links.traffic.losses == two.redis.links.traffic.losses == 0


@pytest.mark.parametrize("wrong", ["no authority", "another authority", "another name", "no TLS", "a wrong password"])
async def test_who_cannot_prove_that_they_are_redis_or_us_is_not_spoken_to(node: RedisNode, tmp_path: Path, wrong: str) -> None:
    assert node.ask("ACL", "SETUSER", *RULES) == "OK"
    good = node.url.replace("rediss://", "rediss://securechat:a-password@")
    other = Files(tmp_path / "other")
    url = {
        "no authority": good.partition("?")[0],
        "another authority": good.replace(str(tmp_path), str(tmp_path / "other")),
        "another name": good.replace("@localhost", "@127.0.0.2"),
        "no TLS": good.partition("?")[0].replace("rediss", "redis"),
        "a wrong password": good.replace("a-password", "b-password"),
    }[wrong]
    assert other.ca.path.exists()
    async with site(url, PREFIX) as one:
        await until(lambda: one.redis.links.problem not in {"", "not connected yet"})
        assert one.redis.links.traffic.received == 0
        assert "password" not in one.redis.links.problem.replace("username-password", "")


@pytest.mark.slow
async def test_a_replica_takes_over_and_everybody_is_heard_again() -> None:
    with cluster(replicas=True) as nodes:
        async with site(nodes.url, PREFIX) as one, site(nodes.url, PREFIX) as two:
            await until(lambda: one.redis.peers == two.redis.peers == 1)
            lost = nodes.nodes[1]
            lost.kill()
            await until(lambda: one.redis.links.problem and two.redis.links.problem)
            await until(lambda: not one.redis.links.problem and not two.redis.links.problem, 60)
            assert "cluster_state:ok" in nodes.nodes[0].ask("CLUSTER", "INFO")
            for room in range(60):  # All channels.
                one.bus.publish([RoomBatch(f"rm_{room}", [message(f"rm_{room}", 1)])])
            await until(
                lambda: {batch.room for batch in two.receiver.got if isinstance(batch, RoomBatch)} >= {f"rm_{n}" for n in range(60)}
            )
