"""Links: this server's connections to Redis, some for each node, and which node a channel lives on.

Nothing here raises into the caller. What cannot be sent is dropped and counted, and a node that does not answer is left alone for a
moment that grows (its breaker): the log heals what is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from securechat.bus.addresses import Address
from securechat.bus.nodes import FAILURES, Nodes, end_if_cancelled
from securechat.bus.publisher import ANSWER_S, Publisher, Traffic
from securechat.bus.subscriber import NOTHING, Subscriber
from securechat.domain.breaker import PAUSE_S, Breaker, BreakerState

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
"""Between two looks at which node of a cluster has which channel."""
SIGN_S: Final = 0.25
"""Between two looks at whether a node answers."""


def key_beside(channel: bytes, name: bytes) -> bytes:
    """Return a key that lives on the node of a channel: of a key with braces only what they enclose says where it is."""
    return b"{" + channel + b"}:" + name


class _Link:
    """One node: a connection to publish on, one that is subscribed, and those for commands.

    Args:
        client: For this node only; it does not try again by itself.
        channels: That live on this node.
        received: Gets (channel, message).
        traffic: What is counted.
    """

    def __init__(self, client: Any, channels: Sequence[bytes], received: Callable[[bytes, bytes], None], traffic: Traffic) -> None:
        self.channels = frozenset(channels)
        self.up = False
        self._client = client
        self._received = received
        self._traffic = traffic
        self._publisher: Publisher | None = None

    async def execute(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Execute commands in one round trip and return their answers.

        Raises:
            ConnectionError: They were not executed, or not all, or nobody knows.
        """
        if not self.up:
            raise ConnectionError("not connected")
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(ANSWER_S):
                return list(await pipeline.execute())
        except FAILURES as error:
            raise ConnectionError(_word(error)) from error

    def put(self, channel: bytes, message: bytes) -> None:
        """Send at once. Never waits."""
        if self._publisher is None:
            self._traffic.dropped += 1
        else:
            self._publisher.put(channel, message)

    async def sent(self) -> None:
        """Return when Redis has everything."""
        if self._publisher is not None:
            await self._publisher.idle.wait()

    async def run(self, came_up: Callable[[], None]) -> None:
        """Work until something fails.

        Raises:
            RedisError, OSError, TimeoutError: It does.
        """
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        pool, channels = self._client.connection_pool, sorted(self.channels)
        try:
            subscriber = Subscriber(await pool.get_connection(), channels, self._received, self._traffic, ended)
            publisher = Publisher(await pool.get_connection(), self._traffic, ended)
            end_if_cancelled()
            await _first(ended, subscriber.subscribed)
            publisher.put(channels[0], NOTHING)  # Who may listen may not be allowed to speak.
            await _first(ended, publisher.answered)
            self._publisher = publisher
            self.up = True
            came_up()
            while not ended.done():
                subscriber.look()
                publisher.look()
                await asyncio.wait([ended], timeout=SIGN_S)
            raise ended.result()
        finally:
            self.up = False
            if self._publisher is not None:
                self._publisher.close()
                self._publisher = None
            with contextlib.suppress(*FAILURES):
                await self._client.aclose(close_connection_pool=True)


