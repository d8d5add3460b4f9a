"""Three servers behind each balancer of `deploy/`: people are spread, one server drains, one is killed, and nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx2 as httpx
import pytest

from securechat.domain.entries import Entry
from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from support.balancers import KINDS, Balancer, Files
from support.postgres import running as running_postgres
from support.redis import one_node
from support.running import RunningServer, wait_until, wait_until_async
from support.tcp_proxy import TcpProxy

BUS_KEY = "0123456789abcdef0123456789abcdef"
PEOPLE = 9
SENDS = 20
COME_AGAIN = 3


class Reader:
    """Somebody at an address of their own, who keeps the `seq` of what comes.

    Attributes:
        way: Between them and the balancer.
        bodies: By `seq`, of the room.
    """

    def __init__(self, client: ChatClient, room: str, way: TcpProxy) -> None:
        self.client = client
        self.way = way
        self.bodies: dict[int, str] = {}
        self.seqs: list[int] = []
        self._room = room

    async def read(self) -> None:
        """Read for ever."""
        async for event in self.client.events():
            if isinstance(event, Entry) and event.room == self._room:
                self.seqs.append(event.seq)
                self.bodies[event.seq] = event.body or ""

    async def talk(self, name: str) -> None:
        """Send, one message after the other."""
        room = await self.client.room(self._room)
        for number in range(SENDS):
            await room.send(f"{name} {number}")
            await asyncio.sleep(0.02)


@asynccontextmanager
async def at_an_address(number: int, balancer: Balancer, files: Files, token: str, room: str) -> AsyncIterator[Reader]:
    async with TcpProxy(balancer.port, f"127.0.0.{10 + number}") as way:
        client = ChatClient(f"https://localhost:{way.port}", token, ca=str(files.ca), resume={room: 0}, pins=PinStore(None))
        reader = Reader(client, room, way)
        async with client:
            task = asyncio.create_task(reader.read())
            try:
                yield reader
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(name="servers", params=KINDS)
def _servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Files, list[RunningServer]]]:
    kind = str(request.param)
    files = Files(tmp_path / "files")
    with running_postgres() as postgres, one_node() as redis:
        settings = files.settings(kind) | {
            "database_url": postgres.url(postgres.new_database()), "redis_url": redis.url, "bus_key": BUS_KEY,
        }  # fmt: skip
        servers: list[RunningServer] = []
        try:
            for number in range(3):
                folder = tmp_path / f"server{number}"
                if servers:
                    shutil.copytree(servers[0].data / "keys", folder / "keys")
                servers.append(RunningServer(folder, settings=settings).start())
            yield kind, files, servers
        finally:
            for server in servers:
                server.stop()


def connections(server: RunningServer) -> int:
    """Return how many people a server has."""
    if server.process is None:
        return 0
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / "admin.sock"))) as http:
        lines = http.get("http://admin/metrics").text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("securechat_connections "))))


@pytest.mark.timeout(180)
async def test_people_are_spread_and_lose_nothing_when_servers_drain_and_die(
    servers: tuple[str, Files, list[RunningServer]],
) -> None:
    kind, files, three = servers
    room = three[0].room("ops")
    tokens = [three[0].bot(f"bot{number}", room) for number in range(PEOPLE)]
    with Balancer(kind, files, [server.port for server in three]) as balancer:
        async with AsyncExitStack() as stack:
            readers = [
                await stack.enter_async_context(at_an_address(number, balancer, files, token, room))
                for number, token in enumerate(tokens)
            ]
            spread = [connections(server) for server in three]
            for reader in readers[:COME_AGAIN]:
                reader.way.refuse()
                await wait_until_async(lambda: sum(map(connections, three)) == PEOPLE - 1, "one is away")
                await reader.way.listen()
                await wait_until_async(lambda: sum(map(connections, three)) == PEOPLE, "they are back")
                assert [connections(server) for server in three] == spread, "an address has its server"
            talking = [asyncio.create_task(reader.talk(f"bot{number}")) for number, reader in enumerate(readers)]
            await wait_until_async(lambda: len(readers[0].seqs) > PEOPLE * 2, "they talk")
            await asyncio.to_thread(three[0].stop)
            await asyncio.to_thread(three[1].stop, signal.SIGKILL)
            await asyncio.wait_for(asyncio.gather(*talking), 60)
            said = {f"bot{number} {each}" for number in range(PEOPLE) for each in range(SENDS)}
            for reader in readers:
                await wait_until_async(lambda reader=reader: said <= set(reader.bodies.values()), "everything arrives", 30)
            left = connections(three[2])
            three[0].start()
            wait_until(lambda: connections(three[0]) == 0, "it is back")

    assert sum(spread) == PEOPLE, spread
    assert sum(each > 0 for each in spread) >= 2, f"all at one server: {spread}"
    assert left == PEOPLE
    for reader in readers:
        assert reader.seqs == list(range(1, reader.seqs[-1] + 1))  # Each once, in order, from the first on.
        texts = [text for text in reader.bodies.values() if text]
        assert len(texts) == len(set(texts)) == len(said)
