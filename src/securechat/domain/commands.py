"""What can be asked of the server: one struct per command, one reply struct per answer.

The gateway, REST and the command line are doors to the same commands. A command's name is the `op` of its frame, its REST
operation id and its key in the handlers' table; the name of the struct is the same words. Fields that are not listed are
refused, and so is a value of another type: nothing is converted silently.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from securechat.domain.accounts import Device, User
from securechat.domain.audit import AuditRecord
from securechat.domain.entries import Page
from securechat.domain.limits import LIMITS
from securechat.domain.secret import MaskedRepr, Secret

Text = Annotated[str, Meta(max_length=4_096)]
"""Any short text from outside, before its own rule is applied."""
Id = Annotated[str, Meta(max_length=24)]
Cmid = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+(?![\s\S])")]
Seq = Annotated[int, Meta(ge=1, lt=2**53)]
Place = Annotated[int, Meta(ge=0, lt=2**53)]
"""A `seq`, or 0 for before the first."""
Body = Annotated[str, Meta(min_length=1, max_length=LIMITS.body_bytes)]
Emoji = Annotated[str, Meta(min_length=1, max_length=32)]
Ticket = Annotated[str, Meta(max_length=2_048)]
"""What the server gave out at the beginning of something that takes two steps; sealed, and good for some minutes."""
Credential = Annotated[dict[str, Any], Meta(max_length=16)]
"""What the browser's WebAuthn answered, in its JSON form."""


def _no_secret() -> Secret:
    return Secret("")


class Command(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, kw_only=True):
    """Base of all commands.

    Attributes:
        id: The door's word for matching the answer; at most 64 characters.
    """

    id: Annotated[str, Meta(max_length=64)] = ""


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """The command is an entry now, and stays one."""

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


# ── Rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class RoomCreate(Command, kw_only=True, tag="room.create"):
    """Create a room and become its owner."""

    name: Text
    kind: Literal["public", "private"] = "private"
    topic: Text = ""
    members: Annotated[list[Id], Meta(max_length=200)] = []


class RoomDirect(Command, kw_only=True, tag="room.direct"):
    """Open the direct room with somebody; the same one each time."""

    user: Id


class RoomUpdate(Command, kw_only=True, tag="room.update"):
    """Change a room's name or topic."""

    room: Id
    name: Text | None = None
    topic: Text | None = None


class RoomList(Command, kw_only=True, tag="room.list"):
    """List one's own rooms."""


class RoomBrowse(Command, kw_only=True, tag="room.browse"):
    """List public rooms, by name."""

    query: Text = ""
    cursor: Text = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 50


class RoomGet(Command, kw_only=True, tag="room.get"):
    """Get one room."""

    room: Id


class RoomLookup(Command, kw_only=True, tag="room.lookup"):
    """Find a room by its name among one's own and the public ones."""

    name: Text


class RoomJoin(Command, kw_only=True, tag="room.join"):
    """Join a public room."""

    room: Id


class RoomLeave(Command, kw_only=True, tag="room.leave"):
    """Leave a room."""

    room: Id


class MemberList(Command, kw_only=True, tag="member.list"):
    """List the members of a room."""

    room: Id


class MemberAdd(Command, kw_only=True, tag="member.add"):
    """Bring somebody into a room."""

    room: Id
    user: Id


class MemberRemove(Command, kw_only=True, tag="member.remove"):
    """Remove somebody from a room."""

    room: Id
    user: Id


class RoomPermit(Command, kw_only=True, tag="room.permit"):
    """Say which role in this room an action needs at least; without a role, the default holds again."""

    room: Id
    action: Text
    role: Literal["owner", "moderator", "member", "guest"] | None = None


class MemberRole(Command, kw_only=True, tag="member.role"):
    """Give a member another role in a room."""

    room: Id
    user: Id
    role: Literal["owner", "moderator", "member", "guest"]


class RoomSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A room as one user sees it.

    Attributes:
        id: Room id.
        kind: `public`, `private` or `direct`.
        name: Empty for a direct room: show the peer's.
        topic: What the room is about.
        last_seq: Newest entry.
        members: How many.
        role: One's own role in it; None when not a member.
        read_seq: How far one has read.
        permissions: Action → the least role for it, where this room differs from the default.
        unread: Messages by others after `read_seq`, at most `limits.unread`.
        peer: The other person of a direct room.
        resumed: In `ready`: whether everything after the given `seq` follows. False means: too far behind, the newest page follows.
    """

    id: str
    kind: str
    name: str = ""
    topic: str = ""
    last_seq: int = 0
    members: int = 0
    role: str | None = None
    read_seq: int = 0
    unread: int = 0
    peer: User | None = None
    permissions: dict[str, str] = {}
    resumed: bool | None = None


class Rooms(msgspec.Struct, kw_only=True):
    """Rooms, and where to go on."""

    rooms: list[RoomSummary]
    next_cursor: str | None = None


class Member(msgspec.Struct, kw_only=True):
    """A user in a room."""

    user: User
    role: str
    presence: str


class Members(msgspec.Struct, kw_only=True):
    """All members of a room, by name."""

    members: list[Member]


# ── People and bots ──────────────────────────────────────────────────────────────────────────────────────────────────


class UserGet(Command, kw_only=True, tag="user.get"):
    """Get users by id; ids that do not exist are left out."""

    users: Annotated[list[Id], Meta(max_length=200)]


class UserFind(Command, kw_only=True, tag="user.find"):
    """Find users whose name begins with something."""

    query: Text = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 20


class UserBlock(Command, kw_only=True, tag="user.block"):
    """Block a user: no direct messages from them, and their messages are folded away."""

    user: Id


class UserUnblock(Command, kw_only=True, tag="user.unblock"):
    """Take a block back."""

    user: Id


class UserBlocks(Command, kw_only=True, tag="user.blocks"):
    """List whom one has blocked."""


class UserUpdate(Command, kw_only=True, tag="user.update"):
    """Change one's own display name."""

    display_name: Text


class Users(msgspec.Struct, kw_only=True):
    """Users; `online` are the ids of those who have a connection."""

    users: list[User]
    online: list[str] = []


class BotOption(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One argument of a bot's command."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}(?![\s\S])")]
    type: Literal["str", "int", "float", "bool"] = "str"
    required: bool = True
    default: Annotated[str, Meta(max_length=256)] = ""


class BotCommand(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A command that a bot answers: people write `/name arguments` as a message."""

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}(?![\s\S])")]
    description: Annotated[str, Meta(max_length=256)] = ""
    options: Annotated[list[BotOption], Meta(max_length=16)] = []
    bot: str = ""
    """User id of the bot; filled in by the server."""


class CommandSet(Command, kw_only=True, tag="command.set"):
    """As a bot: replace the list of commands that one answers."""

    commands: Annotated[list[BotCommand], Meta(max_length=100)]


class CommandList(Command, kw_only=True, tag="command.list"):
    """List the commands of the bots in a room, for autocompletion."""

    room: Id


class BotCommands(msgspec.Struct, kw_only=True):
    """Commands, by name."""

    commands: list[BotCommand]


# ── Coming in ────────────────────────────────────────────────────────────────────────────────────────────────────────


class SetupComplete(Command, kw_only=True, tag="setup.complete"):
    """Create the first account, with the one-time link that the server printed."""

    token: Secret
    username: Text
    password: Secret
    display_name: Text = ""
    server_name: Text = ""
    device_name: Text = ""


class InviteGet(Command, kw_only=True, tag="invite.get"):
    """See what an invitation is for, before registering."""

    code: Secret


class AccountRegister(Command, kw_only=True, tag="account.register"):
    """Create an account with an invitation."""

    code: Secret = msgspec.field(default_factory=lambda: Secret(""))
    username: Text
    password: Secret
    display_name: Text = ""
    device_name: Text = ""


class SessionCreate(Command, kw_only=True, tag="session.create"):
    """Log in. An account with a second factor is answered `second_factor_required` until a code comes along."""

    username: Text
    password: Secret
    device_name: Text = ""
    code: Secret = msgspec.field(default_factory=_no_secret)
    """Six digits of the authenticator app, or a recovery code."""


class SessionRefresh(Command, kw_only=True, tag="session.refresh"):
    """Exchange a refresh token for a new one and a new access token. A token used twice ends the session."""

    refresh_token: Secret


class SessionDelete(Command, kw_only=True, tag="session.delete"):
    """Log out: end the session of this device."""


class PasswordReset(Command, kw_only=True, tag="password.reset"):
    """Set a new password with a link from the operator; ends all sessions."""

    token: Secret
    password: Secret


class DeviceList(Command, kw_only=True, tag="device.list"):
    """List one's own devices."""


class DeviceRevoke(Command, kw_only=True, tag="device.revoke"):
    """Sign a device of one's own out; its connections are closed at once."""

    device: Id


class Me(Command, kw_only=True, tag="user.me"):
    """Who am I?"""


class Session(MaskedRepr, msgspec.Struct, kw_only=True):
    """A signed-in device. `refresh_token` is empty where a browser keeps it in a cookie.

    With `enrol`, the role wants a second factor and the account has none: only the commands that set one up are taken.
    """

    __secrets__ = ("access_token", "refresh_token")

    user: User
    device: str
    access_token: str
    expires_in: int
    refresh_token: str = ""
    enrol: bool = False


class Identity(msgspec.Struct, kw_only=True):
    """The account behind the token."""

    user: User
    device: str


class Devices(msgspec.Struct, kw_only=True):
    """Devices, newest first."""

    devices: list[Device]


class Invitation(msgspec.Struct, kw_only=True):
    """What a stranger with the code may know."""

    server_name: str
    invited_by: str
    rooms: list[str]


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

    password: Secret = msgspec.field(default_factory=_no_secret)
    code: Secret = msgspec.field(default_factory=_no_secret)
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


# ── Other providers ──────────────────────────────────────────────────────────────────────────────────────────────────

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
    code: Secret = msgspec.field(default_factory=_no_secret)
    device_name: Text = ""


class AccountProvider(Command, kw_only=True, tag="account.provider"):
    """Create an account that a provider's account opens; with an invitation, unless registration is open."""

    ticket: Ticket
    username: Text
    display_name: Text = ""
    code: Secret = msgspec.field(default_factory=_no_secret)
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


# ── Apps and tokens ──────────────────────────────────────────────────────────────────────────────────────────────────

Scopes = Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=16)]


