"""A TCP proxy with faults: latency and jitter, silence both ways or one way, slices, little bandwidth, resets, and nobody there."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast

WAITING_BYTES: Final = 256 * 1024
"""What may wait on a slow way; above it, who sends is held up."""
_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection whose end is a reset."""


@dataclass(frozen=True)
class Faults:
    """What is wrong with a way. All false is a good one.

    Attributes:
        latency_s: Every byte comes later by this.
        jitter_s: At most so much sooner or later than that, drawn for each piece; order stays.
        bytes_per_s: At most so many; 0 for any number.
        slice_bytes: Pieces of so many bytes, `slice_pause_s` apart; 0 for as they come.
        slice_pause_s: See `slice_bytes`.
        hold_up: What clients say stands still on its way, and nobody is told: a partition that may heal.
        hold_down: The same of what the server says.
        reset_after: Each connection is reset when so many more bytes of the server's passed; 0 for never.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: int = 0
    slice_bytes: int = 0
    slice_pause_s: float = 0.0
    hold_up: bool = False
    hold_down: bool = False
    reset_after: int = 0

    @property
    def delays(self) -> bool:
        """Whether anything comes later than at once."""
        return bool(self.latency_s or self.bytes_per_s or self.slice_bytes)


class _End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the other end."""

    def __init__(self, proxy: TcpProxy, *, up: bool) -> None:
        self.up = up
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self.lost = False
        self._proxy = proxy
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._due = 0.0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False
        self._other_is_full = False
        self.passed = 0

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._proxy.connected(self)

    def data_received(self, data: bytes) -> None:
        self._proxy.came(self, data)

    def eof_received(self) -> None:
        """Half a connection is none."""

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._proxy.ended(self, error)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other._other_is_full = True
            self.other.look()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other._other_is_full = False
            self.other.look()

    # ── what the proxy calls ─────────────────────────────────────────────────────────────────────────────────────────

    def look(self) -> None:
        """Read on, or not."""
        if self.transport is None or self.lost:
            return
        faults = self._proxy.faults
        held = faults.hold_up if self.up else faults.hold_down
        if held or self._is_full or self._other_is_full or self.other is None or self.other.transport is None:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def give(self, data: bytes) -> None:
        """Hand to the other end, now or later."""
        faults = self._proxy.faults
        if not faults.delays and not self._waiting:
            self._write(data)
            return
        now = asyncio.get_running_loop().time()
        size = faults.slice_bytes or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            late = faults.latency_s + self._proxy.rng.uniform(-faults.jitter_s, faults.jitter_s) if faults.latency_s else 0.0
            if faults.bytes_per_s:
                self._free_at = max(self._free_at, now) + len(piece) / faults.bytes_per_s
                late += self._free_at - now
            self._due = max(now + max(late, 0.0), self._due + (faults.slice_pause_s if start else 0.0))
            self._waiting.append((self._due, piece))
            self._bytes += len(piece)
        self._is_full = self._bytes > WAITING_BYTES
        self.look()
        self._arm()

    def finish(self) -> None:
        """End the other end once it has everything."""
        if not self._waiting and self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def reset(self) -> None:
        """End with a reset: whoever is there learns it from the next thing that they do."""
        if self.transport is not None and not self.lost:
            found = cast("socket.socket", self.transport.get_extra_info("socket"))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self.transport.abort()

    def forget(self) -> None:
        """Let nothing of it wait any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_at(self._waiting[0][0], self._pour)

    def _pour(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        some = []
        while self._waiting and self._waiting[0][0] <= now:
            some.append(self._waiting.popleft()[1])
            if self._proxy.faults.slice_bytes:
                break
        if some:
            whole = b"".join(some)
            self._bytes -= len(whole)
            self._write(whole)
        self._is_full = self._bytes > WAITING_BYTES
        self.look()
        self._arm()
        if self.lost:
            self.finish()

    def _write(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None or self.other.lost:
            return
        self.other.transport.write(data)
        limit = self._proxy.faults.reset_after
        if limit and not self.up:
            self.passed += len(data)
            if self.passed >= limit:
                self.passed = 0
                self.other.reset()
                self.reset()


def _itself(end: _End) -> _End:
    return end


class TcpProxy:
    """Between clients and servers on loopback.

    Args:
        target: Port of the server, or of several: the next one is asked when one takes no connection, beginning with another each
            time.
        source: Address from which it connects, so that a balancer sees somebody else.

    Attributes:
        port: Where clients connect.
        ended_by_server: Connections that the server ended.
        turns: How often a client spoke after the server, or first: each is a round trip.
        swallow: Let no answer pass, and cut the connection when there is one; what clients say passes.
        faults: What is wrong now.
        accepted: Connections since the start.
        targets: See `target`.
    """

    def __init__(self, target: int | Sequence[int], source: str = "127.0.0.1") -> None:
        self.targets = [target] if isinstance(target, int) else list(target)
        self._source = source
        self._vanished = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: set[_End] = set()
        self._server: asyncio.Server | None = None
        self._last_up: dict[_End, bool] = {}
        self.rng = random.Random(1)
        self.port = 0
        self.accepted = 0
        self.ended_by_server = 0
        self.turns = 0
        self.swallow = False
        self.faults = Faults()

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.listen()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End everything."""
        self.refuse()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return sum(end.up for end in self._ends)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def set(self, **faults: Any) -> None:
        """Have these faults, and no others."""
        self.faults = replace(Faults(), **faults)
        for end in list(self._ends):
            end.look()

    def vanish(self) -> None:
        """Let nothing pass, and tell nobody; what is said meanwhile is gone."""
        self._vanished = True

    def come_back(self) -> None:
        """Cut what stood still, and let new connections pass."""
        self._vanished = False
        self.cut(reset=False)

    def cut(self, *, reset: bool = True) -> None:
        """End every connection: with a reset, or without."""
        for end in list(self._ends):
            if reset:
                end.reset()
            elif end.transport is not None:
                end.transport.abort()

    def refuse(self) -> None:
        """Be nobody: end all connections, and take none."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(partial(_End, self, up=True), "127.0.0.1", self.port, backlog=1_024)
            self.port = self._server.sockets[0].getsockname()[1]

    # ── what the ends call ───────────────────────────────────────────────────────────────────────────────────────────

    def connected(self, end: _End) -> None:
        """An end is there."""
        self._ends.add(end)
        if end.up:
            # Before 3.11.4, a transport begins to read right after this call, whatever it is told in it.
            asyncio.get_running_loop().call_soon(end.look)
            self.accepted += 1
            task = asyncio.create_task(self._reach(end))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def came(self, end: _End, data: bytes) -> None:
        """Somebody said something."""
        if end.up and not self._last_up.get(end, False):
            self.turns += 1
        pair = end if end.up else end.other
        if pair is not None:
            self._last_up[pair] = end.up
        if self.swallow and not end.up:
            self.swallow = False
            self._cut_both(end)
        elif not self._vanished:
            end.give(data)

    def ended(self, end: _End, error: Exception | None) -> None:
        """An end is gone."""
        self._ends.discard(end)
        self._last_up.pop(end, None)
        other = end.other
        if other is None or other.lost:
            end.forget()
            return
        if not end.up:
            self.ended_by_server += 1
        if self._vanished:
            return  # A vanished client is not told that the server gave up.
        if isinstance(error, ConnectionResetError):
            end.forget()
            other.reset()
        else:
            end.finish()

    def _cut_both(self, end: _End) -> None:
        for each in (end, end.other):
            if each is not None and each.transport is not None:
                each.transport.abort()

    async def _reach(self, near: _End) -> None:
        """Connect a client to the server."""
        loop = asyncio.get_running_loop()
        first = self.accepted
        for turn in range(len(self.targets)):
            port = self.targets[(first + turn) % len(self.targets)]
            far = _End(self, up=False)
            far.other = near
            near.other = far
            try:
                await loop.create_connection(partial(_itself, far), "127.0.0.1", port, local_addr=(self._source, 0))
            except OSError:
                near.other = None
                continue
            if near.lost and far.transport is not None:
                far.transport.abort()
            near.look()
            far.look()
            return
        near.reset()
