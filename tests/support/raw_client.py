"""A client that is nothing but the wire: no library of the project, no healing. What it is told goes into the history.

It keeps what has no answer yet, and after a lost connection sends it again with the same cmid and in the same order, before
anything new. An entry is written down as it came; a gap is not asked for again, so that the checker sees it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from support.history import History, digest

SUBPROTOCOL: Final = Subprotocol("securechat.v1.clear")
FRAMES_MAX: Final = 64
"""Frames that this client puts into one message."""
BYTES_MAX: Final = 60_000
AGAIN_S: Final = 1.0
READY_S: Final = 10.0
"""A server that does not say `ready` within this time is left."""


class Refused(Exception):
    """The server said no.

    Attributes:
        code: Why.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Lost(Exception):
    """The connection ended before the answer came: the outcome is unknown."""


class Send:
    """A message on its way."""

    __slots__ = ("body", "cmid", "done", "room")

    def __init__(self, room: str, cmid: str, body: str, done: asyncio.Future[int]) -> None:
        self.room = room
        self.cmid = cmid
        self.body = body
        self.done = done


class RawClient:
    """One client.

    Args:
        name: In the history.
        url: `ws://host:port` or `wss://host:port`.
        token: Of its bot.
        history: Where it writes.
        binary: MessagePack instead of JSON.
        tls: For `wss`.
        listens: Whether entries go into the history.
        from_start: Resume every room from its first entry.
        also: URLs of other servers: the next one is tried when one does not let it in.
        heartbeat_s: Ping that often, and leave a server that does not answer within this time; None for never.

    Attributes:
        last: Room → newest `seq` held.
        rooms: Rooms of the last `ready`.
        closes: Close codes so far.
        drains: How many `drain` frames came.
        signals: Types of signals, each with its room.
        presence: User → what was said last of whether they are online.
        keep_bytes: Keep every message as it came, in `heard`.
        may_end: Its session may be revoked: then it stops, and `revoked` is set.
        outages: How long it was without a server, each time, in seconds.
        jitter_s: So long it waits at most before it comes back to anybody, drawn anew each time; else it comes at once.
        patient: Whether it stays away for as long as `Retry-After` says, when it is turned away.
    """

    def __init__(
        self,
        name: str,
        url: str,
        token: str,
        history: History,
        *,
        binary: bool = False,
        tls: ssl.SSLContext | None = None,
        listens: bool = True,
        from_start: Sequence[str] = (),
        also: Sequence[str] = (),
        heartbeat_s: float | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.token = token
        self.user = ""
        self.last: dict[str, int] = dict.fromkeys(from_start, 0)
        self.rooms: set[str] = set()
        self.closes: list[int] = []
        self.drains = 0
        self.signals: list[tuple[str, str]] = []
        self.presence: dict[str, str] = {}
        self.ready = asyncio.Event()
        self.answers = 0
        self.keep_bytes = False
        self.heard: list[bytes] = []
        self.latencies: list[float] = []
        self.outages: list[float] = []
        self.jitter_s = 0.0
        self.patient = False
        self.may_end = False
        self.revoked = asyncio.Event()
        self._lost_at = 0.0
        self._urls = [url, *also]
        self._heartbeat_s = heartbeat_s
        self._history = history
        self._binary = binary
        self._tls = tls
        self._listens = listens
        self._conn = 0
        self._numbers = itertools.count(1)
        self._cmids = itertools.count(1)
        self._outbox: dict[tuple[str, str], Send] = {}
        self._waiting: dict[str, Callable[[Any], None]] = {}
        self._sending: list[dict[str, Any]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._pause = random.Random(name)
        self._encode: Callable[[Any], bytes] = msgspec.msgpack.encode if binary else msgspec.json.encode

    async def start(self, within_s: float = 20.0) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.create_task(self._run())
        async with asyncio.timeout(within_s):
            await self.ready.wait()

    async def stop(self) -> None:
        """End. What has no answer stays unknown."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._lose()
        for send in self._outbox.values():
            send.done.cancel()

    @property
    def unanswered(self) -> int:
        """How many messages have no answer yet."""
        return len(self._outbox)

    def next_cmid(self) -> str:
        """Return a fresh cmid."""
        return f"{self.name}-{next(self._cmids)}"

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def post(self, room: str, body: str, cmid: str = "") -> asyncio.Future[int]:
        """Send a message; the future gets its `seq` when it is acknowledged, however many connections that takes."""
        send = Send(room, cmid or self.next_cmid(), body, asyncio.get_running_loop().create_future())
        self._outbox[room, send.cmid] = send
        if self.ready.is_set():
            self._attempt(send)
        return send.done

    async def repeat(self, room: str, cmid: str, body: str) -> None:
        """Send a message again that may be acknowledged long ago."""
        await self._once("repeat", room, cmid, body)

    async def conflict(self, room: str, cmid: str) -> None:
        """Send another text under a known cmid."""
        await self._once("conflict", room, cmid, "something else")

    async def fetch(self, room: str) -> None:
        """Read the newest page."""
        attempt = self._number()
        self._history.add(self.name, "fetch", "invoke", room=room, attempt=attempt, conn=self._conn)
        try:
            page = await self._ask({"op": "fetch", "id": attempt, "room": room})
        except (Lost, Refused):
            self._history.add(self.name, "fetch", "info", room=room, attempt=attempt)
            return
        seqs = [entry["seq"] for entry in page["entries"]]
        torn = seqs != list(range(seqs[0], seqs[0] + len(seqs))) or seqs[-1] != page["last_seq"] if seqs else page["last_seq"] > 0
        self._history.add(
            self.name, "fetch", room=room, attempt=attempt, conn=self._conn, seq=page["last_seq"], code="torn" if torn else ""
        )
        for entry in page["entries"]:
            self._write_entry("read", entry)

    async def command(self, op: str, **fields: Any) -> Any:
        """Perform any command and return its reply.

        Raises:
            Refused: The server said no.
            Lost: Nobody knows.
        """
        return await self._ask({"op": op, "id": self._number(), **fields})

    def check(self) -> None:
        """Raise what ended it, if anything did."""
        if self._task is not None and self._task.done() and not self._task.cancelled() and (error := self._task.exception()):
            raise error

    def only(self, url: str) -> None:
        """From the next connection on, know this server only."""
        self._urls = [url]
        self.url = url

    def heartbeat(self, every_s: float | None) -> None:
        """From the next connection on, ping that often; None for never: so it stays with a server that stands still."""
        self._heartbeat_s = every_s

    def go_to(self, url: str) -> None:
        """Leave this server for another one, without a word."""
        self._urls.sort(key=lambda each: each != url)
        self.url = url
        if self._socket is not None:
            self._socket.transport.abort()

    def quiet(self) -> None:
        """Say in the history that from here on everything should have come."""
        self._history.add(self.name, "quiet")

    async def act(self, op: str, name: str, room: str, **fields: Any) -> Any:
        """Perform a command that the history calls `name`; return its reply, or None when it was refused or nobody knows."""
        attempt = self._number()
        self._history.add(self.name, name, "invoke", room=room, attempt=attempt)
        try:
            answer = await self._ask({"op": op, "id": attempt, "room": room, **fields})
        except (Lost, Refused) as error:
            self._history.add(self.name, name, "info", room=room, attempt=attempt, code=str(error))
            return None
        self._history.add(self.name, name, room=room, attempt=attempt)
        return answer

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _number(self) -> str:
        return str(next(self._numbers))

    async def _ask(self, frame: dict[str, Any]) -> Any:
        if not self.ready.is_set():
            raise Lost
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answered(answer: Any) -> None:
            if not future.done():
                future.set_result(answer)

        self._waiting[frame["id"]] = answered
        self._put(frame)
        answer = await future
        if answer is None:
            raise Lost
        if answer["op"] == "error":
            raise Refused(answer["code"])
        return answer["data"]

    async def _once(self, op: str, room: str, cmid: str, body: str) -> None:
        attempt = self._number()
        fields: dict[str, Any] = {"room": room, "cmid": cmid, "attempt": attempt, "conn": self._conn, "body_sha": digest(body)}
        self._history.add(self.name, op, "invoke", **fields)
        try:
            sent = await self._ask({"op": "message.send", "id": attempt, "room": room, "cmid": cmid, "body": body})
        except Lost:
            self._history.add(self.name, op, "info", **fields)
        except Refused as refused:
            unknown = refused.code in {"draining", "unavailable"}
            self._history.add(self.name, op, "info" if unknown else "fail", code=refused.code, **fields)
        else:
            self._history.add(self.name, op, seq=sent["seq"], **fields)

    def _attempt(self, send: Send) -> None:
        attempt = self._number()
        fields: dict[str, Any] = {
            "room": send.room, "cmid": send.cmid, "attempt": attempt, "conn": self._conn, "body_sha": digest(send.body),
        }  # fmt: skip
        began = time.monotonic()

        def answered(answer: Any) -> None:
            if answer is None:
                self._history.add(self.name, "send", "info", **fields)
            elif answer["op"] == "error":
                self._history.add(self.name, "send", "fail", code=answer["code"], **fields)
                if answer.get("retryable"):
                    pause = (answer.get("retry_after_ms") or 1_000 * AGAIN_S) / 1_000
                    asyncio.get_running_loop().call_later(pause, self._again, send, self._conn)
                else:
                    del self._outbox[send.room, send.cmid]
                    send.done.set_exception(Refused(answer["code"]))
                    send.done.exception()
            else:
                self.latencies.append(time.monotonic() - began)
                self.answers += 1
                self._history.add(self.name, "send", seq=answer["data"]["seq"], **fields)
                del self._outbox[send.room, send.cmid]
                if not send.done.done():
                    send.done.set_result(answer["data"]["seq"])

        self._history.add(self.name, "send", "invoke", **fields)
        self._waiting[attempt] = answered
        self._put({"op": "message.send", "id": attempt, "room": send.room, "cmid": send.cmid, "body": send.body})

    def _again(self, send: Send, conn: int) -> None:
        """Try what was refused for now; after a lost connection all of it is tried anyway."""
        if conn == self._conn and self.ready.is_set() and (send.room, send.cmid) in self._outbox:
            self._attempt(send)

    def _put(self, frame: dict[str, Any]) -> None:
        self._sending.append(frame)
        self._wake.set()

    def _lose(self) -> None:
        if self.ready.is_set():
            self._lost_at = time.monotonic()
        self.ready.clear()
        self._sending.clear()
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered(None)

    def _next_server(self) -> None:
        self._urls.append(self._urls.pop(0))
        self.url = self._urls[0]

    async def _run(self) -> None:
        while not self.revoked.is_set():
            try:
                socket_ = await connect(
                    f"{self.url}/gateway", subprotocols=[SUBPROTOCOL], compression=None, ssl=self._tls, open_timeout=READY_S,
                    ping_interval=self._heartbeat_s, ping_timeout=self._heartbeat_s, close_timeout=1, max_size=None, max_queue=256,
                    proxy=None,
                )  # fmt: skip
            except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError) as error:
                away_s = self._pause.uniform(0.02, 0.1) + self._pause.uniform(0, self.jitter_s)
                if self.patient and isinstance(error, InvalidStatus):
                    away_s += float(error.response.headers.get("Retry-After", 0))
                else:
                    self._next_server()
                await asyncio.sleep(away_s)
                continue
            self._conn += 1
            self._socket = socket_
            writer = asyncio.create_task(self._write(socket_))
            patience = asyncio.create_task(self._leave_if_silent(socket_))
            try:
                await self._session(socket_)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 1006
                self.closes.append(code)
                self._history.add(self.name, "closed", conn=self._conn, code=str(code))
                if not self.ready.is_set():
                    self._next_server()
                    await asyncio.sleep(self._pause.uniform(0.02, 0.1))
            finally:
                writer.cancel()
                patience.cancel()
                await asyncio.gather(writer, patience, return_exceptions=True)
                self._lose()
                await socket_.close()
            await asyncio.sleep(self._pause.uniform(0, self.jitter_s))

    async def _leave_if_silent(self, socket_: ClientConnection) -> None:
        try:
            async with asyncio.timeout(READY_S):
                await self.ready.wait()
        except TimeoutError:
            socket_.transport.abort()

    async def _write(self, socket_: ClientConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._sending:
                frames = self._message()
                try:
                    await socket_.send(self._encode(frames), text=not self._binary)
                except ConnectionClosed:
                    return

    def _message(self) -> list[dict[str, Any]]:
        """Take as many frames as fit into one message."""
        size = 0
        for count, frame in enumerate(self._sending):
            size += 200 + 2 * len(frame.get("body", ""))
            if count == FRAMES_MAX or (count and size > BYTES_MAX):
                break
        else:
            count = len(self._sending)
        frames = self._sending[:count]
        del self._sending[:count]
        return frames

    async def _session(self, socket_: ClientConnection) -> None:
        (hello,) = msgspec.json.decode(await socket_.recv())
        if hello["op"] != "hello":
            raise AssertionError(f"the first frame is {hello}")
        after = dict(self.last)
        self._history.add(self.name, "connect", "invoke", conn=self._conn)
        self._put({"op": "auth", "id": "auth", "token": self.token, "resume": after})
        async for message in socket_:
            if self.keep_bytes:
                self.heard.append(message.encode() if isinstance(message, str) else message)
            # Text may also come to who speaks MessagePack, until the server knows that: a `drain`, for example.
            frames = msgspec.json.decode(message) if isinstance(message, str) else msgspec.msgpack.decode(message)
            for frame in frames:
                self._take(frame, after)

    def _take(self, frame: dict[str, Any], after: dict[str, int]) -> None:
        op = frame["op"]
        if op == "event":
            self._take_event(frame)
        elif op == "reply" or (op == "error" and frame.get("id") in self._waiting):
            answered = self._waiting.pop(frame["id"], None)
            if answered is not None:
                answered(frame)
        elif op == "ready":
            self._take_ready(frame, after)
        elif op == "error":
            self._take_refusal(frame)
        elif op == "signal":
            room = frame.get("room") or frame.get("summary", {}).get("id", "")
            self.signals.append((frame["type"], room))
            self.presence |= frame.get("presence") or {}
            if room:
                self._history.add(self.name, "signal", conn=self._conn, room=room, kind=frame["type"])
            if frame["type"] == "room.closed":
                self.last.pop(frame["room"], None)
                self.rooms.discard(frame["room"])
            elif frame["type"] == "room.opened":
                self.rooms.add(frame["summary"]["id"])
        elif op == "drain":
            self.drains += 1

    def _take_refusal(self, frame: dict[str, Any]) -> None:
        """A refusal of what nobody waits for: of the session, or the server ends it for now."""
        if self.may_end and frame["code"] == "unauthorized":
            self.revoked.set()
        elif not frame.get("retryable"):
            raise AssertionError(f"{self.name} was refused: {frame}")

    def _take_ready(self, frame: dict[str, Any], after: dict[str, int]) -> None:
        self.user = frame["user"]["id"]
        tips = {room["id"]: room["last_seq"] for room in frame["rooms"]}
        cut = [room["id"] for room in frame["rooms"] if room.get("resumed") is False]
        self.rooms = set(tips)
        for room, tip in tips.items():
            self.last.setdefault(room, tip)
        for gone in self.last.keys() - tips.keys():
            del self.last[gone]
        if self._lost_at:
            self.outages.append(time.monotonic() - self._lost_at)
            self._lost_at = 0.0
        self._history.add(self.name, "connect", conn=self._conn, user=self.user, tips=tips, after=after, cut=cut)
        self.ready.set()
        for send in list(self._outbox.values()):
            self._attempt(send)

    def _take_event(self, frame: dict[str, Any]) -> None:
        room, seq = frame["room"], frame["seq"]
        self.last[room] = max(self.last.get(room, 0), seq)
        if self._listens:
            self._write_entry("event", frame)

    def _write_entry(self, op: str, entry: dict[str, Any]) -> None:
        self._history.add(
            self.name, op, conn=self._conn, room=entry["room"], seq=entry["seq"], kind=entry["type"], user=entry["user"],
            cmid=entry.get("cmid") or "", body_sha=digest(entry.get("body")), member=entry.get("member") or "",
        )  # fmt: skip
