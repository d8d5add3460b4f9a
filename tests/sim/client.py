"""A client on the simulated network: a small model of the wire protocol (spec/), and what it is told goes into the diary.

As `support.raw_client`: no healing. What has no answer is sent again after a lost connection, with the same cmid and in the same
order, before anything new. It has no tasks: everything is a callback, so that nothing of it can wait in a wrong place.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from securechat.errors import SessionRefused
from securechat.protocol.codec import Encoding
from securechat.protocol.handshake import ClientHandshake
from securechat.protocol.session import ClientSession, pack
from sim.chance import clocks
from sim.loop import ProcessLoop
from sim.network import Wire
from sim.server import HOST, SimServer
from sim.story import Account, Diary, Seen, Told, Traits
from sim.websocket import frame_of, next_frame
from support.history import Phase, digest

CLEAR: Final = "securechat.v1.clear"
SEALED: Final = "securechat.v1"
READY_S: Final = 12.0
"""A connection that is not `ready` after this time is given up."""
SILENT_S: Final = 12.0
"""After so long without a byte the client pings, and after as long again it gives the connection up."""
LOOK_S: Final = 3.0
UNKNOWN: Final = frozenset({"draining", "unavailable"})


class _SessionClock:
    @staticmethod
    def monotonic() -> float:
        return clocks.now

    @staticmethod
    def now_ms() -> int:
        return int(clocks.wall() * 1_000)


class SimClient:
    """One client.

    Args:
        name: In the diary.
        account: Who it is.
        server: Says where it connects, each time.
        loop: Its own.
        diary: Where it writes.
        chance: Its own.
        traits: How it is.
        from_start: Rooms that it resumes from the first entry on.

    Attributes:
        last: Room → newest `seq` held.
        rooms: Rooms that it is in, as far as it was told.
        over: It has been signed out, and stays away.
    """

    def __init__(
        self, name: str, account: Account, server: Callable[[], SimServer], loop: ProcessLoop, diary: Diary, chance: random.Random, traits: Traits,
        from_start: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.name = name
        self.account = account
        self.user = account.user
        self.traits = traits
        self.last: dict[str, int] = dict.fromkeys(from_start, 0)
        self.rooms: set[str] = set()
        self.over = False
        self.ready = False
        self.closes: list[int] = []
        self.seen = Seen()
        self.wire: Wire | None = None
        self._server = server
        self._loop = loop
        self._diary = diary
        self._chance = chance
        self._conn = 0
        self._numbers = itertools.count(1)
        self._cmids = itertools.count(1)
        self._outbox: dict[tuple[str, str], tuple[str, str, str]] = {}
        self._under_way: set[tuple[str, str]] = set()
        self.sent: list[tuple[str, str, str, int]] = []
        """(room, cmid, body, seq) of what was acknowledged."""
        self._waiting: dict[str, Callable[[Any], None]] = {}
        self._after: dict[str, int] = {}
        self._buffer = bytearray()
        self._upgraded = False
        self._handshake: ClientHandshake | None = None
        self._session: ClientSession | None = None
        self._heard_at = 0.0
        self._pinged = False
        self._encode: Callable[[Any], bytes] = msgspec.msgpack.encode if traits.packed else msgspec.json.encode
        self._decode: Callable[[Any], Any] = msgspec.msgpack.decode if traits.packed else msgspec.json.decode
        self._written = 0.0

    @property
    def unanswered(self) -> int:
        """How many questions are open."""
        return len(self._outbox) + len(self._waiting)

    # ── connecting ───────────────────────────────────────────────────────────────────────────────────────────────────

    def connect(self) -> None:
        """Connect, and stay connected."""
        if self.over or self.wire is not None:
            return
        self._conn += 1
        conn = self._conn
        self._buffer.clear()
        self._upgraded = False
        self._handshake = self._session = None
        self._heard_at = clocks.now
        self._pinged = False
        address = f"10.1.0.{1 + sum(map(ord, self.account.name)) % 250}"
        self.wire = self._server().dial(self._loop, address, self._receive, self._lost)
        offered = SEALED if self.traits.sealed else CLEAR
        self.wire.send(
            f"GET /gateway HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: "
            f"AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n".encode()
        )
        self._loop.call_later(READY_S, self._late, conn)
        self._loop.call_later(LOOK_S, self._look, conn)

    def leave(self) -> None:
        """Hang up for good."""
        self.over = True
        self.drop()

    def drop(self, *, silently: bool = False) -> None:
        """End this connection from here."""
        wire = self.wire
        if wire is None:
            return
        if silently:
            wire.vanish()
        else:
            wire.hang_up()
        self._lost("dropped")

    def _late(self, conn: int) -> None:
        if conn == self._conn and not self.ready:
            self.drop()

    def _look(self, conn: int) -> None:
        if conn != self._conn or self.wire is None:
            return
        silent = clocks.now - self._heard_at
        if silent > 2 * SILENT_S:
            self.drop(silently=True)
            return
        if silent > SILENT_S and not self._pinged and self.ready:
            self._pinged = True
            self._frame(9, b"")
        self._loop.call_later(LOOK_S, self._look, conn)

    def _lost(self, why: str) -> None:
        if self.wire is None:
            return
        self.wire = None
        if self.ready or self._conn:
            self._diary.add(self.name, "closed", conn=self._conn, code=why)
        self.ready = False
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered(None)
        if not self.over:
            self._loop.call_later(self._chance.uniform(0.02, self.traits.patience), self.connect)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def post(self, room: str, body: str) -> None:
        """Send a message, on as many connections as it takes."""
        cmid = f"{self.name}-{next(self._cmids)}"
        self._outbox[room, cmid] = (room, cmid, body)
        if self.ready:
            self._attempt(room, cmid, body)

    def again(self, op: str, room: str, cmid: str, body: str) -> None:
        """Send a known cmid once more: `repeat` with its text, `conflict` with another."""
        attempt = str(next(self._numbers))
        fields: dict[str, Any] = {"room": room, "cmid": cmid, "attempt": attempt, "conn": self._conn, "body_sha": digest(body)}
        self._diary.add(self.name, op, "invoke", **fields)

        def answered(answer: Any) -> None:
            if answer is None:
                self._diary.add(self.name, op, "info", **fields)
            elif answer["op"] == "error":
                phase: Phase = "info" if answer["code"] in UNKNOWN | {"forbidden", "not_found"} else "fail"
                self._diary.add(self.name, op, phase, code=answer["code"], **fields)
            else:
                self._diary.add(self.name, op, seq=answer["data"]["seq"], **fields)

        self._ask({"op": "message.send", "id": attempt, "room": room, "cmid": cmid, "body": body}, answered)

    def fetch(self, room: str) -> None:
        """Read the newest page."""
        attempt = str(next(self._numbers))
        self._diary.add(self.name, "fetch", "invoke", room=room, attempt=attempt, conn=self._conn)

        def answered(answer: Any) -> None:
            if answer is None or answer["op"] == "error":
                self._diary.add(self.name, "fetch", "info", room=room, attempt=attempt)
                return
            page = answer["data"]
            seqs = [entry["seq"] for entry in page["entries"]]
            torn = (
                seqs != list(range(seqs[0], seqs[0] + len(seqs))) or seqs[-1] != page["last_seq"] if seqs else page["last_seq"] > 0
            )
            self._diary.add(
                self.name, "fetch", room=room, attempt=attempt, conn=self._conn, seq=page["last_seq"], code="torn" if torn else ""
            )
            for entry in page["entries"]:
                self._write_entry("read", entry)

        self._ask({"op": "fetch", "id": attempt, "room": room}, answered)

    def command(self, op: str, done: Callable[[Any], None] = lambda _answer: None, **fields: Any) -> None:
        """Perform any command; `done` gets the reply, an error, or None when nobody knows."""
        self._ask({"op": op, "id": str(next(self._numbers)), **fields}, done)

    def quiet(self) -> None:
        """Say that from here on everything should have come."""
        self._diary.add(self.name, "quiet")

    def _ask(self, frame: dict[str, Any], answered: Callable[[Any], None]) -> None:
        if not self.ready:
            answered(None)
            return
        self._waiting[frame["id"]] = answered
        self._put([frame])

    def _attempt(self, room: str, cmid: str, body: str) -> None:
        attempt = str(next(self._numbers))
        fields: dict[str, Any] = {"room": room, "cmid": cmid, "attempt": attempt, "conn": self._conn, "body_sha": digest(body)}

        def answered(answer: Any) -> None:
            self._under_way.discard((room, cmid))
            if answer is None:
                self._diary.add(self.name, "send", "info", **fields)
            elif answer["op"] == "error":
                self._diary.add(self.name, "send", "info" if answer["code"] in UNKNOWN else "fail", code=answer["code"], **fields)
                if answer.get("retryable"):
                    self._loop.call_later(self._chance.uniform(0.1, 0.6), self._retry, room, cmid, body)
                else:
                    del self._outbox[room, cmid]
            else:
                self._diary.add(self.name, "send", seq=answer["data"]["seq"], **fields)
                del self._outbox[room, cmid]
                self.sent.append((room, cmid, body, answer["data"]["seq"]))

        self._under_way.add((room, cmid))
        self._diary.add(self.name, "send", "invoke", **fields)
        self._waiting[attempt] = answered
        self._put([{"op": "message.send", "id": attempt, "room": room, "cmid": cmid, "body": body}])

    def _retry(self, room: str, cmid: str, body: str) -> None:
        if self.ready and (room, cmid) in self._outbox and (room, cmid) not in self._under_way:
            self._attempt(room, cmid, body)

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, frames: list[dict[str, Any]]) -> None:
        data = self._encode(frames)
        if self._session is not None:
            try:
                record = self._session.seal(pack([data]))
            except SessionRefused:
                self.drop()
                return
            self._flush_session()
            self._frame(2, record)
        else:
            self._frame(2 if self.traits.packed else 1, data)

    def _flush_session(self) -> None:
        session = self._session
        if session is not None and session.outgoing:
            records, session.outgoing[:] = list(session.outgoing), []
            for record in records:
                self._frame(2, record)

    def _frame(self, opcode: int, payload: bytes) -> None:
        if self.wire is not None:
            self.wire.send(frame_of(opcode, payload))

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, data: bytes, written: float) -> None:
        self._heard_at = clocks.now
        self._pinged = False
        self._written = written
        buffer = self._buffer
        buffer += data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in buffer[:20]:
                self.drop()
                return
            del buffer[: end + 4]
            self._upgraded = True
            if self.traits.sealed:
                encoding = Encoding.MSGPACK if self.traits.packed else Encoding.JSON
                self._handshake = ClientHandshake(HOST, [], encoding, [SEALED], _SessionClock())
                self._frame(2, self._handshake.client_hello)
        wire = self.wire
        while self.wire is wire and wire is not None:
            found = next_frame(buffer)
            if found is None:
                return
            self._take_message(*found)

    def _take_message(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._closed(code)
        elif opcode == 9:
            self._frame(10, payload)
        elif opcode in {1, 2}:
            try:
                messages = self._open(payload) if self.traits.sealed else [payload]
            except SessionRefused as refused:
                self._diary.add(self.name, "refused", conn=self._conn, code=str(refused.reason))
                self.drop()
                return
            decode = msgspec.json.decode if opcode == 1 else self._decode  # The server's first words are JSON.
            for each in messages:
                self.seen.raw.append(each)
                for frame in decode(each):
                    self._take(frame)

    def _open(self, payload: bytes) -> list[bytes]:
        if self._session is not None:
            opened = self._session.open(payload)
            self._flush_session()
            return opened
        handshake = self._handshake
        assert handshake is not None
        session = handshake.take(payload)
        if session is not None:
            self._session = session
            session.authenticated = True
            self._frame(2, handshake.client_fin())
        return []

    def _closed(self, code: int) -> None:
        self.closes.append(code)
        if self.wire is not None:
            self._frame(8, code.to_bytes(2, "big"))
            self.wire.vanish()
        self._lost(str(code))

    def _take(self, frame: dict[str, Any]) -> None:
        op = frame["op"]
        if op == "event":
            room, seq = frame["room"], frame["seq"]
            self.last[room] = max(self.last.get(room, 0), seq)
            self.seen.events.append((self._written, room, seq))
            self._write_entry("event", frame)
        elif op == "reply" or (op == "error" and frame.get("id") in self._waiting):
            answered = self._waiting.pop(frame["id"], None)
            if answered is not None:
                answered(frame)
        elif op == "hello":
            self._after = dict(self.last)
            self._diary.add(self.name, "connect", "invoke", conn=self._conn)
            self._put([{"op": "auth", "id": "auth", "token": self.account.token, "resume": self._after}])
        elif op == "ready":
            self._take_ready(frame)
        elif op == "error":
            self._diary.add(self.name, "error", conn=self._conn, code=frame["code"])
            if frame["code"] == "unauthorized":
                self.over = True
        elif op == "signal":
            self._take_signal(frame)

    def _take_signal(self, frame: dict[str, Any]) -> None:
        kind, room = frame["type"], frame.get("room") or (frame.get("summary") or {}).get("id", "")
        self.seen.told.append(Told(kind, room, self._written, self._conn))
        if kind == "room.closed":
            self._diary.add(self.name, "signal", conn=self._conn, room=room, kind=kind)
            self.last.pop(room, None)
            self.rooms.discard(room)
        elif kind == "room.opened":
            self.rooms.add(room)

    def _take_ready(self, frame: dict[str, Any]) -> None:
        tips = {room["id"]: room["last_seq"] for room in frame["rooms"]}
        cut = [room["id"] for room in frame["rooms"] if room.get("resumed") is False]
        self.rooms = set(tips)
        for room, tip in tips.items():
            self.last.setdefault(room, tip)
        for gone in self.last.keys() - tips.keys():
            del self.last[gone]
        self._diary.add(
            self.name, "connect", conn=self._conn, user=frame["user"]["id"], tips=tips, after=self._after, cut=cut
        )  # fmt: skip
        self.ready = True
        for room, cmid, body in list(self._outbox.values()):
            self._attempt(room, cmid, body)

    def _write_entry(self, op: str, entry: dict[str, Any]) -> None:
        self._diary.add(
            self.name, op, conn=self._conn, room=entry["room"], seq=entry["seq"], kind=entry["type"], user=entry["user"],
            cmid=entry.get("cmid") or "", body_sha=digest(entry.get("body")), member=entry.get("member") or "",
        )  # fmt: skip
