"""Attacks 88 and 89: processes that share their past share no keys, and a token is never outside of a sealed session."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from securechat import ChatClient
from securechat.domain.entries import Entry
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_CLEAR
from securechat.protocol.handshake import ClientHandshake
from securechat.sdk.pins import PinStore
from securechat.sdk.sealing import ClientClock, SealPolicy, host_of
from support.running import RunningServer, wait_until

WORKERS = """
import json, os, sys
from securechat.crypto.identity import IdentityKey
from securechat.protocol.handshake import ClientHandshake, ServerHandshake
from securechat.protocol.codec import Encoding
from securechat.protocol.session import EpochLimits
from securechat.sdk.sealing import ClientClock

class One:
    key = IdentityKey.generate()
    def choose(self, pins):
        return self.key

def handshake():
    return ServerHandshake(One(), lambda host: True, EpochLimits(), ClientClock())

hello = ClientHandshake("chat.example.org", [], Encoding.JSON, ["securechat.v1"], ClientClock()).client_hello
warm = handshake()
warm.take_client_hello(hello)
warm.answer()  # Whatever is made at the first use was made before the fork.
pipes = []
for worker in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        found = []
        for _ in range(3):
            server = handshake()
            server.take_client_hello(hello)
            second, *_ = server.answer()
            keys = server._answered.established.keys
            found.append([second[4:36].hex(), second[36:52].hex(), second[62:94].hex(), keys.server.iv.hex(), keys.client.iv.hex(), keys.server.key.hex()])
        os.write(write, json.dumps(found).encode())
        os._exit(0)
    os.close(write)
    pipes.append(read)
print(json.dumps([json.loads(os.read(each, 65536)) for each in pipes]))
for _ in pipes:
    os.wait()
"""


def test_088_two_workers_of_one_parent_answer_the_same_hello_with_different_keys() -> None:
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=60, check=True)
    workers = json.loads(done.stdout)

    assert len(workers) == 2
    for values in zip(*(handshake for worker in workers for handshake in worker), strict=True):
        assert len(set(values)) == 6, "a random, session id, share, iv or key twice"


async def test_088_a_server_that_was_started_again_answers_the_same_hello_with_another_key(server: RunningServer) -> None:
    hello = ClientHandshake(f"localhost:{server.http_port}", (), Encoding.JSON, [SUBPROTOCOL], ClientClock()).client_hello
    answers = []
    for _ in range(2):
        for _ in range(2):
            async with sealed_socket(server.http_port) as socket:
                await socket.send(hello)
                answers.append(await asyncio.wait_for(socket.recv(), 10))
        server.stop()
        server.start()

    assert all(isinstance(each, bytes) for each in answers)
    for start, end in ((4, 36), (36, 52), (62, 94)):
        assert len({each[start:end] for each in answers}) == 4


# ── 89 ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def sealed_socket(port: int, **headers: str) -> connect:
    return connect(
        f"ws://localhost:{port}/gateway",
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
        additional_headers=headers,
    )


class Balancer:
    """Ends TLS in front of the server, so to say: it reads every byte in both directions."""

    def __init__(self) -> None:
        self.port = 0
        self.streams: list[bytearray] = []

    def saw(self, words: bytes) -> bool:
        """Return whether something passed in the clear; what clients mask is unmasked first."""
        return any(words in stream or words in unmasked(bytes(stream)) for stream in self.streams)


def unmasked(stream: bytes) -> bytes:
    """Return the payloads of a client's WebSocket frames."""
    found, at = b"", stream.find(b"\r\n\r\n") + 4
    while at + 6 <= len(stream) and stream[at + 1] & 0x80:
        size, at = stream[at + 1] & 0x7F, at + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(stream[at : at + width], "big"), at + width
        key, payload = stream[at : at + 4], stream[at + 4 : at + 4 + size]
        found += bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
        at += 4 + size
    return found


