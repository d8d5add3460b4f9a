"""Nodes: where Redis is, and on which node of it a channel lives."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError

from securechat.bus.addresses import CLUSTER, Address, addresses_of, parts_of
from securechat.bus.publisher import ANSWER_S

FAILURES: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""uvloop says `RuntimeError` of a transport that was just closed, where asyncio says `OSError` or nothing."""


def end_if_cancelled() -> None:
    """End the task if it was cancelled while it waited for Redis.

    redis-py waits with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes in the turn of the answer: who
    loops around its calls would go on for ever.

    Raises:
        CancelledError: It was.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class Nodes:
    """All nodes.

    Args:
        url: `redis://`, `rediss://`, `redis+cluster://` or `rediss+cluster://` HOST:PORT, with USER:PASSWORD@ if need be; of a
            cluster several, separated by commas: each of them knows the others.
        channels: All that there are.

    Attributes:
        is_cluster: Whether there is more than one.
    """

    def __init__(self, url: str, channels: Sequence[bytes]) -> None:
        self._url = parts_of(url)
        self.is_cluster = self._url.scheme in CLUSTER
        self._channels = channels
        self._named = addresses_of(url)
        self._known: list[Address] = list(self._named)

    def client(self, address: Address) -> Any:
        """Return a client of one node, which does not try again by itself."""
        return Redis.from_url(self._url_of(address), **_OPTIONS)

    def _url_of(self, address: Address) -> str:
        scheme, user, _, rest = self._url
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{scheme.removesuffix('+cluster')}://{user and f'{user}@'}{host}:{address[1]}{rest}"

    async def placed(self, alive: Collection[Address] = ()) -> Mapping[Address, list[bytes]]:
        """Return the channels of each node; those that no node has are left out.

        Args:
            alive: Who answers, as far as is known: they are asked first.

        Raises:
            RedisError, OSError, TimeoutError: Nobody answers.
        """
        if not self.is_cluster:
            return {self._named[0]: list(self._channels)}
        failure: Exception = ConnectionError("no address")
        for address in dict.fromkeys([*alive, *self._known]):
            try:
                ranges = await self._ranges(address)
            except FAILURES as error:
                end_if_cancelled()
                failure = error
                continue
            # Those of the URL stay: a cluster that was made anew has other nodes than the one of before.
            self._known = list(dict.fromkeys([*(each for _, _, owners in ranges for each in owners), *self._named]))
            found: dict[Address, list[bytes]] = {}
            for channel in self._channels:
                slot = key_slot(channel)
                for owner in [owners[0] for first, last, owners in ranges if first <= slot <= last]:
                    found.setdefault(owner, []).append(channel)
            return found
        raise failure

    async def _ranges(self, address: Address) -> list[tuple[int, int, list[Address]]]:
        """Ask a node for (first slot, last slot, who has them: the one to talk to, and its replicas)."""
        client = self.client(address)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await client.execute_command("CLUSTER SLOTS")
        finally:
            await client.aclose(close_connection_pool=True)
        # A node that does not know its own name says none.
        return [
            (int(first), int(last), [((host or b"").decode() or address[0], int(port)) for host, port, *_ in owners])
            for first, last, *owners in answer
        ]


async def look(url: str) -> int:
    """Return how many nodes there are, for a program that is no server; all of them answer.

    Raises:
        ConnectionError: One does not.
    """
    nodes = Nodes(url, [f"{number}".encode() for number in range(256)])
    try:
        placed = await nodes.placed()
        for address in placed:
            client = nodes.client(address)
            try:
                async with asyncio.timeout(ANSWER_S):
                    await client.ping()
            finally:
                await client.aclose(close_connection_pool=True)
        return len(placed)
    except FAILURES as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


_OPTIONS: Final[dict[str, Any]] = {
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": ANSWER_S,
    "socket_connect_timeout": ANSWER_S,
    "client_name": "securechat",
}