class OauthToken(Command, kw_only=True, tag="oauth.token"):
    """As an app: exchange a code or a refresh token for an access token (RFC 6749 4.1.3 and 6, RFC 8628 3.4)."""

    grant_type: Word = ""
    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=_no_secret)
    code: Secret = msgspec.field(default_factory=_no_secret)
    redirect_uri: Word = ""
    code_verifier: Secret = msgspec.field(default_factory=_no_secret)
    refresh_token: Secret = msgspec.field(default_factory=_no_secret)
    device_code: Secret = msgspec.field(default_factory=_no_secret)


class OauthDevice(Command, kw_only=True, tag="oauth.device"):
    """As an app without a browser: ask for a code that a person approves elsewhere (RFC 8628 3.1)."""

    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=_no_secret)
    scope: Word = ""


class OauthRevoke(Command, kw_only=True, tag="oauth.revoke"):
    """As an app: end the session of one of its tokens (RFC 7009)."""

    client_id: Word = ""
    client_secret: Secret = msgspec.field(default_factory=_no_secret)
    token: Secret = msgspec.field(default_factory=_no_secret)


class ConsentGet(Command, kw_only=True, tag="consent.get"):
    """See what an app asks for: with what stands in the address that it sent one to, or with the code that a device shows."""

    client_id: Word = ""
    redirect_uri: Word = ""
    response_type: Word = ""
    scope: Word = ""
    state: Word = ""
    code_challenge: Word = ""
    code_challenge_method: Word = ""
    user_code: Secret = msgspec.field(default_factory=_no_secret)


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


# ── Administration ───────────────────────────────────────────────────────────────────────────────────────────────────


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


class BackupCreate(Command, kw_only=True, tag="backup.create"):
    """Write a backup of everything, while the server runs."""

    path: Annotated[str, Meta(max_length=4_096)]


class Backup(msgspec.Struct, kw_only=True):
    """A backup, verified by reading it back.

    Attributes:
        audit: What is wrong with the audit log in it; empty when it is whole.
        key_apart: The storage key that it needs and does not hold.
    """

    path: str
    bytes: int
    users: int
    rooms: int
    entries: int
    schema: str
    audit: str = ""
    key_apart: str = ""


