"""AuthManager: credentials or a token → a `Principal`; sessions of devices, their rotation and their end."""

from __future__ import annotations

import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securechat.auth.addresses import source_of
from securechat.auth.jwt_handler import LIFETIME_S, JWTHandler
from securechat.auth.passwords import Passwords
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.second_factor import SecondFactor
from securechat.auth.throttle import Throttle
from securechat.auth.tokens import BOT, PERSONAL, family_of, new_refresh_token, new_token, next_refresh_token, token_hash
from securechat.domain import commands as c
from securechat.domain.accounts import Device, Principal, Role, User, clean_name, clean_password, clean_username, normal_password
from securechat.domain.audit import AuditEvent, Detail, Result, by
from securechat.domain.ids import DEVICE
from securechat.domain.ports import Account, AccountStore, Clock, DeviceRecord, MessageBus, SessionRecord
from securechat.domain.secret import Secret
from securechat.errors import InvalidInput, NotFound, Unauthorized, Unavailable

log = logging.getLogger(__name__)

GRACE_MS: Final = 10_000
"""The same refresh from the same place within this time is a lost answer or a second tab, not a thief: it gets the same answer."""
DAY_MS: Final = 86_400_000
UNAUTHORIZED_CLOSE: Final = 4401
HOLDERS_MAX: Final = 10_000
"""Tokens of bots and apps of which it is remembered whose they are."""
_WRONG: Final = "The username or the password is wrong."


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose a token is: where to look for the session, not that there is one.

    Attributes:
        user_id: The account.
        device_id: The device.
        token_hash: Of a token that only the store knows; it has to be the device's token of now.
        expires_at: When the token ends by its own words, in seconds since 1970; None if it does not say.
    """

    user_id: str
    device_id: str
    token_hash: str = ""
    expires_at: float | None = None


class AuthManager:
    """Who is asking.

    Args:
        accounts: The store.
        bus: Who closes connections of a session that ended.
        tokens: Issues access tokens.
        passwords: Checks passwords.
        limiter: Slows strangers down.
        throttle: Slows guessing down, by account and address.
        second_factor: What is asked besides the password.
        refresh_key: Makes the successors of refresh tokens, 32 bytes.
        clock: Time.
        new_id: Makes ids.
        idle_days: Days after which a session ends that nobody used, read at each use; 0 for never.
    """

    def __init__(
        self,
        accounts: AccountStore,
        bus: MessageBus,
        tokens: JWTHandler,
        passwords: Passwords,
        limiter: RateLimiter,
        throttle: Throttle,
        second_factor: SecondFactor,
        refresh_key: bytes,
        clock: Clock,
        new_id: Callable[[str], str],
        idle_days: Callable[[], int],
    ) -> None:
        self._accounts = accounts
        self._bus = bus
        self._tokens = tokens
        self._passwords = passwords
        self._limiter = limiter
        self._throttle = throttle
        self._second_factor = second_factor
        self._refresh_key = refresh_key
        self._clock = clock
        self._new_id = new_id
        self._idle_days = idle_days
        self._holders: OrderedDict[str, Holder] = OrderedDict()

    async def authenticate(self, token: Secret) -> Principal:
        """Return who holds this access token or bot token.

        Raises:
            Unauthorized: The token, its session or its account does not hold.
        """
        principal, _ = await self.session(await self.holder(token))
        return principal

    async def holder(self, token: Secret) -> Holder:
        """Return whose an access token or bot token is. The store is only asked for one that was not seen before.

        Raises:
            Unauthorized: Nobody's.
        """
        if not token.reveal().startswith((BOT, PERSONAL)):
            user_id, device_id, expires_at = self._tokens.verify(token, now=self._clock.now_ms() / 1000)
            return Holder(user_id, device_id, expires_at=expires_at)
        hashed = token_hash(token)
        known = self._holders.get(hashed)
        if known is None:
            found = await self._accounts.session(token_hash=hashed)
            if found is None:
                raise _ended()
            known = Holder(found.user.id, found.device.id, hashed)
            self._holders[hashed] = known
            if len(self._holders) > HOLDERS_MAX:
                self._holders.popitem(last=False)
        self._holders.move_to_end(hashed)
        return known

    async def session(self, holder: Holder, *, blocks: bool = False) -> tuple[Principal, SessionRecord]:
        """Return who that is now, and their session; on demand with whom they blocked.

        Raises:
            Unauthorized: The token, its session or its account does not hold.
        """
        which = {"token_hash": holder.token_hash} if holder.token_hash else {"device_id": holder.device_id}
        found = await self._accounts.session(user_id=holder.user_id, blocks=blocks, **which)
        if found is None or found.device.revoked or found.user.disabled:
            raise _ended()
        user, device, expires_at = found.user, found.device, holder.expires_at
        if holder.token_hash and device.expires_at is not None:
            expires_at = device.expires_at / 1000
            if self._clock.now_ms() >= device.expires_at:
                raise Unauthorized("This token has ended.")
        enrolling = await self._second_factor.is_missing(user)
        return Principal(user.id, device.id, user.role, user.username, expires_at, enrolling=enrolling, scopes=device.scopes), found

    async def log_in(self, command: c.SessionCreate, address: str) -> c.Session:
        """Check a password, and the second factor if there is one, and open a session.

        Raises:
            Unauthorized: The same for an unknown user, a wrong password and a locked account.
            SecondFactorRequired: The password is right; a code is missing or wrong.
            RateLimited: Too many attempts of this address, or failures of this address on this account.
        """
        try:
            username = clean_username(command.username)
        except InvalidInput:
            username = ""
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        account = await self._accounts.account(username=username) if username else None
        if not await self.check_password(account, command.password, f"{username} {source_of(address)}") or account is None:
            raise Unauthorized(_WRONG, about=account.user.id if account is not None else "")
        await self._second_factor.require(account.user, command.code.reveal())
        return await self.open_session(account.user, command.device_name, address, password_hash=account.password_hash)

    async def check_password(self, account: Account | None, password: Secret, attempt: str) -> bool:
        """Return whether the password is right; takes as long when there is no account, or a locked one.

        Args:
            account: Whose.
            password: As typed.
            attempt: What slows down when it is wrong: who guesses at what.

        Raises:
            RateLimited: Too many wrong ones came before.
            Unavailable: Too many wait.
        """
        self._throttle.begin("login.account", attempt, self._clock.monotonic())
        stored = account.password_hash if account is not None and not account.user.disabled else None
        try:
            right = await self._passwords.check(stored, normal_password(password))
        except Unavailable:
            self._throttle.withdraw("login.account", attempt)  # Nothing was compared.
            raise
        if right:
            self._throttle.forgive("login.account", attempt)
        return right

    async def open_session(
        self,
        user: User,
        device_name: str,
        address: str,
        *,
        password_hash: str | None = None,
        passkey: str | None = None,
        **details: Detail,
    ) -> c.Session:
        """Sign a new device in.

        Args:
            user: Who it is.
            device_name: What they call it; may be blank.
            address: Where they are.
            password_hash: What their password was compared with.
            passkey: The passkey that they used.
            details: For the audit log.

        Raises:
            Unauthorized: The account was locked meanwhile, or has another password, or that passkey no more: what ended all
                sessions ends those that are being opened, too.
        """
        now = self._clock.now_ms()
        name = clean_name(device_name, "device_name") if device_name.strip() else "A device"
        refresh, family = new_refresh_token()
        device = Device(id=self._new_id(DEVICE), name=name, created_at=now, last_seen_at=now, address=address)
        event = AuditEvent(action="session.create", actor=user.id, device=device.id, address=address, details=details)
        opened = await self._accounts.recording(event).create_device(
            device, user.id, refresh_hash=token_hash(refresh), refresh_family=token_hash(family), password_hash=password_hash,
            passkey=passkey,
        )  # fmt: skip
        if not opened:
            raise Unauthorized(_WRONG, about=user.id)
        return await self._session(user, device.id, refresh)

    async def refresh(self, command: c.SessionRefresh, address: str) -> c.Session:
        """Exchange a refresh token of a session of the person's own; one of an app is nothing to this.

        Raises:
            Unauthorized: As `rotate`.
        """
        self._limiter.take("refresh.address", source_of(address), self._clock.monotonic())
        user, device, following = await self.rotate(command.refresh_token, address, app=None)
        return await self._session(user, device.id, following)

    async def rotate(self, refresh_token: Secret, address: str, *, app: str | None) -> tuple[User, DeviceRecord, Secret]:
        """Return (whose it is, the session, the token that follows this one).

        Args:
            refresh_token: The newest one of the session.
            address: Where it comes from.
            app: Client id of the app whose session it has to be; None for a session of the person's own.

        Raises:
            Unauthorized: Unknown, another's, idle for too long, or used. A token used before ends the session: one of two holders
                is a thief. Only the same request from the same place, a moment later, gets the same answer again.
        """
        old = token_hash(refresh_token)
        family = token_hash(family_of(refresh_token))
        device = await self._accounts.device_by_family(family)
        if device is None or device.revoked or device.app != app:
            raise Unauthorized("The session has ended.")
        account = await self._accounts.account(user_id=device.user_id)
        if account is None or account.user.disabled:
            raise Unauthorized("The session has ended.")
        if self._is_idle(device):
            event = AuditEvent(action="session.idle", device=device.id, address=address, subject=device.user_id)
            await self.end_sessions(device.user_id, device.id, event=event)
            raise Unauthorized("The session has ended.")
        following = next_refresh_token(self._refresh_key, refresh_token)
        now = self._clock.now_ms()
        rotated = hmac.compare_digest(device.refresh_hash or "", old) and await self._accounts.rotate_refresh(
            device.user_id, device.id, old, token_hash(following), now, address
        )
        if not rotated:
            # The token was used before, or an identical request was faster by a moment.
            current = await self._accounts.device_by_family(family)
            if current is None or not self._is_repeated(current, old, token_hash(following), address):
                await self._end_stolen(current, address)
                raise Unauthorized("This refresh token was used before.", about=account.user.id)
        return account.user, device, following

    def access_token(self, user_id: str, device_id: str) -> str:
        """Return an access token for a session, good for `LIFETIME_S` seconds."""
        return self._tokens.issue(user_id=user_id, device_id=device_id, now=self._clock.now_ms() / 1000)

    def device_of(self, access_token: Secret) -> str:
        """Return the session of an access token. Raises `Unauthorized` when it does not hold."""
        return self._tokens.verify(access_token, now=self._clock.now_ms() / 1000)[1]

    def _is_idle(self, device: DeviceRecord) -> bool:
        days = self._idle_days()
        return days > 0 and self._clock.now_ms() - device.refreshed_at > days * DAY_MS

    def _is_repeated(self, device: DeviceRecord, old: str, following: str, address: str) -> bool:
        """Return whether this is the request that was answered a moment ago, once more."""
        return (
            not device.revoked
            and hmac.compare_digest(device.previous_hash or "", old)
            and hmac.compare_digest(device.refresh_hash or "", following)
            and source_of(device.address) == source_of(address)
            and self._clock.now_ms() - device.refreshed_at <= GRACE_MS
        )

    async def _end_stolen(self, device: DeviceRecord | None, address: str) -> None:
        if device is None:
            return
        event = AuditEvent(
            action="session.reuse", device=device.id, address=address, subject=device.user_id, result=Result.REFUSED,
            reason=Unauthorized.code,
        )  # fmt: skip
        if await self.end_sessions(device.user_id, device.id, event=event):
            log.warning("refresh token used twice, session ended", extra={"user_id": device.user_id, "device_id": device.id})

    async def log_out(self, who: Principal, _command: c.SessionDelete) -> c.Done:
        """End the session of this device."""
        await self.end_sessions(who.user_id, who.device_id, event=by(who, "session.delete"))
        return c.Done()

    async def list_devices(self, who: Principal, _command: c.DeviceList) -> c.Devices:
        """List one's own devices."""
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
        event = by(who, "device.revoke", subject=who.user_id, device=command.device)
        if not await self.end_sessions(who.user_id, command.device, event=event):
            raise NotFound("No such device of yours.")
        return c.Done()

    async def end_sessions(
        self, user_id: str, device_id: str | None = None, *, keep: str | None = None, event: AuditEvent | None = None
    ) -> list[str]:
        """End one session of a user, or all but `keep`, and close their connections; return the devices.

        The event is remembered if a session ended.
        """
        accounts = self._accounts if event is None else self._accounts.recording(event)
        ended = await accounts.revoke_devices(user_id, device_id, self._clock.now_ms(), keep=keep)
        if ended:
            self._bus.disconnect(user_id=user_id, device_ids=ended, code=UNAUTHORIZED_CLOSE)
        return ended

    async def must_enrol(self, user_id: str) -> bool:
        """Return whether somebody has to set a second factor up before anything else."""
        account = await self._accounts.account(user_id=user_id)
        return account is not None and await self._second_factor.is_missing(account.user)

    async def disconnect_unenrolled(self, user_id: str) -> None:
        """Close the connections of who has to set a second factor up first: what they were let in for is no more."""
        if await self.must_enrol(user_id):
            self._bus.disconnect(user_id=user_id, device_ids=None, code=UNAUTHORIZED_CLOSE)

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

    async def _session(self, user: User, device_id: str, refresh: Secret) -> c.Session:
        return c.Session(
            user=user, device=device_id, access_token=self.access_token(user.id, device_id), expires_in=LIFETIME_S,
            refresh_token=refresh.reveal(), enrol=await self._second_factor.is_missing(user),
        )  # fmt: skip


def _ended() -> Unauthorized:
    return Unauthorized("The session has ended.")
