"""What the services need from the outside. Each sentence of these contracts has a test in `tests/contract`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from securechat.domain.accounts import Device, Role, User
from securechat.domain.audit import AuditEvent, AuditRecord, Head, PruneStatement
from securechat.domain.commands import BotCommand, Invite, Rooms, RoomSummary, Storage
from securechat.domain.entries import Entry, Page
from securechat.domain.rooms import RoomRole, RoomState
from securechat.domain.secret import Secret
from securechat.errors import Unavailable

T = TypeVar("T")

CmidKey = tuple[str, str, str]
"""(room id, device id, cmid): what a send is known by."""
TargetKey = tuple[str, int]
"""(room id, seq)."""


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which records of the audit log. What is empty or None does not matter.

    Attributes:
        chain: The chain; empty for the one that is written now.
        before: Only records before this place.
        after: Only records after this place, the oldest first.
        since, until: Times in milliseconds since 1970, both included.
        action: A whole action, or its beginning with a dot at the end: `user.`.
        actor, subject, room, address, result: As in the record.
    """

    chain: str = ""
    before: int | None = None
    after: int | None = None
    since: int | None = None
    until: int | None = None
    action: str = ""
    actor: str = ""
    subject: str = ""
    room: str = ""
    address: str = ""
    result: str = ""


class Clock(Protocol):
    """Time as a parameter."""

    def now_ms(self) -> int:
        """Milliseconds since 1970: for people, never for order or durations."""

    def monotonic(self) -> float:
        """Seconds that never go back: for durations."""


class AuditTransaction(Protocol):
    """A transaction that takes events for the audit log along: they are stored with what they tell of, or not at all."""

    def record(self, event: AuditEvent) -> None:
        """Add an event. Written when the transaction commits."""


class AuditLog(Protocol):
    """Where everybody says what has to be remembered. Look at `domain.audit` for what never belongs there."""

    async def record(self, event: AuditEvent, transaction: AuditTransaction | None = None) -> None:
        """Remember something that was done: with this transaction; without one, in a durable transaction of its own.

        Raises:
            Unavailable: It cannot be written. What is to be recorded must not be done then.
        """

    def note(self, event: AuditEvent) -> None:
        """Remember something that changed nothing: a refusal, a failure. Never waits; limited per actor and address.

        What is over the limit is counted, and the next record tells how many there were.
        """


class AuditStore(Protocol):
    """The chain in the database."""

    async def write(self, events: Sequence[AuditEvent]) -> None:
        """Append events in one durable transaction."""

    async def head(self, chain: str = "") -> Head | None:
        """Return the newest record of this chain, or of the one that is written now."""

    async def page(self, query: AuditQuery, *, limit: int) -> list[AuditRecord]:
        """Return records that fit: after a place the oldest first, otherwise the newest first."""

    async def prune(self, statement: PruneStatement, event: AuditEvent) -> None:
        """Remove the records that the statement is about, and append the event, in one transaction."""


class LogTransaction(Protocol):
    """One group commit. `load` first, then decide without waiting, then the store writes everything at once."""

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """Lock and read what the decisions of this batch need. Rooms are locked in the order of their ids."""

    def room(self, room_id: str) -> RoomState | None:
        """Return the room as the entries appended so far leave it. Do not change it: `append` does."""

    def sent(self, key: CmidKey) -> Entry | None:
        """Return the entry that this cmid became, in the store or earlier in this batch."""

    def target(self, key: TargetKey) -> Entry | None:
        """Return an entry as stored: `deleted` is set when it is; `reactions` when asked through `load`."""

    @property
    def appended(self) -> list[Entry]:
        """What was appended so far, in order: always the same list."""

    def append(self, entry: Entry) -> None:
        """Add the next entry of its room. Written, with all that follows from it, when the batch commits."""

    def mark_read(self, user_id: str, room_id: str, seq: int, *, back: bool) -> None:
        """Move a read marker; without `back`, forward only. Written when the batch commits."""

    @property
    def recorded(self) -> list[AuditEvent]:
        """What was added for the audit log so far, in order: always the same list."""

    def record(self, event: AuditEvent) -> None:
        """See `AuditTransaction.record`."""


class Moved(Exception):
    """Rooms are of another lane by now. Nothing is stored: ask `LogStore.lane` again."""


