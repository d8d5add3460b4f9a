"""Subscriptions of rooms (outgoing webhooks), and dead letters."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from securechat.domain.commands.words import Command, Id, Place, Seq
from securechat.domain.secret import MaskedRepr
from securechat.domain.subscriptions import URL_CHARS

Url = Annotated[str, Meta(max_length=URL_CHARS)]


class SubscriptionCreate(Command, kw_only=True, tag="subscription.create"):
    """Send the entries of a room to a URL from now on; the room is told. The secret that signs them is shown once."""

    room: Id
    url: Url
    types: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=32)] = []


class SubscriptionList(Command, kw_only=True, tag="subscription.list"):
    """List the subscriptions of a room."""

    room: Id


class SubscriptionOverview(Command, kw_only=True, tag="subscription.overview"):
    """List the subscriptions of all rooms."""


class SubscriptionDelete(Command, kw_only=True, tag="subscription.delete"):
    """End a subscription; its dead letters go with it, and the room is told."""

    room: Id
    subscription: Id


class SubscriptionPause(Command, kw_only=True, tag="subscription.pause"):
    """Send nothing for a while; what comes meanwhile is sent when it is resumed."""

    room: Id
    subscription: Id


class SubscriptionResume(Command, kw_only=True, tag="subscription.resume"):
    """Go on where it was: after a pause, or when the server has disabled it."""

    room: Id
    subscription: Id


class SubscriptionRotate(Command, kw_only=True, tag="subscription.rotate"):
    """Make a new secret, shown once; the old one signs, too, for some hours."""

    room: Id
    subscription: Id
    keep_hours: Annotated[int, Meta(ge=0, le=168)] = 24


class DeadLetterList(Command, kw_only=True, tag="dead.letter.list"):
    """List what could not be delivered, by `seq`."""

    room: Id
    subscription: Id
    after: Place = 0
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class DeadLetterReplay(Command, kw_only=True, tag="dead.letter.replay"):
    """Send one dead letter again, or all of them: each entry as it is now."""

    room: Id
    subscription: Id
    seq: Seq | None = None


class DeadLetterDrop(Command, kw_only=True, tag="dead.letter.drop"):
    """Remove one dead letter, or all of them: they will not be delivered."""

    room: Id
    subscription: Id
    seq: Seq | None = None


class Subscription(msgspec.Struct, kw_only=True):
    """A subscription.

    Attributes:
        id, room: Whose entries are sent.
        url: Where to.
        types: Of the entries that are sent; empty for all.
        state: `pending`, `active`, `paused` or `disabled`.
        reason: Why the last try failed, or why it is disabled; empty: it works.
        cursor: Everything up to this `seq` is delivered, left out, or a dead letter.
        behind: How many entries of the room come after that.
        dead_letters: How many there are.
        attempts: How often the next entry was tried in vain.
        next_at: When it is tried again, in milliseconds since 1970; 0: at once.
        failing_since: Since when nothing was delivered although it was tried; 0: it works.
        delivered_at: When something was delivered last; 0: never.
        created_by, created_at: Who made it, and when.
    """

    id: str
    room: str
    url: str
    types: list[str]
    state: str
    reason: str
    cursor: int
    behind: int
    dead_letters: int
    attempts: int
    next_at: int
    failing_since: int
    delivered_at: int
    created_by: str
    created_at: int


class Subscriptions(msgspec.Struct, kw_only=True):
    """Subscriptions, oldest first."""

    subscriptions: list[Subscription]


class SubscriptionCreated(MaskedRepr, msgspec.Struct, kw_only=True):
    """A subscription and the secret that signs what it sends (`whsec_…`): only this answer has it.

    Attributes:
        old_until: Until when the secret before signs, too, in milliseconds since 1970; 0: there is none.
    """

    __secrets__ = ("secret",)

    subscription: Subscription
    secret: str
    old_until: int = 0


class DeadLetter(msgspec.Struct, kw_only=True):
    """An entry that could not be delivered.

    Attributes:
        seq: Its place in the room's log.
        reason: Why, in words.
        status: HTTP status of the last answer; 0: none came.
        attempts: How often it was tried.
        first_at, last_at: When it was tried first and last, in milliseconds since 1970.
        waiting: Whether it is being sent again.
    """

    subscription: str
    room: str
    seq: int
    reason: str
    status: int
    attempts: int
    first_at: int
    last_at: int
    waiting: bool


class DeadLetters(msgspec.Struct, kw_only=True):
    """Dead letters, and where to go on."""

    letters: list[DeadLetter]
    next_after: int | None = None


class DeadLettersTaken(msgspec.Struct, kw_only=True):
    """How many dead letters are sent again, or were dropped."""

    count: int