@asynccontextmanager
async def balanced(server: RunningServer) -> AsyncIterator[Balancer]:
    found = Balancer()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        found.streams.append(seen)
        try:
            while data := await reader.read(65_536):
                seen += data
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        for pair in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(pump(*pair))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    found.port = listener.sockets[0].getsockname()[1]
    yield found
    listener.close()
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("seal", "seen"), [("required", False), ("preferred", False), ("off", True)])
async def test_089_a_load_balancer_sees_neither_token_nor_message_of_a_sealed_client(
    server: RunningServer, seal: SealPolicy, *, seen: bool
) -> None:
    room = server.room("ops")
    token = server.bot("one", room)
    async with balanced(server) as balancer:
        url = f"http://localhost:{balancer.port}"
        async with ChatClient(url, token, seal=seal, pins=PinStore(None)) as client:
            await client.rooms[room].send("canary-of-a-message")
            async for event in client.events():
                if isinstance(event, Entry) and event.body == "canary-of-a-message":
                    break
    assert balancer.saw(b"securechat.v1"), "it reads what passes"
    assert balancer.saw(token.encode()) is seen
    assert balancer.saw(b"canary-of-a-message") is seen


async def ends_with(socket: object, *messages: bytes | str) -> int:
    """Send messages and return how the server closes; nothing but its handshake may come before."""
    assert hasattr(socket, "send")
    assert hasattr(socket, "recv")
    try:
        for message in messages:
            await socket.send(message)
        while True:
            answer = await asyncio.wait_for(socket.recv(), 10)
            assert isinstance(answer, bytes)
            assert answer[:1] in {b"\2", b"\3", b"\4"}, "the server says nothing but its handshake"
    except ConnectionClosed as ended:
        return 1006 if ended.rcvd is None else ended.rcvd.code


async def test_089_a_token_before_the_handshake_ends_is_not_taken(server: RunningServer) -> None:
    token = server.bot("one", server.room("ops"))
    auth = json.dumps([{"op": "auth", "id": "1", "token": token}])
    host = host_of(f"http://localhost:{server.http_port}")
    hello = ClientHandshake(host, (), Encoding.JSON, [SUBPROTOCOL], ClientClock()).client_hello
    for messages in (
        [auth],
        [auth.encode()],
        [hello, auth],
        [hello, auth.encode()],
        [hello, b"\x10\1" + bytes(26) + auth.encode()],
    ):
        async with sealed_socket(server.http_port) as socket:
            assert await ends_with(socket, *messages) == 4400
    wait_until(lambda: server.log.count("session refused") >= 5, "each is logged")
    assert token not in server.log


async def test_089_no_token_outside_of_the_session_opens_it(server: RunningServer) -> None:
    server.stop()
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"session_layer": "required"}))
    server.start()
    room = server.room("ops")
    token = server.bot("one", room)
    bearer = {"Authorization": f"Bearer {token}"}
    url = f"ws://localhost:{server.http_port}/gateway"
    with pytest.raises(InvalidStatus, match="400"):
        await connect(url, subprotocols=[Subprotocol(SUBPROTOCOL_CLEAR)], compression=None, proxy=None, additional_headers=bearer)
    with pytest.raises(InvalidStatus, match="400"):
        await connect(f"{url}?token={token}", subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None, proxy=None)
    async with sealed_socket(server.http_port, **bearer) as socket:  # Sealed, and not signed in by what the header says.
        handshake = ClientHandshake(f"localhost:{server.http_port}", (), Encoding.JSON, [SUBPROTOCOL], ClientClock())
        await socket.send(handshake.client_hello)
        session = None
        while session is None:
            answer = await socket.recv()
            assert isinstance(answer, bytes)
            session = handshake.take(answer)
        await socket.send(handshake.client_fin())
        ping = b'[{"op":"user.me","id":"1"}]'
        await socket.send(session.seal(len(ping).to_bytes(4, "big") + ping))
        told = b""
        while session.peer_close is None:
            answer = await socket.recv()
            assert isinstance(answer, bytes)
            told += b"".join(session.open(answer))
    assert session.peer_close.code == 4401
    assert b"unauthorized" in told
    assert token not in server.log
    async with ChatClient(server.url, token, pins=PinStore(None)) as client:
        assert client.rooms
