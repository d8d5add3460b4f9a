"""A connection's token ends: it is told so once, 60 s before, and is closed when it brings no other."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from fuzz.sockets import Server
from securechat.domain.accounts import Principal, Role
from securechat.domain.secret import Secret
from securechat.gateway.connection import ClientConnection
from securechat.gateway.conversation import EXPIRING_S
from securechat.gateway.session import Session
from securechat.protocol.frames import Auth

END = 10_000.0


class Transport:
    """Both transports at once: picows's, and the one below."""

    def __init__(self) -> None:
        self.underlying_transport = self
        self.frames: list[Any] = []
        self.code: int | None = None

    def write(self, data: bytes) -> None:
        self.frames += [frame for frame in msgspec.json.decode(data[2:] if data[1] < 126 else data[4:]) if frame["op"] != "hello"]

    def send_close(self, code: int, _reason: bytes) -> None:
        self.code = code

    def resume_reading(self) -> None:
        """Nothing was paused."""

    def abort(self) -> None:
        """Later."""


class World(Server):
    """Takes every token as one of the same device that ends at `ends`."""

    ends = END
    other = ""

    def mark(self, connection: ClientConnection) -> None:
        connection.flush()

    async def who(self, _token: Secret) -> Principal:
        return Principal("usr_1", "dev_1" + self.other, Role.MEMBER, "ana", self.ends)


@pytest.fixture
async def connection() -> ClientConnection:
    found = ClientConnection(cast("Session", World()), "192.0.2.1")
    found.on_ws_connected(cast("Any", Transport()))
    found.principal = Principal("usr_1", "dev_1", Role.MEMBER, "ana", END)
    return found


def told(connection: ClientConnection) -> list[Any]:
    return [frame for frame in connection._transport.frames if frame.get("type") == "auth.expiring"]


async def test_it_is_told_once_and_not_too_early(connection: ClientConnection) -> None:
    now = connection._last_heard
    connection.look_after(now, END - EXPIRING_S - 0.1)
    assert told(connection) == []
    for wall in (END - EXPIRING_S, END - 30, END - 0.1):
        connection.look_after(now, wall)
    assert told(connection) == [{"op": "signal", "type": "auth.expiring", "expires_in": 60}]
    assert connection._transport.code is None


async def test_it_is_closed_when_no_other_token_came(connection: ClientConnection) -> None:
    connection.look_after(connection._last_heard, END + 0.1)
    assert connection._transport.code == 4401


async def test_a_fresh_token_of_the_same_device_extends_it_and_is_told_of_anew(connection: ClientConnection) -> None:
    session = cast("World", connection._session)
    now = connection._last_heard
    connection.look_after(now, END - 10)
    session.ends = END + 600
    assert connection.principal is not None
    await connection._conversation._extend(connection.principal, Auth(id="1", token=Secret("fresh")))
    connection.look_after(now, END + 1)
    assert connection._transport.code is None
    connection.look_after(now, END + 560)
    assert [each["expires_in"] for each in told(connection)] == [10, 40]


async def test_a_token_of_another_device_extends_nothing(connection: ClientConnection) -> None:
    session = cast("World", connection._session)
    session.other, session.ends = "x", END + 600
    assert connection.principal is not None
    await connection._conversation._guard(
        connection._conversation._extend(connection.principal, Auth(id="1", token=Secret("another's"))), "1"
    )
    connection.look_after(connection._last_heard, END + 1)
    assert [frame["code"] for frame in connection._transport.frames if frame["op"] == "error"] == ["conflict"]
    assert connection._transport.code == 4401