class LogStore(Protocol):
    """The log of every room, and what follows from it.

    A lane is what is stored in one transaction: rooms of two lanes are never in one commit, and lanes do not wait for each other.
    """

    @property
    def lanes(self) -> int:
        """How many lanes there are."""

    def lane(self, room_id: str, /) -> int:
        """Return the lane of a room, 0 to `lanes` - 1. It changes when the room is moved."""

    @property
    def whole(self) -> bool:
        """Whether all rooms can be had, as far as is known: every database answers."""

    def refusal(self, lane: int, /) -> Unavailable | None:
        """Return what somebody is told whose commit would be refused now: the lane's database does not answer. Else None."""

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], lane: int = 0, /) -> T:
        """Run `work` in one transaction and return its result after the commit is on the disk.

        One at a time in a lane. When `work` or the commit raises, nothing of it is stored and nothing of it stays in memory. `work`
        is run again, with another transaction, when what it decided on does not hold any more: only its last run counts.

        Args:
            work: Loads rooms of one lane, and decides.
            lane: That of the rooms.

        Raises:
            Moved: A room is of another lane.
            Unavailable: The store does not take it now. Only if the store was lost for good in the middle of it may it be stored
                all the same; a repetition with the same cmids is then answered as the first.
        """

    def hear(self, batches: Sequence[RoomBatch]) -> None:
        """Take a hint of what other servers committed: commits that decide on it need not find it out. Never waits."""

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """Read entries just before or after a `seq`, oldest first, as they are now. A consistent snapshot."""

    async def heads(self, user_id: str) -> Rooms:
        """Return the rooms of a user with `last_seq`, `read_seq`, `unread` and, for a direct room, the peer; what can be had."""

    async def head(self, user_id: str, room_id: str) -> RoomSummary | None:
        """Return one room as `heads` does, whether the user is a member or not."""

    async def room(self, room_id: str, *, user_id: str) -> RoomState | None:
        """Return a room's state as committed, with no member but this one, if they are one."""

    async def read_state(self, user_id: str, room_id: str) -> tuple[int, int]:
        """Return (`read_seq`, `unread`)."""

    async def browse(self, *, user_id: str, query: str, after: str, limit: int) -> Rooms:
        """Return public rooms whose folded name begins with `query` and comes after `after`, by folded name; what can be had."""

    async def lookup(self, user_id: str, name: str) -> list[str]:
        """Return the ids of the rooms that a name fits best, oldest first: more than one when nothing tells them apart.

        A name that fits exactly goes before one that fits without case, then a room that the user is in before a public one.

        Raises:
            Unavailable: There is none that can be had, and rooms that cannot be had now.
        """

    async def count_rooms(self, user_id: str) -> int:
        """Return how many rooms a user is in, without those that cannot be had now."""

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """Return the newest `seq` of each of these rooms that exists and can be had. What was committed before is in it."""

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """Return the rooms of each of these users that can be had (see `refusal`); who is in none is missing."""

    async def members(self, room_id: str, *, after: str = "", limit: int) -> list[tuple[User, RoomRole]]:
        """Return at most `limit` members of a room whose ids come after `after`, by id."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user with what only the server knows."""

    user: User
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A device, and whose it is.

    Attributes:
        device: The device.
        user: Who has it.
        blocked: Whom they blocked, by id, if that was asked for.
    """

    device: DeviceRecord
    user: User
    blocked: list[str]


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """A device with what only the server knows. Hashes are SHA-256 of the token, in hex."""

    id: str
    user_id: str
    revoked: bool
    refresh_hash: str | None
    previous_hash: str | None
    refreshed_at: int
    address: str = ""
    """Where the last refresh came from."""
    app: str | None = None
    """Client id of the app whose session it is; empty for a personal token; None for a session of the person's own."""
    scopes: frozenset[str] | None = None
    """What an app or a personal token may do; None: everything."""
    expires_at: int | None = None
    """When a personal token ends, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """A one-time link."""

    kind: str
    user_id: str | None
    expires_at: int


class AccountStore(Protocol):
    """People, bots, devices, invitations, links. Every method is its own durable transaction unless it only reads."""

    def recording(self, *events: AuditEvent) -> AccountStore:
        """Return this store with something to remember: its next transaction that changes anything writes the events too."""

    async def create_user(self, user: User, password_hash: str | None, at: int) -> None:
        """Add an account. Raises `NameTaken`."""

    async def account(self, *, user_id: str = "", username: str = "") -> Account | None:
        """Find an account by id or by username."""

    async def users(self, user_ids: Collection[str]) -> list[User]:
        """Return those that exist, in no order."""

    async def find_users(self, *, query: str = "", after: str = "", limit: int) -> list[User]:
        """Return accounts that `domain.accounts.fits` finds, the one with exactly this username first, then by username."""

    async def count_users(self) -> int:
        """Return how many accounts there are, bots not counted."""

    async def update_user(
        self,
        user_id: str,
        *,
        display_name: str | None = None,
        password_hash: str | None = None,
        role: Role | None = None,
        disabled_at: int | None = None,
        enable: bool = False,
    ) -> bool:
        """Change what is given; return whether the account exists."""

    async def set_role(self, user_id: str, role: Role) -> bool:
        """Change a server role, unless it would leave the server without an owner; return whether it is so now."""

    async def create_device(
        self,
        device: Device,
        user_id: str,
        *,
        refresh_hash: str | None = None,
        refresh_family: str | None = None,
        token_hash: str | None = None,
        password_hash: str | None = None,
        passkey: str | None = None,
    ) -> bool:
        """Add a signed-in device (hashes of its refresh token and of the family) or a bot's token (`token_hash`).

        A device is added only if the account is not locked and what proved who it is still holds: the hash of the password that
        was compared, the passkey that signed. Returns whether it was; both change while a password is being compared.
        """

    async def device(self, device_id: str) -> DeviceRecord | None:
        """Find a device."""

    async def session(self, *, device_id: str = "", token_hash: str = "", blocks: bool = False) -> SessionRecord | None:
        """Find a device, by its id or by the hash of a token, with whose it is: one look, for everybody comes by here.

        Args:
            device_id: Of the device; or
            token_hash: of a bot's token or a personal one.
            blocks: Whether it is to be told whom they blocked.
        """

    async def device_by_family(self, family_hash: str) -> DeviceRecord | None:
        """Find a device by the hash of what all its refresh tokens have in common."""

    async def rotate_refresh(self, device_id: str, old_hash: str, new_hash: str, at: int, address: str) -> bool:
        """Replace the refresh token if it is still `old_hash`; return whether it was."""

    async def devices(self, user_id: str) -> list[Device]:
        """Return devices that are signed in, newest first; not the sessions of apps, and no personal tokens."""

    async def revoke_devices(self, user_id: str, device_id: str | None, at: int, *, keep: str | None = None) -> list[str]:
        """End one device of a user, or all but `keep`; return the ids that this call ended."""

    async def create_invite(self, invite: Invite, created_by: str) -> None:
        """Add an invitation."""

    async def invite(self, code: str, at: int) -> tuple[Invite, str] | None:
        """Return an invitation that works at this time, and who made it."""

    async def use_invite(self, code: str, at: int) -> bool:
        """Take one use; return whether there was one."""

    async def unuse_invite(self, code: str) -> None:
        """Give one use back."""

    async def invites(self, at: int) -> list[Invite]:
        """Return invitations that work, newest first."""

    async def revoke_invite(self, code: str) -> bool:
        """End an invitation; return whether it existed."""

    async def create_link(self, token_hash: str, link: LinkRecord) -> None:
        """Add a one-time link; earlier links of the same kind and user end."""

    async def use_link(self, token_hash: str, kind: str, at: int) -> LinkRecord | None:
        """Take the link if it works; it does not work a second time."""

    async def set_block(self, user_id: str, blocked: str, *, on: bool) -> None:
        """Block or unblock."""

    async def blocks(self, user_id: str) -> list[str]:
        """Return whom a user blocked."""

    async def every_block(self) -> dict[str, set[str]]:
        """Return whom each user blocked; who blocked nobody is not in it."""

    async def set_commands(self, bot: str, commands: Sequence[BotCommand]) -> None:
        """Replace a bot's commands."""

    async def commands(self, room_id: str) -> list[BotCommand]:
        """Return the commands of the bots in a room, by name."""

    async def setting(self, key: str) -> str | None:
        """Return a setting of this server."""

    async def set_setting(self, key: str, value: str) -> None:
        """Change a setting of this server."""


