"""How texts and secrets are kept, and the care of the whole store. See `securechat.domain.ports`."""

from __future__ import annotations

from typing import Protocol

from securechat.domain.audit import AuditEvent
from securechat.domain.commands import Storage


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
