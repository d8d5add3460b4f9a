"""The network between clients and a server: bytes in order, late, in pieces, stalled, cut off, or swallowed without a word.

The server's end is an asyncio transport with real back-pressure: what the peer has not taken gathers, the protocol is told to pause
above one mark and to go on below another. The client's end is two callbacks. Every chunk carries the time at which it was written:
what a witness at the server's wire would see.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sim.chance import clocks
from sim.loop import ProcessLoop

REFUSED: Final = "refused"
RESET: Final = "reset"


class Weather:
    """How the network is.

    Attributes:
        chance: Where it comes from.
        latency: Seconds that a chunk takes at least, and at most; one of thirty takes ten times as long.
        window: Bytes that the server's system takes before the transport has to keep them.
        high: Above so many kept bytes the protocol is told to pause.
        split: How often a chunk comes in two pieces.
    """

    def __init__(self, chance: random.Random, latency: tuple[float, float], window: int, high: int, split: float) -> None:
        self.chance = chance
        self.latency = latency
        self.window = window
        self.high = high
        self.split = split

    def delay(self) -> float:
        """Draw how long a chunk takes."""
        low, high = self.latency
        found = self.chance.uniform(low, high)
        return found * 10 if self.chance.random() < 0.03 else found


class _Socket:
    """What a library asks of the socket below."""

    def __init__(self, peer: tuple[str, int]) -> None:
        self._peer = peer

    def fileno(self) -> int:
        return -1

    def getpeername(self) -> tuple[str, int]:
        return self._peer

    def getsockname(self) -> tuple[str, int]:
        return HERE

    def setsockopt(self, *_values: object) -> None:
        pass

    def getsockopt(self, *_values: object) -> int:
        return 0


HERE: Final = ("10.0.0.1", 443)


class Wire:
    """One connection: both ends, and what is between them."""

    def __init__(
        self, weather: Weather, server: ProcessLoop, client: ProcessLoop, address: str, number: int,
        receive: Callable[[bytes, float], None], lost: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._weather = weather
        self._server = server
        self._client = client
        self._receive = receive
        self._lost = lost
        self.address = address
        self.number = number
        self.transport = Transport(self, server)
        self._to_server_at = 0.0
        self._to_client_at = 0.0
        self._stalled_until = 0.0
        self.deaf = False
        """Nothing arrives any more, on either side, and nobody is told."""
        self.over = False
        self.on_the_way = 0
        """Pieces that the server has not got yet, also of a client that is gone."""
        self.slow_bps = 0.0
        """The client reads at most so many bytes per second; 0 for all that comes."""

    @property
    def busy(self) -> bool:
        """Whether something is on its way, in either direction."""
        return bool(self.on_the_way) or (not self.deaf and not self.over and self.transport.unread > 0)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def stall(self, seconds: float) -> None:
        """Nothing arrives for a while."""
        self._stalled_until = max(self._stalled_until, clocks.now + seconds)

    def fail(self, why: str) -> None:
        """Nothing came of it."""
        if not self.over:
            self.over = True
            self._lost(why)

    def cut(self) -> None:
        """Both ends are told that the connection is gone; what was on its way is lost."""
        if self.over:
            return
        self.over = True
        self._server.call_soon(self.transport.end, ConnectionResetError("cut"))
        self._client.call_soon(self._lost, RESET)

    def _arrives_at(self, before: float) -> float:
        return max(before, clocks.now + self._weather.delay(), self._stalled_until)

    # ── towards the server ───────────────────────────────────────────────────────────────────────────────────────────

    def accepted_after(self, seconds: float) -> None:
        """Let nothing arrive before the connection is there."""
        self._to_server_at = clocks.now + seconds

    def send(self, data: bytes) -> None:
        """Send from the client."""
        chance = self._weather.chance
        pieces = [data]
        if len(data) > 1 and chance.random() < self._weather.split:
            place = chance.randrange(1, len(data))
            pieces = [data[:place], data[place:]]
        for piece in pieces:
            self._to_server_at = self._arrives_at(self._to_server_at)
            self._bring(piece)

    def hang_up(self) -> None:
        """End from the client's side."""
        if self.over:
            return
        self._to_server_at = self._arrives_at(self._to_server_at)
        self._bring(b"")
        self.vanish()

    def vanish(self) -> None:
        """The client is gone, and the server is not told."""
        self._receive = lambda _data, _written: None
        self._lost = lambda _why: None

    def _bring(self, data: bytes) -> None:
        self.on_the_way += 1
        self._server.call_at(self._to_server_at, self._at_server, data)

    def _at_server(self, data: bytes) -> None:
        self.on_the_way -= 1
        if not self.deaf and not self.over:
            self.transport.arrived(data)

    # ── towards the client ───────────────────────────────────────────────────────────────────────────────────────────

    def carry(self, data: bytes, written: float) -> None:
        """Carry what the server's system took."""
        self._to_client_at = self._arrives_at(self._to_client_at)
        if self.slow_bps:
            self._to_client_at += len(data) / self.slow_bps
        self._client.call_at(self._to_client_at, self._at_client, data, written)

    def _at_client(self, data: bytes, written: float) -> None:
        if self.deaf or self.over:
            return
        self._receive(data, written)
        self._server.call_soon(self.transport.taken, len(data))

    def finish(self, why: str) -> None:
        """Tell the client, after what is on its way, that the server ended the connection."""
        self._to_client_at = self._arrives_at(self._to_client_at)
        self._client.call_at(self._to_client_at, self._finished, why)

    def _finished(self, why: str) -> None:
        if not self.deaf and not self.over:
            self.over = True
            self._lost(why)


