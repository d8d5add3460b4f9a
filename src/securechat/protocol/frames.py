"""Frames: what travels. A frame is an object with an `op`; a command's `op` is the command's name.

Client → server: `Auth`, `Resume`, `Ping` and every command of `domain.commands`.
Server → client: `Hello`, `Ready`, `Entry` (op `event`), `SignalFrame`, `Reply`, `ErrorFrame`, `Pong`, `Drain`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta

from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.entries import Entry
from securechat.domain.limits import Limits
from securechat.domain.secret import Secret
from securechat.errors import ChatError

SUBPROTOCOL: Final = "securechat.v1"
"""Sealed: what one flush writes is one record (spec/session-layer.md)."""
SUBPROTOCOL_CLEAR: Final = "securechat.v1.clear"
"""Frames as they are, protected by TLS only."""
PROTOCOL_VERSION: Final = 1


class CloseCode(IntEnum):
    """Why a connection ends, and thereby what the client does next (spec, "Close codes")."""

    NORMAL = 1000
    DRAIN = 4000
    SLOW_CONSUMER = 4008
    PROTOCOL = 4400
    UNAUTHORIZED = 4401
    REKEY = 4403
    WRONG_HOST = 4404
    NO_COMMON = 4406
    REPLACED = 4409
    TOO_MANY = 4429
    FRAMING = 1002
    TOO_BIG = 1009
    OVERLOADED = 1013
    INTERNAL = 1011


# ── Client → server ──────────────────────────────────────────────────────────────────────────────────────────────────


class Auth(c.Command, kw_only=True, tag="auth"):
    """Authenticate this connection. With `resume`, everything after the given `seq` of each room follows `ready`."""

    token: Secret
    resume: Annotated[dict[c.Id, c.Place], Meta(max_length=1_000)] = msgspec.field(default_factory=dict)


class Resume(c.Command, kw_only=True, tag="resume"):
    """Ask for everything after a `seq`: what a client does when it sees a gap."""

    rooms: Annotated[dict[c.Id, c.Place], Meta(max_length=1_000)]


class Ping(c.Command, kw_only=True, tag="ping"):
    """Are you there? For clients that cannot see WebSocket pings."""


COMMANDS: Final[tuple[type[c.Command], ...]] = tuple(
    sorted(
        (each for each in vars(c).values() if isinstance(each, type) and issubclass(each, c.Command) and each is not c.Command),
        key=list(c.REPLIES).index,
    )
)
"""Every command, in the order of `REPLIES`."""

CLIENT_FRAMES: Final[tuple[type, ...]] = (Auth, Resume, Ping, *COMMANDS)


def name_of(command: type[c.Command]) -> str:
    """Return the name of a command: `message.send`."""
    return str(command.__struct_config__.tag)


# ── Server → client ──────────────────────────────────────────────────────────────────────────────────────────────────


class Hello(msgspec.Struct, tag_field="op", tag="hello", kw_only=True, omit_defaults=True):
    """The first frame of a connection: on the clear sub-protocol always a JSON text message.

    Attributes:
        root: Inside a sealed session, the id of the root that signs the list of the server's keys, in hex, if it has one.
    """

    protocol: int
    server: str
    version: str
    time: int
    heartbeat_s: int
    limits: Limits
    root: str = ""


class Ready(msgspec.Struct, tag_field="op", tag="ready", kw_only=True, omit_defaults=True):
    """The connection is authenticated; the rooms are as they are now, and their events follow.

    Attributes:
        resumed: Whether everything asked for by `resume` follows; else look at each room's `resumed`.
        complete: Whether `rooms` are all; else a database does not answer, rooms that are not here may be there, and the server
            ends the connection when it does.
    """

    id: str = ""
    user: User
    device: str
    rooms: list[c.RoomSummary]
    resumed: bool
    complete: bool = True
    blocked: list[str] = []
    expires_in: int | None = None


class SignalFrame(msgspec.Struct, tag_field="op", tag="signal", kw_only=True, omit_defaults=True):
    """Something that is in no log.

    Types and their fields:

    `typing.started` room user · `presence.changed` presence · `read.updated` room read_seq unread ·
    `room.opened` summary · `room.closed` room · `user.updated` person · `auth.expiring` expires_in
    """

    type: str
    room: str | None = None
    user: str | None = None
    presence: dict[str, str] | None = None
    read_seq: int | None = None
    unread: int | None = None
    summary: c.RoomSummary | None = None
    person: User | None = None
    expires_in: int | None = None


class Resumed(msgspec.Struct, kw_only=True):
    """Answer to `resume`: for each room, whether everything follows, or only the newest page."""

    rooms: dict[str, bool]


class Reply(msgspec.Struct, tag_field="op", tag="reply", kw_only=True):
    """The answer to the command with this `id`."""

    id: str
    data: Any


class ErrorFrame(msgspec.Struct, tag_field="op", tag="error", kw_only=True, omit_defaults=True):
    """The command with this `id` was refused; nothing of it was stored. Fields after RFC 9457."""

    id: str = ""
    code: str
    title: str
    status: int
    detail: str
    retryable: bool = False
    field: str | None = None
    retry_after_ms: int | None = None


class Pong(msgspec.Struct, tag_field="op", tag="pong", kw_only=True):
    """Answer to `ping`."""

    id: str
    time: int


class Drain(msgspec.Struct, tag_field="op", tag="drain", kw_only=True):
    """This server stops: it closes the connection within `within_ms`, now if that is 0; reconnect `after_ms` after that.

    Until then everything works as before.
    """

    after_ms: int
    within_ms: int = 0


SERVER_FRAMES: Final[tuple[type, ...]] = (Hello, Ready, Entry, SignalFrame, Reply, ErrorFrame, Pong, Drain)


def error_frame(command_id: str, error: ChatError) -> ErrorFrame:
    """Put a refusal on the wire."""
    return ErrorFrame(
        id=command_id,
        code=error.code,
        title=error.title,
        status=error.status,
        detail=error.detail,
        retryable=error.retryable,
        field=error.field,
        retry_after_ms=error.retry_after_ms,
    )


def reply_types() -> tuple[type, ...]:
    """Return every struct that can be the `data` of a reply."""
    return (*get_args(c.AnyReply), Resumed)
