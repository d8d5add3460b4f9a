"""Both sides of the handshake (spec/session-layer.md 3), without I/O: messages in, messages out, at the end a session.

No key is used before every check of a side has passed. One round trip: the client's first record may follow its ClientFin at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from securechat.crypto.handshake import (
    EXT_HOST,
    EXT_PINS,
    EXT_PROTOCOLS,
    PINS_MAX,
    ClientHello,
    ServerAuth,
    ServerHello,
    client_fin,
    parse_client_fin,
    parse_server_fin,
    server_fin,
    transcript,
)
from securechat.crypto.identity import HANDSHAKE, IdentityKey, key_id_of, verify
from securechat.crypto.key_exchange import PREFERRED, EphemeralKey, Suite
from securechat.crypto.key_manager import EpochKeys, KeyManager
from securechat.crypto.wire import PROTOCOL, Reader, names, read_names
from securechat.errors import SessionRefused
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL
from securechat.protocol.session import ClientSession, EpochLimits, Established, ServerSession, SessionClock

WRONG_HOST: Final = 4404
NO_COMMON: Final = 4406
ANSWER_S: Final = 10.0
"""Between ServerHello and ServerAuth."""


class Identities(Protocol):
    """The identity keys of a server."""

    def choose(self, pins: Collection[bytes]) -> IdentityKey:
        """Return the key to sign with: one that the client pinned if there is one, else the current one."""


def protocols_extension(subprotocols: Sequence[str], encodings: Sequence[str]) -> bytes:
    """Return what a side offers or selected: names of sub-protocols, names of encodings."""
    return names(subprotocols) + names(encodings)


def _read_protocols(data: bytes) -> tuple[list[str], list[str]]:
    reader = Reader(data)
    found = read_names(reader.vec16()), read_names(reader.vec16())
    reader.end()
    return found


class ServerHandshake:
    """The server's side of one handshake.

    Args:
        identities: Who the server is.
        knows_host: Whether a host (`name[:port]`, lower case) is this server.
        limits: Of each epoch.
        clock: Of the session.
        ephemeral: Makes ephemeral keys.
        random: Makes random bytes.

    Attributes:
        encoding: What both sides speak inside.
    """

    def __init__(
        self,
        identities: Identities,
        knows_host: Callable[[str], bool],
        limits: EpochLimits,
        clock: SessionClock,
        *,
        ephemeral: Callable[[Suite], EphemeralKey] = EphemeralKey,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._identities = identities
        self._knows_host = knows_host
        self._limits = limits
        self._clock = clock
        self._new_ephemeral = ephemeral
        self._random = random
        self._hello = b""
        self._suite = Suite.P256
        self._share = b""
        self._pins: list[bytes] = []
        self._answered: _Answered | None = None
        self.encoding = Encoding.MSGPACK

    def take_client_hello(self, data: bytes) -> None:
        """Read and judge the client's offer. Cheap: nothing is computed yet.

        Raises:
            SessionRefused: 4400, 4404 for another host, 4406 for nothing in common.
        """
        if self._hello:
            raise SessionRefused(PROTOCOL, "a second ClientHello")
        hello = ClientHello.parse(data)
        host = hello.extensions.get(EXT_HOST)
        if host is not None and not self._knows_host(_ascii(host)):
            raise SessionRefused(WRONG_HOST, "another host")
        if EXT_PROTOCOLS not in hello.extensions:
            raise SessionRefused(PROTOCOL, "no sub-protocols")
        subprotocols, encodings = _read_protocols(hello.extensions[EXT_PROTOCOLS])
        known = [each for name in encodings for each in Encoding if each.value == name]
        if SUBPROTOCOL not in subprotocols or not known:
            raise SessionRefused(NO_COMMON, "sub-protocol or encoding")
        self.encoding = known[0]
        pins = hello.extensions.get(EXT_PINS, b"")
        if len(pins) % 32 or len(pins) > 32 * PINS_MAX:
            raise SessionRefused(PROTOCOL, "pins")
        self._pins = [pins[at : at + 32] for at in range(0, len(pins), 32)]
        self._suite = next(suite for suite in PREFERRED if suite in hello.shares)
        self._share = hello.shares[self._suite]
        self._hello = data

    def answer(self) -> list[bytes]:
        """Return ServerHello, ServerAuth and ServerFin. One RSA signature and one exchange: half a millisecond, good for a thread.

        Raises:
            SessionRefused: The client's share is no point of the group.
        """
        identity = self._identities.choose(self._pins)
        ephemeral = self._new_ephemeral(self._suite)
        wall, now = self._clock.now_ms(), self._clock.monotonic()
        server_hello = ServerHello(
            self._suite, self._random(32), self._random(16), wall, ephemeral.share, self._limits.age_ms, self._limits.records,
            identity.key_id, {EXT_PROTOCOLS: protocols_extension([SUBPROTOCOL], [self.encoding.value])},
        )  # fmt: skip
        secret = ephemeral.exchange(self._share)
        second = server_hello.encode()
        third = ServerAuth(identity.spki, identity.sign(HANDSHAKE, transcript(self._hello, second))).encode()
        manager = KeyManager()
        keys = manager.advance(secret, transcript(self._hello, second, third))
        fourth = server_fin(keys.server_fin.tag(keys.transcript))
        established = Established(
            server_hello.session_id, self._suite, keys, manager, self._limits, self._clock, wall - now * 1_000,
            self._new_ephemeral, random=self._random,
        )  # fmt: skip
        self._answered = _Answered(established, identity, transcript(self._hello, second, third, fourth))
        return [second, third, fourth]

    def finish(self, data: bytes) -> ServerSession:
        """Check ClientFin and return the session.

        Raises:
            SessionRefused: The client does not have the keys.
        """
        tag = parse_client_fin(data)
        answered, self._answered = self._answered, None
        if answered is None or not answered.established.keys.client_fin.holds(tag, answered.said):
            raise SessionRefused(PROTOCOL, "ClientFin")
        return ServerSession(answered.established, answered.identity)


@dataclass(frozen=True, slots=True, repr=False)
class _Answered:
    established: Established
    identity: IdentityKey
    said: bytes


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise SessionRefused(PROTOCOL, "host") from None


class UnknownKey(SessionRefused):
    """The server is another one than the one pinned.

    Attributes:
        key_id: Of the key it showed.
    """

    def __init__(self, key_id: bytes) -> None:
        super().__init__(PROTOCOL, "an identity key that is not pinned")
        self.key_id = key_id


class ClientHandshake:
    """The client's side of one handshake.

    Args:
        host: As dialled: `name[:port]`, lower case.
        pins: Ids of keys that may be the server's; none takes any, for the owner to show and to keep.
        encoding: What to speak inside.
        offered: Sub-protocols that were offered to the WebSocket.
        clock: Of the session.
        ephemeral: Makes ephemeral keys.
        random: Makes random bytes.
        suites: What to offer.

    Attributes:
        key_id: Of the server's key; all of it is checked once `finish` returned.
    """

    def __init__(
        self,
        host: str,
        pins: Collection[bytes],
        encoding: Encoding,
        offered: Sequence[str],
        clock: SessionClock,
        *,
        ephemeral: Callable[[Suite], EphemeralKey] = EphemeralKey,
        random: Callable[[int], bytes] = secrets.token_bytes,
        suites: Sequence[Suite] = PREFERRED,
    ) -> None:
        self._clock = clock
        self._pins = list(pins)
        self._encoding = encoding
        self._new_ephemeral = ephemeral
        self._random = random
        self._ephemerals = {suite: ephemeral(suite) for suite in suites}
        extensions = {
            EXT_HOST: host.encode("ascii"),
            EXT_PROTOCOLS: protocols_extension(offered, [encoding.value]),
        }
        if self._pins:
            extensions[EXT_PINS] = b"".join(self._pins[:PINS_MAX])
        self._hello = ClientHello(random(32), {suite: key.share for suite, key in self._ephemerals.items()}, extensions)
        self._said: list[bytes] = [self._hello.encode()]
        self._server_hello: ServerHello | None = None
        self._server_hello_at = 0.0
        self._keys: EpochKeys | None = None
        self._manager = KeyManager()
        self._spki = b""
        self.key_id = b""

    @property
    def client_hello(self) -> bytes:
        """The first message."""
        return self._said[0]

    def take(self, data: bytes) -> ClientSession | None:
        """Take ServerHello, ServerAuth and ServerFin, in this order; return the session after the third.

        `client_fin` is then to be sent before the first record.

        Raises:
            SessionRefused: The handshake failed; `UnknownKey` when the key is not pinned.
        """
        if len(self._said) == 1:
            self._take_server_hello(data)
        elif len(self._said) == 2:
            self._take_server_auth(data)
        else:
            return self._take_server_fin(data)
        return None

    def _take_server_hello(self, data: bytes) -> None:
        found = ServerHello.parse(data, self._hello)
        selected = found.extensions.get(EXT_PROTOCOLS)
        if selected is None or _read_protocols(selected) != ([SUBPROTOCOL], [self._encoding.value]):
            raise SessionRefused(NO_COMMON, "sub-protocol or encoding")
        self._server_hello = found
        self._server_hello_at = self._clock.monotonic()
        self._said.append(data)

    def _take_server_auth(self, data: bytes) -> None:
        hello = self._server_hello
        if hello is None or self._clock.monotonic() - self._server_hello_at > ANSWER_S:
            raise SessionRefused(PROTOCOL, "ServerAuth came late")
        auth = ServerAuth.parse(data)
        if key_id_of(auth.spki) != hello.key_id:
            raise SessionRefused(PROTOCOL, "key id")
        if self._pins and hello.key_id not in self._pins:
            raise UnknownKey(hello.key_id)
        if not verify(auth.spki, HANDSHAKE, transcript(*self._said), auth.signature):
            raise SessionRefused(PROTOCOL, "signature")
        self._said.append(data)
        self._spki = auth.spki
        secret = self._ephemerals[hello.suite].exchange(hello.share)
        self._ephemerals.clear()
        self._keys = self._manager.advance(secret, transcript(*self._said))

    def _take_server_fin(self, data: bytes) -> ClientSession:
        hello, keys = self._server_hello, self._keys
        tag = parse_server_fin(data)
        if hello is None or keys is None or self.key_id or not keys.server_fin.holds(tag, keys.transcript):
            raise SessionRefused(PROTOCOL, "ServerFin")
        self._said.append(data)
        self.key_id = hello.key_id
        limits = EpochLimits(hello.rekey_after_ms, hello.rekey_after_records)
        established = Established(
            hello.session_id, hello.suite, keys, self._manager, limits, self._clock,
            hello.time_ms - self._server_hello_at * 1_000, self._new_ephemeral, random=self._random,
        )  # fmt: skip
        return ClientSession(established, self._spki)

    def client_fin(self) -> bytes:
        """Return the last message of the handshake."""
        if self._keys is None or not self.key_id:
            raise RuntimeError("the server's messages come first")
        return client_fin(self._keys.client_fin.tag(transcript(*self._said)))
