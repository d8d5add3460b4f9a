"""ChatClient: connect, resume, send, receive.

The client keeps one connection alive: it reconnects with backoff and full jitter, resumes each room after the last entry it has,
and notices gaps by `seq`. None of it needs a callback of the user's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.entries import Entry
from securechat.domain.secret import Secret
from securechat.errors import ChatError, EnrolmentRequired, RateLimited, Unauthorized
from securechat.program import program
from securechat.protocol import frames as f
from securechat.sdk.answers import Answers
from securechat.sdk.auth_frame import auth_that_fits
from securechat.sdk.backoff import Backoff
from securechat.sdk.commands import Commands
from securechat.sdk.errors import ConnectionLost, LoginRequired, Stopped, Untrusted, to_error
from securechat.sdk.following import Event, Following, Gap, Places
from securechat.sdk.outbox import Outbox
from securechat.sdk.pins import PinStore, default_store, key_ids
from securechat.sdk.profile import FixedToken, ProfileToken, TokenSource, check_url, load_profile, tls_context
from securechat.sdk.room import Room
from securechat.sdk.sealing import Sealing, SealPolicy, seal_policy
from securechat.sdk.transport import Closed, Transport

log = logging.getLogger(__name__)

ANSWER_S: Final = 30.0
RESUME: Final = "resume "
"""How the ids of frames begin that ask for what was missed: their answers concern `Following`, too."""
RESUME_ROOMS: Final = 100
"""Rooms that one frame asks for: each costs the server's rate limit as much as a command."""
EXTEND_PAUSES_S: Final = (3.0, 7.0, 15.0, 25.0)
"""Between the attempts to bring a fresh token, when the server of tokens cannot be reached."""
BROKEN_S: Final = 60.0
"""A session that breaks twice within this time is not an accident."""
_STOP: Final = frozenset({f.CloseCode.REPLACED, 4404, 4406})


