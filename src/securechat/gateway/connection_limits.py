"""Limits of connections: how many may be connected or on their way in, and how long somebody who is told to wait may go on.

Every count is kept by source (`auth.addresses.source_of`) and in all, in memory that is bounded by the counts themselves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from securechat.auth.addresses import source_of

PATIENCE_BURST: Final = 1_000.0
"""Refusals that a connection may cause at once: what a client had on its way when it was told the first time."""
PATIENCE_PER_S: Final = 20.0
"""Refusals that are forgiven each second."""


@dataclass(frozen=True, slots=True)
class Caps:
    """The limits of connections.

    Attributes:
        connections: In all; more are refused with 503.
        address: Of one source; more are refused with 429.
        account: Of one account; past it the oldest of the same device is replaced (4409), else the new one refused (4429).
        pending: Connections that are not done with TLS, their request head or their `auth`, in all.
        pending_address: The same, of one source.
        http: Connections that are no WebSocket, in all; when there is no room the one that is idle longest is closed, and the new
            one if none is idle.
        http_address: The same, of one source.
    """

    connections: int = 10_000
    address: int = 1_000
    account: int = 32
    pending: int = 500
    pending_address: int = 50
    http: int = 5_000
    http_address: int = 1_000


class _Count:
    """How many there are, by key and in all."""

    __slots__ = ("_by_key", "total")

    def __init__(self) -> None:
        self._by_key: dict[str, int] = {}
        self.total = 0

    def of(self, key: str) -> int:
        return self._by_key.get(key, 0)

    def add(self, key: str) -> None:
        self._by_key[key] = self._by_key.get(key, 0) + 1
        self.total += 1

    def remove(self, key: str) -> None:
        left = self._by_key[key] - 1
        self.total -= 1
        if left:
            self._by_key[key] = left
        else:
            del self._by_key[key]


class Pending:
    """Connections on their way in.

    Args:
        caps: The limits; may be replaced while running.
    """

    def __init__(self, caps: Caps) -> None:
        self.caps = caps
        self._count = _Count()

    @property
    def total(self) -> int:
        """How many there are."""
        return self._count.total

    def full(self, key: str) -> bool:
        """Return whether there is no room for one more; without a key, of nobody in particular."""
        return self._count.total >= self.caps.pending or bool(key and self._count.of(key) >= self.caps.pending_address)

    def enter(self, key: str) -> None:
        """One begins."""
        self._count.add(key)

    def leave(self, key: str) -> None:
        """It is in, or gone."""
        self._count.remove(key)


class Kept(Protocol):
    """What is known of an HTTP connection here."""

    def make_way(self) -> None:
        """End now: another one needs the place, and this one is idle."""


class HttpConnections:
    """The connections of this process that are no WebSocket.

    Args:
        pending: Has the caps.
    """

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._sources: dict[Kept, str] = {}
        self._count = _Count()
        self._idle: dict[Kept, None] = {}
        self._idle_of: dict[str, dict[Kept, None]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sources)

    def enter(self, connection: Kept, source: str) -> bool:
        """Take one in; return whether there is room, if need be after an idle one made way: of the same source first.

        Without a source it is of nobody in particular.
        """
        caps = self._pending.caps
        if source and self._count.of(source) >= caps.http_address and not self._free(self._idle_of.get(source, {})):
            return False
        if len(self._sources) >= caps.http and not self._free(self._idle):
            return False
        self._sources[connection] = source
        self._count.add(source)
        return True

    def rest(self, connection: Kept) -> None:
        """It has been answered, and is kept alive."""
        source = self._sources.get(connection)
        if source is not None:
            self._idle[connection] = None
            self._idle_of.setdefault(source, {})[connection] = None

    def wake(self, connection: Kept) -> None:
        """It asks for something again."""
        if connection in self._idle:
            del self._idle[connection]
            source = self._sources[connection]
            idle = self._idle_of[source]
            del idle[connection]
            if not idle:
                del self._idle_of[source]

    def leave(self, connection: Kept) -> None:
        """It is gone, or a WebSocket now."""
        self.wake(connection)
        source = self._sources.pop(connection, None)
        if source is not None:
            self._count.remove(source)

    def _free(self, idle: dict[Kept, None]) -> bool:
        for connection in idle:  # The one that is idle longest.
            self.leave(connection)
            connection.make_way()
            return True
        return False


class Addressed(Protocol):
    """What is known of a connection here."""

    @property
    def address(self) -> str:
        """Where it comes from."""


class Connections:
    """The WebSocket connections of this process, and where they come from.

    Args:
        pending: Where those are counted that have not authenticated yet.
    """

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        self._sources: dict[Addressed, str] = {}
        self._unknown: set[Addressed] = set()
        self._count = _Count()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._sources)

    def __contains__(self, connection: Addressed) -> bool:
        """Return whether it is still there."""
        return connection in self._sources

    def __iter__(self) -> Iterator[Addressed]:
        """Give them, oldest first."""
        return iter(self._sources)

    def refused(self, address: str) -> HTTPStatus | None:
        """Return the HTTP status with which a new one of this address is refused, or None when there is room."""
        caps = self._pending.caps
        source = source_of(address)
        if len(self._sources) >= caps.connections:
            return HTTPStatus.SERVICE_UNAVAILABLE
        if self._count.of(source) >= caps.address or self._pending.full(source):
            return HTTPStatus.TOO_MANY_REQUESTS
        return None

    def add(self, connection: Addressed) -> None:
        """Take one in that has not authenticated yet."""
        source = source_of(connection.address)
        self._sources[connection] = source
        self._count.add(source)
        self._unknown.add(connection)
        self._pending.enter(source)

    def known(self, connection: Addressed) -> None:
        """It has authenticated."""
        if connection in self._unknown:
            self._unknown.discard(connection)
            self._pending.leave(self._sources[connection])

    def discard(self, connection: Addressed) -> None:
        """It is gone."""
        self.known(connection)
        source = self._sources.pop(connection, None)
        if source is not None:
            self._count.remove(source)


class Patience:
    """How long a connection is answered that goes on after it was told to wait."""

    __slots__ = ("_at", "_left")

    def __init__(self) -> None:
        self._left = PATIENCE_BURST
        self._at = time.monotonic()

    def ends(self) -> bool:
        """Count one more refusal; return whether that was the last one."""
        now = time.monotonic()
        self._left = min(PATIENCE_BURST, self._left + (now - self._at) * PATIENCE_PER_S) - 1
        self._at = now
        return self._left < 0
