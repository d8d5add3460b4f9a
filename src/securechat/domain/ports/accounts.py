"""Accounts, their devices and links. See `securechat.domain.ports`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from securechat.domain.accounts import Device, Role, User
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import BotCommand, Invite


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

    async def session(
        self, *, user_id: str = "", device_id: str = "", token_hash: str = "", blocks: bool = False
    ) -> SessionRecord | None:
        """Find a device, by its id or by the hash of a token, with whose it is: one look, for everybody comes by here.

        Args:
            user_id: Whose it is, if that is known: then it is found without asking every database. Nobody else's is found.
            device_id: Of the device; or
            token_hash: of a bot's token or a personal one.
            blocks: Whether it is to be told whom they blocked.
        """

    async def device_by_family(self, family_hash: str) -> DeviceRecord | None:
        """Find a device by the hash of what all its refresh tokens have in common."""

    async def rotate_refresh(self, user_id: str, device_id: str, old_hash: str, new_hash: str, at: int, address: str) -> bool:
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
