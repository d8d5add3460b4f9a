"""OAuthService: what apps ask the server themselves (RFC 6749 with PKCE, RFC 8628, RFC 7009).

An app's session is a device with scopes: the mechanism of refresh tokens, of their reuse and of ending a session is the same as
for people, and the two kinds never take each other's tokens.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from typing import Final

from securechat.auth.addresses import source_of
from securechat.auth.apps import AppService, new_user_code, scopes_for, user_code_hash
from securechat.auth.jwt_handler import LIFETIME_S
from securechat.auth.manager import AuthManager
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.tokens import DEVICE_CODE, REFRESH, family_of, new_refresh_token, new_token, token_hash
from securechat.domain import commands as c
from securechat.domain.apps import proves
from securechat.domain.audit import AuditEvent, Result
from securechat.domain.ids import DEVICE, new_id
from securechat.domain.ports import AccountStore, AppRecord, Clock, CodeRecord, OAuthStore, ScopedDevice
from securechat.domain.secret import Secret
from securechat.errors import GrantRefused, InvalidInput, Unauthorized

log = logging.getLogger(__name__)

DEVICE_MS: Final = 600_000
"""How long a device waits for somebody."""
INTERVAL_S: Final = 5
"""A device does not ask more often than this, in seconds."""
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
GRANTS: Final = ("authorization_code", "refresh_token", DEVICE_GRANT)


class OAuthService:
    """The commands of apps.

    Args:
        store: Codes and sessions.
        accounts: People.
        apps: Who is registered.
        auth: Tokens, and the end of sessions.
        limiter: Slows strangers down.
        clock: Time.
        public_url: Where people approve.
    """

    def __init__(
        self,
        store: OAuthStore,
        accounts: AccountStore,
        apps: AppService,
        auth: AuthManager,
        limiter: RateLimiter,
        clock: Clock,
        public_url: Callable[[], str],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._apps = apps
        self._auth = auth
        self._limiter = limiter
        self._clock = clock
        self._public_url = public_url

    async def begin_device(self, command: c.OauthDevice, address: str) -> c.DeviceAuthorization:
        """Give a device a code to show.

        Raises:
            GrantRefused: The app is unknown, or is not for devices, or asks for too much.
        """
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        app = await self._app(command.client_id, command.client_secret)
        if not app.device_flow:
            raise GrantRefused("This app is not registered for the device flow.", field="unauthorized_client")
        try:
            scopes = scopes_for(app, command.scope)
        except InvalidInput as error:
            raise GrantRefused(error.detail, field="invalid_scope") from error
        device_code, user_code = new_token(DEVICE_CODE), new_user_code()
        now = self._clock.now_ms()
        record = CodeRecord(token_hash(device_code), app.id, scopes, now + DEVICE_MS, user_code=user_code_hash(user_code))
        await self._store.add_code(record, now, None)
        page = f"{self._public_url()}/device"
        return c.DeviceAuthorization(
            device_code=device_code.reveal(), user_code=user_code.reveal(), verification_uri=page,
            verification_uri_complete=f"{page}?user_code={user_code.reveal()}", expires_in=DEVICE_MS // 1_000, interval=INTERVAL_S,
        )  # fmt: skip

    async def token(self, command: c.OauthToken, address: str) -> c.OauthTokens:
        """Exchange a code or a refresh token.

        Raises:
            GrantRefused: With OAuth's word for the reason.
        """
        self._limiter.take("refresh.address", source_of(address), self._clock.monotonic())
        app = await self._app(command.client_id, command.client_secret)
        match command.grant_type:
            case "authorization_code":
                return await self._redeem(app, command, address)
            case "refresh_token":
                return await self._refresh(app, command.refresh_token, address)
            case grant if grant == DEVICE_GRANT:
                return await self._poll(app, command.device_code, address)
        raise GrantRefused(f"grant_type is one of {', '.join(GRANTS)}.", field="unsupported_grant_type")

    async def revoke(self, command: c.OauthRevoke, address: str) -> c.Done:
        """End the session of a token of this app. A token that is none, or another's, is answered the same (RFC 7009 2.2)."""
        self._limiter.take("refresh.address", source_of(address), self._clock.monotonic())
        app = await self._app(command.client_id, command.client_secret)
        if not command.token:
            raise GrantRefused("token is missing.", field="invalid_request")
        if command.token.reveal().startswith(REFRESH):
            device = await self._accounts.device_by_family(token_hash(family_of(command.token)))
        else:
            try:
                device = await self._accounts.device(self._auth.device_of(command.token))
            except Unauthorized:
                device = None
        if device is not None and device.app == app.id:
            event = AuditEvent(
                action="oauth.revoke", actor=device.user_id, device=device.id, address=address, details={"app": app.id}
            )
            await self._auth.end_sessions(device.user_id, device.id, event=event)
        return c.Done()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _app(self, client_id: str, secret: Secret) -> AppRecord:
        """Return the app that asks, which has shown its secret if it has one."""
        app = await self._apps.find(client_id)
        if app is None or (app.secret_hash is None) != (not secret):
            raise GrantRefused("The app is unknown, or did not authenticate.", field="invalid_client")
        if app.secret_hash is not None and not hmac.compare_digest(app.secret_hash, token_hash(secret)):
            raise GrantRefused("The app is unknown, or did not authenticate.", field="invalid_client")
        return app

    async def _redeem(self, app: AppRecord, command: c.OauthToken, address: str) -> c.OauthTokens:
        record = await self._store.code(token_hash(command.code))
        if record is None or record.user_code or record.app != app.id:
            raise _bad_code()
        if record.used_at:
            raise await self._reused(record, address)
        fits = command.redirect_uri == record.redirect_uri and proves(command.code_verifier, record.challenge)
        if record.expires_at <= self._clock.now_ms() or not fits:
            raise _bad_code()
        return await self._open(app, record, address)

    async def _poll(self, app: AppRecord, device_code: Secret, address: str) -> c.OauthTokens:
        record = await self._store.code(token_hash(device_code))
        if record is None or not record.user_code or record.app != app.id:
            raise _bad_code()
        if record.used_at:
            raise await self._reused(record, address)
        now = self._clock.now_ms()
        if record.expires_at <= now:
            raise GrantRefused("Nobody approved in time. Begin again.", field="expired_token")
        if record.decision == "no":
            raise GrantRefused("Somebody said no.", field="access_denied")
        if not record.decision:
            await self._store.poll_code(record.hash, now)
            if now - record.polled_at < INTERVAL_S * 1_000:
                raise GrantRefused("Ask less often.", field="slow_down")
            raise GrantRefused("Nobody has approved yet.", field="authorization_pending")
        return await self._open(app, record, address)

    async def _open(self, app: AppRecord, record: CodeRecord, address: str) -> c.OauthTokens:
        """Open the session that a code is for, once."""
        account = await self._accounts.account(user_id=record.user_id)
        if account is None or account.user.disabled:
            raise _bad_code()
        now = self._clock.now_ms()
        refresh, family = new_refresh_token()
        device = ScopedDevice(
            new_id(DEVICE), record.user_id, app.name, app.id, record.scopes, now, now, address,
            refresh_hash=token_hash(refresh), refresh_family=token_hash(family),
        )  # fmt: skip
        event = AuditEvent(
            action="session.create", actor=record.user_id, device=device.id, address=address, details={"app": app.id}
        )
        if not await self._store.use_code(record.hash, device, event):
            raise await self._reused(await self._store.code(record.hash) or record, address)
        return self._tokens(record.user_id, device.id, refresh, record.scopes)

    async def _refresh(self, app: AppRecord, refresh_token: Secret, address: str) -> c.OauthTokens:
        try:
            user, device, following = await self._auth.rotate(refresh_token, address, app=app.id)
        except Unauthorized as error:
            raise GrantRefused("The refresh token does not hold.", field="invalid_grant") from error
        return self._tokens(user.id, device.id, following, sorted(device.scopes or ()))

    def _tokens(self, user_id: str, device_id: str, refresh: Secret, scopes: list[str]) -> c.OauthTokens:
        return c.OauthTokens(
            access_token=self._auth.access_token(user_id, device_id), token_type="Bearer", expires_in=LIFETIME_S,  # noqa: S106
            refresh_token=refresh.reveal(), scope=" ".join(scopes),
        )  # fmt: skip

    async def _reused(self, record: CodeRecord, address: str) -> GrantRefused:
        """End what came of a code that came twice: one of the two who have it is a thief."""
        event = AuditEvent(
            action="code.reuse", device=record.device_id, address=address, subject=record.user_id, result=Result.REFUSED,
            reason=GrantRefused.code, details={"app": record.app},
        )  # fmt: skip
        if record.device_id and await self._auth.end_sessions(record.user_id, record.device_id, event=event):
            log.warning("code used twice, session ended", extra={"user_id": record.user_id, "device_id": record.device_id})
        return _bad_code()


def _bad_code() -> GrantRefused:
    return GrantRefused("The code does not hold, or is not for this app.", field="invalid_grant")
