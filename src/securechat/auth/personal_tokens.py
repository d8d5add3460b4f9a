"""PersonalTokens: tokens that people make for programs of their own."""

from __future__ import annotations

from typing import Final

from securechat.auth.confirmation import Confirmation
from securechat.auth.manager import AuthManager
from securechat.auth.tokens import PERSONAL, new_token, token_hash
from securechat.domain import commands as c
from securechat.domain.accounts import Principal, clean_name
from securechat.domain.audit import by
from securechat.domain.ids import DEVICE, new_id
from securechat.domain.ports import Clock, OAuthStore, ScopedDevice
from securechat.domain.scopes import clean_scopes
from securechat.errors import Conflict, NotFound

DAY_MS: Final = 86_400_000
TOKENS_MAX: Final = 50
"""Personal tokens of one account."""


class PersonalTokens:
    """Make, list and end personal tokens.

    Args:
        store: Where they are.
        auth: Ends them.
        confirmation: Asked before one is made: it outlives this session.
        clock: Time.
    """

    def __init__(self, store: OAuthStore, auth: AuthManager, confirmation: Confirmation, clock: Clock) -> None:
        self._store = store
        self._auth = auth
        self._confirmation = confirmation
        self._clock = clock

    async def create(self, who: Principal, command: c.TokenCreate) -> c.TokenCreated:
        """Make a token; only this answer has it.

        Raises:
            ConfirmationRequired: Somebody authenticated here longer ago.
            InvalidInput: A scope does not exist, or the name is empty.
            Conflict: There are too many.
        """
        await self._confirmation.require(who)
        name, scopes = clean_name(command.name, "name"), clean_scopes(command.scopes)
        if len(await self._tokens(who.user_id)) >= TOKENS_MAX:
            raise Conflict(f"An account has at most {TOKENS_MAX} tokens. Revoke one first.")
        now = self._clock.now_ms()
        secret = new_token(PERSONAL)
        device = ScopedDevice(
            new_id(DEVICE), who.user_id, name, "", scopes, now, now, who.address, token_hash=token_hash(secret),
            expires_at=now + command.expires_days * DAY_MS,
        )  # fmt: skip
        event = by(who, "token.create", subject=who.user_id, token=device.id, scopes=" ".join(scopes), days=command.expires_days)
        await self._store.add_scoped_device(device, event)
        return c.TokenCreated(token=_shown(device), secret=secret.reveal())

    async def list_tokens(self, who: Principal, _command: c.TokenList) -> c.PersonalTokens:
        """List one's own tokens that hold."""
        return c.PersonalTokens(tokens=[_shown(device) for device in await self._tokens(who.user_id)])

    async def revoke(self, who: Principal, command: c.TokenRevoke) -> c.Done:
        """End a token, and close its connections."""
        if command.token not in {device.id for device in await self._tokens(who.user_id)}:
            raise NotFound("No such token of yours.")
        event = by(who, "token.revoke", subject=who.user_id, token=command.token)
        await self._auth.end_sessions(who.user_id, command.token, event=event)
        return c.Done()

    async def _tokens(self, user_id: str) -> list[ScopedDevice]:
        now = self._clock.now_ms()
        return [each for each in await self._store.scoped_devices(user_id) if not each.app and (each.expires_at or 0) > now]


def _shown(device: ScopedDevice) -> c.PersonalToken:
    return c.PersonalToken(
        id=device.id, name=device.name, scopes=device.scopes, created_at=device.created_at, expires_at=device.expires_at or 0
    )
