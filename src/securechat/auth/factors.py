"""FactorService: the commands for second factors."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from securechat.auth import totp
from securechat.auth.addresses import source_of
from securechat.auth.confirmation import Confirmation
from securechat.auth.manager import AuthManager
from securechat.auth.passkey_check import WRONG, PasskeyCheck
from securechat.auth.passkeys import WebAuthn
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.recovery import code_hash, new_codes
from securechat.auth.second_factor import SecondFactor
from securechat.auth.tickets import Tickets
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import Principal, User, clean_name
from securechat.domain.audit import by
from securechat.domain.ports import AccountStore, Clock, FactorStore, PasskeyRecord
from securechat.errors import Conflict, InvalidInput, NotFound, Unauthorized

log = logging.getLogger(__name__)

PASSKEYS_MAX: Final = 20
"""Passkeys of one account."""
_TOTP: Final = "totp.add"
_PASSKEY: Final = "passkey.add"


class FactorService:
    """Set up, list and remove second factors; log in with a passkey.

    Args:
        store: What is set up.
        accounts: People.
        auth: Opens and ends sessions.
        second_factor: The policy, and how secrets are kept.
        confirmation: Asked before every change.
        passkeys: Checks passkeys.
        webauthn: Makes them.
        tickets: Remember what was begun.
        limiter: Slows strangers down.
        clock: Time.
        server_name: What authenticator apps and browsers show.
        count_ways_in: By how many ways somebody signs in: the last one stays.
    """

    def __init__(
        self,
        store: FactorStore,
        accounts: AccountStore,
        auth: AuthManager,
        second_factor: SecondFactor,
        confirmation: Confirmation,
        passkeys: PasskeyCheck,
        webauthn: WebAuthn,
        tickets: Tickets,
        limiter: RateLimiter,
        clock: Clock,
        server_name: Callable[[], str],
        count_ways_in: Callable[[str], Awaitable[int]],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._auth = auth
        self._second_factor = second_factor
        self._confirmation = confirmation
        self._passkeys = passkeys
        self._webauthn = webauthn
        self._tickets = tickets
        self._limiter = limiter
        self._clock = clock
        self._server_name = server_name
        self._count_ways_in = count_ways_in

    # ── logging in with a passkey ────────────────────────────────────────────────────────────────────────────────────

    async def challenge(self, _command: c.PasskeyChallenge, address: str) -> c.PasskeyOptions:
        """Give a challenge for a passkey, to anybody."""
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        return self._passkeys.begin()

    async def log_in(self, command: c.SessionPasskey, address: str) -> c.Session:
        """Open a session for whose passkey it is.

        Raises:
            Unauthorized: As `PasskeyCheck.finish`.
        """
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        user, passkey = await self._passkeys.finish(command.ticket, command.credential)
        try:
            return await self._auth.open_session(user, command.device_name, address, passkey=passkey)
        except Unauthorized as error:
            raise Unauthorized(WRONG, about=user.id) from error

    # ── one's own factors ────────────────────────────────────────────────────────────────────────────────────────────

    async def list_factors(self, who: Principal, _command: c.FactorList) -> c.Factors:
        """List one's own second factors."""
        account = await self._accounts.account(user_id=who.user_id)
        if account is None:
            raise NotFound(f"No user {who.user_id}.")
        user = account.user
        return c.Factors(
            totp=await self._store.totp(user.id) is not None,
            passkeys=[
                c.Passkey(id=each.id, name=each.name, created_at=each.created_at, last_used_at=each.last_used_at)
                for each in await self._store.passkeys(user.id)
            ],
            recovery_codes=await self._store.count_recovery_codes(user.id),
            required=self._second_factor.is_required(user),
            confirmed=await self._confirmation.is_recent(who),
            password=account.password_hash is not None,
        )

    async def begin_totp(self, who: Principal, _command: c.TotpBegin) -> c.TotpSecret:
        """Make a secret for an authenticator app.

        Raises:
            Conflict: There is one already.
        """
        await self._confirmation.require(who)
        if await self._store.totp(who.user_id) is not None:
            raise Conflict("There is an authenticator app already. Remove it first.")
        user = await self._user(who.user_id)
        secret = totp.new_secret()
        uri = totp.uri_of(secret, user.username, self._server_name())
        ticket = self._tickets.issue(_TOTP, who.user_id, secret.encode())
        return c.TotpSecret(ticket=ticket, secret=secret, uri=uri, qr=totp.qr_of(uri))

    async def confirm_totp(self, who: Principal, command: c.TotpConfirm) -> c.RecoveryCodes:
        """Turn the authenticator app on.

        Raises:
            InvalidInput: The code is wrong.
            Conflict: There is one already.
        """
        await self._confirmation.require(who)
        ticket_id, secret = self._tickets.read(_TOTP, who.user_id, command.ticket)
        step = self._second_factor.check_new(who.user_id, secret.decode(), command.code.reveal())
        if step is None:
            raise InvalidInput("The code is wrong. Is the clock of the phone right?", field="code")
        self._tickets.finish(ticket_id)
        sealed = self._second_factor.seal_secret(who.user_id, secret.decode())
        if not await self._store.recording(by(who, "totp.add", subject=who.user_id)).set_totp(
            who.user_id, sealed, step, self._clock.now_ms()
        ):
            raise Conflict("There is an authenticator app already. Remove it first.")
        log.info("authenticator app added", extra={"user_id": who.user_id})
        return await self._first_codes(who)

    async def remove_totp(self, who: Principal, _command: c.TotpRemove) -> c.Done:
        """Turn the authenticator app off.

        Raises:
            NotFound: There is none.
            Conflict: It is the last factor, and the role must have one.
        """
        await self._confirmation.require(who)
        if await self._store.totp(who.user_id) is None:
            raise NotFound("There is no authenticator app.")
        await self._require_another(who, len(await self._store.passkeys(who.user_id)))
        await self._store.recording(by(who, "totp.remove", subject=who.user_id)).remove_totp(who.user_id)
        log.info("authenticator app removed", extra={"user_id": who.user_id})
        await self._forget_codes_of_none(who)
        return c.Done()

    async def begin_passkey(self, who: Principal, _command: c.PasskeyBegin) -> c.PasskeyOptions:
        """Give the browser what it needs to make a passkey.

        Raises:
            Conflict: There are too many, or the server has no name to bind one to.
        """
        await self._confirmation.require(who)
        known = await self._store.passkeys(who.user_id)
        if len(known) >= PASSKEYS_MAX:
            raise Conflict(f"An account has at most {PASSKEYS_MAX} passkeys. Remove one first.")
        challenge = secrets.token_bytes(32)
        user = await self._user(who.user_id)
        options = self._webauthn.creation(user, self._server_name(), challenge, [each.id for each in known])
        return c.PasskeyOptions(ticket=self._tickets.issue(_PASSKEY, who.user_id, challenge), options=options)

    async def add_passkey(self, who: Principal, command: c.PasskeyAdd) -> c.RecoveryCodes:
        """Add the passkey that the browser made.

        Raises:
            Forbidden: It is not what was asked for.
            Conflict: It is known already.
        """
        await self._confirmation.require(who)
        ticket_id, challenge = self._tickets.read(_PASSKEY, who.user_id, command.ticket)
        name = clean_name(command.name, "name") if command.name.strip() else "A passkey"
        made = self._webauthn.created(command.credential, challenge)
        self._tickets.finish(ticket_id)
        record = PasskeyRecord(made.id, who.user_id, name, made.public_key, made.sign_count, self._clock.now_ms(), 0)
        if not await self._store.recording(by(who, "passkey.add", subject=who.user_id)).add_passkey(record):
            raise Conflict("This passkey is known already.")
        log.info("passkey added", extra={"user_id": who.user_id})
        return await self._first_codes(who)

    async def remove_passkey(self, who: Principal, command: c.PasskeyRemove) -> c.Done:
        """Remove a passkey.

        Raises:
            NotFound: No such passkey of one's own.
            Conflict: It is the last factor, and the role must have one; or it is the only way in.
        """
        await self._confirmation.require(who)
        known = await self._store.passkeys(who.user_id)
        if command.passkey not in {each.id for each in known}:
            raise NotFound("No such passkey of yours.")
        others = len(known) - 1 + (await self._store.totp(who.user_id) is not None)
        await self._require_another(who, others)
        if await self._count_ways_in(who.user_id) <= 1:
            raise Conflict("This is your only way in. Set a password first.")
        await self._store.recording(by(who, "passkey.remove", subject=who.user_id)).remove_passkey(who.user_id, command.passkey)
        log.info("passkey removed", extra={"user_id": who.user_id})
        await self._forget_codes_of_none(who)
        return c.Done()

    async def create_codes(self, who: Principal, _command: c.RecoveryCreate) -> c.RecoveryCodes:
        """Make new recovery codes; the earlier ones end.

        Raises:
            Conflict: There is no second factor that they could stand in for.
        """
        await self._confirmation.require(who)
        if not await self._store.has_factor(who.user_id):
            raise Conflict("Set up an authenticator app or a passkey first.")
        return await self._new_codes(who)

    # ── administration ───────────────────────────────────────────────────────────────────────────────────────────────

    async def clear(self, who: Principal, command: c.FactorClear) -> c.Done:
        """Remove all second factors of somebody who lost them, and end their sessions."""
        user = await self._user(command.user)
        policy.require(who, "factor.clear", target=policy.RANK[user.role])
        await self._store.recording(by(who, "factor.clear", subject=user.id)).clear_factors(user.id)
        await self._auth.end_sessions(user.id)
        log.info("second factors cleared", extra={"user_id": user.id, "by": who.user_id})
        return c.Done()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _user(self, user_id: str) -> User:
        account = await self._accounts.account(user_id=user_id)
        if account is None:
            raise NotFound(f"No user {user_id}.")
        return account.user

    async def _require_another(self, who: Principal, others: int) -> None:
        if not others and self._second_factor.is_required(await self._user(who.user_id)):
            raise Conflict("Your role must have a second factor. Add another one first.")

    async def _first_codes(self, who: Principal) -> c.RecoveryCodes:
        """Return recovery codes with the first factor, and none later: they are shown once."""
        if await self._store.count_recovery_codes(who.user_id):
            return c.RecoveryCodes()
        return await self._new_codes(who)

    async def _new_codes(self, who: Principal) -> c.RecoveryCodes:
        codes = new_codes()
        store = self._store.recording(by(who, "recovery.create", subject=who.user_id))
        await store.set_recovery_codes(who.user_id, [code_hash(who.user_id, each) for each in codes])
        log.info("recovery codes made", extra={"user_id": who.user_id})
        return c.RecoveryCodes(recovery_codes=codes)

    async def _forget_codes_of_none(self, who: Principal) -> None:
        if not await self._store.has_factor(who.user_id):
            await self._store.recording(by(who, "recovery.forget", subject=who.user_id)).set_recovery_codes(who.user_id, [])
