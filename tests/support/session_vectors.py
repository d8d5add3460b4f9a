"""Test vectors of the session layer: made once by `python -m support.session_vectors`, checked by both implementations ever since.

A case holds everything random, every message and every key of one session with a rekey. A refusal holds what precedes it and the
message that has to be refused, with the close code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding as Form
from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat, PublicFormat

from securechat.crypto.encryption import HEADER, HEADER_BYTES, MAC_BYTES, Content, Direction, EncryptionManager
from securechat.crypto.handshake import ClientHello, ServerAuth, ServerHello, server_fin, transcript
from securechat.crypto.identity import HANDSHAKE, REKEY, IdentityKey, key_id_of
from securechat.crypto.integrity import HMACValidator
from securechat.crypto.key_exchange import EphemeralKey, Suite
from securechat.crypto.key_manager import DirectionKeys, EpochKeys
from securechat.crypto.wire import framed, u16, u32, vec16
from securechat.protocol.codec import Encoding
from securechat.protocol.frames import SUBPROTOCOL, SUBPROTOCOL_CLEAR
from securechat.protocol.handshake import ClientHandshake, ServerHandshake, protocols_extension
from securechat.protocol.session import ClientSession, EpochLimits, ServerSession, pack

PATH: Final = Path(__file__).parents[2] / "spec" / "vectors" / "session-layer.json"
HOST: Final = "chat.example.org"
WALL_MS: Final = 1_795_000_000_000
LIMITS: Final = EpochLimits(age_ms=1_800_000, records=2**20)
ORDER_P: Final = 2**255 - 19
LOW_ORDER: Final = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    ORDER_P - 1,
)
"""u-coordinates of the points of small order that have a canonical encoding (RFC 7748 6.1)."""


class StepClock:
    """A clock of one side that a script moves."""

    def __init__(self, monotonic: float) -> None:
        self.seconds = monotonic

    def monotonic(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return WALL_MS

    def forward(self, ms: float) -> None:
        self.seconds += ms / 1_000


def private_bytes(key: Any) -> bytes:
    """Return the scalar of an ephemeral key."""
    if isinstance(key, X25519PrivateKey):
        return key.private_bytes(Form.Raw, PrivateFormat.Raw, NoEncryption())
    return int(key.private_numbers().private_value).to_bytes(32, "big")


def load_private(suite: Suite, scalar: bytes) -> ec.EllipticCurvePrivateKey | X25519PrivateKey:
    """Return the ephemeral key of a scalar."""
    if suite is Suite.X25519:
        return X25519PrivateKey.from_private_bytes(scalar)
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())


class Drawn:
    """Random bytes and ephemeral keys, written down as they are drawn; or drawn again from what was written down."""

    def __init__(self, label: str, recorded: dict[str, list[str]] | None = None) -> None:
        self._seed = hashlib.sha256(label.encode()).digest()
        self._recorded = recorded
        self.randoms: list[str] = []
        self.ephemerals: list[str] = []

    def random(self, size: int) -> bytes:
        if self._recorded is not None:
            found = bytes.fromhex(self._recorded["randoms"][len(self.randoms)])
            assert len(found) == size
        else:
            self._seed = hashlib.sha256(self._seed).digest()
            found = self._seed[:size]
        self.randoms.append(found.hex())
        return found

    def ephemeral(self, suite: Suite) -> EphemeralKey:
        if self._recorded is not None:
            private = load_private(suite, bytes.fromhex(self._recorded["ephemerals"][len(self.ephemerals)]))
        elif suite is Suite.X25519:
            private = X25519PrivateKey.generate()
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        self.ephemerals.append(private_bytes(private).hex())
        return EphemeralKey(suite, private)

    def told(self) -> dict[str, list[str]]:
        return {"randoms": self.randoms, "ephemerals": self.ephemerals}


class Recorded:
    """An identity whose signatures are those of the file: RSA-PSS is random."""

    def __init__(self, spki: bytes, signatures: Iterator[bytes]) -> None:
        self.spki = spki
        self.key_id = key_id_of(spki)
        self._signatures = signatures

    def sign(self, _context: bytes, _digest: bytes) -> bytes:
        return next(self._signatures)

    def choose(self, _pins: object) -> IdentityKey:
        return cast("IdentityKey", self)


class Signing:
    """A real identity that remembers its signatures."""

    def __init__(self, key: IdentityKey) -> None:
        self.key = key
        self.spki = key.spki
        self.key_id = key.key_id
        self.signatures: list[bytes] = []

    def sign(self, context: bytes, digest: bytes) -> bytes:
        self.signatures.append(self.key.sign(context, digest))
        return self.signatures[-1]

    def choose(self, _pins: object) -> IdentityKey:
        return cast("IdentityKey", self)


class Pair:
    """A client and a server with clocks of their own."""

    def __init__(
        self, identity: Any, client: Drawn, server: Drawn, suites: tuple[Suite, ...], encoding: Encoding, pins: list[bytes]
    ) -> None:
        self.client_clock, self.server_clock = StepClock(5_000.0), StepClock(1_000.0)
        self.client_handshake = ClientHandshake(
            HOST, pins, encoding, [SUBPROTOCOL, SUBPROTOCOL_CLEAR], self.client_clock,
            ephemeral=client.ephemeral, random=client.random, suites=suites,
        )  # fmt: skip
        self.server_handshake = ServerHandshake(
            identity, lambda host: host == HOST, LIMITS, self.server_clock, ephemeral=server.ephemeral, random=server.random
        )
        self.messages: list[bytes] = []
        self.client: ClientSession
        self.server: ServerSession

    def forward(self, ms: float) -> None:
        self.client_clock.forward(ms)
        self.server_clock.forward(ms)

    def shake(self) -> None:
        """Go through the handshake."""
        self.messages.append(self.client_handshake.client_hello)
        self.server_handshake.take_client_hello(self.messages[0])
        for message in self.server_handshake.answer():
            self.messages.append(message)
            session = self.client_handshake.take(message)
        assert session is not None
        self.client = session
        self.messages.append(self.client_handshake.client_fin())
        self.server = self.server_handshake.finish(self.messages[-1])
        self.server.authenticated = self.client.authenticated = True


SCRIPT: Final[tuple[tuple[int, str, str, Any], ...]] = (
    (20, "client", "application", [b'[{"op":"auth","id":"a","token":"sc_bot_x"}]']),
    (10, "server", "application", [b'[{"op":"hello"}]', b'[{"op":"ready"}]']),
    (5, "client", "application", ['["h\u00e9llo \U0001f44b"]'.encode()]),
    (5, "server", "application", [b"x" * 900, b"y" * 300, b"z"]),
    (40, "server", "rekey", None),
    (1, "server", "application", [b'["between INIT and DONE"]']),
    (15, "client", "reply", None),
    (2, "client", "application", [b'["in the next epoch"]']),
    (8, "server", "done", None),
    (3, "server", "application", [b'["in the next epoch too"]']),
    (3, "server", "application", [b"p" * 5_000]),
    (100, "server", "close", (4000, 1500)),
    (5, "client", "close", (4000, 0)),
)  # fmt: skip


def play(pair: Pair, compare: Callable[[dict[str, Any]], None]) -> None:
    """Go through the script; each step tells what was sealed, after the other side opened it."""
    at = 0
    for ms, by, kind, what in SCRIPT:
        pair.forward(ms)
        at += ms
        own = pair.client if by == "client" else pair.server
        other = pair.server if by == "client" else pair.client
        step: dict[str, Any] = {"at_ms": at, "by": by, "kind": kind}
        if kind == "application":
            records = [own.seal(pack(what))]
            step["messages"] = [message.hex() for message in what]
        elif kind == "close":
            records = [own.close(*what)]
            step["code"], step["after_ms"] = what
        else:
            if kind == "rekey":
                pair.server.begin_rekey()
            records, own.outgoing[:] = list(own.outgoing), []
        step["records"] = [record.hex() for record in records]
        if kind != "rekey" or by != "server":
            opened = [message for record in records for message in other.open(record)]
            assert opened == (what if kind == "application" else [])
        else:
            for record in records:
                other.open(record)
        compare(step)


def keys_of(keys: EpochKeys) -> dict[str, str]:
    """Return every key of an epoch but those that prove it."""
    return {
        "transcript": keys.transcript.hex(),
        "c2s_key": keys.client.key.hex(), "c2s_iv": keys.client.iv.hex(), "c2s_mac": keys.client.mac.hex(),
        "s2c_key": keys.server.key.hex(), "s2c_iv": keys.server.iv.hex(), "s2c_mac": keys.server.mac.hex(),
        "exporter": keys.exporter.hex(), "chain": keys.chain.hex(),
    }  # fmt: skip


def make_case(name: str, bits: int, suites: tuple[Suite, ...], encoding: Encoding, *, pinned: bool) -> dict[str, Any]:
    """Make a session and write everything of it down."""
    identity = Signing(IdentityKey.generate(bits))
    client, server = Drawn(f"{name} client"), Drawn(f"{name} server")
    pair = Pair(identity, client, server, suites, encoding, [identity.key_id] if pinned else [])
    pair.shake()
    epochs = [keys_of(pair.server._keys)]
    steps: list[dict[str, Any]] = []
    play(pair, steps.append)
    epochs.append(keys_of(pair.server._keys))
    return {
        "name": name, "host": HOST, "suites": [int(suite) for suite in suites], "encoding": encoding.value, "pinned": pinned,
        "identity": {"pem": identity.key.pem().decode(), "spki": identity.spki.hex(), "key_id": identity.key_id.hex()},
        "client": client.told(), "server": server.told(), "signatures": [each.hex() for each in identity.signatures],
        "handshake": [message.hex() for message in pair.messages], "epochs": epochs, "steps": steps,
    }  # fmt: skip


def pair_of(case: dict[str, Any]) -> Pair:
    """Return the pair of a case, before its handshake, that draws what the case drew."""
    identity = Recorded(bytes.fromhex(case["identity"]["spki"]), (bytes.fromhex(each) for each in case["signatures"]))
    return Pair(
        identity, Drawn("", case["client"]), Drawn("", case["server"]), tuple(map(Suite, case["suites"])),
        Encoding(case["encoding"]), [identity.key_id] if case["pinned"] else [],
    )  # fmt: skip


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def pss(salt: int, algorithm: hashes.HashAlgorithm | None = None) -> padding.PSS:
    """Return a padding with this salt."""
    return padding.PSS(mgf=padding.MGF1(algorithm or hashes.SHA256()), salt_length=salt)


def signing(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    """Return what signs with a key as it should be, whatever the key."""
    return lambda data: key.sign(data, pss(32), hashes.SHA256())


class Refusals:
    """What has to be refused, made from a case.

    Args:
        case: One with P-256 and X25519 offered and the identity pinned.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        self._case = case
        self._hello, self._server_hello, self._auth, self._fin, self._client_fin = map(bytes.fromhex, case["handshake"])
        self._key = IdentityKey.load(case["identity"]["pem"].encode())
        self.found: list[dict[str, Any]] = []

    def add(
        self, attack: int, name: str, side: str, code: int, message: bytes, precede: list[bytes] | None = None, after_ms: int = 0
    ) -> None:
        """Add one: after these messages, this one is refused."""
        self.found.append({
            "attack": attack, "name": name, "side": side, "case": self._case["name"], "code": code, "after_ms": after_ms,
            "precede": [each.hex() for each in precede or []], "refused": message.hex(),
        })  # fmt: skip

    def adder(self, side: str, start: Sequence[bytes] = ()) -> Callable[..., None]:
        """Return `add` of one side; its names begin with the side where both have them."""

        def add(attack: int, name: str, code: int, message: bytes, precede: Sequence[bytes] = (), after_ms: int = 0) -> None:
            self.add(attack, f"{side}: {name}" if start else name, side, code, message, [*start, *precede], after_ms)

        return add

    # ── ClientHello ──

    def _client_hello(
        self, *, version: int = 1, suites: list[int] | None = None, shares: list[tuple[int, bytes]] | None = None,
        extensions: bytes | None = None, tail: bytes = b"",
    ) -> bytes:  # fmt: skip
        x25519, p256 = self._shares()
        suites = [2, 1] if suites is None else suites
        shares = [(2, x25519), (1, p256)] if shares is None else shares
        default = vec16(
            u16(1) + vec16(HOST.encode()) + u16(2) + vec16(protocols_extension([SUBPROTOCOL, SUBPROTOCOL_CLEAR], ["msgpack"]))
        )
        return (
            bytes((1, version)) + vec16(b"".join(map(u16, suites))) + bytes(32)
            + vec16(b"".join(u16(suite) + vec16(share) for suite, share in shares))
            + (default if extensions is None else extensions) + tail
        )  # fmt: skip

    def _shares(self) -> tuple[bytes, bytes]:
        keys = [Drawn("", self._case["client"]).ephemeral(Suite.X25519)]
        p256 = ec.derive_private_key(7, ec.SECP256R1()).public_key().public_bytes(Form.X962, PublicFormat.UncompressedPoint)
        return keys[0].share, p256

    def client_hellos(self) -> None:
        """Attacks 80 and 81."""
        x25519, p256 = self._shares()
        hello, add = self._client_hello, self.adder("server")
        protocols = u16(2) + vec16(protocols_extension([SUBPROTOCOL], ["msgpack"]))
        add(80, "unknown version", 4406, hello(version=2))
        add(80, "no suite in common", 4406, hello(suites=[0x21], shares=[(0x21, bytes(32))]))
        add(80, "no P-256", 4400, hello(suites=[2], shares=[(2, x25519)]))
        add(80, "a suite twice", 4400, hello(suites=[1, 1], shares=[(1, p256), (1, p256)]))
        add(80, "a share twice", 4400, hello(shares=[(2, x25519), (1, p256), (1, p256)]))
        add(80, "shares in another order", 4400, hello(shares=[(1, p256), (2, x25519)]))
        add(80, "a share that is missing", 4400, hello(shares=[(2, x25519)]))
        add(80, "a share of a suite that is not offered", 4400, hello(suites=[1], shares=[(1, p256), (2, x25519)]))
        add(80, "bytes behind the end", 4400, hello(tail=b"\x00"))
        add(80, "truncated", 4400, hello()[:-1])
        add(80, "an extension twice", 4400, hello(extensions=vec16(protocols + protocols)))
        add(80, "extensions in another order", 4400, hello(extensions=vec16(protocols + u16(1) + vec16(HOST.encode()))))
        add(80, "too long", 4400, hello(extensions=vec16(protocols + u16(9) + vec16(bytes(900)))))
        add(80, "no sub-protocols", 4400, hello(extensions=vec16(u16(1) + vec16(HOST.encode()))))
        add(
            80,
            "only the clear sub-protocol",
            4406,
            hello(extensions=vec16(u16(2) + vec16(protocols_extension([SUBPROTOCOL_CLEAR], ["json"])))),
        )
        add(80, "an unknown encoding", 4406, hello(extensions=vec16(u16(2) + vec16(protocols_extension([SUBPROTOCOL], ["cbor"])))))
        add(80, "pins of a wrong size", 4400, hello(extensions=vec16(protocols + u16(3) + vec16(bytes(31)))))
        add(80, "another host", 4404, hello(extensions=vec16(u16(1) + vec16(b"evil.example") + protocols)))
        add(80, "empty", 4400, b"")
        add(80, "text", 4400, b'[{"op":"auth"}]')
        for name, share in (
            ("off the curve", p256[:-1] + bytes((p256[-1] ^ 1,))), ("infinity", b"\x00"), ("infinity in full length", bytes(65)),
            ("compressed", bytes((2,)) + p256[1:33]), ("hybrid", b"\x06" + p256[1:]), ("too short", p256[:-1]), ("too long", p256 + b"\x00"),
            ("coordinates above the field", b"\x04" + b"\xff" * 64),
        ):  # fmt: skip
            add(81, f"P-256 share {name}", 4400, hello(suites=[1], shares=[(1, share)]))
        for point in LOW_ORDER:
            add(
                81, f"X25519 share of small order {point % 997}", 4400, hello(shares=[(2, point.to_bytes(32, "little")), (1, p256)])
            )
        for number, point in enumerate((ORDER_P, ORDER_P + 1, 2**255 - 1, 2**255 + 9)):
            add(
                81,
                f"X25519 share that is not canonical {number}",
                4400,
                hello(shares=[(2, point.to_bytes(32, "little")), (1, p256)]),
            )
        add(81, "X25519 share too short", 4400, hello(shares=[(2, x25519[:-1]), (1, p256)]))
        add(83, "a second ClientHello instead of ClientFin", 4400, self._hello, [self._hello])
        add(83, "a record before ClientFin", 4400, bytes.fromhex(self._case["steps"][0]["records"][0]), [self._hello])
        add(83, "a ClientFin that is wrong", 4400, self._client_fin[:-1] + bytes((self._client_fin[-1] ^ 1,)), [self._hello])
        add(83, "ServerFin instead of ClientFin", 4400, self._fin, [self._hello])

    # ── the server's messages ──

    def _signed(self, server_hello: bytes, signature: Callable[[bytes], bytes], spki: bytes | None = None) -> bytes:
        digest = transcript(self._hello, server_hello)
        return ServerAuth(spki or self._key.spki, signature(b"\x20" * 64 + HANDSHAKE + b"\x00" + digest)).encode()

    def _changed(self, **changes: Any) -> bytes:
        offer = ClientHello.parse(self._hello)
        found = ServerHello.parse(self._server_hello, offer)
        values = {name: getattr(found, name) for name in ServerHello.__dataclass_fields__} | changes
        return ServerHello(**values).encode()

    def server_messages(self) -> None:
        """Attack 82, and ServerFin of 83."""
        add = self.adder("client")
        private = self._key._private
        hello = self._server_hello

        def good(data: bytes) -> bytes:
            return private.sign(data, pss(32), hashes.SHA256())

        add(82, "another version", 4406, bytes((2, 2)) + hello[2:])
        add(82, "a suite that was not offered", 4406, hello[:2] + u16(0x21) + hello[4:])
        add(82, "the share of another suite", 4400, hello[:2] + u16(1) + hello[4:])
        add(
            82,
            "an extension that was not offered",
            4400,
            self._changed(extensions={2: protocols_extension([SUBPROTOCOL], ["msgpack"]), 9: b""}),
        )
        add(82, "no sub-protocol selected", 4406, self._changed(extensions={}))
        add(
            82,
            "the clear sub-protocol selected",
            4406,
            self._changed(extensions={2: protocols_extension([SUBPROTOCOL_CLEAR], ["msgpack"])}),
        )
        add(82, "keys for longer than 30 minutes", 4400, self._changed(rekey_after_ms=1_800_001))
        add(82, "keys for too many records", 4400, self._changed(rekey_after_records=2**20 + 1))
        add(82, "bytes behind ServerHello", 4400, hello + b"\x00")
        add(82, "another key id", 4400, self._auth, [self._changed(key_id=bytes(32))])
        add(
            82,
            "another share",
            4400,
            self._auth,
            [self._changed(share=X25519PrivateKey.generate().public_key().public_bytes(Form.Raw, PublicFormat.Raw))],
        )
        other = IdentityKey.generate()
        unpinned = self._changed(key_id=other.key_id)
        add(
            82,
            "an unpinned key",
            4400,
            ServerAuth(other.spki, other.sign(HANDSHAKE, transcript(self._hello, unpinned))).encode(),
            [unpinned],
        )
        wrong: dict[str, Callable[[bytes], bytes]] = {
            "PKCS#1 v1.5": lambda data: private.sign(data, padding.PKCS1v15(), hashes.SHA256()),
            "a salt of 0": lambda data: private.sign(data, pss(0), hashes.SHA256()),
            "a salt of 20": lambda data: private.sign(data, pss(20), hashes.SHA256()),
            "a salt of 64": lambda data: private.sign(data, pss(64), hashes.SHA256()),
            "SHA-1": lambda data: private.sign(data, pss(20, hashes.SHA1()), hashes.SHA1()),
            "SHA-512": lambda data: private.sign(data, pss(32, hashes.SHA512()), hashes.SHA512()),
            "the context of a rekey": lambda data: good(data.replace(HANDSHAKE, REKEY)),
            "no context": lambda data: good(data[-32:]),
            "nothing": lambda _data: bytes(256),
        }
        for name, signature in wrong.items():
            add(82, f"a signature with {name}", 4400, self._signed(hello, signature), [hello])
        for name, weak in (
            ("1024 bits", rsa.generate_private_key(public_exponent=65_537, key_size=1_024)),
            ("4096 bits", rsa.generate_private_key(public_exponent=65_537, key_size=4_096)),
            ("the exponent 3", rsa.generate_private_key(public_exponent=3, key_size=2_048)),
        ):  # fmt: skip
            spki = weak.public_key().public_bytes(Form.DER, PublicFormat.SubjectPublicKeyInfo)
            changed = self._changed(key_id=key_id_of(spki))
            add(
                82,
                f"an RSA key with {name}",
                4400,
                self._signed(changed, signing(weak), spki),
                [changed],
            )
        add(82, "bytes behind ServerAuth", 4400, self._auth + b"\x00", [hello])
        add(83, "a ServerFin that is wrong", 4400, self._fin[:-1] + bytes((self._fin[-1] ^ 1,)), [hello, self._auth])
        add(83, "no ServerFin", 4400, bytes.fromhex(self._case["steps"][1]["records"][0]), [hello, self._auth])
        add(83, "ClientFin instead of ServerFin", 4400, self._client_fin, [hello, self._auth])
        add(83, "ServerFin before ServerAuth", 4400, self._fin, [hello])
        add(83, "ServerFin for others", 4400, server_fin(bytes(32)), [hello, self._auth])

    # ── records ──

    def _established(self, side: str) -> list[bytes]:
        return [self._hello, self._client_fin] if side == "server" else [self._server_hello, self._auth, self._fin]

    def _sealer(self, side: str, epoch: int = 0) -> EncryptionManager:
        """Return what seals for the peer of this side."""
        keys = self._case["epochs"][epoch]
        name, direction = ("c2s", Direction.CLIENT) if side == "server" else ("s2c", Direction.SERVER)
        session_id = self._server_hello[36:52]
        own = DirectionKeys(*(bytes.fromhex(keys[f"{name}_{part}"]) for part in ("key", "iv", "mac")))
        return EncryptionManager(direction, session_id, epoch, own)

    def _mac_again(self, side: str, record: bytes) -> bytes:
        """Return the record with an HMAC that fits what it holds now."""
        keys = self._case["epochs"][0]
        name, direction = ("c2s", 1) if side == "server" else ("s2c", 2)
        bind = b"SCSL1" + bytes((direction,)) + self._server_hello[36:52]
        mac = HMACValidator(bytes.fromhex(keys[f"{name}_mac"]))
        return record[:-MAC_BYTES] + mac.tag(bind, record[:-MAC_BYTES])

    def records(self, side: str) -> None:
        """Attacks 72, 73, 79, 83, 85."""
        start = self._established(side)
        time = WALL_MS + 20

        def seal(*messages: bytes, at: int = time) -> bytes:
            return self._seal_one(side, Content.APPLICATION, pack(messages), at)

        good = seal(b"[1]")
        two = self._sealer(side)
        first, second = two.seal(Content.APPLICATION, pack([b"[1]"]), time), two.seal(Content.APPLICATION, pack([b"[2]"]), time)
        add = self.adder(side, start)
        add(72, "a record twice", 4400, first, [first])
        add(72, "a record left out", 4400, second)
        other = "client" if side == "server" else "server"
        add(72, "a record of the other direction", 4400, self._seal_one(other, Content.APPLICATION, pack([b"[1]"]), time))
        later = self._sealer(side, 1).seal(Content.APPLICATION, pack([b"[1]"]), time)
        add(72, "a record of the next epoch", 4400, later)
        session = self._sealer(side)
        session._bind = session._bind[:6] + bytes(16)
        add(72, "a record of another session", 4400, session.seal(Content.APPLICATION, pack([b"[1]"]), time))
        for at in (0, 1, 2, 3, 4, 7, 8, 15, 16, 23, 24, 27, HEADER_BYTES, len(good) // 2, len(good) - MAC_BYTES, len(good) - 1):
            add(79, f"a flipped bit in byte {at}", 4400, good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :])
        broken = bytearray(good)
        broken[HEADER_BYTES + 3] ^= 1
        add(79, "a good HMAC over a bad ciphertext", 4400, self._mac_again(side, bytes(broken)))
        flags = HEADER.pack(0x10, 1, 1, 0, 0, time, len(good) - HEADER_BYTES - MAC_BYTES)
        add(79, "flags with a good HMAC", 4400, self._mac_again(side, flags + good[HEADER_BYTES:]))
        add(79, "truncated", 4400, good[:-1])
        add(79, "one byte more", 4400, good + b"\x00")
        add(79, "empty", 4400, b"")
        add(79, "an unknown content type", 4400, self._seal_one(side, 9, pack([b"[1]"]), time))
        add(79, "nothing but padding", 4400, self._seal_one(side, 0, b"", time))
        add(79, "an empty payload", 4400, self._seal_one(side, Content.APPLICATION, b"", time))
        add(79, "an empty message", 4400, seal(b""))
        add(79, "a length that is too large", 4400, self._seal_one(side, Content.APPLICATION, u32(4) + b"[1]", time))
        add(79, "257 messages", 4400, seal(*[b"1"] * 257))
        if side == "server":
            add(79, "more than 64 KiB inside", 4400, seal(b"x" * 65_537))
            add(73, "a record that was held back for 121 s", 4403, good, (), 121_000)
            add(73, "a record of 6 s in the future", 4403, seal(b"[1]", at=time + 6_000))
            add(85, "REPLY before INIT", 4400, self._control(side, b"\x22" + u32(1) + bytes(32) + vec16(bytes(32))))
            add(85, "CONFIRM without a rekey", 4400, self._control(side, b"\x24" + u32(1) + bytes(32) + vec16(b"")))
            requests = self._sealer(side)
            asked = [requests.seal(Content.CONTROL, b"\x20", time) for _ in range(3)]
            add(85, "a flood of requests for a rekey", 4429, asked[2], asked[:2])
        else:
            add(73, "a record that was held back for 121 s", 4403, second, [first], 121_000)
            add(85, "DONE without a rekey", 4400, self._control(side, b"\x23" + u32(1) + bytes(32)))
            for name, epoch, context in (
                ("of epoch e+2", 2, REKEY),
                ("signed for a handshake", 1, HANDSHAKE),
                ("signed by nobody", 1, b""),
            ):
                add(85, f"INIT {name}", 4400, self._control(side, self._init(epoch, context)))
            init = self._sealer(side)
            both = [init.seal(Content.CONTROL, self._init(1, REKEY), time) for _ in range(2)]
            add(85, "INIT twice", 4400, both[1], both[:1])
        add(
            85,
            "the client's INIT" if side == "server" else "the server's REQUEST",
            4400,
            self._control(side, b"\x21" if side == "server" else b"\x20"),
        )
        add(79, "an unknown control", 4400, self._control(side, b"\x30"))
        back = self._sealer(side)
        newer, older = (
            back.seal(Content.APPLICATION, pack([b"[1]"]), time),
            back.seal(Content.APPLICATION, pack([b"[2]"]), time - 1_001),
        )
        add(73, "time that runs backwards", 4403, older, [newer])
        ended = self._sealer(side)
        goodbye = ended.seal(Content.CLOSE, u16(4000) + u32(0), time)
        add(83, "a record after the close", 4400, ended.seal(Content.APPLICATION, pack([b"[1]"]), time), [goodbye])

    def _seal_one(self, side: str, kind: int, content: bytes, at: int) -> bytes:
        return self._sealer(side).seal(cast("Content", kind), content, at)

    def _control(self, side: str, content: bytes) -> bytes:
        return self._seal_one(side, Content.CONTROL, content, WALL_MS + 20)

    def _init(self, epoch: int, context: bytes) -> bytes:
        share = X25519PrivateKey.generate().public_key().public_bytes(Form.Raw, PublicFormat.Raw)
        offer = b"\x21" + u32(epoch) + bytes(32) + vec16(share)
        said = hashlib.sha256(bytes.fromhex(self._case["epochs"][0]["transcript"]) + framed(offer)).digest()
        return offer + vec16(self._key.sign(context, said) if context else bytes(256))


def main() -> None:
    """Write the file."""
    both = (Suite.X25519, Suite.P256)
    cases = [
        make_case("X25519, both suites offered, pinned", 2_048, both, Encoding.MSGPACK, pinned=True),
        make_case("P-256 only, first use, JSON", 2_048, (Suite.P256,), Encoding.JSON, pinned=False),
        make_case("X25519, RSA-3072", 3_072, both, Encoding.MSGPACK, pinned=True),
    ]
    refusals = Refusals(cases[0])
    refusals.client_hellos()
    refusals.server_messages()
    refusals.records("server")
    refusals.records("client")
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps({
        "about": "Session layer SCSL/1 (spec/session-layer.md). All byte strings in hex. Written once by tests/support/session_vectors.py.",
        "wall_ms": WALL_MS, "client_monotonic_s": 5_000, "server_monotonic_s": 1_000,
        "limits": {"age_ms": LIMITS.age_ms, "records": LIMITS.records}, "cases": cases, "refusals": refusals.found,
    }, indent=1) + "\n")  # fmt: skip


if __name__ == "__main__":
    main()
