"""Messages, reactions, reading."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from securechat.domain.commands.words import Body, Cmid, Command, Emoji, Id, Place, Seq
from securechat.domain.limits import LIMITS


class MessageSend(Command, kw_only=True, tag="message.send"):
    """Send a message to a room."""

    room: Id
    cmid: Cmid
    body: Body
    reply_to: Seq | None = None


class MessageEdit(Command, kw_only=True, tag="message.edit"):
    """Replace the text of one's own message."""

    room: Id
    seq: Seq
    body: Body
    cmid: Cmid | None = None


class MessageDelete(Command, kw_only=True, tag="message.delete"):
    """Delete a message: its text is erased, its entry stays as a tombstone."""

    room: Id
    seq: Seq
    cmid: Cmid | None = None


class ReactionAdd(Command, kw_only=True, tag="reaction.add"):
    """React to a message."""

    room: Id
    seq: Seq
    emoji: Emoji
    cmid: Cmid | None = None


class ReactionRemove(Command, kw_only=True, tag="reaction.remove"):
    """Take a reaction back."""

    room: Id
    seq: Seq
    emoji: Emoji
    cmid: Cmid | None = None


class Sent(msgspec.Struct, kw_only=True):
    """The command is an entry now, and stays one.

    Attributes:
        seq: Of the entry; of a deletion or reaction that changed nothing, that of the first deletion, or the room's newest.
        at: When the entry was added, in ms; of what changed nothing, when the message was sent that it is about.
    """

    room: str
    seq: int
    at: int


class Fetch(Command, kw_only=True, tag="fetch"):
    """Read a page of a room's log: before, after or around a `seq`; the newest page without any."""

    room: Id
    before: Seq | None = None
    after: Place | None = None
    around: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 50


class ReadMark(Command, kw_only=True, tag="read.mark"):
    """Say how far one has read. Never moves back unless `back` says so."""

    room: Id
    seq: Place
    back: bool = False


class ReadState(msgspec.Struct, kw_only=True):
    """How far a user has read a room: the same on all of the user's devices."""

    room: str
    read_seq: int
    unread: int


class TypingStart(Command, kw_only=True, tag="typing.start"):
    """Show the others in a room that one is writing; shown for 6 s."""

    room: Id
