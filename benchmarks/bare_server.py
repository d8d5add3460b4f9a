"""The bare server: the network stack of SecureChat without the chat.

TLS by aiofastnet, WebSocket by picows, uvloop; one write per connection and turn of the loop. It speaks just enough of the
protocol for the same load client to measure it: a message goes on to everyone in the room with the next number, and its sender
gets a reply. Nothing is decoded, checked or stored. A token is the id of the room that its holder is in.

    python benchmarks/bare_server.py FOLDER     # with server.crt and server.key; says `bare PORT`
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import sys
from pathlib import Path
from typing import Any, Final

import aiofastnet
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, WSUpgradeResponse, WSUpgradeResponseWithListener

from securechat.gateway.acceptor import _BIO_BYTES
from securechat.gateway.upgrade import websocket_protocol
from securechat.protocol.codec import websocket_header

PAGE: Final = 50


def message(payload: bytes) -> bytes:
    """Return a WebSocket text message."""
    return websocket_header(0x81, len(payload)) + payload


HELLO: Final = message(b'[{"op":"hello","protocol":1,"server":"bare","version":"0","time":0,"heartbeat_s":20,"limits":{}}]')


class Room:
    """Connections, and the events that wait for the end of this turn."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.seq = 0
        self.members: dict[Bare, None] = {}
        self.waiting: list[bytes] = []
        self.before = b'{"op":"event","type":"message.sent","room":"' + name + b'","seq":'
        self.after = b',"at":1700000000000,"user":"usr_0000000000000000","device":"dev_0000000000000000",'
        entries = [
            self.before + b"%d" % (seq + 1) + self.after + b'"cmid":"h-000000","body":"' + b"." * 200 + b'"}' for seq in range(PAGE)
        ]
        self.page = b'","data":{"room":"' + name + b'","entries":[' + b",".join(entries) + b'],"last_seq":50}}]'


class Bare(WSListener):
    """One client."""

    __slots__ = ("_transport", "answers", "room")

    def __init__(self) -> None:
        super().__init__()
        self._transport: Any = None
        self.room: Room | None = None
        self.answers: list[bytes] = []

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say hello."""
        self._transport = transport.underlying_transport
        self._transport.write(HELLO)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Pass a message on at the end of the turn."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        room = self.room
        if room is None:
            self._log_in(payload)
            return
        start = payload.index(b'"id":"') + 6
        word = payload[start : payload.index(b'"', start)]
        if payload.startswith(b'[{"op":"fetch"'):
            self.answers.append(message(b'[{"op":"reply","id":"' + word + room.page))
        else:
            room.seq += 1
            room.waiting.append(room.before + b"%d" % room.seq + room.after + payload[payload.index(b'"cmid":"') : -1])
            self.answers.append(
                message(
                    b'[{"op":"reply","id":"'
                    + word
                    + b'","data":{"room":"'
                    + room.name
                    + b'","seq":%d,"at":1700000000000}}]' % room.seq
                )
            )
        if room not in _dirty:
            if not _dirty:
                asyncio.get_running_loop().call_soon(_flush)
            _dirty[room] = None

    def on_ws_disconnected(self, _transport: WSTransport) -> None:
        """Forget the connection."""
        if self.room is not None:
            self.room.members.pop(self, None)

    def write(self, block: bytes) -> None:
        """Write answers and events in one write."""
        if self.answers:
            block = b"".join((*self.answers, block))
            self.answers.clear()
        if block:
            self._transport.write(block)

    def _log_in(self, payload: bytes) -> None:
        start = payload.index(b'"token":"') + 9
        name = payload[start : payload.index(b'"', start)]
        room = self.room = _rooms.get(name) or _rooms.setdefault(name, Room(name))
        room.members[self] = None
        self._transport.write(
            message(
                b'[{"op":"ready","id":"a","user":{"id":"usr_0000000000000000","username":"bare","display_name":"bare","role":"bot"},'
                b'"device":"dev_0000000000000000","rooms":[{"id":"' + name + b'","kind":"private","name":"bare","last_seq":'
                b'%d,"members":100,"role":"member"}],"resumed":true}]' % room.seq
            )
        )


_rooms: Final[dict[bytes, Room]] = {}
_dirty: Final[dict[Room, None]] = {}


def _flush() -> None:
    rooms = list(_dirty)
    _dirty.clear()
    for room in rooms:
        waiting, room.waiting = room.waiting, []
        block = message(b"[" + b",".join(waiting) + b"]") if waiting else b""
        for member in room.members:
            member.write(block)


def _upgrade(_request: WSUpgradeRequest) -> WSUpgradeResponseWithListener:
    response = WSUpgradeResponse.create_101_response(extra_headers={"Sec-WebSocket-Protocol": "securechat.v1.clear"})
    return WSUpgradeResponseWithListener(response, Bare())


def _protocol() -> Any:
    return websocket_protocol(_upgrade)


async def serve(folder: Path) -> None:
    """Serve on a free port until SIGTERM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await aiofastnet.create_server(
        loop, _protocol, "127.0.0.1", 0, backlog=1_024, reuse_address=True, ssl=context, ssl_handshake_timeout=5.0,
        ssl_shutdown_timeout=2.0, ssl_incoming_bio_size=_BIO_BYTES, ssl_outgoing_bio_size=_BIO_BYTES,
    )  # fmt: skip
    gc.collect()
    gc.freeze()
    print(f"bare {server.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1])))