async def _first(ended: asyncio.Future[Exception], wanted: asyncio.Future[None]) -> None:
    """Return when something is done, before it ended.

    Raises:
        RedisError, OSError, TimeoutError: It ended, or it takes too long.
    """
    either: list[asyncio.Future[Any]] = [ended, wanted]
    await asyncio.wait(either, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
    if ended.done():
        raise ended.result()
    if not wanted.done():
        raise TimeoutError("no answer to a first word")


class Links:
    """All nodes.

    Args:
        url: See `Nodes`.
        channels: Everything that this server publishes on and is subscribed to.
        received: Gets (channel, message).
        changed: Called when a node came back, or went.
    """

    def __init__(
        self, url: str, channels: Sequence[bytes], received: Callable[[bytes, bytes], None], changed: Callable[[], None]
    ) -> None:
        self._nodes = Nodes(url, channels)
        self.is_cluster = self._nodes.is_cluster
        self._channels = channels
        self._received = received
        self._changed = changed
        self._links: dict[Address, _Link] = {}
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._by_channel: dict[bytes, _Link] = {}
        self._placing = Breaker(failures_max=1)
        """Of the question which node has which channel."""
        self._breakers: dict[Address, Breaker] = {}
        """Of each node."""
        self._look = asyncio.Event()
        self.traffic = Traffic()
        self.problem = "not connected yet"
        """Why not everything that is published goes out, in words for the operator; empty when all is well."""

    @property
    def breakers(self) -> dict[str, Breaker]:
        """The breaker of each node, by what an operator calls it; of a cluster, that of the question who has what, too."""
        if not self.is_cluster:
            return dict.fromkeys(["redis"], next(iter(self._breakers.values()), self._placing))
        numbered = enumerate(sorted(self._breakers), 1)
        return {"redis": self._placing, **{f"redis {number}": self._breakers[address] for number, address in numbered}}

    def put(self, channel: bytes, message: bytes) -> None:
        """Send at once. Never waits."""
        link = self._by_channel.get(channel)
        if link is None:
            self.traffic.dropped += 1
        else:
            link.put(channel, message)

    async def execute(self, channel: bytes, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Execute commands on the node of a channel, whose keys live there (see `key_beside`), in one round trip.

        Raises:
            ConnectionError: They were not executed, or not all, or nobody knows.
        """
        link = self._by_channel.get(channel)
        if link is None:
            raise ConnectionError("not connected")
        return await link.execute(commands)

    async def sent(self, within_s: float) -> None:
        """Return when the nodes have everything, or after this time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(link.sent() for link in self._links.values()))

    async def ping(self) -> None:
        """Raise if not all nodes answer.

        Raises:
            ConnectionError: See `problem`.
        """
        if self.problem:
            raise ConnectionError(self.problem)

    async def run(self) -> None:
        """Be connected, for ever."""
        now, placing = asyncio.get_running_loop().time, self._placing
        try:
            while True:
                self._look.clear()
                await _until_free(placing)
                placing.enter(now(), "")
                try:
                    placed = await self._nodes.placed([address for address, link in self._links.items() if link.up])
                    end_if_cancelled()
                    self._arrange(placed)
                except FAILURES as error:
                    placing.failed(now(), _word(error))
                    self._down(error)
                    continue
                placing.succeeded(now())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._look.wait()
                await asyncio.sleep(PAUSE_S)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _arrange(self, placed: Mapping[Address, list[bytes]]) -> None:
        """Have exactly these links."""
        for address, link in list(self._links.items()):
            if link.channels != frozenset(placed.get(address, ())):
                self._tasks.pop(address).cancel()
                del self._links[address]
        for address in self._breakers.keys() - placed.keys():
            del self._breakers[address]
        for address, channels in placed.items():
            if address not in self._links:
                link = _Link(self._nodes.client(address), channels, self._received, self.traffic)
                self._links[address] = link
                self._tasks[address] = asyncio.create_task(self._keep(address, link), name=f"redis {address[0]}:{address[1]}")
        self._by_channel = {channel: link for link in self._links.values() for channel in link.channels}
        if missing := len(self._channels) - len(self._by_channel):
            self._down(LookupError(f"no node has {missing} of the channels: slots of the cluster are not assigned"))

    async def _keep(self, address: Address, link: _Link) -> None:
        """Run a link; when it fails, wait a moment, and have somebody look where its channels live now."""
        now = asyncio.get_running_loop().time
        breaker = self._breakers.setdefault(address, Breaker(failures_max=1))
        try:
            await _until_free(breaker)
            breaker.enter(now(), "")
            await link.run(lambda: self._came_up(breaker))
        except FAILURES as error:
            self.traffic.losses += 1
            breaker.failed(now(), _word(error))
            self._down(error)
        finally:
            breaker.gave_up(now())
            if self._links.get(address) is link:
                del self._links[address]
                self._tasks.pop(address, None)
                self._look.set()

    def _came_up(self, breaker: Breaker) -> None:
        breaker.succeeded(asyncio.get_running_loop().time())
        missing = len(self._channels) - sum(len(link.channels) for link in self._links.values() if link.up)
        if not missing:
            if self.problem:
                log.info("connected to Redis", extra={"nodes": len(self._links)})
            self.problem = ""
        self._changed()

    def _down(self, error: BaseException) -> None:
        reason = _word(error)
        if not self.problem:
            log.warning("Redis does not answer: what other servers commit comes from the database", extra={"error": reason})
            self._changed()
        self.problem = reason


async def _until_free(breaker: Breaker) -> None:
    """Return when somebody may ask."""
    now = asyncio.get_running_loop().time
    # Half-open: the link that this one replaces is on its way out. And a timer may be early by less than it can tell.
    while pause := PAUSE_S if breaker.state is BreakerState.HALF_OPEN else breaker.wait_s(now()):  # noqa: ASYNC110
        await asyncio.sleep(pause)


def _word(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
