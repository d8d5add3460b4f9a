"""Transport: frames over one WebSocket. The only place of the SDK that knows the network."""

from __future__ import annotations

import ssl
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from securechat.errors import TooLarge
from securechat.protocol.codec import encode_msgpack
from securechat.protocol.frames import SUBPROTOCOL_CLEAR, Hello
from securechat.protocol.handler import BadFrame, ProtocolHandler, client_side

OPEN_S = 10
RECEIVE_MAX = 16 * 1024 * 1024


class Closed(Exception):
    """The connection ended.

    Attributes:
        code: Close code, 1006 when the network ended it.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code


class Transport:
    """One connection to the gateway, in MessagePack.

    Attributes:
        hello: What the server said first.
    """

    def __init__(self, socket: ClientConnection, hello: Hello) -> None:
        self._socket = socket
        self._protocol: ProtocolHandler[Any] = client_side()
        self.hello = hello

    @classmethod
    async def open(cls, url: str, tls: ssl.SSLContext | None) -> Transport:
        """Connect and wait for `hello`.

        Raises:
            Closed: It did not work.
        """
        try:
            socket = await connect(
                url.replace("http", "ws", 1) + "/gateway",
                subprotocols=[Subprotocol(SUBPROTOCOL_CLEAR)],
                compression=None,
                ssl=tls,
                open_timeout=OPEN_S,
                ping_interval=20,
                ping_timeout=10,
                close_timeout=2,
                max_size=RECEIVE_MAX,
                proxy=None,
            )
        except (OSError, TimeoutError, InvalidHandshake) as error:
            raise Closed(1006, str(error)) from error
        try:
            (hello,) = msgspec.json.decode(await socket.recv(), type=list[Hello])
        except (ConnectionClosed, msgspec.DecodeError, ValueError) as error:
            raise Closed(1006, "no hello") from error
        return cls(socket, hello)

    async def send(self, *frames: Any) -> None:
        """Send frames as one message.

        Raises:
            TooLarge: The server would close the connection instead of answering, and a repetition would do the same.
            Closed: The connection has ended.
        """
        data = encode_msgpack(frames)
        if len(data) > self.hello.limits.websocket_message_bytes:
            raise TooLarge(f"A message to the server has at most {self.hello.limits.websocket_message_bytes} bytes.")
        try:
            await self._socket.send(data)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def receive(self) -> list[Any]:
        """Return the frames of the next message; what a newer server adds is left out.

        Raises:
            Closed: The connection has ended.
        """
        try:
            data = await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            raise _closed(error) from error
        return [frame for frame in self._protocol.receive(data, text=False) if not isinstance(frame, BadFrame)]

    async def close(self) -> None:
        """End the connection."""
        await self._socket.close()


def _closed(error: ConnectionClosed) -> Closed:
    return Closed(error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else Closed(1006, "connection lost")
