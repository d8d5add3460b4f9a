"""AuthManager: credentials or a token → a `Principal`; sessions of devices, their rotation and their end."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

from securechat.auth.addresses import source_of
from securechat.auth.jwt_handler import LIFETIME_S, JWTHandler
from securechat.auth.passwords import Passwords
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.tokens import BOT, family_of, new_refresh_token, new_token, token_hash
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import Device, Principal, Role, User, clean_name, clean_password, clean_username, normal_password
from securechat.domain.audit import AuditEvent, Result, by
from securechat.domain.ids import DEVICE
from securechat.domain.ports import AccountStore, Clock, MessageBus
from securechat.domain.secret import Secret
from securechat.errors import InvalidInput, NotFound, Unauthorized

FORGIVEN_MS: Final = 30_000
"""A refresh token used a second time within this time is a lost answer or a second tab, not a thief."""
UNAUTHORIZED_CLOSE: Final = 4401
_WRONG: Final = "The username or the password is wrong."


class AuthManager:
    """Who is asking.

    Args:
        accounts: The store.
        bus: Who closes connections of a session that ended.
        tokens: Issues access tokens.
        passwords: Checks passwords.
        limiter: Slows guessing down, by account and address.
        clock: Time.
        new_id: Makes ids.
    """

    def __init__(
        self,
        accounts: AccountStore,
        bus: MessageBus,
        tokens: JWTHandler,
        passwords: Passwords,
        limiter: RateLimiter,
        clock: Clock,
        new_id: Callable[[str], str],
    ) -> None:
        self._accounts = accounts
        self._bus = bus
        self._tokens = tokens
        self._passwords = passwords
        self._limiter = limiter
        self._clock = clock
        self._new_id = new_id

    async def authenticate(self, token: Secret) -> Principal:
        """Return who holds this access token or bot token.

        Raises:
            Unauthorized: The token, its session or its account does not hold.
        """
        expires_at: float | None = None
        if token.reveal().startswith(BOT):
            device = await self._accounts.device_by_token(token_hash(token))
        else:
            _, device_id, expires_at = self._tokens.verify(token, now=self._clock.now_ms() / 1000)
            device = await self._accounts.device(device_id)
        if device is None or device.revoked:
            raise Unauthorized("The session has ended.")
        account = await self._accounts.account(user_id=device.user_id)
        if account is None or account.user.disabled:
            raise Unauthorized("The session has ended.")
        return Principal(account.user.id, device.id, account.user.role, account.user.username, expires_at)

    async def log_in(self, command: c.SessionCreate, address: str) -> c.Session:
        """Check a password and open a session.

        Raises:
            Unauthorized: The same for an unknown user, a wrong password and a locked account.
            RateLimited: Too many attempts of this address, or of this address on this account.
        """
        now = self._clock.monotonic()
        try:
            username = clean_username(command.username)
        except InvalidInput:
            username = ""
        self._limiter.take("login.address", address, now)
        self._limiter.take("login.account", f"{username} {source_of(address)}", now)
        account = await self._accounts.account(username=username) if username else None
        stored = account.password_hash if account is not None and not account.user.disabled else None
        # In NFC, as `clean_password` did when it was set.
        if not await self._passwords.check(stored, normal_password(command.password)) or account is None:
            raise Unauthorized(_WRONG, about=account.user.id if account is not None else "")
        return await self.open_session(account.user, command.device_name, address)

    async def open_session(self, user: User, device_name: str, address: str) -> c.Session:
        """Sign a new device in."""
        now = self._clock.now_ms()
        name = clean_name(device_name, "device_name") if device_name.strip() else "A device"
        refresh, family = new_refresh_token()
        device = Device(id=self._new_id(DEVICE), name=name, created_at=now, last_seen_at=now, address=address)
        event = AuditEvent(action="session.create", actor=user.id, device=device.id, address=address)
        await self._accounts.recording(event).create_device(
            device, user.id, refresh_hash=token_hash(refresh), refresh_family=token_hash(family)
        )
        return self._session(user, device.id, refresh)

    async def refresh(self, command: c.SessionRefresh, address: str) -> c.Session:
        """Exchange a refresh token.

        Raises:
            Unauthorized: Unknown or used. A token used before, later than a moment ago, ends the session: one of two holders
                is a thief.
        """
        self._limiter.take("refresh.address", address, self._clock.monotonic())
        now = self._clock.now_ms()
        old, family = token_hash(command.refresh_token), family_of(command.refresh_token)
        device = await self._accounts.device_by_family(token_hash(family))
        if device is None or device.revoked:
            raise Unauthorized("The session has ended.")
        if not hmac.compare_digest(device.refresh_hash or "", old):
            just_before = hmac.compare_digest(device.previous_hash or "", old) and now - device.refreshed_at <= FORGIVEN_MS
            if not just_before:
                event = AuditEvent(
                    action="session.reuse",
                    device=device.id,
                    address=address,
                    subject=device.user_id,
                    result=Result.REFUSED,
                    reason=Unauthorized.code,
                )
                await self.end_sessions(device.user_id, device.id, event=event)
            raise Unauthorized("This refresh token was used before.", about=device.user_id)
        account = await self._accounts.account(user_id=device.user_id)
        if account is None or account.user.disabled:
            raise Unauthorized("The session has ended.")
        refresh, _ = new_refresh_token(family.reveal())
        if not await self._accounts.rotate_refresh(device.id, old, token_hash(refresh), now, address):
            raise Unauthorized("This refresh token was used before.")
        return self._session(account.user, device.id, refresh)

    async def log_out(self, who: Principal, _command: c.SessionDelete) -> c.Done:
        """End the session of this device."""
        policy.require_account(who)
        await self.end_sessions(who.user_id, who.device_id, event=by(who, "session.delete"))
        return c.Done()

    async def list_devices(self, who: Principal, _command: c.DeviceList) -> c.Devices:
        """List one's own devices."""
        policy.require_account(who)
        found = await self._accounts.devices(who.user_id)
        return c.Devices(
            devices=[
                Device(
                    id=device.id, name=device.name, created_at=device.created_at, last_seen_at=device.last_seen_at,
                    address=device.address, current=device.id == who.device_id,
                )
                for device in found
            ]
        )  # fmt: skip

    async def revoke_device(self, who: Principal, command: c.DeviceRevoke) -> c.Done:
        """Sign a device of one's own out."""
        policy.require_person(who)
        event = by(who, "device.revoke", subject=who.user_id, device=command.device)
        if not await self.end_sessions(who.user_id, command.device, event=event):
            raise NotFound("No such device of yours.")
        return c.Done()

    async def end_sessions(self, user_id: str, device_id: str | None = None, *, event: AuditEvent | None = None) -> list[str]:
        """End one session of a user, or all, and close their connections; return the devices.

        The event is remembered if a session ended.
        """
        accounts = self._accounts if event is None else self._accounts.recording(event)
        ended = await accounts.revoke_devices(user_id, device_id, self._clock.now_ms())
        if ended:
            self._bus.disconnect(user_id=user_id, device_ids=ended, code=UNAUTHORIZED_CLOSE)
        return ended

    async def hash_password(self, password: Secret) -> str:
        """Check a new password's form and hash it."""
        return await self._passwords.hash(clean_password(password))

    async def issue_bot_token(self, bot: User, event: AuditEvent) -> Secret:
        """Give a bot its token; earlier ones end. The event is remembered with the new token."""
        if bot.role is not Role.BOT:
            raise NotFound("No such bot.")
        await self.end_sessions(bot.id)
        token = new_token(BOT)
        now = self._clock.now_ms()
        device = Device(id=self._new_id(DEVICE), name="bot", created_at=now, last_seen_at=now)
        await self._accounts.recording(event).create_device(device, bot.id, token_hash=token_hash(token))
        return token

    def _session(self, user: User, device_id: str, refresh: Secret) -> c.Session:
        return c.Session(
            user=user,
            device=device_id,
            access_token=self._tokens.issue(user_id=user.id, device_id=device_id, now=self._clock.now_ms() / 1000),
            expires_in=LIFETIME_S,
            refresh_token=refresh.reveal(),
        )
