"""Invitations, accounts, bots, permissions, keys of access tokens."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from securechat.domain.accounts import User
from securechat.domain.commands.words import Command, Id, Text
from securechat.domain.limits import LIMITS
from securechat.domain.secret import MaskedRepr, Secret


class InviteCreate(Command, kw_only=True, tag="invite.create"):
    """Create an invitation."""

    uses: Annotated[int, Meta(ge=1, le=10_000)] = 1
    expires_s: Annotated[int, Meta(ge=60, le=31_536_000)] = 604_800
    rooms: Annotated[list[Id], Meta(max_length=50)] = []


class InviteList(Command, kw_only=True, tag="invite.list"):
    """List invitations that still work."""


class InviteRevoke(Command, kw_only=True, tag="invite.revoke"):
    """End an invitation."""

    code: Secret


class Invite(MaskedRepr, msgspec.Struct, kw_only=True):
    """An invitation that works."""

    __secrets__ = ("code", "url")

    code: str
    uses_left: int
    expires_at: int
    rooms: list[str] = []
    url: str = ""


class Invites(msgspec.Struct, kw_only=True):
    """Invitations, newest first."""

    invites: list[Invite]


class UserCreate(Command, kw_only=True, tag="user.create"):
    """Create an account; without a password, answer a link to set one."""

    username: Text
    display_name: Text = ""
    password: Secret | None = None
    role: Literal["owner", "admin", "moderator", "member", "guest"] = "member"


class UserList(Command, kw_only=True, tag="user.list"):
    """List all accounts, by username."""

    cursor: Text = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 100


class UserDisable(Command, kw_only=True, tag="user.disable"):
    """Lock an account; its connections are closed at once."""

    user: Id


class UserEnable(Command, kw_only=True, tag="user.enable"):
    """Unlock an account."""

    user: Id


class UserReset(Command, kw_only=True, tag="user.reset"):
    """Make a link with which a user sets a new password; 24 hours, used once."""

    user: Id


class BotCreate(Command, kw_only=True, tag="bot.create"):
    """Create a bot and its token, shown once."""

    username: Text
    display_name: Text = ""
    rooms: Annotated[list[Id], Meta(max_length=50)] = []


class BotRevoke(Command, kw_only=True, tag="bot.revoke"):
    """End all tokens of a bot and disable it."""

    user: Id


class BotRotate(Command, kw_only=True, tag="bot.rotate"):
    """Give a bot a new token; the old one ends."""

    user: Id


class SetupLink(Command, kw_only=True, tag="setup.link"):
    """Make a new setup link, while there is no account."""


class UserRole(Command, kw_only=True, tag="user.role"):
    """Give an account another role on the server; it holds at once, also on open connections."""

    user: Id
    role: Literal["owner", "admin", "moderator", "member", "guest"]


class PolicyExplain(Command, kw_only=True, tag="policy.explain"):
    """Say whether somebody may do something, and which rule says so; about others only administrators may ask."""

    action: Text
    user: Id = ""
    room: Id = ""


class Explanation(msgspec.Struct, kw_only=True):
    """A decision of the policy.

    Attributes:
        user: Whom it is about.
        action: A command's name, or a finer right.
        room: Room id; empty for the server.
        allowed: Yes or no.
        rule: The rule that decided.
        code: What a no would be answered with; empty for a yes.
    """

    user: str
    action: str
    room: str
    allowed: bool
    rule: str
    code: str = ""


class FactorClear(Command, kw_only=True, tag="factor.clear"):
    """Remove all second factors of somebody who lost them; ends all their sessions."""

    user: Id


class TokenKeyList(Command, kw_only=True, tag="token.key.list"):
    """List the keys that sign access tokens."""


class TokenKeyRotate(Command, kw_only=True, tag="token.key.rotate"):
    """Sign access tokens with a new key from now on; the earlier ones hold until their tokens have ended.

    With `drop`, the earlier keys end at once, as after a theft: every client has to refresh its token.
    """

    drop: bool = False


class TokenKey(msgspec.Struct, kw_only=True):
    """A key that signs access tokens, or did: times in milliseconds since 1970, `verifies_until` is 0 for the signing one."""

    id: str
    created_at: int
    signs: bool
    verifies_until: int = 0


class TokenKeys(msgspec.Struct, kw_only=True):
    """Keys, the signing one first."""

    keys: list[TokenKey]


class UserCreated(MaskedRepr, msgspec.Struct, kw_only=True):
    """A new account; `url` sets its first password."""

    __secrets__ = ("url",)

    user: User
    url: str = ""


class UserPage(msgspec.Struct, kw_only=True):
    """Accounts, and where to go on."""

    users: list[User]
    next_cursor: str | None = None


class Link(MaskedRepr, msgspec.Struct, kw_only=True):
    """A one-time link; the token stands in the fragment, so that it reaches no server log."""

    __secrets__ = ("url",)

    url: str
    expires_at: int


class BotCreated(MaskedRepr, msgspec.Struct, kw_only=True):
    """A bot and its token, which nobody can show again.

    Attributes:
        user: The bot.
        token: Its token.
        pin: Ids of the server's identity keys in hex, with commas between; empty when sessions are not sealed.
    """

    __secrets__ = ("token",)

    user: User
    token: str
    pin: str = ""
