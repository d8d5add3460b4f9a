"""Second factors of accounts. See `securechat.domain.ports`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from securechat.domain.audit import AuditEvent


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

    async def use_passkey(self, user_id: str, passkey_id: str, old_count: int, new_count: int, at: int) -> bool:
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

    async def confirmed_at(self, user_id: str, device_id: str) -> int:
        """Return when somebody last authenticated on a device in full, in milliseconds since 1970; 0 for never."""

    async def confirm(self, user_id: str, device_id: str, at: int) -> None:
        """Note that somebody did."""

    async def ended_since(self, at: int) -> list[tuple[str, str]]:
        """Return (user id, device id) of the sessions that ended at this time or later, and of earlier ones not told yet."""