@dataclass(frozen=True, slots=True)
class TotpRecord:
    """An authenticator app: its secret, sealed, and the last step whose code was used."""

    sealed_secret: bytes
    last_step: int


@dataclass(frozen=True, slots=True)
class PasskeyRecord:
    """A passkey: `public_key` in COSE, times in milliseconds since 1970."""

    id: str
    user_id: str
    name: str
    public_key: bytes
    sign_count: int
    created_at: int
    last_used_at: int


class FactorStore(Protocol):
    """Second factors. Every method is its own durable transaction unless it only reads."""

    def recording(self, *events: AuditEvent) -> FactorStore:
        """Return this store with something to remember: its next transaction that changes anything writes the events too."""

    async def totp(self, user_id: str) -> TotpRecord | None:
        """Return the authenticator app of a user."""

    async def set_totp(self, user_id: str, sealed_secret: bytes, last_step: int, at: int) -> bool:
        """Add an authenticator app; return False when there is one already."""

    async def use_totp(self, user_id: str, step: int) -> bool:
        """Move the last used step forward; return False when it is there or past it already: each code works once."""

    async def reseal_totp(self, user_id: str, old: bytes, new: bytes) -> None:
        """Replace the sealed secret, if it is still the old one."""

    async def remove_totp(self, user_id: str) -> bool:
        """Remove the authenticator app; return whether there was one."""

    async def passkeys(self, user_id: str) -> list[PasskeyRecord]:
        """Return the passkeys of a user, newest first."""

    async def passkey(self, passkey_id: str) -> PasskeyRecord | None:
        """Find a passkey."""

    async def add_passkey(self, passkey: PasskeyRecord) -> bool:
        """Add a passkey; return False when there is one with this id already."""

    async def use_passkey(self, passkey_id: str, old_count: int, new_count: int, at: int) -> bool:
        """Note a use, if nobody else noted one since `old_count` was read; return whether it was so."""

    async def remove_passkey(self, user_id: str, passkey_id: str) -> bool:
        """Remove a passkey of a user; return whether there was one."""

    async def set_recovery_codes(self, user_id: str, hashes: Sequence[str]) -> None:
        """Replace the recovery codes of a user."""

    async def use_recovery_code(self, user_id: str, code_hash: str) -> bool:
        """Take a recovery code; return whether there was one."""

    async def count_recovery_codes(self, user_id: str) -> int:
        """Return how many are left."""

    async def has_factor(self, user_id: str) -> bool:
        """Return whether a user has an authenticator app or a passkey."""

    async def clear_factors(self, user_id: str) -> None:
        """Remove everything of a user."""

    async def confirmed_at(self, device_id: str) -> int:
        """Return when somebody last authenticated on a device in full, in milliseconds since 1970; 0 for never."""

    async def confirm(self, device_id: str, at: int) -> None:
        """Note that somebody did."""

    async def ended_since(self, at: int) -> list[tuple[str, str]]:
        """Return (user id, device id) of the sessions that ended at this time or later."""


