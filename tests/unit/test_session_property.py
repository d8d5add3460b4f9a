"""Law: what a session gives out is what the other side sealed, once and in order; after the first interference, nothing more."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from securechat.crypto.identity import IdentityKey
from securechat.crypto.key_exchange import Suite
from securechat.errors import SessionRefused
from securechat.protocol.codec import Encoding
from securechat.protocol.session import SealedSession, pack
from support.session_vectors import Drawn, Pair, Signing

IDENTITY = IdentityKey.generate()


class Way:
    """One direction: what was sealed and has not arrived."""

    def __init__(self, sender: SealedSession, receiver: SealedSession) -> None:
        self.sender = sender
        self.receiver = receiver
        self.records: list[tuple[bytes, list[bytes]]] = []
        self.delivered: bytes | None = None
        self.broken = False
        self.over = False

    def take_own(self) -> None:
        """Put the session's own records on the way."""
        self.records += [(record, []) for record in self.sender.outgoing]
        self.sender.outgoing.clear()

    def send(self, *messages: bytes) -> None:
        self.take_own()
        self.records.append((self.sender.seal(pack(messages)), list(messages)))

    def deliver(self) -> None:
        """Let the next record arrive."""
        self.take_own()
        if not self.records or self.over:
            return
        record, messages = self.records.pop(0)
        try:
            assert self.receiver.open(record) == messages
        except SessionRefused:
            assert self.broken, "refused without interference"
            self.over = True
        else:
            assert not self.broken, "not noticed"
            self.delivered = record

    def interfere(self, how: str, where: int) -> None:
        """Do something to what is on its way."""
        self.take_own()
        if self.over or self.broken:
            return
        if how == "replay" and self.delivered is not None:
            self.records.insert(0, (self.delivered, []))
        elif how == "drop" and len(self.records) > 1:
            self.records.pop(0)
        elif how == "reorder" and len(self.records) > 1:
            self.records.insert(0, self.records.pop(1))
        elif how == "flip" and self.records:
            record, messages = self.records[0]
            at = where % len(record)
            self.records[0] = (record[:at] + bytes((record[at] ^ 1 << where % 8,)) + record[at + 1 :], messages)
        else:
            return
        self.broken = True


steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "deliver", "deliver", "deliver", "rekey", "request", "time", "drop", "reorder", "flip", "replay"]),
        st.booleans(),
        st.integers(0, 10_000),
    ),
    min_size=5,
    max_size=60,
)  # fmt: skip


def pair_of(suite: Suite) -> Pair:
    made = Pair(
        Signing(IDENTITY),
        Drawn("a"),
        Drawn("b"),
        (Suite.X25519, Suite.P256) if suite is Suite.X25519 else (Suite.P256,),
        Encoding.JSON,
        [],
    )
    made.shake()
    return made


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from(list(Suite)))
def test_everything_arrives_once_and_in_order_or_the_session_ends(script: list[tuple[str, bool, int]], suite: Suite) -> None:
    pair = pair_of(suite)
    ways = Way(pair.client, pair.server), Way(pair.server, pair.client)
    requests = 0
    for act, by_client, number in script:
        way = ways[0] if by_client else ways[1]
        if act == "send":
            way.send(*[b"%d" % number] * (1 + number % 3))
        elif act == "deliver":
            way.deliver()
        elif act == "time":
            pair.forward(number)
        elif act == "rekey" and not pair.server._init:
            pair.server.begin_rekey()
        elif act == "request" and requests < 2:
            requests += 1
            pair.client.request_rekey()
        elif act in {"drop", "reorder", "flip", "replay"}:
            way.interfere(act, number)
        if any(each.over for each in ways):
            return
    settle(ways)


def settle(ways: Any) -> None:
    """Let everything arrive; without interference, all of it does."""
    for _ in range(400):
        for way in ways:
            way.deliver()
        if any(way.over for way in ways):
            assert any(way.broken for way in ways)
            return
    assert not any(way.records for way in ways)
