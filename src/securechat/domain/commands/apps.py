"""Apps, their grants, and personal tokens."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from securechat.domain.commands.providers import Name, Word
from securechat.domain.commands.words import Command, Id, Text, no_secret
from securechat.domain.secret import MaskedRepr, Secret

Scopes = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=16)]


class OauthToken(Command, kw_only=True, tag="oauth.token"):
    """As an app: exchange a code or a refresh token for an access token (RFC 6749 4.1.3 and 6, RFC 8628 3.4)."""

    grant_type: Word = ""
    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=no_secret)
    code: Secret = msgspec.field(default_factory=no_secret)
    redirect_uri: Word = ""
    code_verifier: Secret = msgspec.field(default_factory=no_secret)
    refresh_token: Secret = msgspec.field(default_factory=no_secret)
    device_code: Secret = msgspec.field(default_factory=no_secret)


class OauthDevice(Command, kw_only=True, tag="oauth.device"):
    """As an app without a browser: ask for a code that a person approves elsewhere (RFC 8628 3.1)."""

    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=no_secret)
    scope: Word = ""


class OauthRevoke(Command, kw_only=True, tag="oauth.revoke"):
    """As an app: end the session of one of its tokens (RFC 7009)."""

    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=no_secret)
    token: Secret = msgspec.field(default_factory=no_secret)


class ConsentGet(Command, kw_only=True, tag="consent.get"):
    """See what an app asks for: with what stands in the address that it sent one to, or with the code that a device shows."""

    client_id: Word = ""
    redirect_uri: Word = ""
    response_type: Word = ""
    scope: Word = ""
    state: Word = ""
    code_challenge: Word = ""
    code_challenge_method: Word = ""
    user_code: Secret = msgspec.field(default_factory=no_secret)


class ConsentGive(ConsentGet, kw_only=True, tag="consent.give"):
    """Let an app in, or not."""

    approve: bool


class GrantList(Command, kw_only=True, tag="grant.list"):
    """List the apps that one has let in."""


class GrantRevoke(Command, kw_only=True, tag="grant.revoke"):
    """Let an app out: all its sessions with oneself end, and its connections are closed at once."""

    app: Name


class TokenCreate(Command, kw_only=True, tag="token.create"):
    """Make a personal token for a program of one's own; it is shown once."""

    name: Text
    scopes: Scopes
    expires_days: Annotated[int, Meta(ge=1, le=365)] = 90


class TokenList(Command, kw_only=True, tag="token.list"):
    """List one's personal tokens."""


class TokenRevoke(Command, kw_only=True, tag="token.revoke"):
    """End a personal token; its connections are closed at once."""

    token: Id


class AppCreate(Command, kw_only=True, tag="app.create"):
    """Register an app. A confidential one gets a secret, shown once."""

    name: Text
    redirect_uris: Annotated[list[Word], Meta(max_length=10)] = []
    scopes: Scopes
    confidential: bool = False
    device_flow: bool = False


class AppList(Command, kw_only=True, tag="app.list"):
    """List registered apps."""


class AppDelete(Command, kw_only=True, tag="app.delete"):
    """Remove an app: all its sessions end, and its connections are closed at once."""

    app: Name


class OauthTokens(MaskedRepr, msgspec.Struct, kw_only=True):
    """Tokens of an app, in the words of RFC 6749."""

    __secrets__ = ("access_token", "refresh_token")

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    scope: str


class DeviceAuthorization(MaskedRepr, msgspec.Struct, kw_only=True):
    """What a device shows, and what it asks with, in the words of RFC 8628; times in seconds."""

    __secrets__ = ("device_code", "user_code", "verification_uri_complete")

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class Scope(msgspec.Struct, kw_only=True):
    """A scope, and what it means."""

    name: str
    words: str


class Consent(msgspec.Struct, kw_only=True):
    """What an app asks for.

    Attributes:
        app: Client id.
        name: Of the app, as the administrator registered it.
        scopes: What it wants to be let do.
        redirect_host: Where one goes afterwards; empty for a device.
    """

    app: str
    name: str
    scopes: list[Scope]
    redirect_host: str = ""


class ConsentAnswer(MaskedRepr, msgspec.Struct, kw_only=True):
    """Where the browser goes with the answer; empty for a device, which asks by itself."""

    __secrets__ = ("url",)

    url: str = ""


class Grant(msgspec.Struct, kw_only=True):
    """An app that one has let in, and where it was last."""

    app: str
    name: str
    scopes: list[str]
    created_at: int
    last_seen_at: int
    sessions: int


class Grants(msgspec.Struct, kw_only=True):
    """Apps, newest first."""

    grants: list[Grant]


class PersonalToken(msgspec.Struct, kw_only=True):
    """A personal token, without what it is used with."""

    id: str
    name: str
    scopes: list[str]
    created_at: int
    expires_at: int


class PersonalTokens(msgspec.Struct, kw_only=True):
    """Personal tokens, newest first."""

    tokens: list[PersonalToken]


class TokenCreated(MaskedRepr, msgspec.Struct, kw_only=True):
    """A personal token, and what it is used with, which nobody can show again."""

    __secrets__ = ("secret",)

    token: PersonalToken
    secret: str


class App(msgspec.Struct, kw_only=True):
    """A registered app."""

    id: str
    name: str
    redirect_uris: list[str]
    scopes: list[str]
    confidential: bool
    device_flow: bool
    created_at: int


class Apps(msgspec.Struct, kw_only=True):
    """Apps, by name."""

    apps: list[App]


class AppCreated(MaskedRepr, msgspec.Struct, kw_only=True):
    """An app; `secret` is empty for a public one, and cannot be shown again."""

    __secrets__ = ("secret",)

    app: App
    secret: str = ""