@dataclass(frozen=True, slots=True)
class ExternalRecord:
    """An account at another provider by which somebody signs in. It is known by (`issuer`, `subject`) and by nothing else."""

    id: str
    user_id: str
    issuer: str
    subject: str
    name: str
    created_at: int
    last_used_at: int


@dataclass(frozen=True, slots=True)
class AppRecord:
    """A registered app. `secret_hash` is None for a public one, which cannot keep a secret."""

    id: str
    name: str
    secret_hash: str | None
    redirect_uris: list[str]
    scopes: list[str]
    device_flow: bool
    created_by: str
    created_at: int


@dataclass(frozen=True, slots=True)
class CodeRecord:
    """A code that an app exchanges for a token, once. Hashes are SHA-256 in hex, times in milliseconds since 1970.

    Attributes:
        hash: Of the authorization code, or of the device code.
        app: Client id.
        scopes: What it is for.
        expires_at: When it ends.
        user_id: Who gave it; empty while a device waits for somebody.
        redirect_uri, challenge: What it is bound to; empty for a device.
        user_code: Hash of what a person types for a device; empty otherwise.
        decision: `""`, `yes` or `no`.
        used_at: When it was exchanged; 0: not yet.
        device_id: What came of it.
        polled_at: When the device asked last.
    """

    hash: str
    app: str
    scopes: list[str]
    expires_at: int
    user_id: str = ""
    redirect_uri: str = ""
    challenge: str = ""
    user_code: str = ""
    decision: str = ""
    used_at: int = 0
    device_id: str = ""
    polled_at: int = 0


