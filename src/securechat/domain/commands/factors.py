"""Second factors, passkeys, confirmation, the password."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from securechat.domain.commands.words import Command, Credential, Text, Ticket, no_secret
from securechat.domain.secret import Secret


class PasskeyChallenge(Command, kw_only=True, tag="passkey.challenge"):
    """Begin to log in, or to confirm, with a passkey. The answer says nothing about any account."""


class SessionPasskey(Command, kw_only=True, tag="session.passkey"):
    """Log in with a passkey: it verified the person, so it is both factors at once."""

    ticket: Ticket
    credential: Credential
    device_name: Text = ""


class SessionConfirm(Command, kw_only=True, tag="session.confirm"):
    """Show that it is still you: with the password (and a code, if there is a second factor), or with a passkey.

    Dangerous changes of one's own account are allowed for ten minutes after it, and after logging in.
    """

    password: Secret = msgspec.field(default_factory=no_secret)
    code: Secret = msgspec.field(default_factory=no_secret)
    ticket: Ticket = ""
    credential: Credential = {}


class PasswordChange(Command, kw_only=True, tag="password.change"):
    """Change one's own password; all other sessions end."""

    current: Secret
    password: Secret


class FactorList(Command, kw_only=True, tag="factor.list"):
    """List one's own second factors."""


class TotpBegin(Command, kw_only=True, tag="totp.begin"):
    """Begin to set up an authenticator app. Nothing is stored before `totp.confirm`."""


class TotpConfirm(Command, kw_only=True, tag="totp.confirm"):
    """Turn the authenticator app on, with a code that it shows."""

    ticket: Ticket
    code: Secret


class TotpRemove(Command, kw_only=True, tag="totp.remove"):
    """Turn the authenticator app off."""


class PasskeyBegin(Command, kw_only=True, tag="passkey.begin"):
    """Begin to add a passkey. Nothing is stored before `passkey.add`."""


class PasskeyAdd(Command, kw_only=True, tag="passkey.add"):
    """Add the passkey that the browser made."""

    ticket: Ticket
    credential: Credential
    name: Text = ""


class PasskeyRemove(Command, kw_only=True, tag="passkey.remove"):
    """Remove a passkey of one's own."""

    passkey: Annotated[str, Meta(max_length=1_400)]


class RecoveryCreate(Command, kw_only=True, tag="recovery.create"):
    """Make new recovery codes, shown once; the earlier ones end."""


class PasskeyOptions(msgspec.Struct, kw_only=True):
    """What the browser needs to make or use a passkey (WebAuthn's JSON form), and a ticket to send along with its answer."""

    ticket: str
    options: dict[str, Any]


class TotpSecret(msgspec.Struct, kw_only=True):
    """What an authenticator app needs, good for ten minutes.

    Attributes:
        ticket: For `totp.confirm`.
        secret: To type, in base 32.
        uri: The content of a QR code.
        qr: That code, one text of `0` and `1` per row, without the quiet zone.
    """

    ticket: str
    secret: str
    uri: str
    qr: list[str] = []


class Passkey(msgspec.Struct, kw_only=True):
    """A passkey. `last_used_at` is 0 until it was used."""

    id: str
    name: str
    created_at: int
    last_used_at: int = 0


class Factors(msgspec.Struct, kw_only=True):
    """One's own second factors.

    Attributes:
        totp: Whether an authenticator app is set up.
        passkeys: Newest first.
        recovery_codes: How many are left.
        required: Whether the role wants a second factor: the last one cannot be removed.
        confirmed: Whether dangerous changes are allowed now, or `session.confirm` is wanted first.
        password: Whether there is a password: who came in by a provider has none until they set one.
    """

    totp: bool
    passkeys: list[Passkey]
    recovery_codes: int
    required: bool
    confirmed: bool
    password: bool = True


class RecoveryCodes(msgspec.Struct, kw_only=True):
    """It is done. `recovery_codes` are new ones, shown this once; empty when there were some already."""

    recovery_codes: list[str] = []