class AuditList(Command, kw_only=True, tag="audit.list"):
    """Read the audit log: the newest records first; after a place, the oldest first. `action` may end with a dot: `user.`."""

    chain: Text = ""
    before: Seq | None = None
    after: Place | None = None
    since: Place | None = None
    until: Place | None = None
    action: Text = ""
    actor: Id = ""
    subject: Id = ""
    room: Id = ""
    address: Text = ""
    result: Literal["", "done", "refused", "failed"] = ""
    limit: Annotated[int, Meta(ge=1, le=LIMITS.page_entries)] = 50


class AuditPage(msgspec.Struct, kw_only=True):
    """Records of the audit log, usernames for the ids in them, and the place of the last one when there are more."""

    records: list[AuditRecord]
    names: dict[str, str]
    next: int | None = None


class AuditPrune(Command, kw_only=True, tag="audit.prune"):
    """Remove records of the audit log that are older, with a signed statement. The newest record always stays."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)]


class AuditPruned(msgspec.Struct, kw_only=True):
    """How many records were removed."""

    records: int


class ServerStatus(Command, kw_only=True, tag="server.status"):
    """How the server is."""


class Status(msgspec.Struct, kw_only=True):
    """Figures of this process."""

    version: str
    url: str
    uptime_s: float
    connections: int
    users: int
    rooms: int
    entries: int


class CertificateGet(Command, kw_only=True, tag="certificate.get"):
    """Which TLS certificate is shown."""


class CertificateRenew(Command, kw_only=True, tag="certificate.renew"):
    """Get a new TLS certificate now: by ACME, of the own CA, or from the files again."""


class CertificateState(msgspec.Struct, kw_only=True):
    """The TLS certificate of this server.

    Attributes:
        source: `files`, `acme` or `own-ca`.
        not_after: Unix time in seconds.
        renews_at: Unix time in seconds; None when somebody else renews it.
        problem: What somebody should do something about; empty when all is well.
    """

    source: str
    names: list[str]
    issuer: str
    fingerprint: str
    not_after: int
    renews_at: int | None = None
    problem: str = ""


class StorageStatus(Command, kw_only=True, tag="storage.status"):
    """How texts are stored: keys, what is sealed, jobs and how far they are."""


class StorageRotate(Command, kw_only=True, tag="storage.rotate"):
    """Make new storage keys. With `messages`, every text is sealed again, with new keys of its room."""

    messages: bool = False


class StorageShred(Command, kw_only=True, tag="storage.shred"):
    """Destroy the keys of everything that was said in a room until now. The room and its order stay."""

    room: Id


class StorageJob(msgspec.Struct, kw_only=True):
    """Work on the whole store. `total` is known once it begins; `damaged` texts did not open and were left."""

    kind: str
    room: str = ""
    done: int
    total: int | None = None
    damaged: int = 0
    started_at: int
    finished_at: int | None = None


class Storage(msgspec.Struct, kw_only=True):
    """How texts are stored. Keys are told by their numbers only.

    Attributes:
        at_rest: Whether new texts are sealed: `on` or `off`.
        running: Whether jobs are worked on: by a running server only.
        keys: Where the key-encryption keys are.
        kek: Number of the one in use.
        org_key: Version of the organisation key.
        room_keys: Rooms' keys that exist.
        shredded_keys: Rooms' keys that were destroyed.
        sealed: Texts that are sealed.
        clear: Texts that are not.
        damaged: Texts that did not open since the start.
        jobs: Those that wait, in order, then the newest that are finished.
    """

    at_rest: str
    running: bool
    keys: str
    kek: int
    org_key: int
    room_keys: int
    shredded_keys: int
    sealed: int
    clear: int
    damaged: int
    jobs: list[StorageJob]


class Done(msgspec.Struct):
    """It is done; there is nothing more to say."""


LogCommand = MessageSend | MessageEdit | MessageDelete | ReactionAdd | ReactionRemove
"""Commands that become an entry and are answered with `Sent`."""

WHILE_ENROLLING: Final = frozenset(
    {Me, SessionDelete, SessionConfirm, FactorList, TotpBegin, TotpConfirm, PasskeyBegin, PasskeyAdd, RecoveryCreate}
)
"""What is allowed to somebody whose role wants a second factor that is not set up yet."""

AnyReply = (
    Sent
    | Page
    | ReadState
    | RoomSummary
    | Rooms
    | Members
    | Users
    | BotCommands
    | Session
    | Identity
    | Devices
    | Invitation
    | Invite
    | Invites
    | UserCreated
    | UserPage
    | Link
    | BotCreated
    | Backup
    | Status
    | CertificateState
    | AuditPage
    | AuditPruned
    | Storage
    | Explanation
    | PasskeyOptions
    | TotpSecret
    | Factors
    | RecoveryCodes
    | TokenKeys
    | Providers
    | ProviderStart
    | ProviderOutcome
    | ExternalAccounts
    | OauthTokens
    | DeviceAuthorization
    | Consent
    | ConsentAnswer
    | Grants
    | PersonalTokens
    | TokenCreated
    | Apps
    | AppCreated
    | Done
)


REPLIES: Final[dict[type[Command], type]] = {
    SetupComplete: Session,
    InviteGet: Invitation,
    AccountRegister: Session,
    SessionCreate: Session,
    SessionRefresh: Session,
    SessionDelete: Done,
    PasswordReset: Done,
    PasskeyChallenge: PasskeyOptions,
    SessionPasskey: Session,
    SessionConfirm: Done,
    PasswordChange: Done,
    FactorList: Factors,
    TotpBegin: TotpSecret,
    TotpConfirm: RecoveryCodes,
    TotpRemove: Done,
    PasskeyBegin: PasskeyOptions,
    PasskeyAdd: RecoveryCodes,
    PasskeyRemove: Done,
    RecoveryCreate: RecoveryCodes,
    Me: Identity,
    UserUpdate: Identity,
    DeviceList: Devices,
    DeviceRevoke: Done,
    UserFind: Users,
    UserGet: Users,
    UserBlocks: Users,
    UserBlock: Done,
    UserUnblock: Done,
    RoomList: Rooms,
    RoomCreate: RoomSummary,
    RoomBrowse: Rooms,
    RoomLookup: RoomSummary,
    RoomDirect: RoomSummary,
    RoomGet: RoomSummary,
    RoomUpdate: RoomSummary,
    RoomJoin: RoomSummary,
    RoomLeave: Done,
    MemberList: Members,
    MemberAdd: Done,
    MemberRemove: Done,
    MemberRole: Done,
    RoomPermit: RoomSummary,
    Fetch: Page,
    MessageSend: Sent,
    MessageEdit: Sent,
    MessageDelete: Sent,
    ReactionAdd: Sent,
    ReactionRemove: Sent,
    ReadMark: ReadState,
    TypingStart: Done,
    CommandList: BotCommands,
    CommandSet: Done,
    InviteList: Invites,
    InviteCreate: Invite,
    InviteRevoke: Done,
    UserList: UserPage,
    UserCreate: UserCreated,
    UserDisable: Done,
    UserEnable: Done,
    UserReset: Link,
    UserRole: Users,
    PolicyExplain: Explanation,
    FactorClear: Done,
    BotCreate: BotCreated,
    BotRotate: BotCreated,
    BotRevoke: Done,
    SetupLink: Link,
    BackupCreate: Backup,
    ServerStatus: Status,
    CertificateGet: CertificateState,
    CertificateRenew: CertificateState,
    AuditList: AuditPage,
    AuditPrune: AuditPruned,
    StorageStatus: Storage,
    StorageRotate: Storage,
    StorageShred: Sent,
    TokenKeyList: TokenKeys,
    TokenKeyRotate: TokenKeys,
    ProviderList: Providers,
    ProviderBegin: ProviderStart,
    ProviderFinish: ProviderOutcome,
    SessionProvider: Session,
    AccountProvider: Session,
    ExternalList: ExternalAccounts,
    ExternalBegin: ProviderStart,
    ExternalAdd: ExternalAccounts,
    ExternalRemove: ExternalAccounts,
    OauthToken: OauthTokens,
    OauthDevice: DeviceAuthorization,
    OauthRevoke: Done,
    ConsentGet: Consent,
    ConsentGive: ConsentAnswer,
    GrantList: Grants,
    GrantRevoke: Done,
    TokenCreate: TokenCreated,
    TokenList: PersonalTokens,
    TokenRevoke: Done,
    AppCreate: AppCreated,
    AppList: Apps,
    AppDelete: Done,
}
"""What each command is answered with."""