@dataclass(frozen=True, slots=True)
class ScopedDevice:
    """A session of an app (`app` is its client id), or a personal token (`app` is empty).

    Hashes are SHA-256 in hex; times are in milliseconds since 1970.
    """

    id: str
    user_id: str
    name: str
    app: str
    scopes: list[str]
    created_at: int
    last_seen_at: int
    address: str = ""
    refresh_hash: str | None = None
    refresh_family: str | None = None
    token_hash: str | None = None
    expires_at: int | None = None


class OAuthStore(Protocol):
    """Accounts at other providers, and apps that people let in. Every writing method is one durable transaction with its event."""

    async def external(self, issuer: str, subject: str) -> ExternalRecord | None:
        """Find the account of somebody at a provider."""

    async def externals(self, user_id: str) -> list[ExternalRecord]:
        """Return those of a user, oldest first."""

    async def add_external(self, record: ExternalRecord, event: AuditEvent) -> bool:
        """Link one; return False when it is linked already, to whomever."""

    async def register_external(self, user: User, record: ExternalRecord, at: int, event: AuditEvent) -> None:
        """Add an account without a password, and its link. Raises `NameTaken`, or `Conflict` when it is linked already."""

    async def use_external(self, external_id: str, at: int) -> None:
        """Note a use."""

    async def remove_external(self, user_id: str, external_id: str, event: AuditEvent) -> bool:
        """Unlink one, unless the account would have no way in then; return whether it was so."""

    async def count_ways_in(self, user_id: str) -> int:
        """Return by how many ways somebody can sign in: a password, passkeys, accounts at providers."""

    async def add_app(self, app: AppRecord, event: AuditEvent) -> None:
        """Register an app."""

    async def app(self, app_id: str) -> AppRecord | None:
        """Find an app."""

    async def apps(self) -> list[AppRecord]:
        """Return all apps, by name."""

    async def remove_app(self, app_id: str, at: int, event: AuditEvent) -> list[tuple[str, str]] | None:
        """Remove an app, its codes and its sessions; return (user id, device id) of those, or None: no such app."""

    async def add_code(self, code: CodeRecord, at: int, event: AuditEvent | None) -> None:
        """Add a code, and forget those that ended a day ago or more."""

    async def code(self, code_hash: str) -> CodeRecord | None:
        """Find a code, also one that was used or has ended."""

    async def waiting_code(self, user_code: str, at: int) -> CodeRecord | None:
        """Find the code of a device that waits for somebody's decision, by the hash of what a person types."""

    async def decide_code(self, code_hash: str, user_id: str, *, approve: bool, event: AuditEvent) -> bool:
        """Decide about a device; return False when somebody did already."""

    async def poll_code(self, code_hash: str, at: int) -> None:
        """Note that the device asked."""

    async def use_code(self, code_hash: str, device: ScopedDevice, event: AuditEvent) -> bool:
        """Take a code, and add the session that comes of it; return False when it was used already."""

    async def add_scoped_device(self, device: ScopedDevice, event: AuditEvent) -> None:
        """Add a personal token."""

    async def scoped_devices(self, user_id: str) -> list[ScopedDevice]:
        """Return the sessions of apps and the personal tokens of a user that have not ended, newest first, without hashes."""

    async def end_app(self, user_id: str, app_id: str, at: int, event: AuditEvent) -> list[str]:
        """End the sessions of an app with a user; return the devices."""


