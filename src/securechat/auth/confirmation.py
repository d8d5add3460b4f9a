"""Confirmation: dangerous changes of one's own account ask that one authenticated a moment ago."""

from __future__ import annotations

import logging
from typing import Final

from securechat.auth.manager import AuthManager
from securechat.auth.passkey_check import PasskeyCheck
from securechat.auth.second_factor import SecondFactor
from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.domain.audit import by
from securechat.domain.ports import Account, AccountStore, Clock, FactorStore
from securechat.domain.secret import Secret
from securechat.errors import ConfirmationRequired, Forbidden, Unauthorized

log = logging.getLogger(__name__)

RECENT_MS: Final = 600_000


class Confirmation:
    """Confirm, and what may be changed then.

    Args:
        store: When it was confirmed.
        accounts: The store.
        auth: Checks passwords, ends sessions.
        second_factor: Checks codes.
        passkeys: Checks passkeys.
        clock: Time.
    """

    def __init__(
        self,
        store: FactorStore,
        accounts: AccountStore,
        auth: AuthManager,
        second_factor: SecondFactor,
        passkeys: PasskeyCheck,
        clock: Clock,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._auth = auth
        self._second_factor = second_factor
        self._passkeys = passkeys
        self._clock = clock

    async def is_recent(self, who: Principal) -> bool:
        """Return whether somebody authenticated on this device in full, ten minutes ago or less."""
        return self._clock.now_ms() - await self._store.confirmed_at(who.user_id, who.device_id) <= RECENT_MS

    async def require(self, who: Principal) -> None:
        """Raise `ConfirmationRequired` when it was longer ago."""
        if not await self.is_recent(who):
            raise ConfirmationRequired("Confirm that it is you: with your password, or with a passkey.")

    async def confirm(self, who: Principal, command: c.SessionConfirm) -> c.Done:
        """Authenticate again on this device.

        Raises:
            Forbidden: The password is wrong, or the passkey is somebody else's. Not `Unauthorized`: the session holds.
            SecondFactorRequired: As at log-in.
        """
        if command.ticket:
            await self._confirm_by_passkey(who, command)
        else:
            account = await self.check_own_password(who, command.password, "password")
            await self._second_factor.require(account.user, command.code.reveal())
        await self._store.confirm(who.user_id, who.device_id, self._clock.now_ms())
        return c.Done()

    async def change_password(self, who: Principal, command: c.PasswordChange) -> c.Done:
        """Change one's own password; all other sessions end. An account that has none gets its first one."""
        await self.require(who)
        account = await self._accounts.account(user_id=who.user_id)
        if account is None or account.password_hash is not None:
            await self.check_own_password(who, command.current, "current")
        password_hash = await self._auth.hash_password(command.password)
        accounts = self._accounts.recording(by(who, "password.change", subject=who.user_id))
        await accounts.update_user(who.user_id, password_hash=password_hash)
        await self._auth.end_sessions(who.user_id, keep=who.device_id)
        log.info("password changed", extra={"user_id": who.user_id})
        return c.Done()

    async def check_own_password(self, who: Principal, password: Secret, field: str) -> Account:
        """Return the account if the password is right.

        Raises:
            Forbidden: It is wrong, or there is none.
            RateLimited: Too many wrong ones came before from this device.
        """
        account = await self._accounts.account(user_id=who.user_id)
        if account is not None and account.password_hash is None:
            raise Forbidden(
                "Your account has no password. Log out and in again: changes are allowed for ten minutes after that.", field=field
            )
        if not await self._auth.check_password(account, password, f"{who.user_id} {who.device_id}") or account is None:
            raise Forbidden("The password is wrong.", field=field)
        return account

    async def _confirm_by_passkey(self, who: Principal, command: c.SessionConfirm) -> None:
        try:
            user, _ = await self._passkeys.finish(command.ticket, command.credential)
        except Unauthorized as error:
            raise Forbidden(error.detail) from error
        if user.id != who.user_id:
            raise Forbidden("This passkey is not yours.")
