"""The session layer against its vectors: every case byte for byte on both sides, every refusal with its code.

The refusals carry the numbers of the attacks (docs/reference/attacks.md): 72, 73 (replay), 79–83, 85 (cryptography).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from securechat.crypto.encryption import OVERHEAD, RESERVED, Content, Direction, EncryptionManager, Exhausted, padded
from securechat.crypto.identity import IdentityKey
from securechat.crypto.key_exchange import EphemeralKey, Suite
from securechat.crypto.key_manager import DirectionKeys
from securechat.errors import SessionRefused
from securechat.protocol.codec import Encoding
from securechat.protocol.session import TOO_MANY, ClientSession, ServerSession, pack, unpack
from support import session_vectors as v

VECTORS: Final = json.loads(Path(v.PATH).read_text())
CASES: Final = {case["name"]: case for case in VECTORS["cases"]}
REFUSALS: Final = {f"{each['attack']:03} {each['name']}": each for each in VECTORS["refusals"]}


@pytest.mark.parametrize("name", list(CASES))
def test_both_sides_say_what_the_vectors_say(name: str) -> None:
    case = CASES[name]
    pair = v.pair_of(case)
    pair.shake()
    assert [message.hex() for message in pair.messages] == case["handshake"]
    assert v.keys_of(pair.server._keys) == v.keys_of(pair.client._keys) == case["epochs"][0]
    assert pair.client_handshake.key_id.hex() == case["identity"]["key_id"]
    steps = iter(case["steps"])

    def compare(step: dict[str, Any]) -> None:
        assert step == next(steps)

    v.play(pair, compare)
    assert next(steps, None) is None
    assert v.keys_of(pair.server._keys) == v.keys_of(pair.client._keys) == case["epochs"][1]
    assert pair.client.peer_close is not None
    assert (pair.client.peer_close.code, pair.client.peer_close.after_ms) == (4000, 1500)


@pytest.mark.parametrize("name", list(REFUSALS))
def test_what_has_to_be_refused_is_refused_with_its_code(name: str) -> None:
    refusal = REFUSALS[name]
    pair = v.pair_of(CASES[refusal["case"]])
    side = Client(pair) if refusal["side"] == "client" else Server(pair)
    for message in refusal["precede"]:
        side.take(bytes.fromhex(message))
    pair.forward(refusal["after_ms"])
    with pytest.raises(SessionRefused) as refused:
        side.take(bytes.fromhex(refusal["refused"]))
    assert refused.value.code == refusal["code"], refused.value.reason
    if side.signed is not None and refusal["attack"] in {80, 81}:
        assert side.signed() == 0, "a hello that is wrong costs no signature"


def test_the_refusals_cover_every_attack_of_their_kind() -> None:
    found = Counter(each["attack"] for each in VECTORS["refusals"])

    assert found.keys() == {72, 73, 79, 80, 81, 82, 83, 85}
    assert {each["side"] for each in VECTORS["refusals"]} == {"client", "server"}


class Server:
    """The server's side of a case, fed with messages."""

    def __init__(self, pair: v.Pair) -> None:
        self._pair = pair
        self.signed: Callable[[], int] | None = _count_signatures(pair)
        self._session: ServerSession | None = None
        self._greeted = False

    def take(self, message: bytes) -> None:
        if self._session is not None:
            self._session.open(message)
        elif not self._greeted:
            self._pair.server_handshake.take_client_hello(message)
            self._pair.server_handshake.answer()
            self._greeted = True
        else:
            self._session = self._pair.server_handshake.finish(message)
            self._session.authenticated = True


def _count_signatures(pair: v.Pair) -> Callable[[], int]:
    """Return how many signatures the server was asked for from now on."""
    identity = cast("v.Recorded", pair.server_handshake._identities)
    asked: list[bytes] = []
    original = identity.sign

    def sign(_context: bytes, _digest: bytes) -> bytes:
        asked.append(_context)
        return original(_context, _digest)

    setattr(identity, "sign", sign)  # noqa: B010 - a method of this one
    return lambda: len(asked)


