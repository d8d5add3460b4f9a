"""Accounts at other providers, and apps of others. See `securechat.domain.ports`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from securechat.domain.accounts import User
from securechat.domain.audit import AuditEvent
from securechat.domain.secret import Secret


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

    async def use_external(self, user_id: str, external_id: str, at: int) -> None:
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
