"""The bytes behind an upgrade: WebSocket framing (picows) and the connection's state, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from picows import WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from fuzz.sessions import IDENTITY, LIMITS, StillClock
from securechat.auth.manager import Holder
from securechat.domain.accounts import Principal, User
from securechat.domain.commands import Done
from securechat.domain.ports import DeviceRecord, SessionRecord
from securechat.domain.secret import Secret
from securechat.errors import RateLimited, Unauthorized
from securechat.gateway import conversation
from securechat.gateway.arrival import Arrival
from securechat.gateway.connection import ClientConnection
from securechat.gateway.connection_limits import Caps, Connections, Pending
from securechat.gateway.fence import Fence
from securechat.gateway.session import Known
from securechat.gateway.upgrade import websocket_protocol
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.handshake import ServerHandshake

UPGRADE: Final = (
    b"GET /gateway HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
CHARGES: Final = 200
PRINCIPAL: Final = Principal("usr_1", "dev_1", "member", "ana")  # type: ignore[arg-type]  # nobody looks at the role here
USER: Final = User(id=PRINCIPAL.user_id, username="fuzz", display_name="Fuzz", role=PRINCIPAL.role)
KNOWN: Final = Known(PRINCIPAL, SessionRecord(DeviceRecord("dev_1", "usr_1", False, None, None, 0), USER, []))  # noqa: FBT003


class Server:
    """Stands for the server: whoever asks is taken, and whatever is asked is done."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.connections = Connections(Pending(Caps()))
        self.draining = False
        self.fence = Fence(StillClock())
        self.charges = 0
        self.server_name: Callable[[], str] = lambda: "fuzz"
        self.key_root: Callable[[], str] = lambda: ""

    def mark(self, connection: ClientConnection) -> None:
        loop().call_soon(connection.flush)

    async def answer(self, handshake: ServerHandshake, _address: str) -> list[bytes]:
        return handshake.answer()

    def note_refusal(self, *_values: object) -> None:
        """Refusals are what is looked for."""

    def arrival(self) -> contextlib.AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def holder(self, token: Secret) -> Holder:
        if token.reveal().startswith("no"):
            raise Unauthorized
        return Holder(PRINCIPAL.user_id, PRINCIPAL.device_id)

    async def known(self, _holder: Holder) -> Known:
        return KNOWN

    def make_room(self, _principal: Principal) -> None:
        """There is always room."""

    def expect(self, *_values: object) -> None:
        """Nothing changes."""

    forget = expect

    async def ready(self, _known: Known) -> f.Ready:
        return f.Ready(user=USER, device="dev_1", rooms=[], resumed=True)

    def attach(self, *_values: object) -> Arrival:
        return Arrival()

    def online_in(self, _rooms: object) -> dict[str, str]:
        return {}

    def detach(self, *_values: object) -> None:
        """Nobody listens."""

    async def newest(self, *_values: object) -> int:
        return 0

    async def missed(self, *_values: object) -> Any:
        nothing: tuple[Any, ...] = ()
        for each in nothing:
            yield each

    async def who(self, _token: Secret) -> Principal:
        return PRINCIPAL

    def charge(self, *_values: object) -> None:
        self.charges += 1
        if self.charges > CHARGES:
            raise RateLimited(retry_after_ms=1_000)

    def dispatch(self, _who: Principal, _command: object, _address: str, done: Callable[[Any], None]) -> None:
        done(Done())


class Wire:
    """Stands for the transport."""

    def __init__(self) -> None:
        self.socket, self.far = socket.socketpair()
        self.written = 0
        self.closed = False

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self if name == "socket" else default

    def setsockopt(self, *_values: int) -> None:
        """It has no options."""

    def getsockopt(self, *_values: int) -> int:
        return 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def writelines(self, data: list[bytes]) -> None:
        self.written += sum(map(len, data))

    def pause_reading(self) -> None:
        """Reading goes on: the input has an end."""

    resume_reading = pause_reading

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, *_values: object, **_named: object) -> None:
        """None."""

    def release(self) -> None:
        self.socket.close()
        self.far.close()


class Failures(logging.Handler):
    """Our own mistakes: what the gateway logs as errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


_loop: asyncio.AbstractEventLoop | None = None
_failures: Final = Failures()


def loop() -> asyncio.AbstractEventLoop:
    """Return the one loop of this process."""
    global _loop  # noqa: PLW0603 - made at the first use, so that nothing is made by importing
    if _loop is None:
        _loop = asyncio.new_event_loop()
        logging.getLogger("securechat.gateway").addHandler(_failures)
        logging.getLogger("securechat.gateway").propagate = False
    return _loop


def feed(data: bytes) -> None:
    """First byte: 1 for the sealed sub-protocol, 2 for pieces of that many bytes; the rest is what comes after the upgrade."""
    if data:
        loop().run_until_complete(_feed(data[0], data[1:]))


async def _feed(flags: int, data: bytes) -> None:
    server = Server()
    handshake = ServerHandshake(IDENTITY, lambda _host: True, LIMITS, StillClock()) if flags & 1 else None
    connection = ClientConnection(server, "192.0.2.1", handshake)

    def admit(_request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
        return WSUpgradeResponseWithListener(WSUpgradeResponse.create_101_response(), connection)

    wire = Wire()
    protocol = websocket_protocol(admit)
    _failures.found.clear()
    try:
        protocol.connection_made(wire)
        for piece in (UPGRADE, *_pieces(data, flags >> 1)):
            await _take(protocol, wire, piece)
        for _ in range(3):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.sleep(0)
        assert all(not task.done() or task.exception() is None for task in conversation._tasks)
        assert not _failures.found, _failures.found
        assert not len(server.connections), "a connection that is over is still counted"
    finally:
        wire.release()


def _pieces(data: bytes, size: int) -> list[bytes]:
    size = size or len(data) or 1
    return [data[at : at + size] for at in range(0, len(data), size)]


async def _take(protocol: Any, wire: Wire, data: bytes) -> None:
    while data and not wire.closed:
        buffer = protocol.get_buffer(-1)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        data = data[size:]
        protocol.buffer_updated(size)
    await asyncio.sleep(0)


def mask(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """Return a client's WebSocket frame, masked with zeros."""
    size = len(payload)
    head = bytes((opcode | (0x80 if fin else 0),))
    head += bytes((0x80 | size,)) if size < 126 else bytes((0xFE,)) + size.to_bytes(2, "big")
    return head + bytes(4) + payload
