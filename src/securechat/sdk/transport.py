"""Transport: frames over one WebSocket. The only place of the SDK that knows the network."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from http import HTTPStatus
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, NegotiationError
from websockets.typing import Subprotocol

from securechat.errors import SessionRefused, TooLarge
from securechat.protocol.codec import encode_msgpack
from securechat.protocol.frames import SUBPROTOCOL, CloseCode, Hello
from securechat.protocol.handler import BadFrame, ProtocolHandler, client_side
from securechat.protocol.handshake import UnknownKey
from securechat.protocol.session import INNER_MAX_CLIENT, INNER_MAX_STRANGER, ClientSession, pack
from securechat.sdk.profile import why_unreachable
from securechat.sdk.sealing import Sealing

OPEN_S: Final = 10
RECEIVE_MAX: Final = 17 * 1024 * 1024
HINT_S: Final = 60.0
"""After a refusal that nobody proved: long enough that a forger gains nothing by repeating it."""
_HINTS: Final = frozenset(
    {
        CloseCode.TOO_BIG, CloseCode.SLOW_CONSUMER, CloseCode.PROTOCOL, CloseCode.UNAUTHORIZED, CloseCode.REKEY,
        CloseCode.WRONG_HOST, CloseCode.NO_COMMON, CloseCode.REPLACED,
    }
)  # fmt: skip
FRAMING: Final = 5
"""What a message costs inside a record: its length, and the record's content type."""


class Closed(Exception):
    """The connection ended.

    Attributes:
        code: Close code, 1006 when the network ended it, or somebody did who proved nothing.
        wait_s: How long to wait at least before the next connection.
    """

    def __init__(self, code: int, reason: str = "", *, wait_s: float = 0.0) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.wait_s = wait_s


class Unreachable(Closed):
    """There is no connection: nothing answers, or something else does."""

    def __init__(self, reason: str) -> None:
        super().__init__(1006)
        self.args = (reason,)


