"""One connection of the gateway on a socket that only remembers: what is written, and in which order."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from fuzz.sockets import Server
from securechat.crypto.identity import IdentityKey
from securechat.crypto.key_exchange import Suite
from securechat.domain.accounts import Principal, Role
from securechat.domain.secret import Secret
from securechat.errors import ChatError, EnrolmentRequired, RateLimited, Unauthorized, Unavailable
from securechat.gateway.connection import ClientConnection
from securechat.gateway.conversation import AUTH_S
from securechat.gateway.fence import Fence
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.codec import Encoding, encode_msgpack
from support import session_vectors as v
from support.fakes import ManualClock, principal

CASE: Final = json.loads(Path(v.PATH).read_text())["cases"][0]


class Socket:
    """Takes everything, and keeps it."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closed_with = 0

    @property
    def underlying_transport(self) -> Socket:
        return self

    def write(self, data: bytes) -> None:
        self.written += data

    def send_close(self, code: int, _reason: bytes = b"") -> None:
        self.closed_with = code

    def resume_reading(self) -> None:
        """Nothing is read here."""

    def abort(self) -> None:
        """Nothing is open here."""

    def messages(self) -> Iterator[bytes]:
        """Give the payloads of the WebSocket messages that were written."""
        at = 0
        while at < len(self.written):
            size, head = self.written[at + 1], 2
            if size == 126:
                size, head = int.from_bytes(self.written[at + 2 : at + 4], "big"), 4
            yield bytes(self.written[at + head : at + head + size])
            at += head + size


class Session:
    """A server that nobody asks anything."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.fence = Fence(ManualClock())

    def note_refusal(self, *_: object) -> None:
        """Nobody listens."""

    def mark(self, connection: Any) -> None:
        """The test flushes."""

    def detach(self, connection: Any, user_id: str) -> None:
        """Nobody was attached."""


@pytest.fixture
def pair() -> v.Pair:
    key = v.Signing(IdentityKey.load(CASE["identity"]["pem"].encode()))
    made = v.Pair(key, v.Drawn("c"), v.Drawn("s"), (Suite.X25519, Suite.P256), Encoding.JSON, [])
    made.shake()
    return made


def connected(pair: v.Pair | None = None) -> tuple[ClientConnection, Socket]:
    """Return a connection, sealed if there is a pair, and its socket."""
    connection, socket = ClientConnection(Session(), "192.0.2.1"), Socket()  # type: ignore[arg-type]
    connection._transport = connection._socket = socket
    if pair is not None:
        connection._seal = pair.server
        connection._packs = True
    return connection, socket


async def test_a_close_while_catching_up_comes_after_the_offer_of_new_keys(pair: v.Pair) -> None:
    connection, socket = connected(pair)
    connection._catching_up = 1
    pair.server.begin_rekey()
    connection.flush()
    connection.announce(1_000)
    connection.close(4000)

    for record in socket.messages():
        assert pair.client.open(record) == []
    assert pair.client.peer_close is not None
    assert (pair.client.peer_close.code, pair.client.peer_close.after_ms, socket.closed_with) == (4000, 1_000, 4000)


async def test_a_server_that_stops_during_a_handshake_says_nothing_that_the_session_would_not_understand(pair: v.Pair) -> None:
    connection, socket = connected(pair)
    connection._seal = None  # The handshake is under way; which encoding it will be is not known.
    connection.announce(1_000)
    connection._seal = pair.server
    connection.flush()

    assert not socket.written


async def test_what_is_said_before_the_client_chose_its_encoding_goes_out_as_it_was_begun() -> None:
    connection, socket = connected()
    connection.announce(1_000)
    connection._decode(memoryview(encode_msgpack([f.Ping(id="p")])), text=False)

    assert [json.loads(each) for each in socket.messages()] == [[{"op": "drain", "after_ms": 1_000, "within_ms": 0}]]


async def test_who_is_late_with_auth_is_not_told_that_the_token_is_bad() -> None:
    connection, socket = connected()
    connection.look_after(connection._conversation._began_at + AUTH_S + 1, 0)

    assert socket.closed_with == 4403


@pytest.mark.parametrize(
    ("error", "code"), [(Unauthorized(), 4401), (EnrolmentRequired(), 4401), (RateLimited(), 4429), (Unavailable(), 1013)]
)
async def test_only_a_bad_token_is_called_one(error: ChatError, code: int) -> None:
    connection, socket = connected()

    async def authenticate() -> None:
        raise error

    connection._conversation._held = []  # It is coming in.
    await connection._conversation._guard(authenticate(), "auth")
    assert socket.closed_with == code


async def test_a_role_that_changed_while_a_token_was_looked_at_stays() -> None:
    """Whoever goes on sending tokens does not keep what was taken from them."""
    connection, _ = connected()
    before = msgspec.structs.replace(principal("ana"), role=Role.ADMIN)
    connection.principal = before

    async def who(_token: Secret) -> Principal:
        found = msgspec.structs.replace(before, expires_at=99)
        connection.principal = msgspec.structs.replace(before, role=Role.MEMBER)  # As the hub does.
        return found

    connection._session.who = who  # type: ignore[method-assign, assignment]
    await connection._conversation._extend(before, f.Auth(id="c1", token=Secret("t")))
    assert (connection.principal.role, connection.principal.expires_at) == (Role.MEMBER, 99)


async def test_a_connection_that_is_over_does_not_wait_for_the_cycle_collector() -> None:
    class Flushing(Server):
        def mark(self, connection: ClientConnection) -> None:
            connection.flush()

    def alive() -> int:
        return sum(type(each) is ClientConnection for each in gc.get_objects())

    gc.collect()
    gc.disable()
    before = alive()
    try:
        connection = ClientConnection(Flushing(), "192.0.2.1")
        connection.on_ws_connected(Socket())  # type: ignore[arg-type]
        connection.on_ws_disconnected(connection._transport)
        del connection

        assert alive() == before
    finally:
        gc.enable()
