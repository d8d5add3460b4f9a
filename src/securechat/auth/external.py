"""ExternalService: signing in, registering and linking with accounts at other providers.

An account is found by (issuer, subject) and by nothing else: an e-mail address or a name never links. What the server has to
remember while the browser is away travels sealed in a ticket that the page keeps, so that an answer which comes back elsewhere
finishes nothing.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import msgspec

from securechat.auth.accounts import new_names
from securechat.auth.addresses import source_of
from securechat.auth.confirmation import Confirmation
from securechat.auth.manager import AuthManager
from securechat.auth.oidc import ProviderConfig
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.second_factor import SecondFactor
from securechat.auth.tickets import Tickets
from securechat.domain import commands as c
from securechat.domain.accounts import Principal, Role, User
from securechat.domain.apps import challenge_of
from securechat.domain.audit import AuditEvent, Detail, by
from securechat.domain.ids import EXTERNAL, USER, new_id
from securechat.domain.ports import AccountStore, Clock, ExternalIdentity, ExternalRecord, OAuthStore, Provider
from securechat.domain.secret import Secret
from securechat.errors import Conflict, Forbidden, InvalidInput, NotFound, Unauthorized

log = logging.getLogger(__name__)

EXTERNALS_MAX: Final = 10
"""Accounts at providers that open one account."""
_AWAY: Final = "provider.away"
_BACK: Final = "provider.back"


class _Away(msgspec.Struct, array_like=True):
    """What has to be the same when the browser is back."""

    provider: str
    redirect_uri: str
    state: str
    nonce: str
    verifier: str


class _Back(msgspec.Struct, array_like=True):
    """Who came back."""

    provider: str
    issuer: str
    subject: str
    name: str


class KnownProvider(Provider, Protocol):
    """A provider with its settings."""

    @property
    def config(self) -> ProviderConfig:
        """Its settings."""


Admit = Callable[..., Awaitable[User]]
"""See `AccountService.admit`."""


class ExternalService:
    """The commands for accounts at other providers.

    Args:
        store: The links.
        accounts: People.
        auth: Opens sessions.
        second_factor: Asked here as after a password.
        confirmation: Asked before a link is made or undone.
        tickets: Remember what was begun.
        limiter: Slows strangers down.
        clock: Time.
        providers: Those that are configured, in order.
        origins: Where browsers may be sent back to; the first is the server's own.
        admit: Lets a new person in.
        invited: Whether registering needs an invitation.
    """

    def __init__(
        self,
        store: OAuthStore,
        accounts: AccountStore,
        auth: AuthManager,
        second_factor: SecondFactor,
        confirmation: Confirmation,
        tickets: Tickets,
        limiter: RateLimiter,
        clock: Clock,
        providers: Collection[KnownProvider],
        origins: Callable[[], list[str]],
        admit: Admit,
        invited: Callable[[], bool],
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._auth = auth
        self._second_factor = second_factor
        self._confirmation = confirmation
        self._tickets = tickets
        self._limiter = limiter
        self._clock = clock
        self._providers = {each.config.id: each for each in providers}
        self._origins = origins
        self._admit = admit
        self._invited = invited

    # ── strangers ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def list_providers(self, _command: c.ProviderList, _address: str) -> c.Providers:
        """List the providers."""
        found = [c.SignInProvider(id=each.config.id, name=each.config.name) for each in self._providers.values()]
        return c.Providers(providers=found)

    async def begin(self, command: c.ProviderBegin, address: str) -> c.ProviderStart:
        """Say where the browser goes to sign in."""
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        return await self._start(command.provider, command.origin, "")

    async def finish(self, command: c.ProviderFinish, address: str) -> c.ProviderOutcome:
        """Take what the browser brought back.

        Raises:
            Forbidden: It belongs to no ticket of this server, or was brought before.
            Unauthorized: The provider's answer does not hold.
        """
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        found = await self._redeem(command, "")
        known = await self._store.external(found.issuer, found.subject)
        data = msgspec.msgpack.encode(_Back(command.provider, found.issuer, found.subject, _shown(found)))
        invited = self._invited() and not self._provider(command.provider).config.register
        return c.ProviderOutcome(
            ticket=self._tickets.issue(_BACK, "", data), known=known is not None, invited=invited,
            username=found.username, display_name=found.name,
        )  # fmt: skip

    async def log_in(self, command: c.SessionProvider, address: str) -> c.Session:
        """Open a session for whose account at the provider is linked, after their second factor.

        Raises:
            Unauthorized: No account is linked, or it is locked.
            SecondFactorRequired: The account has a second factor; the code is missing or wrong. The ticket still holds.
        """
        self._limiter.take("login.address", source_of(address), self._clock.monotonic())
        ticket_id, back = self._read_back(command.ticket)
        known = await self._store.external(back.issuer, back.subject)
        account = None if known is None else await self._accounts.account(user_id=known.user_id)
        if known is None or account is None or account.user.disabled:
            raise Unauthorized("No account here is opened by this.", about="" if known is None else known.user_id)
        await self._second_factor.require(account.user, command.code.reveal())
        self._tickets.finish(ticket_id)
        await self._store.use_external(known.user_id, known.id, self._clock.now_ms())
        return await self._auth.open_session(account.user, command.device_name, address, provider=back.provider)

    async def register(self, command: c.AccountProvider, address: str) -> c.Session:
        """Create an account that the provider's account opens.

        Raises:
            RegistrationClosed: An invitation is needed.
            LinkInvalid: The invitation does not work.
            NameTaken: The username is taken; ticket and invitation still hold.
            Conflict: It opens an account already.
        """
        self._limiter.take("register.address", address, self._clock.monotonic())
        ticket_id, back = self._read_back(command.ticket)
        username, display_name = new_names(command.username, command.display_name)
        if await self._store.external(back.issuer, back.subject) is not None:
            raise Conflict("This account opens an account here already. Sign in with it.")
        now = self._clock.now_ms()
        user = User(id=new_id(USER), username=username, display_name=display_name, role=Role.MEMBER)
        record = ExternalRecord(new_id(EXTERNAL), user.id, back.issuer, back.subject, back.name, now, now)

        async def create(details: dict[str, Detail]) -> User:
            event = AuditEvent(
                action="account.provider", actor=user.id, address=address, details=details | {"provider": back.provider}
            )
            await self._store.register_external(user, record, now, event)
            return user

        await self._admit(command.code, create, free=self._provider(back.provider).config.register)
        self._tickets.finish(ticket_id)
        return await self._auth.open_session(user, command.device_name, address, provider=back.provider)

    # ── one's own ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def list_externals(self, who: Principal, _command: c.ExternalList) -> c.ExternalAccounts:
        """List one's own accounts at providers."""
        by_issuer = {each.config.issuer: each.config.name for each in self._providers.values()}
        return c.ExternalAccounts(
            externals=[
                c.ExternalAccount(
                    id=each.id, provider=by_issuer.get(each.issuer, each.issuer), name=each.name, created_at=each.created_at,
                    last_used_at=each.last_used_at,
                )
                for each in await self._store.externals(who.user_id)
            ]
        )  # fmt: skip

    async def begin_link(self, who: Principal, command: c.ExternalBegin) -> c.ProviderStart:
        """Say where the browser goes to link an account."""
        await self._confirmation.require(who)
        return await self._start(command.provider, command.origin, who.user_id)

    async def add(self, who: Principal, command: c.ExternalAdd) -> c.ExternalAccounts:
        """Link the account that came back.

        Raises:
            Forbidden: It was not begun by this person.
            Conflict: It is linked already, or there are too many.
        """
        await self._confirmation.require(who)
        found = await self._redeem(command, who.user_id)
        if len(await self._store.externals(who.user_id)) >= EXTERNALS_MAX:
            raise Conflict(f"An account is opened by at most {EXTERNALS_MAX} others. Unlink one first.")
        now = self._clock.now_ms()
        record = ExternalRecord(new_id(EXTERNAL), who.user_id, found.issuer, found.subject, _shown(found), now, 0)
        event = by(who, "external.add", subject=who.user_id, provider=command.provider, external=record.id)
        if not await self._store.add_external(record, event):
            raise Conflict("This account opens an account here already.")
        log.info("account at a provider linked", extra={"user_id": who.user_id, "provider": command.provider})
        return await self.list_externals(who, c.ExternalList())

    async def remove(self, who: Principal, command: c.ExternalRemove) -> c.ExternalAccounts:
        """Unlink an account.

        Raises:
            NotFound: It is not linked to one's own.
            Conflict: It is the only way in.
        """
        await self._confirmation.require(who)
        if command.external not in {each.id for each in await self._store.externals(who.user_id)}:
            raise NotFound("No such linked account of yours.")
        event = by(who, "external.remove", subject=who.user_id, external=command.external)
        if not await self._store.remove_external(who.user_id, command.external, event):
            raise Conflict("This is your only way in. Set a password, or add a passkey, first.")
        return await self.list_externals(who, c.ExternalList())

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _provider(self, provider: str) -> KnownProvider:
        found = self._providers.get(provider)
        if found is None:
            raise NotFound("There is no such sign-in provider here.")
        return found

    async def _start(self, provider: str, origin: str, user_id: str) -> c.ProviderStart:
        found = self._provider(provider)
        known = [each.rstrip("/") for each in self._origins()]
        base = origin.rstrip("/") or known[0]
        if base not in known:
            raise InvalidInput("This server is not known at this address: see `public_url` and `origins`.", field="origin")
        redirect_uri = f"{base}/oidc/{found.config.id}"
        state, nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        verifier = Secret(secrets.token_urlsafe(32))
        url = await found.authorization_url(redirect_uri, state, nonce, challenge_of(verifier))
        away = _Away(found.config.id, redirect_uri, state, nonce, verifier.reveal())
        return c.ProviderStart(url=url, state=state, ticket=self._tickets.issue(_AWAY, user_id, msgspec.msgpack.encode(away)))

    async def _redeem(self, command: c.ProviderFinish | c.ExternalAdd, user_id: str) -> ExternalIdentity:
        ticket_id, data = self._tickets.read(_AWAY, user_id, command.ticket)
        away = msgspec.msgpack.decode(data, type=_Away)
        same = away.provider == command.provider and hmac.compare_digest(away.state.encode(), command.state.encode())
        if not same:
            raise Forbidden("This took too long or does not belong together. Begin again.")
        self._tickets.finish(ticket_id)
        found = self._provider(away.provider)
        return await found.redeem(away.redirect_uri, command.code, Secret(away.verifier), away.nonce, command.iss)

    def _read_back(self, ticket: str) -> tuple[str, _Back]:
        ticket_id, data = self._tickets.read(_BACK, "", ticket)
        return ticket_id, msgspec.msgpack.decode(data, type=_Back)


def _shown(found: ExternalIdentity) -> str:
    """Return by what a person recognises the account."""
    return found.username or found.name or found.subject[:64]
