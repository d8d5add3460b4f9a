"""The server's side of the session layer behind standard input and output, for clients that are not written in Python.

Each line is a JSON object with the number of a connection in `on`, and one line answers it: `records` (hex) to be sent to the
client, `messages` (hex) that it sent, and `code` when it has to go. What one can ask for: `{"take": hex}`, `{"send": [hex]}`,
`{"rekey": 1}`, `{"close": [code, after_ms]}`. The first line tells the id of the server's key, and a list of its keys that a root
signed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection
from typing import Any, Final

import msgspec

from securechat.crypto.identity import IdentityKey
from securechat.errors import SessionRefused
from securechat.protocol.handshake import ServerHandshake
from securechat.protocol.key_list import LIST_S, KeyList, ListedKey, sign_list
from securechat.protocol.session import EpochLimits, ServerSession, pack

HOST: Final = "chat.example.org"


class Clock:
    """The real time."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class One:
    """A server with one key."""

    def __init__(self) -> None:
        self.key = IdentityKey.generate()

    def choose(self, pins: Collection[bytes]) -> IdentityKey:
        return self.key


class Peer:
    """One connection."""

    def __init__(self, identities: One) -> None:
        limits = EpochLimits(records=2**10)
        self.handshake = ServerHandshake(identities, lambda host: host == HOST, limits, Clock())
        self.session: ServerSession | None = None
        self.greeted = False

    def take(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        """Take what the client sent; return records for it and its messages."""
        if not self.greeted:
            self.greeted = True
            self.handshake.take_client_hello(data)
            return self.handshake.answer(), []
        if self.session is None:
            self.session = self.handshake.finish(data)
            self.session.authenticated = True
            return [], []
        messages = self.session.open(data)
        self.session.tick()
        return self.own(), messages

    def own(self) -> list[bytes]:
        """Return what the session itself has to send."""
        if self.session is None:
            return []
        records, self.session.outgoing[:] = list(self.session.outgoing), []
        return records

    def act(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what a line asks for."""
        records: list[bytes] = []
        messages: list[bytes] = []
        try:
            if "take" in asked:
                records, messages = self.take(bytes.fromhex(asked["take"]))
            elif self.session is None:
                raise ValueError("no session yet")
            elif "send" in asked:
                records = [self.session.seal(pack([bytes.fromhex(one) for one in asked["send"]]))]
            elif "rekey" in asked:
                self.session.begin_rekey()
                records = self.own()
            elif "close" in asked:
                records = [self.session.close(*asked["close"])]
        except SessionRefused as refused:
            last = self.session.close(refused.code) if self.session else b""
            return {"records": [last.hex()] if last else [], "messages": [], "code": refused.code}
        peer_close = self.session.peer_close if self.session else None
        return {
            "records": [record.hex() for record in records],
            "messages": [one.hex() for one in messages],
            "epoch": self.session.epoch if self.session else None,
            "closed": [peer_close.code, peer_close.after_ms] if peer_close else None,
        }


def main() -> None:
    """Serve connections, known by the number in `on`, all with the same key."""
    identities = One()
    peers: dict[int, Peer] = {}
    key_id = identities.key.key_id.hex()
    listed = [ListedKey(kid=key_id, nbf=0, naf=0), ListedKey(kid="22" * 32, nbf=0, naf=0)]
    now = int(time.time())
    keys = KeyList(host=HOST, serial=7, issued=now, expires=now + LIST_S, keys=listed)
    signed = msgspec.to_builtins(sign_list(keys, IdentityKey.generate(3_072)))
    print(json.dumps({"key_id": key_id, "now": now, "list": signed}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        peer = peers.setdefault(asked["on"], Peer(identities))
        print(json.dumps(peer.act(asked)), flush=True)


if __name__ == "__main__":
    main()