class Client:
    """The client's side of a case, fed with messages."""

    signed: Callable[[], int] | None = None

    def __init__(self, pair: v.Pair) -> None:
        self._handshake = pair.client_handshake
        self._session: ClientSession | None = None

    def take(self, message: bytes) -> None:
        if self._session is not None:
            self._session.open(message)
        else:
            self._session = self._handshake.take(message)


@pytest.fixture
def pair() -> v.Pair:
    made = v.pair_of(VECTORS["cases"][0])
    made.shake()
    return made


@pytest.fixture
def fresh() -> v.Pair:
    """A pair with randomness of its own."""
    key = v.Signing(IdentityKey.load(VECTORS["cases"][0]["identity"]["pem"].encode()))
    made = v.Pair(key, v.Drawn("c"), v.Drawn("s"), (Suite.X25519, Suite.P256), Encoding.JSON, [])
    made.shake()
    return made


def test_079_every_flipped_bit_of_a_record_ends_the_session(pair: v.Pair) -> None:
    record = pair.client.seal(pack([b"[1]"]))
    for bit in range(len(record) * 8):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SessionRefused) as refused:
            pair.server.open(bytes(flipped))
        assert refused.value.code == 4400
    assert pair.server.open(record) == [b"[1]"]


def test_085_no_number_is_used_twice_and_the_last_ones_are_for_control() -> None:
    keys = DirectionKeys(bytes(32), bytes(12), bytes(32))
    cipher = EncryptionManager(Direction.SERVER, bytes(16), 0, keys, 2**10)
    for _ in range(2**10 - RESERVED):
        cipher.seal(Content.APPLICATION, b"x", 0)
    with pytest.raises(Exhausted):
        cipher.seal(Content.APPLICATION, b"x", 0)
    for _ in range(RESERVED):
        cipher.seal(Content.CONTROL, b"x", 0)
    with pytest.raises(Exhausted):
        cipher.seal(Content.CLOSE, b"x", 0)
    assert cipher.seq == 2**10


def test_085_keys_end_after_thirty_minutes(pair: v.Pair) -> None:
    pair.forward(1_799_000)
    pair.server.open(pair.client.seal(pack([b"[1]"])))
    pair.forward(1_001)
    for side in (pair.client, pair.server):
        with pytest.raises(SessionRefused) as refused:
            side.seal(pack([b"[1]"]))
        assert refused.value.code == 4403
        assert side.close(4403)


def test_085_a_rekey_without_an_answer_ends_the_session(pair: v.Pair) -> None:
    pair.server.begin_rekey()
    pair.forward(29_000)
    pair.server.tick()
    pair.forward(1_001)
    with pytest.raises(SessionRefused) as refused:
        pair.server.tick()
    assert refused.value.code == 4403


def test_085_requests_for_a_rekey_come_back_with_time(fresh: v.Pair) -> None:
    for _ in range(2):
        fresh.client.request_rekey()
        rekey(fresh)
    fresh.forward(60_001)
    fresh.client.request_rekey()
    rekey(fresh)
    assert fresh.server.epoch == fresh.client.epoch == 3
    fresh.client.request_rekey()
    with pytest.raises(SessionRefused) as refused:
        fresh.server.open(fresh.client.outgoing.pop())
    assert refused.value.code == TOO_MANY


def test_a_rekey_is_due_between_24_and_28_minutes_or_after_half_of_the_records(fresh: v.Pair) -> None:
    ages = []
    for _ in range(30):
        seconds = 0
        while not fresh.server.outgoing:
            fresh.forward(10_000)
            seconds += 10
            fresh.server.tick()
        ages.append(seconds)
        rekey(fresh)
    assert 24 * 60 - 10 <= min(ages) < max(ages) <= 28 * 60 + 10
    assert len(set(ages)) > 5
    fresh.server._seal_with.seq = 2**19
    fresh.server.tick()
    assert fresh.server.outgoing


def test_nothing_is_rekeyed_before_somebody_is_authenticated(fresh: v.Pair) -> None:
    fresh.server.authenticated = False
    fresh.forward(29 * 60_000)
    fresh.server.tick()

    assert fresh.server.outgoing == []
    with pytest.raises(SessionRefused):
        fresh.server.open(fresh.client.seal(pack([b"x" * 9_000])))


