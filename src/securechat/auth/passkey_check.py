"""PasskeyCheck: from a browser's answer to the account whose passkey it is."""

from __future__ import annotations

import logging
import secrets
from typing import Any, Final

from securechat.auth.passkeys import WebAuthn
from securechat.auth.tickets import Tickets
from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.ports import AccountStore, Clock, FactorStore
from securechat.errors import ChatError, Unauthorized

log = logging.getLogger(__name__)

_PURPOSE: Final = "passkey.use"
WRONG: Final = "This passkey does not work here."


class PasskeyCheck:
    """Challenges and their answers.

    Args:
        store: Known passkeys.
        accounts: Whose they are.
        tickets: Remember the challenge.
        webauthn: Checks signatures.
        clock: Time.
    """

    def __init__(self, store: FactorStore, accounts: AccountStore, tickets: Tickets, webauthn: WebAuthn, clock: Clock) -> None:
        self._store = store
        self._accounts = accounts
        self._tickets = tickets
        self._webauthn = webauthn
        self._clock = clock

    def begin(self) -> c.PasskeyOptions:
        """Return a fresh challenge. The same for everybody: no account is named."""
        challenge = secrets.token_bytes(32)
        return c.PasskeyOptions(
            ticket=self._tickets.issue(_PURPOSE, "", challenge), options=self._webauthn.request(challenge)
        )  # fmt: skip

    async def finish(self, ticket: str, credential: dict[str, Any]) -> tuple[User, str]:
        """Return whose passkey signed the challenge, and its id.

        Raises:
            Unauthorized: None that is known here, or the account is locked. The answer does not say which.
        """
        try:
            return await self._finish(ticket, credential)
        except ChatError as error:
            raise Unauthorized(WRONG) from error

    async def _finish(self, ticket: str, credential: dict[str, Any]) -> tuple[User, str]:
        ticket_id, challenge = self._tickets.read(_PURPOSE, "", ticket)
        found = await self._store.passkey(str(credential.get("id", "")))
        account = await self._accounts.account(user_id=found.user_id) if found is not None else None
        if found is None or account is None or account.user.disabled:
            raise Unauthorized(WRONG)
        count = self._webauthn.used(credential, challenge, found.public_key, found.sign_count)
        self._tickets.finish(ticket_id)
        if not await self._store.use_passkey(found.user_id, found.id, found.sign_count, count, self._clock.now_ms()):
            log.warning("passkey used twice at once", extra={"user_id": found.user_id})
            raise Unauthorized(WRONG)
        return account.user, found.id