class Provider(Protocol):
    """Another server at which people have accounts (OpenID Connect)."""

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Return where a person says yes. Raises `Unavailable`."""

    async def redeem(self, redirect_uri: str, code: Secret, verifier: Secret, nonce: str, issuer: str) -> ExternalIdentity:
        """Exchange a code and return who it is; `issuer` is what came with the code, or empty.

        Raises:
            Unauthorized: The code, or what it was exchanged for, does not hold.
            Unavailable: The provider does not answer as it should.
        """


@dataclass(frozen=True, slots=True)
class ExternalIdentity:
    """Who a provider says that somebody is. `username` and `name` are suggestions for a new account, and nothing else."""

    issuer: str
    subject: str
    username: str = ""
    name: str = ""


class Maintenance(Protocol):
    """What the operator asks of the store."""

    async def ping(self) -> None:
        """Raise if the store does not answer."""

    async def counts(self) -> tuple[int, int, int]:
        """Return (users, rooms, entries)."""

    async def backup(self, path: str) -> None:
        """Write a consistent copy of the whole store to a new file."""


class StorageKeeper(Protocol):
    """How texts are stored, and the jobs that change it for the whole store."""

    async def status(self) -> Storage:
        """Tell keys by number, what is sealed, and jobs."""

    async def rotate(self, *, messages: bool, event: AuditEvent | None = None) -> None:
        """Make a new key-encryption and a new organisation key, and begin the jobs that follow from it.

        The event is remembered with the keys.

        Raises:
            Conflict: A job is under way, or there is nothing to do.
            Unavailable: The provider does not make keys.
        """

    async def erase(self, room: str) -> None:
        """Remove the texts of a room that was erased: see to it soon, or, where nothing works on jobs, now.

        Raises:
            Unavailable: The disk does not take it; what is left is removed when a server runs.
        """


class SecretBox(Protocol):
    """For small secrets that have to be readable again: TOTP secrets in the database, what clients keep between two steps.

    Not for passwords and tokens, of which a hash is enough. Never waits; works whether texts are sealed or not.
    """

    def seal(self, secret: bytes, *, purpose: str, owner: str) -> bytes:
        """Return the sealed secret, 33 bytes longer.

        Args:
            secret: What nobody may read in the database.
            purpose: What kind of secret, for example `totp`; a fixed word without NUL.
            owner: Whose it is: the id in its row. It opens for this purpose and owner only.

        Raises:
            Unavailable: There are no keys.
        """

    def open(self, sealed: bytes, *, purpose: str, owner: str) -> bytes:
        """Return the secret.

        Raises:
            Internal: It was changed, moved to another owner, or sealed elsewhere.
            Unavailable: There are no keys.
        """

    def try_open(self, sealed: bytes, *, purpose: str, owner: str) -> bytes | None:
        """Return the secret, or None where `open` says that it was changed: for what comes from outside.

        Raises:
            Unavailable: There are no keys.
        """

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the newest key seals it. If not, seal it again when it is next used."""


@dataclass(slots=True)
class Signal:
    """Something that is not in any log: shown if it arrives, dropped first when a connection is slow.

    Attributes:
        room: Goes to the members of this room, unless `user` is set.
        user: Goes to the connections of this user only.
        payload: A wire struct of `protocol.frames`.
        ephemeral: Whether it may be dropped.
        except_user: Does not go to this user's connections.
    """

    payload: object
    room: str = ""
    user: str = ""
    ephemeral: bool = True
    except_user: str = ""


@dataclass(slots=True)
class RoomBatch:
    """What one commit added to one room.

    Attributes:
        room: Room id.
        entries: In order of `seq`, without a gap.
        opened: The room as each user who joined in this batch sees it.
    """

    room: str
    entries: list[Entry]
    opened: dict[str, RoomSummary] = field(default_factory=dict)


class MessageBus(Protocol):
    """From the one who committed to the hub of every server. At most once: the log heals what is lost."""

    def publish(self, batches: Sequence[RoomBatch]) -> None:
        """Tell all hubs of committed entries. Never waits."""

    def signal(self, signal: Signal) -> None:
        """Tell all hubs of something ephemeral. Never waits."""

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """Close connections of a user: of these devices, or all."""

    def invalidate(self, what: str, key: str) -> None:
        """Have the other servers forget what they keep in memory. Never waits.

        Args:
            what: A word of `STALE`.
            key: Of whom.
        """

    def on_stale(self, what: str, forget: Callable[[str], None]) -> None:
        """Call `forget` with the key when another server invalidates it; with an empty one when it may have and was not heard."""


BLOCKS: Final = "blocks"
"""Whom a user blocked."""
SETTINGS: Final = "settings"
"""Settings that are in the store, like the server's name."""
ROLES: Final = "roles"
"""Server roles of people who are connected; a change is a `Signal` as well."""
STALE: Final = frozenset({BLOCKS, SETTINGS, ROLES})


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody writes in a room."""

    room: str
    user: str


class Spend(NamedTuple):
    """Tokens that a server took from a bucket that all servers share.

    Attributes:
        what: The bucket's name.
        who: Whose it is.
        cost: How many.
        burst: What it holds when it is full.
        per_s: What comes back each second.
    """

    what: str
    who: str
    cost: float
    burst: float
    per_s: float


class Failure(NamedTuple):
    """A change of the number of failures in a row that all servers share.

    Attributes:
        what: What is throttled.
        who: By what it is counted.
        change: 1: one more; -1: it was none; 0: forget them all.
    """

    what: str
    who: str
    change: int