class ChatClient(Commands):
    """One device of one user, on one server.

    Args:
        url: The server: `SECURECHAT_URL`, or that of the profile.
        token: A bot's token: `SECURECHAT_TOKEN`; without one, the profile that `securechat login` wrote.
        ca: A CA's certificate: `SECURECHAT_CA`; for a server with its own CA.
        resume: Room id → last `seq` seen, to begin where an earlier process stopped.
        profile: The profile's file, if not the usual one.
        seal: Whether sessions are sealed (`sdk.sealing`): required, preferred or off; or `SECURECHAT_SEAL`.
        pin: Id of the server's key in hex, if it is known beforehand; or `SECURECHAT_PIN`.
        pins: Where the keys of servers are kept, if not the usual file.

    Attributes:
        url: The server.
        ca: Its own CA's certificate, if it has one.
        user: Who one is, once connected.
        device: Which device.
        blocked: Ids of the users whom one has blocked.
        outbox: What waits to be sent.
        sealing: What is known and demanded of the server's key.
        trouble: Why there is no connection; empty while there is one, and before the first attempt has ended.
        on_trouble: Called with the reason once each time that there is no connection, and with "" when there is one.
    """

    def __init__(
        self,
        url: str = "",
        token: str = "",
        *,
        ca: str = "",
        resume: dict[str, int] | None = None,
        profile: Path | None = None,
        seal: SealPolicy | None = None,
        pin: str = "",
        pins: PinStore | None = None,
    ) -> None:
        token = token or os.environ.get("SECURECHAT_TOKEN", "")
        url = url or os.environ.get("SECURECHAT_URL", "")
        ca = ca or os.environ.get("SECURECHAT_CA", "")
        self._tokens: TokenSource
        if token:
            self._tokens = FixedToken(token)
        else:
            found = load_profile(profile)
            url, ca = found.url, ca or found.ca
            self._tokens = ProfileToken(found, profile)
        if not url:
            raise LoginRequired(f"No server: set SECURECHAT_URL, or run: {program()} login URL")
        self.url = check_url(url)
        self.ca = ca
        self._tls = tls_context(self.url, ca)
        self.sealing = Sealing(
            self.url, seal or seal_policy(), pins or default_store(self.url), key_ids(pin or os.environ.get("SECURECHAT_PIN", ""))
        )
        self.user: User | None = None
        self.device = ""
        self.blocked: set[str] = set()
        self.outbox = Outbox(self.call)
        self._following = Following(lambda summary: Room(self, summary), resume or {})
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers = Answers()
        self._transport: Transport | None = None
        self._ready = asyncio.Event()
        self._failed: Exception | None = None
        self._runner: asyncio.Task[None] | None = None
        self._drain_ms: int | None = None
        self.connects = 0
        self.trouble = ""
        self.on_trouble: Callable[[str], None] = lambda _reason: None

    @classmethod
    def connect(cls, url: str = "", token: str = "", *, ca: str = "", profile: Path | None = None) -> ChatClient:
        """Return a client to use with `async with`."""
        return cls(url, token, ca=ca, profile=profile)

    async def __aenter__(self) -> Self:
        """Connect, and wait until ready."""
        await self.start()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def start(self) -> None:
        """Connect and wait until ready; from here on the connection is kept alive.

        Raises:
            LoginRequired: The token does not hold.
        """
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(), name="securechat-client")
        await self._wait_ready()

    async def close(self) -> None:
        """End the connection. What the outbox still holds fails."""
        self.outbox.close()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        self._failed = self._failed or Stopped("The client was closed.")
        self._lose()
        self._ready.set()
        if self._transport is not None:
            await self._transport.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now that can be asked."""
        return self._transport is not None and self._ready.is_set() and self._failed is None

    @property
    def rooms(self) -> dict[str, Room]:
        """One's rooms, by id; unread counts and names follow what comes."""
        return self._following.rooms

    @property
    def seen(self) -> dict[str, int]:
        """Room id → last `seq` that `events` gave out or will give out."""
        return self._following.seen

    async def call(self, command: c.Command, *, timeout: float = ANSWER_S) -> Any:  # noqa: ASYNC109 - the caller's deadline
        """Send a command and return its reply.

        Raises:
            ChatError: The server refused.
            ConnectionLost: No answer came; the outcome is unknown.
            LoginRequired: The token does not hold (any more).
        """
        await self._wait_ready()
        transport = self._transport
        if transport is None:
            raise ConnectionLost("not connected")
        with self._answers.expected() as (frame_id, answer):
            command.id = frame_id
            try:
                await transport.send(command)
                async with asyncio.timeout(timeout):
                    data = await answer
            except (Closed, TimeoutError) as error:
                raise ConnectionLost(str(error)) from error
        reply = c.REPLIES.get(type(command))
        return data if reply is None else msgspec.convert(data, reply)

    async def room(self, name_or_id: str) -> Room:
        """Find a room among one's own, by id or name, or a public one by name; `@name` is the direct room with somebody.

        A name that is written exactly goes before one that fits without case; then one's own rooms before the public ones.

        Raises:
            NotFound: There is none.
            Ambiguous: Several fit; the detail lists them with their ids.
        """
        wanted = name_or_id.removeprefix("#")
        if wanted in self.rooms:
            return self.rooms[wanted]
        named = [room for room in self.rooms.values() if room.name == wanted]
        if len(named) == 1:
            return named[0]
        if wanted.startswith("@"):
            return await self.direct((await self.find_user(wanted)).id)
        found = await self.lookup_room(wanted)
        return self.rooms.get(found.id, found)

    async def log_out(self) -> None:
        """Sign this device out: end its session on the server, forget the stored tokens, close.

        The tokens are forgotten whatever the server says: a profile that was left behind is a key under the mat.

        Raises:
            ConnectionLost: The server was not told; the session goes on there until it is revoked from another device.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._end_session_surely()
        except TimeoutError as error:
            raise ConnectionLost("no answer in time") from error
        finally:
            await self.close()
            self._tokens.forget()

    async def _end_session_surely(self) -> None:
        while True:
            try:
                return await self.end_session()
            except Stopped:
                raise
            except LoginRequired:
                return None
            except ConnectionLost:
                # The end of a session closes its connection, perhaps before the answer: the next try is told.
                await asyncio.sleep(0)

    async def events(self, types: Iterable[str] | None = None) -> AsyncIterator[Event]:
        """Give events as they come: entries once each and in order per room, signals, and `Gap`.

        Raises:
            LoginRequired: The token does not hold any more.
        """
        wanted = None if types is None else frozenset(types)
        while True:
            event = await self._next_event()
            if wanted is None or isinstance(event, Gap) or event.type in wanted:
                yield event

    async def _next_event(self) -> Event:
        self._ask_for(self._following.catch_up())
        get = asyncio.ensure_future(self._following.events.get())
        runner = self._runner
        if runner is None:
            raise ConnectionLost("not started")
        try:
            await asyncio.wait({get, runner}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            get.cancel()
            raise
        if get.done():
            return get.result()
        get.cancel()
        raise self._failed or ConnectionLost("closed")

    def _ask_for(self, places: Places) -> None:
        """Have everything after these places come, if there is a connection: the next one resumes by itself."""
        if self._transport is not None and places:
            self._following.asked(places)
            self._spawn(self._resume(self._transport, places))

    async def _resume(self, transport: Transport, rooms: Places) -> None:
        """Ask for everything after these places, some rooms at a time; a server that has enough to do says when to go on."""
        left = list(rooms)
        while left and self._transport is transport:
            some = left[:RESUME_ROOMS]
            try:
                with self._answers.expected(RESUME) as (frame_id, answer):
                    await transport.send(f.Resume(id=frame_id, rooms={room: rooms[room] for room in some}))
                    await answer
            except RateLimited as error:
                await asyncio.sleep((error.retry_after_ms or 1_000) / 1_000)
                continue
            except (Closed, ConnectionLost) as error:
                log.debug("not asked, the next connection resumes", extra={"reason": str(error)})
                return
            except ChatError as error:
                log.info("not resumed", extra={"rooms": len(some), "error": error.code})
                self._following.not_asked(some)
            del left[:RESUME_ROOMS]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_ready(self) -> None:
        if self._failed is not None:
            raise self._failed
        await self._ready.wait()
        if self._failed is not None:
            raise self._failed

    # ── the connection ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        backoff = Backoff()
        refusals = 0
        broken_at = float("-inf")
        try:
            while True:
                wait_s = 0.0
                try:
                    await self._session(backoff)
                except Closed as closed:
                    self._tell_trouble("disconnected", str(closed))
                    wait_s = closed.wait_s
                    if closed.code == f.CloseCode.PROTOCOL:
                        if time.monotonic() - broken_at < BROKEN_S:
                            raise Untrusted("Twice in a minute, what came was not what the server had sealed.") from closed
                        broken_at = time.monotonic()
                    if closed.code in _STOP:
                        raise Stopped(f"The server ended this client: {closed}") from closed
                    if closed.code == f.CloseCode.UNAUTHORIZED:
                        self._tokens.renew()
                        refusals += 1
                    else:
                        refusals = 0
                except OSError as error:
                    self._tell_trouble("cannot connect", str(error))
                self._lose()
                delay, self._drain_ms = backoff.next() if self._drain_ms is None else self._drain_ms / 1000, None
                await self._wait(0 if refusals == 1 else wait_s + delay)
        except Exception as error:  # noqa: BLE001 - the border: whoever waits is told
            self._failed = error
            self._ready.set()
            self._lose()
        finally:
            self._ready.set() if self._failed else self._ready.clear()

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _tell_trouble(self, what: str, reason: str) -> None:
        """Say why there is no connection: once, until there was one again."""
        first, self.trouble = not self.trouble, reason
        log.log(logging.INFO if first else logging.DEBUG, "%s: %s", what, reason)
        if first:
            self.on_trouble(reason)

    def _lose(self) -> None:
        self._transport = None
        if self._failed is None:
            self._ready.clear()
        self._following.lose()
        self._answers.lose()

    async def _session(self, backoff: Backoff) -> None:
        token = await self._tokens.token()
        transport = await Transport.open(self.url, self._tls, self.sealing)
        try:
            auth, rest = auth_that_fits(token, self.seen, transport.room)
            await transport.send(auth)
            while True:
                for frame in await transport.receive():
                    if isinstance(frame, f.Ready):
                        self._start_session(frame, transport, rest)
                        backoff.reset()
                    else:
                        await self._take(frame, transport)
        finally:
            self._lose()  # Before the closing, which takes a moment: nobody shall ask on it meanwhile.
            await transport.close()

    def _start_session(self, ready: f.Ready, transport: Transport, rest: Places) -> None:
        """Begin anew with what the server knows; `rest` did not fit into `auth` and is asked for now."""
        self.user = ready.user
        self.device = ready.device
        self.blocked = set(ready.blocked)
        self.connects += 1
        missed = self._following.begin(ready, rest)
        self._transport = transport
        transport.authenticated()
        self._ready.set()
        self.trouble = ""
        self.on_trouble("")
        self._ask_for(missed)

    async def _extend(self, transport: Transport) -> None:
        """Bring a fresh token, again and again for as long as the old one lasts."""
        self._tokens.renew()
        for pause_s in EXTEND_PAUSES_S:
            try:
                await transport.send(f.Auth(id="extend", token=Secret(await self._tokens.token())))
            except OSError as error:
                log.info("token not extended yet", extra={"reason": str(error)})
                await asyncio.sleep(pause_s)
            except (Closed, LoginRequired) as error:
                log.info("token not extended", extra={"reason": str(error)})
                return
            else:
                return

    async def _take(self, frame: Any, transport: Transport) -> None:
        if isinstance(frame, Entry):
            missing = self._following.take_entry(frame, self.user.id if self.user is not None else "")
            if missing:
                await transport.send(f.Resume(id=self._answers.new_id(RESUME), rooms=missing))
        elif isinstance(frame, f.Reply):
            self._take_reply(frame)
        elif isinstance(frame, f.ErrorFrame):
            if frame.id == "auth" and frame.code == Unauthorized.code:
                self._tokens.refused()
                raise Closed(f.CloseCode.UNAUTHORIZED, frame.detail)
            if frame.id == "auth" and frame.code == EnrolmentRequired.code:
                raise LoginRequired(f"{frame.detail} Run: {program()} login, or open the web client.")
            if frame.id == "auth" and frame.retryable and frame.retry_after_ms is not None:
                raise Closed(f.CloseCode.OVERLOADED, frame.detail, wait_s=frame.retry_after_ms / 1_000)
            if frame.id.startswith(RESUME) and frame.id not in self._answers:
                self._following.not_asked()
            self._answers.take(frame.id, to_error(frame))
        elif isinstance(frame, f.SignalFrame) and frame.type == "auth.expiring":
            self._spawn(self._extend(transport))
        elif isinstance(frame, f.SignalFrame):
            self._following.take_signal(frame)
        elif isinstance(frame, f.Drain):
            self._drain_ms = frame.after_ms

    def _take_reply(self, frame: f.Reply) -> None:
        if frame.id.startswith(RESUME) and isinstance(frame.data, dict):
            self._following.take_resumed(frame.data.get("rooms", {}))
        self._answers.take(frame.id, frame.data)