def test_073_a_wall_clock_that_jumps_cuts_nobody_off(pair: v.Pair) -> None:
    """Both sides ask their wall clock in the handshake and never again."""
    for clock in (pair.client_clock, pair.server_clock):
        clock.now_ms = lambda: v.WALL_MS + 86_400_000  # type: ignore[method-assign]
    pair.forward(1_000)
    assert pair.server.open(pair.client.seal(pack([b"[1]"]))) == [b"[1]"]
    assert pair.client.open(pair.server.seal(pack([b"[2]"]))) == [b"[2]"]


def test_a_slow_way_does_not_make_a_client_look_late(fresh: v.Pair) -> None:
    """ServerHello took 100 s; the client's clock is behind until a record comes that was faster."""
    made = v.Pair(v.Signing(IdentityKey.generate()), v.Drawn("a"), v.Drawn("b"), (Suite.P256,), Encoding.JSON, [])
    made.server_handshake.take_client_hello(made.client_handshake.client_hello)
    answers = made.server_handshake.answer()
    made.forward(100_000)
    sessions = [made.client_handshake.take(message) for message in answers]
    client = sessions[-1]
    assert client is not None
    server = made.server_handshake.finish(made.client_handshake.client_fin())
    server.authenticated = True
    client.open(server.seal(pack([b"[1]"])))
    made.forward(100_000)
    assert server.open(client.seal(pack([b"[2]"]))) == [b"[2]"]


def test_082_a_key_that_is_not_pinned_is_named(pair: v.Pair) -> None:
    other = v.Pair(v.Signing(IdentityKey.generate()), v.Drawn("a"), v.Drawn("b"), (Suite.P256,), Encoding.JSON, [bytes(32)])
    with pytest.raises(SessionRefused, match="not pinned") as refused:
        other.shake()
    assert len(refused.value.key_id) == 32  # type: ignore[attr-defined]


def test_081_an_ephemeral_key_is_used_once() -> None:
    key = EphemeralKey(Suite.P256)
    peer = EphemeralKey(Suite.P256).share
    key.exchange(peer)
    with pytest.raises(RuntimeError):
        key.exchange(peer)


def test_every_point_of_small_order_of_x25519_is_refused() -> None:
    for u in v.LOW_ORDER:
        for encoded in {u, u + v.ORDER_P, u | 1 << 255}:
            if encoded < 2**256:
                with pytest.raises(SessionRefused):
                    EphemeralKey(Suite.X25519).exchange(encoded.to_bytes(32, "little"))


def test_an_order_two_point_of_another_curve_is_refused_by_p256() -> None:
    """An invalid-curve attack: a point that is on y² = x³ − 3x + b' for another b'."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    wrong = b"\x04" + numbers.x.to_bytes(32, "big") + ((numbers.y + 1) % 2**256).to_bytes(32, "big")
    with pytest.raises(SessionRefused):
        EphemeralKey(Suite.P256).exchange(wrong)


@pytest.mark.parametrize(("size", "full"), [(1, 64), (64, 64), (65, 128), (1_024, 1_024), (1_025, 2_048), (65_536, 65_536)])
def test_sizes_are_hidden_in_steps(size: int, full: int) -> None:
    assert padded(size) == full


def test_a_record_costs_what_the_specification_says(pair: v.Pair) -> None:
    assert len(pair.client.seal(b"x" * 63)) == 64 + OVERHEAD - 1
    assert unpack(pack([b"a", b"bc"])) == [b"a", b"bc"]


def rekey(pair: v.Pair) -> None:
    """Carry records of the sessions' own to and fro until there are none."""
    if not pair.client.outgoing and not pair.server.outgoing:
        pair.server.begin_rekey()
    while pair.client.outgoing or pair.server.outgoing:
        for own, other in ((pair.client, pair.server), (pair.server, pair.client)):
            records, own.outgoing[:] = list(own.outgoing), []
            for record in records:
                other.open(record)
