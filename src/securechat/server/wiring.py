"""build(settings) → Parts: the only place where classes meet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from securechat.auth.accounts import AccountService
from securechat.auth.addresses import networks
from securechat.auth.apps import AppService
from securechat.auth.confirmation import Confirmation
from securechat.auth.external import ExternalService
from securechat.auth.factors import FactorService
from securechat.auth.jwt_handler import JWTHandler
from securechat.auth.key_file import load_key
from securechat.auth.manager import AuthManager
from securechat.auth.oauth import OAuthService
from securechat.auth.oidc import OidcProvider
from securechat.auth.passkey_check import PasskeyCheck
from securechat.auth.passkeys import WebAuthn
from securechat.auth.passwords import Passwords
from securechat.auth.personal_tokens import PersonalTokens
from securechat.auth.rate_limiter import Rate, RateLimiter
from securechat.auth.second_factor import SecondFactor
from securechat.auth.throttle import Throttle
from securechat.auth.tickets import Tickets
from securechat.auth.token_key_service import TokenKeyService
from securechat.bus.local import LocalBus
from securechat.bus.sequencer import Sequencer
from securechat.crypto.key_provider import EnvironmentKeys, FileKeys, KeyProvider
from securechat.domain.audit import AuditEvent
from securechat.domain.ids import new_id
from securechat.domain.ports import ROLES, LogStore, MessageBus
from securechat.errors import InvalidInput
from securechat.gateway.admission import HandshakeAdmission
from securechat.gateway.connection_limits import Pending
from securechat.gateway.gateway import Gateway
from securechat.gateway.hub import Hub
from securechat.gateway.roster import Roster
from securechat.gateway.session_layer import SessionLayer
from securechat.ops.audit import ALL, EACH, Auditor
from securechat.ops.audit_key import AuditKey
from securechat.ops.checkpoints import Checkpoints
from securechat.ops.metrics import Counters
from securechat.protocol.session import EpochLimits
from securechat.server.certificate_desk import CertificateDesk
from securechat.server.clock import SystemClock
from securechat.server.command_table import (
    Table,
    app_asks,
    app_opens,
    chat_asks,
    entrance_opens,
    factor_asks,
    message_operations,
    server_asks,
    subscription_asks,
)
from securechat.server.config import Settings
from securechat.server.datadir import AUDIT_KEY, DataDir
from securechat.server.derived import caps_of, knows_host
from securechat.server.identity import IdentityKeys
from securechat.server.identity_audit import IdentityAudit
from securechat.server.limit_sharing import LimitSharing
from securechat.server.server_desk import ServerDesk
from securechat.server.shared_files import SharedFiles
from securechat.server.tls import TLSContext
from securechat.services.audit import AuditService
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.explain import ExplainService
from securechat.services.history import HistoryService
from securechat.services.messaging import MessagingService
from securechat.services.presence import PresenceService
from securechat.services.room_log import RoomLog
from securechat.services.rooms import RoomService
from securechat.services.storage import StorageService
from securechat.services.subscriptions import SubscriptionService
from securechat.store.accounts import SqlAccounts
from securechat.store.audit import SqlAudit
from securechat.store.database import Database
from securechat.store.factors import SqlFactors
from securechat.store.keys import KeyStore
from securechat.store.maintenance import SqlMaintenance
from securechat.store.oauth import SqlOAuth
from securechat.store.opening import open_database, open_log, pools_of
from securechat.store.sealing import Sealing, Secrets
from securechat.store.storage_jobs import StorageJobs
from securechat.store.subscriptions import SqlSubscriptions
from securechat.webhooks.gate import Gate, Refused, Unreachable, place_of
from securechat.webhooks.gate import host_of as host_of_url
from securechat.webhooks.relay import Relay
from securechat.webhooks.signature import new_secret

if TYPE_CHECKING:
    from securechat.bus.redis import RedisBus
    from securechat.store.postgres_pool import PostgresPool
    from securechat.store.session_locks import ServerLocks


@dataclass(slots=True)
class Parts:
    """What a server is made of."""

    data: DataDir
    database: Database
    maintenance: SqlMaintenance
    room_log: RoomLog
    hub: Hub
    gateway: Gateway
    session_layer: SessionLayer
    identities: IdentityKeys
    dispatcher: CommandDispatcher
    auth: AuthManager
    accounts: AccountService
    passwords: Passwords
    limiter: RateLimiter
    token_keys: TokenKeyService
    counters: Counters
    tls: TLSContext
    desk: CertificateDesk
    auditor: Auditor
    sealing: Sealing
    storage: StorageJobs
    secrets: Secrets
    identity_audit: IdentityAudit
    relay: Relay
    locks: ServerLocks | None
    """How this server knows of others on the same database; None where there can be none."""
    redis: RedisBus | None
    sequencer: Sequencer | None
    pools: Mapping[str, PostgresPool]
    """The connections to each PostgreSQL, by name."""
    providers: Sequence[OidcProvider]
    sharing: LimitSharing | None
    shared_files: SharedFiles | None
    """The keys that all servers have in common; None for one server."""


BUS_NAME: Final = "bus"
"""Setting in the database: part of the names of channels, so that two databases may share one Redis."""
AUDIT_RATES: Final = {EACH: Rate(burst=20, per_s=0.2), ALL: Rate(burst=500, per_s=5)}
"""How many refusals are remembered: of one actor or address, and of all together."""


async def build(  # noqa: PLR0915 - a list of what there is
    settings: Callable[[], Settings], data: DataDir, public_url: Callable[[], str]
) -> Parts:
    """Put the parts together on an open data folder.

    Args:
        settings: The settings that hold now.
        data: Its lock is held.
        public_url: Base of links.
    """
    url = settings().database_url
    locks = await _locks(settings())
    database = await open_database(
        url.reveal() if url else "", data.database, connections=settings().database_connections,
        shards={name: place.reveal() for name, place in settings().database_shards.items()},
    )  # fmt: skip

    if locks is not None:
        await locks.knows(len(database.parts) - 1)

    def leads() -> bool:
        return locks is None or locks.leads

    loop = asyncio.get_running_loop()
    clock = SystemClock()
    counters = Counters()
    audit_store = SqlAudit(database, clock.now_ms)
    sealing = Sealing(KeyStore(database, _key_provider(settings(), data), clock))
    storage = StorageJobs(database, sealing, clock, audit_store, leads if locks is not None else None)
    await storage.load()
    secrets = Secrets(sealing.keys)
    log_store = open_log(database, audit_store, sealing)
    account_store = SqlAccounts(database, audit_store)
    maintenance = SqlMaintenance(database)

    hub = Hub(loop, counters)
    bus, redis, sequencer = await _bus(settings(), hub, log_store, account_store, clock)
    auditor = await _auditor(settings, data, audit_store, clock, leads)
    room_log = RoomLog(log_store, bus, clock, auditor.refused)
    limiter = RateLimiter(settings().rates)
    passwords = Passwords()
    factor_store = SqlFactors(database, audit_store)
    oauth_store = SqlOAuth(database, audit_store)
    throttle = Throttle(lambda: limiter.rates)
    second_factor = SecondFactor(factor_store, secrets, throttle, clock, lambda: settings().second_factor_roles)
    tokens = JWTHandler(data.keys / "access-tokens.json", now=clock.now_ms() / 1_000)
    auth = AuthManager(
        account_store, bus, tokens, passwords, limiter, throttle, second_factor, load_key(data.keys / "refresh-tokens.key"), clock,
        new_id, lambda: settings().session_idle_days,
    )  # fmt: skip
    rooms = RoomService(room_log, log_store, account_store, new_id, hub.is_online_anywhere)

    identities = IdentityKeys(data.keys, settings().identity_bits)
    identities.load()

    accounts = AccountService(
        account_store, log_store, auth, bus, clock, new_id, limiter, public_url,
        lambda: settings().registration == "open", rooms.bring_in,
        lambda: [] if settings().session_layer == "off" else identities.pins(),
    )  # fmt: skip
    await accounts.load()

    def origins() -> list[str]:
        here = settings()
        return [public_url(), *here.origins, *([] if here.public_url else [f"https://localhost:{here.port}"])]

    tickets = Tickets(secrets, clock)
    webauthn = WebAuthn(public_url, origins)
    passkeys = PasskeyCheck(factor_store, account_store, tickets, webauthn, clock)
    confirmation = Confirmation(factor_store, account_store, auth, second_factor, passkeys, clock)
    factors = FactorService(
        factor_store, account_store, auth, second_factor, confirmation, passkeys, webauthn, tickets, limiter, clock,
        lambda: accounts.server_name, oauth_store.count_ways_in,
    )  # fmt: skip
    token_keys = TokenKeyService(tokens.keys, clock, auditor.record)
    providers = [OidcProvider(each, clock) for each in settings().oidc]
    oauth_asks, oauth_opens = _oauth(
        settings, public_url, origins, oauth_store, account_store, accounts, auth, second_factor, confirmation, tickets, limiter,
        clock, bus, providers,
    )  # fmt: skip
    messaging = MessagingService(accounts.is_blocked, lambda bucket, room: limiter.take(bucket, room, clock.monotonic()))
    history = HistoryService(room_log, log_store, bus)
    keeper = StorageService(storage, room_log)

    relay, hook_asks = _subscriptions(settings, SqlSubscriptions(database, audit_store), log_store, room_log, secrets, clock, leads)

    server = ServerDesk(maintenance, data, auditor, public_url, lambda: len(gateway.connections))
    audit = AuditService(audit_store, auditor, auditor.prune, account_store, clock)

    tls = _tls(settings(), data)
    desk = CertificateDesk(tls)

    dispatcher = CommandDispatcher(
        operations=message_operations(messaging),
        asks=chat_asks(rooms, history, PresenceService(log_store, bus, clock), auth, accounts)
        | server_asks(server, audit, desk, keeper, ExplainService(log_store, account_store))
        | factor_asks(factors, confirmation, token_keys)
        | oauth_asks
        | hook_asks,
        opens=entrance_opens(accounts, auth, factors) | oauth_opens,
        room_log=room_log,
        limiter=limiter,
        clock=clock,
        refused=auditor.refused,
    )
    session_layer = _session_layer(settings, identities, limiter, clock)
    gateway = Gateway(
        hub, auth, account_store, log_store, history, dispatcher, counters, limiter, Pending(caps_of(settings())),
        lambda: accounts.server_name, session_layer, factor_store.ended_since, clock,
        auditor.note, max(1, settings().database_connections // 2),
    )  # fmt: skip
    bus.on_stale(ROLES, gateway.standing.roles_changed)
    return Parts(
        data=data, database=database, maintenance=maintenance, room_log=room_log, hub=hub, gateway=gateway,
        session_layer=session_layer, dispatcher=dispatcher, auth=auth, accounts=accounts, passwords=passwords, limiter=limiter,
        token_keys=token_keys, counters=counters, tls=tls, desk=desk, auditor=auditor, sealing=sealing, storage=storage,
        secrets=secrets, identities=identities, identity_audit=IdentityAudit(identities, account_store),
        relay=relay, locks=locks, redis=redis, sequencer=sequencer, pools=pools_of(database), providers=providers,
        sharing=None if redis is None else LimitSharing(limiter, throttle, redis, clock),
        shared_files=None if redis is None else SharedFiles(_key_folders(settings(), data), account_store, leads),
    )  # fmt: skip


async def _locks(now: Settings) -> ServerLocks | None:
    """Begin to serve on a database that others may use, too."""
    if now.database_url is None:
        return None
    # The driver takes memory, and few servers need it.
    from securechat.store.session_locks import ServerLocks  # noqa: PLC0415

    locks = ServerLocks(now.database_url.reveal(), shared=now.redis_url is not None)
    await locks.enter()
    return locks


async def _bus(
    now: Settings, hub: Hub, log_store: LogStore, accounts: SqlAccounts, clock: SystemClock
) -> tuple[MessageBus, RedisBus | None, Sequencer | None]:
    """Put together what stands between a commit and the hub: nothing, or the way to other servers and back."""
    if now.redis_url is None or now.bus_key is None:
        bus = LocalBus()
        bus.attach(hub)
        return bus, None, None
    from securechat.bus.redis import RedisBus  # noqa: PLC0415 - the library takes memory, and few servers need it

    name = await accounts.setting(BUS_NAME)
    if name is None:
        name = new_id("bus")
        await accounts.set_setting(BUS_NAME, name)
    hub.follower = sequencer = Sequencer(hub, log_store)
    key = now.bus_key.reveal().encode()
    redis = RedisBus(now.redis_url.reveal(), key, sequencer, clock, prefix=f"securechat:{name}")
    hub.presence.others = redis.elsewhere = Roster(hub.present, hub.is_online, hub.show_presence, redis.show_presence)
    return redis, redis, sequencer


def _key_folders(now: Settings, data: DataDir) -> list[Path]:
    elsewhere = now.at_rest_keys not in {"", "insecure-env"}
    return [data.keys, *([Path(now.at_rest_keys)] if elsewhere else [])]


def _tls(now: Settings, data: DataDir) -> TLSContext:
    return TLSContext(data.tls, cert=now.tls_cert, key=now.tls_key, domains=now.tls_domains, host=now.host, minimum=now.tls_minimum)


def _session_layer(
    settings: Callable[[], Settings], identities: IdentityKeys, limiter: RateLimiter, clock: SystemClock
) -> SessionLayer:
    """Put the sealed sub-protocol together."""
    return SessionLayer(
        policy=lambda: settings().session_layer,
        identities=identities,
        knows_host=lambda host: knows_host(settings(), host),
        limits=lambda: EpochLimits(settings().session_key_s * 1_000, settings().session_key_records),
        clock=clock,
        admission=HandshakeAdmission(limiter),
        published=identities.published,
        root=identities.root,
    )


async def _auditor(
    settings: Callable[[], Settings], data: DataDir, store: SqlAudit, clock: SystemClock, leads: Callable[[], bool]
) -> Auditor:
    """Put the audit log together; a key that was just made is the first thing that it remembers."""
    key = AuditKey(data.keys / AUDIT_KEY)
    elsewhere = settings().audit_folder
    auditor = Auditor(
        store,
        Checkpoints(key, data.audit, Path(elsewhere) if elsewhere else None),
        RateLimiter(AUDIT_RATES),
        clock,
        lambda: settings().audit_checkpoint_s,
        lambda: settings().audit_keep_days,
        leads,
    )
    if key.created:
        await auditor.record(AuditEvent(action="key.create", address="server", details={"what": "audit", "key": key.id}))
    return auditor


def _key_provider(settings: Settings, data: DataDir) -> KeyProvider:
    if settings.at_rest_keys == "insecure-env":
        return EnvironmentKeys()
    return FileKeys(Path(settings.at_rest_keys) if settings.at_rest_keys else data.keys)


def _oauth(
    settings: Callable[[], Settings], public_url: Callable[[], str], origins: Callable[[], list[str]], store: SqlOAuth,
    account_store: SqlAccounts, accounts: AccountService, auth: AuthManager, second_factor: SecondFactor,
    confirmation: Confirmation, tickets: Tickets, limiter: RateLimiter, clock: SystemClock, bus: MessageBus,
    providers: Sequence[OidcProvider],
) -> tuple[Table, Table]:  # fmt: skip
    """Put together what has to do with other providers, apps and tokens: what people ask, and what strangers ask."""
    external = ExternalService(
        store, account_store, auth, second_factor, confirmation, tickets, limiter, clock,
        providers, origins, accounts.admit,
        lambda: settings().registration != "open",
    )  # fmt: skip
    apps = AppService(store, bus, confirmation, limiter, clock, public_url)
    oauth = OAuthService(store, account_store, apps, auth, limiter, clock, public_url)
    personal = PersonalTokens(store, auth, confirmation, clock)
    return app_asks(external, apps, personal), app_opens(external, oauth)


def _subscriptions(
    settings: Callable[[], Settings], store: SqlSubscriptions, log_store: LogStore, room_log: RoomLog, secrets: Secrets,
    clock: SystemClock, leads: Callable[[], bool],
) -> tuple[Relay, Table]:  # fmt: skip
    """Put together what sends the entries of rooms elsewhere."""
    gate = Gate(lambda: networks(tuple(settings().hooks_allow_networks)))
    relay = Relay(store, log_store, secrets, gate, clock, leads)

    async def check(url: str) -> str:
        try:
            place = place_of(url)
            await gate.addresses(place)
        except (Refused, Unreachable) as error:
            raise InvalidInput(str(error), field="url") from error
        return place.host

    service = SubscriptionService(store, log_store, room_log, secrets, check, host_of_url, clock, new_id, new_secret, relay.wake)
    return relay, subscription_asks(service)
