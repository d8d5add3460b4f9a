"""Bot: ten lines to a bot. Commands with typed options, events, nothing to configure but two environment variables."""

from __future__ import annotations

import asyncio
import inspect
import logging
import shlex
import signal
import sys
import typing
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from securechat.domain import commands as c
from securechat.domain.accounts import Role
from securechat.domain.choices import KINDS
from securechat.domain.entries import Entry, EntryType
from securechat.errors import ChatError, Forbidden
from securechat.program import program
from securechat.protocol.frames import SignalFrame
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import ConnectionLost, LoginRequired
from securechat.sdk.following import Gap
from securechat.sdk.room import Room

log = logging.getLogger("securechat.bot")

ROOM_QUEUE_MAX: Final = 1_000
EXIT_LOGIN: Final = 3
_TYPES: Final[dict[type, str]] = {str: "str", int: "int", float: "float", bool: "bool"}

Handler = TypeVar("Handler", bound=Callable[..., Awaitable[None]])


class Context:
    """One event or command call, and how to answer it.

    Attributes:
        bot: The bot.
        room: Where it happened.
        entry: What happened.
    """

    def __init__(self, bot: Bot, room: Room, entry: Entry) -> None:
        self.bot = bot
        self.room = room
        self.entry = entry

    @property
    def text(self) -> str:
        """The message's text."""
        return self.entry.body or ""

    async def reply(self, body: str) -> c.Sent:
        """Answer the message. The same call after a crash answers once: its `cmid` comes from the message."""
        target = self.entry.target or self.entry.seq
        self._replies = getattr(self, "_replies", 0) + 1
        return await self.room.send(body, cmid=f"re-{self.entry.seq}-{self._replies}", reply_to=target)

    async def send(self, body: str) -> c.Sent:
        """Send a message to the room."""
        return await self.room.send(body)

    async def react(self, emoji: str) -> c.Sent:
        """React to the message."""
        return await self.room.react(self.entry.target or self.entry.seq, emoji)


class UsageError(Exception):
    """The arguments of a call do not fit; the text tells the person how."""


class _Command:
    """A registered command: its handler and its options, from the annotations and the docstring."""

    def __init__(self, name: str, handler: Callable[..., Awaitable[None]]) -> None:
        self.handler = handler
        hints = typing.get_type_hints(handler)
        parameters = list(inspect.signature(handler).parameters.values())[1:]
        options = []
        self.types: dict[str, type] = {}
        for parameter in parameters:
            kind = hints.get(parameter.name, str)
            if kind not in _TYPES:
                raise TypeError(f"/{name}: option {parameter.name} is {kind}, and not str, int, float or bool")
            self.types[parameter.name] = kind
            required = parameter.default is inspect.Parameter.empty
            default = "" if required else str(parameter.default)
            options.append(c.BotOption(name=parameter.name, type=_TYPES[kind], required=required, default=default))  # type: ignore[arg-type]
        self.definition = c.BotCommand(name=name, description=(inspect.getdoc(handler) or "").partition("\n")[0], options=options)

    @property
    def usage(self) -> str:
        """How to call it."""
        options = " ".join(
            f"{each.name}:{each.type}" if each.required else f"[{each.name}:{each.type}]" for each in self.definition.options
        )
        return f"/{self.definition.name} {options}".rstrip()

    def parse(self, text: str) -> dict[str, Any]:
        """Return the arguments of `2 sides:6`: by place or by name.

        Raises:
            UsageError: They do not fit.
        """
        try:
            words = shlex.split(text)
        except ValueError:
            words = text.split()
        names = list(self.types)
        if names and self.types[names[-1]] is str and len(words) > len(names):
            # The last option takes the rest of the line, as people write it.
            words = [*words[: len(names) - 1], " ".join(words[len(names) - 1 :])]
        found: dict[str, Any] = {}
        places = iter(names)
        for word in words:
            option, colon, value = word.partition(":")
            name = option
            if not colon or name not in self.types:
                name, value = next((place for place in places if place not in found), ""), word
            if not name or name in found:
                raise UsageError(f"Too many arguments. Usage: {self.usage}")
            try:
                found[name] = msgspec.convert(value, self.types[name], strict=False)
            except msgspec.ValidationError:
                if colon and option not in self.types:
                    raise UsageError(f"There is no option {option}. Usage: {self.usage}") from None
                raise UsageError(f"{name} must be {KINDS[_TYPES[self.types[name]]]}. Usage: {self.usage}") from None
        missing = [each.name for each in self.definition.options if each.required and each.name not in found]
        if missing:
            raise UsageError(f"{missing[0]} is missing. Usage: {self.usage}")
        return found


class NotABot(Exception):
    """Somebody's own account was taken for a bot's."""


def _tell_online(client: ChatClient) -> None:
    name = client.user.username if client.user else ""
    rooms = len(client.rooms)
    log.info("%s is online as @%s (%d room%s, resume on)", client.url, name, rooms, "" if rooms == 1 else "s")


