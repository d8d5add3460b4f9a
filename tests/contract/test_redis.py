"""Redis as it is run in earnest: with TLS, with a user that may do little, with replicas that take over."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from contract.test_bus import has, message, site
from securechat.bus.nodes import look
from securechat.domain.ports import RoomBatch
from support.certificates import Files, new_key, pem
from support.ports import free_port
from support.redis import RedisNode, cluster
from support.waiting import until

HOWTO = Path(__file__).parents[2] / "docs/howto/several-servers.md"
RULES = re.findall(r"^ACL SETUSER (.*)$", HOWTO.read_text(), re.MULTILINE)[0].replace(">PASSWORD", ">a-password").split()
OF_A_CLUSTER = re.findall(r"^A cluster needs `(.*?)` besides", HOWTO.read_text(), re.MULTILINE)
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
@pytest.mark.parametrize(
    ("lost", "hangs"), [(0, False), (1, False), (0, True)], ids=["the named node", "another one", "the named node hangs"]
)
async def test_a_replica_takes_over_and_everybody_is_heard_again(lost: int, hangs: bool) -> None:  # noqa: FBT001
    """Also when the node that the URL names is gone for good."""
    with cluster(replicas=True) as nodes:
        async with site(nodes.url, PREFIX) as one, site(nodes.url, PREFIX) as two:
            # Who does not yet know all nodes has a problem, too, which is not the one that this is about.
            await until(
                lambda: one.redis.peers == two.redis.peers == 1 and not one.redis.links.problem and not two.redis.links.problem
            )
            node = nodes.nodes[lost]
            (node.pause if hangs else node.kill)()
            await until(lambda: one.redis.links.problem and two.redis.links.problem)
            await until(lambda: not one.redis.links.problem and not two.redis.links.problem, 60)
            assert "cluster_state:ok" in nodes.nodes[2].ask("CLUSTER", "INFO")
            for room in range(60):  # All channels.
                one.bus.publish([RoomBatch(f"rm_{room}", [message(f"rm_{room}", 1)])])
            await until(
                lambda: {batch.room for batch in two.receiver.got if isinstance(batch, RoomBatch)} >= {f"rm_{n}" for n in range(60)}
            )
            node.resume() if hangs else None


@pytest.mark.slow
async def test_a_cluster_with_tls_of_which_several_nodes_are_named(tmp_path: Path) -> None:
    files, key = Files(tmp_path), new_key()
    # Nodes are each other's clients, too.
    files.write(files.ca.issue("localhost", "127.0.0.1", key=key, usage=None), pem(key))
    with cluster(tls=(files.ca.path, files.cert, files.key)) as nodes:
        for node in nodes.nodes:
            assert node.ask("ACL", "SETUSER", *RULES, *OF_A_CLUSTER) == "OK"
            node.ask("ACL", "SETUSER", "default", "off")
        addresses = ",".join([f"127.0.0.1:{free_port()}", *(f"127.0.0.1:{node.port}" for node in nodes.nodes)])
        url = f"rediss+cluster://securechat:a-password@{addresses}?ssl_ca_certs={files.ca.path}"
        assert await look(url) == 3
        async with site(url, PREFIX) as one, site(url, PREFIX) as two:
            await until(
                lambda: one.redis.peers == two.redis.peers == 1 and not one.redis.links.problem and not two.redis.links.problem
            )
            for room in range(60):  # All channels.
                one.bus.publish([RoomBatch(f"rm_{room}", [message(f"rm_{room}", 1)])])
            await until(partial(has, two, 60))


@pytest.mark.slow
async def test_a_server_starts_while_the_first_node_that_the_url_names_is_gone() -> None:
    with cluster() as nodes:
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in nodes.nodes)
        nodes.nodes[0].kill()
        async with site(f"redis+cluster://{addresses}", PREFIX) as one:
            await until(lambda: sum(link.up for link in one.redis.links._links.values()) == 2, 30)
            assert one.redis.links.problem


async def test_a_cluster_of_which_nobody_answers_is_a_problem_and_ends_nothing() -> None:
    async with site(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}", PREFIX) as one:
        await until(lambda: one.redis.links.problem not in {"", "not connected yet"})
        assert one.redis.links.breakers["redis"].opens == 1
    with pytest.raises(ConnectionError):
        await look(f"redis+cluster://127.0.0.1:{free_port()}")
