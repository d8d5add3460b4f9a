"""The handshake messages, as bytes (spec/session-layer.md 3). What they mean is in `protocol.session`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from securechat.crypto.key_exchange import Suite
from securechat.crypto.wire import PROTOCOL, Reader, framed, read_extensions, u16, u32, u64, vec16, write_extensions
from securechat.errors import SessionRefused

VERSION: Final = 1
CLIENT_HELLO_MAX: Final = 1_024
SERVER_AUTH_MAX: Final = 1_024
NO_COMMON: Final = 4406
SUITES_MAX: Final = 8

_KNOWN: Final = frozenset(int(suite) for suite in Suite)

EXT_HOST: Final = 0x0001
EXT_PROTOCOLS: Final = 0x0002
EXT_PINS: Final = 0x0003
PINS_MAX: Final = 8

_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_SERVER_AUTH: Final = 3
_SERVER_FIN: Final = 4
_CLIENT_FIN: Final = 5


def transcript(*messages: bytes) -> bytes:
    """Return H(F(m₁) ‖ F(m₂) ‖ …)."""
    return hashlib.sha256(b"".join(map(framed, messages))).digest()


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client offers.

    Attributes:
        random: 32 bytes.
        shares: Suite → public share, in the order of preference; P-256 is among them.
        extensions: Type → data.
    """

    random: bytes
    shares: dict[Suite, bytes]
    extensions: dict[int, bytes]

    def encode(self) -> bytes:
        """Return the message."""
        shares = b"".join(u16(suite) + vec16(share) for suite, share in self.shares.items())
        suites = b"".join(map(u16, self.shares))
        return (
            bytes((_CLIENT_HELLO, VERSION)) + vec16(suites) + self.random + vec16(shares)
            + write_extensions(list(self.extensions.items()))
        )  # fmt: skip

    @classmethod
    def parse(cls, data: bytes) -> ClientHello:
        """Read one.

        Raises:
            SessionRefused: 4406 for another version or no suite in common, 4400 for anything that is wrong in itself.
        """
        if len(data) > CLIENT_HELLO_MAX:
            raise SessionRefused(PROTOCOL, "ClientHello too long")
        reader = Reader(data)
        reader.expect(_CLIENT_HELLO)
        if reader.number(1) != VERSION:
            raise SessionRefused(NO_COMMON, "version")
        suites = Reader(reader.vec16())
        random = reader.take(32)
        shares = Reader(reader.vec16())
        extensions = read_extensions(reader.vec16())
        reader.end()
        offered: list[int] = []
        found: dict[Suite, bytes] = {}
        while suites.more:
            number = suites.number(2)
            share_of = shares.number(2)
            share = shares.vec16()
            if number in offered or share_of != number or len(offered) == SUITES_MAX:
                raise SessionRefused(PROTOCOL, "suites and shares")
            offered.append(number)
            if number in _KNOWN:
                suite = Suite(number)
                if len(share) != suite.share_bytes:
                    raise SessionRefused(PROTOCOL, "share")
                found[suite] = share
        shares.end()
        if not found:
            raise SessionRefused(NO_COMMON, "no suite in common")
        if Suite.P256 not in found:
            raise SessionRefused(PROTOCOL, "P-256 is not offered")
        return cls(random, found, extensions)


@dataclass(frozen=True, slots=True)
class ServerHello:
    """What a server chose.

    Attributes:
        suite: One of those offered.
        random: 32 bytes.
        session_id: 16 bytes.
        time_ms: Its clock, in milliseconds since 1970.
        share: Its public share.
        rekey_after_ms: Hard limit of an epoch's age.
        rekey_after_records: Hard limit of an epoch's records in each direction.
        key_id: Which identity signs.
        extensions: Only types that were offered.
    """

    suite: Suite
    random: bytes
    session_id: bytes
    time_ms: int
    share: bytes
    rekey_after_ms: int
    rekey_after_records: int
    key_id: bytes
    extensions: dict[int, bytes]

    def encode(self) -> bytes:
        """Return the message."""
        return (
            bytes((_SERVER_HELLO, VERSION)) + u16(self.suite) + self.random + self.session_id + u64(self.time_ms)
            + vec16(self.share) + u32(self.rekey_after_ms) + u32(self.rekey_after_records) + self.key_id
            + write_extensions(list(self.extensions.items()))
        )  # fmt: skip

    @classmethod
    def parse(cls, data: bytes, offer: ClientHello) -> ServerHello:
        """Read one that answers an offer.

        Raises:
            SessionRefused: 4406 for another version or a suite that was not offered, 4400 for anything else.
        """
        reader = Reader(data)
        reader.expect(_SERVER_HELLO)
        if reader.number(1) != VERSION:
            raise SessionRefused(NO_COMMON, "version")
        number = reader.number(2)
        if number not in offer.shares:
            raise SessionRefused(NO_COMMON, "a suite that was not offered")
        suite = Suite(number)
        found = cls(
            suite, reader.take(32), reader.take(16), reader.number(8), reader.vec16(), reader.number(4), reader.number(4),
            reader.take(32), read_extensions(reader.vec16()),
        )  # fmt: skip
        reader.end()
        if len(found.share) != suite.share_bytes:
            raise SessionRefused(PROTOCOL, "share")
        if not 60_000 <= found.rekey_after_ms <= 1_800_000 or not 2**10 <= found.rekey_after_records <= 2**20:
            raise SessionRefused(PROTOCOL, "limits of an epoch")
        if not found.extensions.keys() <= offer.extensions.keys():
            raise SessionRefused(PROTOCOL, "an extension that was not offered")
        return found


@dataclass(frozen=True, slots=True)
class ServerAuth:
    """Who the server is: its public key, and its signature of both hellos."""

    spki: bytes
    signature: bytes

    def encode(self) -> bytes:
        """Return the message."""
        return bytes((_SERVER_AUTH,)) + vec16(self.spki) + vec16(self.signature)

    @classmethod
    def parse(cls, data: bytes) -> ServerAuth:
        """Read one.

        Raises:
            SessionRefused: Not one.
        """
        if len(data) > SERVER_AUTH_MAX:
            raise SessionRefused(PROTOCOL, "ServerAuth too long")
        reader = Reader(data)
        reader.expect(_SERVER_AUTH)
        found = cls(reader.vec16(), reader.vec16())
        reader.end()
        return found


def _finished(kind: int, tag: bytes) -> bytes:
    return bytes((kind,)) + tag


def _parse_finished(kind: int, data: bytes) -> bytes:
    reader = Reader(data)
    reader.expect(kind)
    tag = reader.take(32)
    reader.end()
    return tag


def server_fin(tag: bytes) -> bytes:
    """Return a ServerFin."""
    return _finished(_SERVER_FIN, tag)


def client_fin(tag: bytes) -> bytes:
    """Return a ClientFin."""
    return _finished(_CLIENT_FIN, tag)


def parse_server_fin(data: bytes) -> bytes:
    """Return the tag of a ServerFin, or raise `SessionRefused`."""
    return _parse_finished(_SERVER_FIN, data)


def parse_client_fin(data: bytes) -> bytes:
    """Return the tag of a ClientFin, or raise `SessionRefused`."""
    return _parse_finished(_CLIENT_FIN, data)