class Bot:
    """A bot.

    Args:
        url: The server: `SECURECHAT_URL`.
        token: The bot's token: `SECURECHAT_TOKEN`.
        ca: A CA's certificate: `SECURECHAT_CA`.
        state: A file in which the bot keeps how far it got, so that a restart misses nothing: what was written while it was away
            is handled when it comes back.
    """

    def __init__(self, url: str = "", token: str = "", *, ca: str = "", state: str | Path | None = None) -> None:
        self._arguments = (url, token, ca)
        self._state = None if state is None else Path(state)
        self._commands: dict[str, _Command] = {}
        self._handlers: list[tuple[str, str, Callable[..., Awaitable[None]]]] = []
        self._queues: dict[str, asyncio.Queue[Entry]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._done: dict[str, int] = {}
        self.client: ChatClient | None = None

    def command(self, name: str) -> Callable[[Handler], Handler]:
        """Answer `/name`: the handler's annotations are the options, its docstring the help."""

        def register(handler: Handler) -> Handler:
            self._commands[name] = _Command(name, handler)
            return handler

        return register

    def on(self, event: str, *, room: str = "") -> Callable[[Handler], Handler]:
        """Call the handler for every event of this type, in all rooms or in one."""
        EntryType(event)

        def register(handler: Handler) -> Handler:
            self._handlers.append((event, room.removeprefix("#"), handler))
            return handler

        return register

    def run(self) -> None:
        """Run until SIGINT or SIGTERM; exit with 3 when the token does not hold."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # It tells of every request.
        try:
            asyncio.run(self._run_until_signal())
        except LoginRequired as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - for a person at a terminal
            sys.exit(EXIT_LOGIN)
        except NotABot as error:
            print(f"error: {error}", file=sys.stderr)  # noqa: T201 - for a person at a terminal
            sys.exit(1)
        except KeyboardInterrupt:
            pass

    async def _run_until_signal(self) -> None:
        task = asyncio.create_task(self.start())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            log.info("stopped")

    async def start(self) -> None:
        """Run until cancelled.

        Raises:
            LoginRequired: The token does not hold.
            NotABot: It is a person's.
        """
        url, token, ca = self._arguments
        self._done = self._load_state()
        async with ChatClient(url, token, ca=ca, resume=self._done) as client:
            self.client = client
            try:
                await client.set_commands(each.definition for each in self._commands.values())
            except Forbidden as error:
                if client.user is None or client.user.role is Role.BOT:
                    raise
                raise NotABot(
                    f"This account is a person's, not a bot's: `{program()} bot create NAME` makes one and prints SECURECHAT_TOKEN."
                ) from error
            _tell_online(client)
            client.on_trouble = lambda reason: None if reason else _tell_online(client)
            try:
                async for event in client.events():
                    if isinstance(event, Entry):
                        await self._queue(event)
                    elif isinstance(event, Gap):
                        log.warning("too far behind in %s: entries after %d were not seen", event.room, event.after)
                    elif isinstance(event, SignalFrame) and event.type == "room.opened" and event.summary:
                        log.info("in room %s", event.summary.name)
            finally:
                for worker in self._workers:
                    worker.cancel()
                self._save_state()

    async def _queue(self, entry: Entry) -> None:
        """Rooms are handled side by side, the entries of one room one by one."""
        queue = self._queues.get(entry.room)
        if queue is None:
            queue = self._queues[entry.room] = asyncio.Queue(ROOM_QUEUE_MAX)
            worker = asyncio.create_task(self._work(queue))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        await queue.put(entry)

    async def _work(self, queue: asyncio.Queue[Entry]) -> None:
        while True:
            entry = await queue.get()
            try:
                await self._handle(entry)
            except (ChatError, ConnectionLost) as error:
                log.warning("not answered: %s", error)
            except Exception:
                log.exception("handler failed for seq %d", entry.seq)
            self._done[entry.room] = entry.seq
            if queue.empty():
                self._save_state()

    async def _handle(self, entry: Entry) -> None:
        client = self.client
        if client is None or client.user is None or entry.user == client.user.id:
            return
        room = client.rooms.get(entry.room)
        if room is None:
            return
        context = Context(self, room, entry)
        for event, only, handler in self._handlers:
            if event == entry.type and (not only or only.casefold() in {room.name.casefold(), room.id}):
                await handler(context)
        if entry.type is EntryType.MESSAGE_SENT and (entry.body or "").startswith("/"):
            name, _, rest = (entry.body or "")[1:].partition(" ")
            command = self._commands.get(name)
            if command is None:
                return
            try:
                arguments = command.parse(rest)
            except UsageError as error:
                await context.reply(str(error))
                return
            await command.handler(context, **arguments)

    def _load_state(self) -> dict[str, int]:
        if self._state is None or not self._state.exists():
            return {}
        return msgspec.json.decode(self._state.read_bytes(), type=dict[str, int])

    def _save_state(self) -> None:
        if self._state is None or not self._done:
            return
        unfinished = self._state.with_name(self._state.name + ".part")
        unfinished.write_bytes(msgspec.json.encode(self._done))
        unfinished.replace(self._state)
