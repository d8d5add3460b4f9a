"""SecondFactor: what is asked besides the password, and of whom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

from securechat.auth import totp
from securechat.auth.recovery import code_hash
from securechat.auth.throttle import Throttle
from securechat.domain.accounts import User
from securechat.domain.audit import AuditEvent
from securechat.domain.ports import Clock, FactorStore, SecretBox
from securechat.errors import SecondFactorRequired, Unavailable

log = logging.getLogger(__name__)

CODE: Final = "login.code"
TOTP: Final = "totp"
"""Purpose of the secrets of authenticator apps."""
_WRONG: Final = "The code is wrong or was used."


class SecondFactor:
    """Codes of authenticator apps, and recovery codes.

    Args:
        store: What is set up.
        box: Opens secrets.
        throttle: Slows guessing down, by account: who guesses here knows the password already. A recovery code and a passkey
            are never slowed down, so nobody is locked out by it.
        clock: Time.
        required: The roles that must have a second factor, read at each use.
    """

    def __init__(
        self, store: FactorStore, box: SecretBox, throttle: Throttle, clock: Clock, required: Callable[[], Collection[str]]
    ) -> None:
        self._store = store
        self._box = box
        self._throttle = throttle
        self._clock = clock
        self._required = required

    def is_required(self, user: User) -> bool:
        """Return whether the role must have a second factor."""
        return user.role.value in self._required()

    async def is_missing(self, user: User) -> bool:
        """Return whether the role must have a second factor and the account has none."""
        return self.is_required(user) and not await self._store.has_factor(user.id)

    async def require(self, user: User, code: str) -> None:
        """Ask for the second factor, if the account has one.

        Raises:
            SecondFactorRequired: The code is missing, wrong or was used.
            RateLimited: Too many wrong ones came before.
        """
        if not await self._store.has_factor(user.id):
            return
        if not code:
            raise SecondFactorRequired(
                "Enter the code of your authenticator app or a recovery code, or use a passkey.", field="code"
            )
        if recovery := code_hash(user.id, code):
            event = AuditEvent(action="recovery.use", actor=user.id, subject=user.id)
            if not await self._store.recording(event).use_recovery_code(user.id, recovery):
                raise SecondFactorRequired(_WRONG, field="code")
            log.info("recovery code used", extra={"user_id": user.id})
            return
        self._throttle.begin(CODE, user.id, self._clock.monotonic())
        found = await self._store.totp(user.id)
        step = None if found is None else totp.step_of(self.open_secret(user.id, found.sealed_secret), code, self._now())
        if step is None or not await self._store.use_totp(user.id, step):
            raise SecondFactorRequired(_WRONG, field="code")
        self._throttle.forgive(CODE, user.id)
        if found is not None and not self._box.is_current(found.sealed_secret):
            fresh = self.seal_secret(user.id, self.open_secret(user.id, found.sealed_secret))
            await self._store.reseal_totp(user.id, found.sealed_secret, fresh)

    def check_new(self, user_id: str, secret: str, code: str) -> int | None:
        """Return the step of a code of a secret that is being set up, or None when it is wrong.

        Raises:
            RateLimited: Too many wrong ones came before.
        """
        self._throttle.begin(CODE, user_id, self._clock.monotonic())
        step = totp.step_of(secret, code, self._now())
        if step is not None:
            self._throttle.forgive(CODE, user_id)
        return step

    def seal_secret(self, user_id: str, secret: str) -> bytes:
        """Return a secret as it is stored."""
        return self._box.seal(secret.encode(), purpose=TOTP, owner=user_id)

    def open_secret(self, user_id: str, sealed: bytes) -> str:
        """Return a stored secret.

        Raises:
            Unavailable: The key that sealed it is not here.
        """
        found = self._box.try_open(sealed, purpose=TOTP, owner=user_id)
        if found is None:
            log.error("an authenticator app's secret cannot be opened", extra={"user_id": user_id})
            raise Unavailable("The authenticator app cannot be checked. Use a recovery code, or ask the operator.")
        return found.decode()

    def _now(self) -> float:
        return self._clock.now_ms() / 1000
