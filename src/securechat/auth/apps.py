"""AppService: registered apps, what they ask for, and whom people let in."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode, urlsplit

from securechat.auth.confirmation import Confirmation
from securechat.auth.manager import UNAUTHORIZED_CLOSE
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.tokens import APP_SECRET, CODE, new_token, token_hash
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import Principal, clean_name
from securechat.domain.apps import check_challenge, clean_redirect
from securechat.domain.audit import by
from securechat.domain.ids import APP, new_id
from securechat.domain.ports import AppRecord, Clock, CodeRecord, MessageBus, OAuthStore
from securechat.domain.scopes import WORDS, clean_scopes
from securechat.domain.secret import Secret
from securechat.errors import Conflict, InvalidInput, NotFound

log = logging.getLogger(__name__)

CODE_MS: Final = 60_000
"""How long an authorization code holds."""
APPS_MAX: Final = 200
TYPED: Final = "BCDFGHJKLMNPQRSTVWXZ"
"""What people type: no vowels, so no words, and no digits that look like letters."""
TERMINAL: Final = AppRecord(
    id="securechat-terminal", name="SecureChat in a terminal", secret_hash=None, redirect_uris=[], scopes=list(WORDS),
    device_flow=True, created_by="", created_at=0,
)  # fmt: skip
"""The app that every server has: `securechat login --device`."""


def new_user_code() -> Secret:
    """Return a code that a device shows: eight letters as `XXXX-XXXX`."""
    text = "".join(secrets.choice(TYPED) for _ in range(8))
    return Secret(f"{text[:4]}-{text[4:]}")


def user_code_hash(user_code: Secret) -> str:
    """Return what is stored of such a code, however it was typed; empty for what cannot be one."""
    text = "".join(char for char in user_code.reveal().upper() if char.isalnum())
    return hashlib.sha256(text.encode()).hexdigest() if len(text) == 8 else ""


class AppService:
    """The commands of those who register apps and of those who are asked by them.

    Args:
        store: Apps, codes, sessions.
        bus: Who closes connections of what ended.
        confirmation: Asked before an app is let in: what it gets outlives this session.
        limiter: Slows the guessing of devices' codes down.
        clock: Time.
        issuer: What the server is called by apps: its public URL.
    """

    def __init__(
        self,
        store: OAuthStore,
        bus: MessageBus,
        confirmation: Confirmation,
        limiter: RateLimiter,
        clock: Clock,
        issuer: Callable[[], str],
    ) -> None:
        self._store = store
        self._bus = bus
        self._confirmation = confirmation
        self._limiter = limiter
        self._clock = clock
        self._issuer = issuer

    async def find(self, app_id: str) -> AppRecord | None:
        """Return an app by its client id."""
        return TERMINAL if app_id == TERMINAL.id else await self._store.app(app_id)

    # ── administration ───────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, who: Principal, command: c.AppCreate) -> c.AppCreated:
        """Register an app.

        Raises:
            InvalidInput: A redirect address or a scope is none, or the app has no way to ask anybody.
            Conflict: There are too many.
        """
        policy.require(who, "app.create")
        redirects = [clean_redirect(uri) for uri in dict.fromkeys(command.redirect_uris)]
        if not redirects and not command.device_flow:
            raise InvalidInput("Give a redirect address, or allow the device flow.", field="redirect_uris")
        if len(await self._store.apps()) >= APPS_MAX:
            raise Conflict(f"There are at most {APPS_MAX} apps. Remove one first.")
        secret = new_token(APP_SECRET) if command.confidential else None
        app = AppRecord(
            id=new_id(APP), name=clean_name(command.name, "name"), secret_hash=token_hash(secret) if secret else None,
            redirect_uris=redirects, scopes=clean_scopes(command.scopes), device_flow=command.device_flow,
            created_by=who.user_id, created_at=self._clock.now_ms(),
        )  # fmt: skip
        await self._store.add_app(app, by(who, "app.create", app=app.id, confidential=command.confidential))
        return c.AppCreated(app=_shown(app), secret=secret.reveal() if secret else "")

    async def list_apps(self, who: Principal, _command: c.AppList) -> c.Apps:
        """List apps."""
        policy.require(who, "app.list")
        return c.Apps(apps=[_shown(app) for app in await self._store.apps()])

    async def delete(self, who: Principal, command: c.AppDelete) -> c.Done:
        """Remove an app; its sessions end with everybody."""
        policy.require(who, "app.delete")
        ended = await self._store.remove_app(command.app, self._clock.now_ms(), by(who, "app.delete", app=command.app))
        if ended is None:
            raise NotFound("There is no such app.")
        for user_id in {user_id for user_id, _ in ended}:
            devices = [device for owner, device in ended if owner == user_id]
            self._bus.disconnect(user_id=user_id, device_ids=devices, code=UNAUTHORIZED_CLOSE)
        return c.Done()

    # ── being asked ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def see(self, who: Principal, command: c.ConsentGet) -> c.Consent:
        """Say what an app asks for.

        Raises:
            NotFound: There is no such app, or no device waits with this code.
            InvalidInput: The request is not as the app was registered. Nobody is sent back to an address that is not its own.
        """
        app, scopes, _ = await self._check(who, command)
        wanted = [c.Scope(name=scope, words=WORDS[scope]) for scope in scopes]
        host = "" if command.user_code else urlsplit(command.redirect_uri).hostname or urlsplit(command.redirect_uri).scheme
        return c.Consent(app=app.id, name=app.name, scopes=wanted, redirect_host=host)

    async def give(self, who: Principal, command: c.ConsentGive) -> c.ConsentAnswer:
        """Let an app in, or not, and say where the browser goes with that.

        Raises:
            NotFound, InvalidInput: As in `see`.
            ConfirmationRequired: It is a yes, and somebody authenticated here longer ago.
        """
        app, scopes, waiting = await self._check(who, command)
        if command.approve:
            await self._confirmation.require(who)
        event = by(who, "consent.give", app=app.id, approve=command.approve, scopes=" ".join(scopes))
        if waiting is not None:
            if not await self._store.decide_code(waiting.hash, who.user_id, approve=command.approve, event=event):
                raise NotFound("No device waits with this code.")
            return c.ConsentAnswer()
        if not command.approve:
            return self._answer(command, error="access_denied")
        code = new_token(CODE)
        now = self._clock.now_ms()
        record = CodeRecord(
            token_hash(code), app.id, scopes, now + CODE_MS, who.user_id, command.redirect_uri, command.code_challenge,
            decision="yes",
        )  # fmt: skip
        await self._store.add_code(record, now, event)
        return self._answer(command, code=code.reveal())

    def _answer(self, command: c.ConsentGive, **fields: str) -> c.ConsentAnswer:
        query = urlencode({**fields, "state": command.state, "iss": self._issuer()})
        return c.ConsentAnswer(url=f"{command.redirect_uri}{'&' if '?' in command.redirect_uri else '?'}{query}")

    async def _check(self, who: Principal, command: c.ConsentGet) -> tuple[AppRecord, list[str], CodeRecord | None]:
        """Return who asks, for what, and the device that waits, if it is one."""
        if command.user_code:
            self._limiter.take("consent.code", who.user_id, self._clock.monotonic())
            waiting = await self._store.waiting_code(user_code_hash(command.user_code), self._clock.now_ms())
            app = None if waiting is None else await self.find(waiting.app)
            if waiting is None or app is None:
                raise NotFound("No device waits with this code. It may have taken too long: let the device show a new one.")
            return app, waiting.scopes, waiting
        app = await self.find(command.client_id)
        if app is None:
            raise NotFound("There is no such app here.")
        if command.redirect_uri not in app.redirect_uris:
            raise InvalidInput("The app asks to be answered at an address that is not registered.", field="redirect_uri")
        if command.response_type != "code":
            raise InvalidInput("response_type is code.", field="response_type")
        if not command.state:
            raise InvalidInput("state is missing: the app could not tell its own answer from another.", field="state")
        check_challenge(command.code_challenge, command.code_challenge_method)
        return app, scopes_for(app, command.scope), None

    # ── whom one has let in ──────────────────────────────────────────────────────────────────────────────────────────

    async def list_grants(self, who: Principal, _command: c.GrantList) -> c.Grants:
        """List the apps that have sessions with oneself."""
        found: dict[str, c.Grant] = {}
        for device in await self._store.scoped_devices(who.user_id):
            if not device.app:
                continue
            known = found.get(device.app)
            if known is None:
                found[device.app] = c.Grant(
                    app=device.app, name=device.name, scopes=device.scopes, created_at=device.created_at,
                    last_seen_at=device.last_seen_at, sessions=1,
                )  # fmt: skip
            else:
                known.sessions += 1
                known.scopes = [scope for scope in WORDS if scope in {*known.scopes, *device.scopes}]
                known.last_seen_at = max(known.last_seen_at, device.last_seen_at)
        return c.Grants(grants=list(found.values()))

    async def revoke_grant(self, who: Principal, command: c.GrantRevoke) -> c.Done:
        """End all sessions of an app with oneself."""
        event = by(who, "grant.revoke", subject=who.user_id, app=command.app)
        ended = await self._store.end_app(who.user_id, command.app, self._clock.now_ms(), event) if command.app else []
        if not ended:
            raise NotFound("You have not let such an app in.")
        self._bus.disconnect(user_id=who.user_id, device_ids=ended, code=UNAUTHORIZED_CLOSE)
        return c.Done()


def scopes_for(app: AppRecord, wanted: str) -> list[str]:
    """Return the scopes that an app asks for: all of its own when it names none.

    Raises:
        InvalidInput: One of them does not exist, or the app was not registered for it.
    """
    scopes = clean_scopes(wanted.split() or app.scopes)
    if extra := [scope for scope in scopes if scope not in app.scopes]:
        raise InvalidInput(f"The app is not registered for {extra[0]}.", field="scope")
    return scopes


def _shown(app: AppRecord) -> c.App:
    return c.App(
        id=app.id, name=app.name, redirect_uris=app.redirect_uris, scopes=app.scopes, confidential=app.secret_hash is not None,
        device_flow=app.device_flow, created_at=app.created_at,
    )  # fmt: skip
