"""TokenKeyService: the operator's commands for the keys of access tokens, and their rotation by age."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from securechat.auth.token_keys import TokenKeys
from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.domain.audit import AuditEvent, by
from securechat.domain.ports import Clock

log = logging.getLogger(__name__)


class TokenKeyService:
    """List and rotate.

    Args:
        keys: The keys.
        clock: Time.
        record: Remembers, on its own: the keys are in a file.
    """

    def __init__(self, keys: TokenKeys, clock: Clock, record: Callable[[AuditEvent], Awaitable[None]]) -> None:
        self._keys = keys
        self._clock = clock
        self._record = record

    async def list_keys(self, _who: Principal, _command: c.TokenKeyList) -> c.TokenKeys:
        """List the keys that verify now."""
        return self._shown()

    async def rotate(self, who: Principal, command: c.TokenKeyRotate) -> c.TokenKeys:
        """Sign with a new key from now on.

        Raises:
            Conflict: There were too many rotations just now.
        """
        self._keys.rotate(self._now(), drop=command.drop)
        log.info("token key rotated", extra={"key_id": self._keys.signing.id, "dropped": command.drop})
        await self._record(by(who, "token.rotate", key=self._keys.signing.id, dropped=command.drop))
        return self._shown()

    def reload(self) -> None:
        """Take over what another server wrote to the file that all of them have.

        Raises:
            Shutdown: The file is damaged; the keys stay as they are.
        """
        self._keys.reload()

    async def rotate_if_older(self, max_age_s: float) -> bool:
        """Rotate when the signing key is older than this, in seconds; return whether it was."""
        if self._now() - self._keys.signing.created_at <= max_age_s:
            return False
        self._keys.rotate(self._now())
        log.info("token key rotated by age", extra={"key_id": self._keys.signing.id})
        await self._record(AuditEvent(action="token.rotate", address="server", details={"key": self._keys.signing.id}))
        return True

    def _shown(self) -> c.TokenKeys:
        now = self._now()
        return c.TokenKeys(
            keys=[
                c.TokenKey(
                    id=key.id,
                    created_at=int(key.created_at * 1_000),
                    signs=key is self._keys.signing,
                    verifies_until=int(self._keys.verifies_until(key) * 1_000),
                )
                for key in self._keys.keys
                if self._keys.holds(key, now)
            ]
        )

    def _now(self) -> float:
        return self._clock.now_ms() / 1_000