class Transport:
    """One connection to the gateway, in MessagePack, sealed if the server can.

    Attributes:
        hello: What the server said first.
        session: The sealed session; None on the clear sub-protocol.
    """

    def __init__(self, socket: ClientConnection, session: ClientSession | None) -> None:
        self._socket = socket
        self._protocol: ProtocolHandler[Any] = client_side()
        self._unread: list[bytes] = []
        self._writing = asyncio.Lock()  # Nothing may come between sealing and writing: records have an order.
        self.session = session
        self.hello: Hello

    @classmethod
    async def open(cls, url: str, tls: ssl.SSLContext | None, sealing: Sealing) -> Transport:
        """Connect and wait for `hello`.

        Raises:
            Closed: It did not work.
            Untrusted: The server is not the one that is known.
        """
        offered = sealing.offered()
        try:
            socket = await connect(
                url.replace("http", "ws", 1) + "/gateway",
                subprotocols=[Subprotocol(each) for each in offered],
                compression=None,
                ssl=tls,
                open_timeout=OPEN_S,
                ping_interval=20,
                ping_timeout=10,
                close_timeout=2,
                max_size=RECEIVE_MAX,
                proxy=None,
            )
        except InvalidStatus as error:
            if error.response.status_code == HTTPStatus.BAD_REQUEST:
                sealing.refused()
            raise Closed(1006, str(error), wait_s=_retry_after_s(error)) from error
        except NegotiationError as error:
            sealing.refused()
            raise Closed(1006, str(error)) from error
        except (OSError, TimeoutError) as error:
            raise Unreachable(why_unreachable(url, error)) from error
        except InvalidHandshake as error:
            raise Closed(1006, str(error)) from error
        try:
            async with asyncio.timeout(OPEN_S):
                return await cls._begin(socket, tls, sealing)
        except (ConnectionClosed, TimeoutError, msgspec.DecodeError, ValueError) as error:
            await socket.close()
            if not isinstance(error, ConnectionClosed):
                raise Closed(1006, "no hello") from error
            raise (_hint(error) if socket.subprotocol == SUBPROTOCOL else _closed(error)) from error
        except BaseException:
            await socket.close()
            raise

    @classmethod
    async def _begin(cls, socket: ClientConnection, tls: ssl.SSLContext | None, sealing: Sealing) -> Transport:
        if socket.subprotocol != SUBPROTOCOL:
            if socket.subprotocol not in sealing.offered():
                sealing.refused()
            transport = cls(socket, None)
            (transport.hello,) = msgspec.json.decode(await socket.recv(), type=list[Hello])
            return transport
        handshake = sealing.handshake()
        await socket.send(handshake.client_hello)
        session: ClientSession | None = None
        try:
            while session is None:
                session = handshake.take(_binary(await socket.recv()))
        except UnknownKey as error:
            await sealing.another_key(error, tls)
            raise Closed(1006, "the server has a new key, signed by its root") from error
        except SessionRefused as refused:
            raise Closed(refused.code, refused.reason) from refused
        await socket.send(handshake.client_fin())
        first = sealing.established(handshake.key_id)
        transport = cls(socket, session)
        try:
            while not transport._unread:
                transport._unread = transport._open(await socket.recv())
        except ConnectionClosed as error:
            raise transport._ended(error) from error
        (transport.hello,) = msgspec.msgpack.decode(transport._unread.pop(0), type=list[Hello])
        if first:
            sealing.keep_root(transport.hello.root)
        return transport

    @property
    def room(self) -> int:
        """How many bytes one message to the server may have now."""
        if self.session is None:
            return self.hello.limits.websocket_message_bytes
        return (INNER_MAX_CLIENT if self.session.authenticated else INNER_MAX_STRANGER) - FRAMING

    async def send(self, *frames: Any) -> None:
        """Send frames as one message.

        Raises:
            TooLarge: The server would close the connection instead of answering, and a repetition would do the same.
            Closed: The connection has ended.
        """
        data = encode_msgpack(frames)
        if len(data) > self.room:
            raise TooLarge(f"A message to the server has at most {self.room} bytes.")
        try:
            async with self._writing:
                if self.session is not None:
                    self.session.tick()
                    await self._write_own(self.session)
                    data = self.session.seal(pack([data]))
                await self._socket.send(data)
        except SessionRefused as refused:
            raise Closed(refused.code, refused.reason) from refused
        except ConnectionClosed as error:
            raise self._ended(error) from error

    async def receive(self) -> list[Any]:
        """Return the frames that came; what a newer server adds is left out.

        Raises:
            Closed: The connection has ended.
        """
        try:
            while not self._unread:
                self._unread = self._open(await self._socket.recv(decode=False))
                if self.session is not None and self.session.outgoing:
                    async with self._writing:
                        await self._write_own(self.session)
        except SessionRefused as refused:
            await self._say_goodbye(refused.code)
            raise Closed(refused.code, refused.reason) from refused
        except ConnectionClosed as error:
            raise self._ended(error) from error
        messages, self._unread = self._unread, []
        return [
            frame
            for message in messages
            for frame in self._protocol.receive(message, text=False)
            if not isinstance(frame, BadFrame)
        ]

    def authenticated(self) -> None:
        """`ready` came: from now on the session may have new keys."""
        if self.session is not None:
            self.session.authenticated = True

    async def close(self) -> None:
        """End the connection."""
        await self._say_goodbye(CloseCode.NORMAL)
        await self._socket.close()

    def _open(self, data: bytes | str) -> list[bytes]:
        if self.session is None:
            return [_binary(data)]
        return self.session.open(_binary(data))

    async def _write_own(self, session: ClientSession) -> None:
        """Write the session's own records, before anything that is sealed after them."""
        while session.outgoing:
            await self._socket.send(session.outgoing.pop(0))

    async def _say_goodbye(self, code: int) -> None:
        with contextlib.suppress(ConnectionClosed):
            async with self._writing:
                if self.session is not None and (record := self.session.close(code)):
                    await self._socket.send(record)

    def _ended(self, error: ConnectionClosed) -> Closed:
        """An end that the server did not seal is a lost connection, whatever its code says: a proxy may have made it up."""
        if self.session is None:
            return _closed(error)
        notice = self.session.peer_close
        return Closed(1006, "connection lost") if notice is None else Closed(notice.code)


def _retry_after_s(refusal: InvalidStatus) -> float:
    """Return for how long who was refused shall stay away: what is told in seconds, and no longer than a hint counts."""
    told = refusal.response.headers.get("Retry-After", "")
    return min(float(told), HINT_S) if told.isascii() and told.isdigit() else 0.0


def _binary(data: bytes | str) -> bytes:
    if isinstance(data, str):
        raise SessionRefused(CloseCode.PROTOCOL, "a text message")
    return data


def _hint(error: ConnectionClosed) -> Closed:
    """Return what an end before the session is: a lost network, since nobody proved its code. Some codes are waited for."""
    told = _closed(error)
    return Closed(1006, f"unproved: {told}", wait_s=HINT_S if told.code in _HINTS else 0.0)


def _closed(error: ConnectionClosed) -> Closed:
    return Closed(error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else Closed(1006, "connection lost")
