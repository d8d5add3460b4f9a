"""The session layer: hellos, what a server sends, and records, from raw bytes and from a peer that has the keys."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from securechat.crypto.encryption import Content
from securechat.crypto.handshake import ClientHello, ServerAuth, ServerHello
from securechat.crypto.identity import HANDSHAKE, IdentityKey, verify
from securechat.crypto.key_exchange import Suite
from securechat.crypto.key_manager import KeyManager
from securechat.errors import SessionRefused
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL
from securechat.protocol.handshake import ClientHandshake, ServerHandshake
from securechat.protocol.session import ClientSession, EpochLimits, Established, SealedSession, ServerSession, pack

CODES: Final = frozenset({4400, 4403, 4404, 4406, 4429})
LIMITS: Final = EpochLimits(age_ms=1_800_000, records=2**10)
HOST: Final = "chat.example.org"


class StillClock:
    """A time that does not pass: an input means the same each time."""

    def monotonic(self) -> float:
        return 1_000.0

    def now_ms(self) -> int:
        return 1_795_000_000_000


class _Lazy:
    """An identity that is made when it is needed: RSA takes a while."""

    @functools.cached_property
    def key(self) -> IdentityKey:
        return IdentityKey.generate()

    def choose(self, _pins: object) -> IdentityKey:
        return self.key


IDENTITY: Final = _Lazy()


def _refused(action: Callable[[], object]) -> bool:
    """Return whether it was refused; any other exception is a finding."""
    try:
        action()
    except SessionRefused as refused:
        assert refused.code in CODES, refused.code
        return True
    return False


def client_hello(data: bytes) -> None:
    """A ClientHello; what is taken is answered, and means what it says."""
    try:
        hello = ClientHello.parse(data)
    except SessionRefused as refused:
        assert refused.code in CODES
    else:
        assert ClientHello.parse(hello.encode()) == hello
        assert Suite.P256 in hello.shares
    handshake = ServerHandshake(IDENTITY, lambda host: host == HOST, LIMITS, StillClock())
    if not _refused(lambda: handshake.take_client_hello(data)) and not _refused(handshake.answer):
        assert _refused(lambda: handshake.finish(data)), "no ClientFin is accepted that is none"


@functools.lru_cache(maxsize=1)
def _offer() -> ClientHello:
    return ClientHello.parse(_client().client_hello)


def _client() -> ClientHandshake:
    return ClientHandshake(HOST, [], Encoding.MSGPACK, [SUBPROTOCOL], StillClock(), random=bytes)


def server_messages(data: bytes) -> None:
    """What a server answers: each message by itself, and up to three after one another, each with two bytes of length."""
    try:
        hello = ServerHello.parse(data, _offer())
    except SessionRefused as refused:
        assert refused.code in CODES
    else:
        assert hello.encode() == data, "one message, one spelling"
    try:
        auth = ServerAuth.parse(data)
    except SessionRefused:
        pass
    else:
        assert auth.encode() == data
        verify(auth.spki, HANDSHAKE, bytes(32), auth.signature)
    client = _client()
    for _ in range(3):
        size = int.from_bytes(data[:2], "big")
        message, data = data[2 : 2 + size], data[2 + size :]
        session: list[object] = []
        if _refused(lambda message=message, session=session: session.append(client.take(message))):  # type: ignore[misc]
            return
        assert session == [None], "nobody without the keys gets through"


def _sessions() -> tuple[ClientSession, ServerSession]:
    """Return both sides of a session whose keys everybody knows."""

    def made() -> Established:
        manager = KeyManager()
        keys = manager.advance(bytes(32), bytes(32))
        return Established(bytes(16), Suite.P256, keys, manager, LIMITS, StillClock(), 1_795_000_000_000 - 1_000_000, random=bytes)

    return ClientSession(made(), IDENTITY.key.spki), ServerSession(made(), IDENTITY.key)


def records(data: bytes) -> None:
    """First byte: 1 for the client's side, 2 for sealed by the peer, 4 for before `auth`, 8 for during a rekey.

    Behind it comes a record as it is; or, sealed, its content type and its content.
    """
    if len(data) < 2:
        return
    flags, data = data[0], data[1:]
    client, server = _sessions()
    opens, seals = (client, server) if flags & 1 else (server, client)
    client.authenticated = server.authenticated = not flags & 4
    if flags & 8:
        server.authenticated = True
        server.begin_rekey()
        if flags & 1:  # The client has an INIT before it and answered.
            client.open(server.outgoing.pop(0))
    if not flags & 2:
        if not _refused(lambda: opens.open(data)):
            raise AssertionError("a record that nobody sealed was opened")
        return
    kind = Content(data[0] % 3 + 1)
    _open_sealed(opens, seals._seal_with.seal(kind, data[1:], 1_795_000_000_000), kind, data[1:])


def _open_sealed(opens: SealedSession, record: bytes, kind: Content, content: bytes) -> None:
    try:
        found = opens.open(record)
    except SessionRefused as refused:
        assert refused.code in CODES
        opens.close(refused.code)
        return
    if kind is Content.APPLICATION:
        assert pack(found) == content.rstrip(b"\0") or pack(found) == content
        assert all(found)
    else:
        assert found == []
    assert _refused(lambda: opens.open(record)), "the same record twice"
