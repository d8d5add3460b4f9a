"""Signing in with accounts at other providers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from securechat.domain.commands.words import Command, Id, Text, Ticket, no_secret
from securechat.domain.secret import Secret

Name = Annotated[str, Meta(max_length=64)]
Word = Annotated[str, Meta(max_length=512)]
"""What travels in the address of an OAuth request: a state, a code, an address to come back to."""


class ProviderList(Command, kw_only=True, tag="provider.list"):
    """List the providers whose accounts open this server."""


class ProviderBegin(Command, kw_only=True, tag="provider.begin"):
    """Begin to sign in, or to register, with an account at a provider."""

    provider: Name
    origin: Word = ""
    """Where the browser is: the provider sends it back to `<origin>/oidc/<provider>`. Empty for the server's own URL."""


class ProviderFinish(Command, kw_only=True, tag="provider.finish"):
    """Bring what the provider sent the browser back with, once."""

    ticket: Ticket
    provider: Name
    state: Word
    code: Secret
    iss: Word = ""


class SessionProvider(Command, kw_only=True, tag="session.provider"):
    """Log in with what `provider.finish` answered. An account with a second factor is asked for it here, too."""

    ticket: Ticket
    code: Secret = msgspec.field(default_factory=no_secret)
    device_name: Text = ""


class AccountProvider(Command, kw_only=True, tag="account.provider"):
    """Create an account that a provider's account opens; with an invitation, unless registration is open."""

    ticket: Ticket
    username: Text
    display_name: Text = ""
    code: Secret = msgspec.field(default_factory=no_secret)
    device_name: Text = ""


class ExternalList(Command, kw_only=True, tag="external.list"):
    """List the accounts at providers by which one signs in."""


class ExternalBegin(Command, kw_only=True, tag="external.begin"):
    """Begin to link an account at a provider."""

    provider: Name
    origin: Word = ""


class ExternalAdd(Command, kw_only=True, tag="external.add"):
    """Link the account that the provider sent the browser back with."""

    ticket: Ticket
    provider: Name
    state: Word
    code: Secret
    iss: Word = ""


class ExternalRemove(Command, kw_only=True, tag="external.remove"):
    """Unlink an account at a provider; not the last way in."""

    external: Id


class SignInProvider(msgspec.Struct, kw_only=True):
    """A provider, as a button shows it."""

    id: str
    name: str


class Providers(msgspec.Struct, kw_only=True):
    """Providers, as configured."""

    providers: list[SignInProvider]


class ProviderStart(msgspec.Struct, kw_only=True):
    """Where the browser goes, and what it brings along when it is back: the state in the address has to be this one."""

    url: str
    state: str
    ticket: str


class ProviderOutcome(msgspec.Struct, kw_only=True):
    """Who came back.

    Attributes:
        ticket: For `session.provider` or `account.provider`.
        known: Whether an account here is linked; otherwise one can register.
        invited: Whether registering needs an invitation.
        username, display_name: What the provider suggests for a new account.
    """

    ticket: str
    known: bool
    invited: bool = True
    username: str = ""
    display_name: str = ""


class ExternalAccount(msgspec.Struct, kw_only=True):
    """An account at a provider; `name` is what the provider called it when it was linked."""

    id: str
    provider: str
    name: str
    created_at: int
    last_used_at: int


class ExternalAccounts(msgspec.Struct, kw_only=True):
    """Accounts at providers, oldest first."""

    externals: list[ExternalAccount]