class Transport(asyncio.Transport):
    """The server's end. It says that it is TLS: then libraries write through it and not past it."""

    def __init__(self, wire: Wire, loop: ProcessLoop) -> None:
        super().__init__({
            "socket": _Socket((wire.address, wire.number)), "peername": (wire.address, wire.number), "sockname": HERE,
            "ssl_object": self, "sslcontext": self,
        })  # fmt: skip
        self._wire = wire
        self._loop = loop
        self._protocol: Any = None
        self._kept: deque[tuple[bytes, float]] = deque()
        self._kept_bytes = 0
        self._under_way = 0
        self._high = wire._weather.high
        self._low = self._high // 4
        self._paused_writing = False
        self._reading = True
        self._unread: deque[bytes] = deque()
        self._closing = False
        self._ended = False

    def begin(self, protocol: Any) -> None:
        """Connect a protocol."""
        self._protocol = protocol
        protocol.connection_made(self)

    @property
    def unread(self) -> int:
        """Bytes that the client has not read yet."""
        return self._kept_bytes + self._under_way

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def arrived(self, data: bytes) -> None:
        """Take what the network brought; nothing is the end."""
        if self._protocol is None:
            return  # It came to a door that was just closed.
        self._unread.append(data)
        self._read()

    def _read(self) -> None:
        while self._unread and self._reading and not self._ended:
            data = self._unread.popleft()
            if not data:
                if not self._protocol.eof_received():
                    self.close()
            elif isinstance(self._protocol, asyncio.BufferedProtocol):
                self._read_into(data)
            else:
                self._protocol.data_received(data)

    def _read_into(self, data: bytes) -> None:
        while data and not self._ended:
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            data = data[size:]
            self._protocol.buffer_updated(size)

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._read)

    def is_reading(self) -> bool:
        return self._reading

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        self._kept.append((bytes(data), clocks.now))
        self._kept_bytes += len(data)
        self._push()
        if self._kept_bytes > self._high and not self._paused_writing:
            self._paused_writing = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return self._kept_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass  # The simulation draws them.

    def taken(self, size: int) -> None:
        """The peer has read so much."""
        self._under_way -= size
        self._push()
        if self._paused_writing and self._kept_bytes <= self._low and not self._ended:
            self._paused_writing = False
            self._protocol.resume_writing()

    def _push(self) -> None:
        room = self._wire._weather.window - self._under_way
        while self._kept and room > 0:
            data, written = self._kept.popleft()
            if len(data) > room:
                self._kept.appendleft((data[room:], written))
                data = data[:room]
            self._kept_bytes -= len(data)
            self._under_way += len(data)
            room -= len(data)
            self._wire.carry(data, written)
        if self._closing and not self._kept:
            self._finish(None, "")

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_closing(self) -> bool:
        return self._closing or self._ended

    def close(self) -> None:
        if self._closing or self._ended:
            return
        self._closing = True
        if not self._kept:
            self._loop.call_soon(self._finish, None, "")

    def abort(self) -> None:
        self._closing = True
        self._kept.clear()
        self._kept_bytes = 0
        self._loop.call_soon(self._finish, None, RESET)

    def end(self, error: Exception | None) -> None:
        """The connection broke."""
        self._finish(error, RESET)

    def _finish(self, error: Exception | None, why: str) -> None:
        if self._ended:
            return
        self._ended = self._closing = True
        self._wire.finish(why)
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol
