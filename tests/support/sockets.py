"""Connections to the gateway for tests that look at single frames."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from support.running import RunningServer


async def unknown_socket(server: RunningServer) -> ClientConnection:
    """Return a connection that said nothing yet."""
    found = await connect(
        f"ws://localhost:{server.http_port}/gateway",
        subprotocols=[Subprotocol("securechat.v1.clear")],
        compression=None,
        proxy=None,
    )
    await found.recv()
    return found


async def socket_of(server: RunningServer, token: str) -> tuple[ClientConnection, dict[str, Any]]:
    """Return a connection that is ready, and what `ready` said."""
    found = await unknown_socket(server)
    await found.send(json.dumps([{"op": "auth", "id": "a", "token": token}]))
    (ready,) = json.loads(await found.recv())
    assert ready["op"] == "ready", ready
    return found, ready


async def ask(socket: ClientConnection, op: str, **fields: Any) -> dict[str, Any]:
    """Send a command and return its reply or error."""
    await socket.send(json.dumps([{"op": op, "id": op, **fields}]))
    async with asyncio.timeout(20):
        while True:
            for frame in json.loads(await socket.recv()):
                if frame.get("id") == op:
                    return dict(frame)


async def refusal(server: RunningServer, token: str) -> tuple[dict[str, Any], int | None]:
    """Try to authenticate; return the error and the code with which the connection was closed."""
    socket = await unknown_socket(server)
    await socket.send(json.dumps([{"op": "auth", "id": "a", "token": token}]))
    (error,) = json.loads(await socket.recv())
    async with asyncio.timeout(5):
        await socket.wait_closed()
    return error, socket.close_code


async def heard_until_closed(socket: ClientConnection) -> list[dict[str, Any]]:
    """Return every frame that still comes, once the connection is closed."""
    frames: list[dict[str, Any]] = []
    try:
        while True:
            frames += json.loads(await socket.recv())
    except ConnectionClosed:
        return frames
