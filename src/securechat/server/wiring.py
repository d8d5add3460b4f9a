"""build(settings) → Parts: the only place where classes meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from securechat import __version__
from securechat.auth.accounts import AccountService
from securechat.auth.confirmation import Confirmation
from securechat.auth.factors import FactorService
from securechat.auth.jwt_handler import JWTHandler
from securechat.auth.key_file import load_key
from securechat.auth.manager import AuthManager
from securechat.auth.passkey_check import PasskeyCheck
from securechat.auth.passkeys import WebAuthn
from securechat.auth.passwords import Passwords
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.second_factor import SecondFactor
from securechat.auth.secret_box import FileSecretBox
from securechat.auth.throttle import Throttle
from securechat.auth.tickets import Tickets
from securechat.auth.token_key_service import TokenKeyService
from securechat.bus.local import LocalBus
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, Principal
from securechat.domain.ids import new_id
from securechat.domain.policy import require_operator
from securechat.gateway.admission import HandshakeAdmission
from securechat.gateway.hub import Hub
from securechat.gateway.listener import Gateway
from securechat.gateway.sealing import Sealing
from securechat.ops.metrics import Counters
from securechat.protocol.session import EpochLimits
from securechat.server.backup import create_backup
from securechat.server.clock import SystemClock
from securechat.server.config import Settings
from securechat.server.datadir import DataDir
from securechat.server.identity import IdentityKeys
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.history import HistoryService
from securechat.services.messaging import MessagingService
from securechat.services.presence import PresenceService
from securechat.services.room_log import RoomLog
from securechat.services.rooms import RoomService
from securechat.store.accounts import SqliteAccounts
from securechat.store.factors import SqliteFactors
from securechat.store.log import SqliteLog
from securechat.store.maintenance import SqliteMaintenance
from securechat.store.migrate import migrate
from securechat.store.sqlite import SqliteDatabase

ENDED_MS: Final = 10_000
"""How far back the gateway looks for sessions that ended without its being told."""


@dataclass(slots=True)
class Parts:
    """What a server is made of."""

    data: DataDir
    database: SqliteDatabase
    maintenance: SqliteMaintenance
    room_log: RoomLog
    hub: Hub
    gateway: Gateway
    identities: IdentityKeys
    admission: HandshakeAdmission
    dispatcher: CommandDispatcher
    auth: AuthManager
    accounts: AccountService
    passwords: Passwords
    limiter: RateLimiter
    token_keys: TokenKeyService
    counters: Counters


async def build(settings: Callable[[], Settings], data: DataDir, public_url: Callable[[], str]) -> Parts:
    """Put the parts together on an open data folder.

    Args:
        settings: The settings that hold now.
        data: Its lock is held.
        public_url: Base of links.
    """
    migrate(data.database)
    loop = asyncio.get_running_loop()
    clock = SystemClock()
    counters = Counters()
    database = SqliteDatabase(data.database)
    log_store = SqliteLog(database)
    account_store = SqliteAccounts(database)
    maintenance = SqliteMaintenance(database)

    bus = LocalBus()
    hub = Hub(loop, counters)
    bus.attach(hub)
    room_log = RoomLog(log_store, bus, clock)
    limiter = RateLimiter(settings().rates)
    passwords = Passwords()
    factor_store = SqliteFactors(database)
    box = FileSecretBox(data.keys / "secrets.key")
    throttle = Throttle(lambda: settings().rates)
    second_factor = SecondFactor(factor_store, box, throttle, clock, lambda: settings().second_factor_roles)
    tokens = JWTHandler(data.keys / "access-tokens.json", now=clock.now_ms() / 1_000)
    auth = AuthManager(
        account_store, bus, tokens, passwords, limiter, throttle, second_factor, load_key(data.keys / "refresh-tokens.key"), clock,
        new_id,
    )  # fmt: skip
    rooms = RoomService(room_log, log_store, account_store, new_id, hub.is_online)

    async def add_to_rooms(user_id: str, room_ids: Sequence[str]) -> None:
        for room_id in room_ids:
            await rooms.add(OPERATOR, c.MemberAdd(room=room_id, user=user_id))

    accounts = AccountService(
        account_store, log_store, auth, bus, clock, new_id, limiter, public_url,
        lambda: settings().registration == "open", add_to_rooms,
    )  # fmt: skip
    await accounts.load()

    def origins() -> list[str]:
        here = settings()
        return [public_url(), *here.origins, *([] if here.public_url else [f"https://localhost:{here.port}"])]

    tickets = Tickets(box, clock)
    webauthn = WebAuthn(public_url, origins)
    passkeys = PasskeyCheck(factor_store, account_store, tickets, webauthn, clock)
    confirmation = Confirmation(factor_store, account_store, auth, second_factor, passkeys, clock)
    factors = FactorService(
        factor_store, account_store, auth, second_factor, confirmation, passkeys, webauthn, tickets, limiter, clock,
        lambda: accounts.server_name,
    )  # fmt: skip
    token_keys = TokenKeyService(tokens.keys, clock)
    messaging = MessagingService(accounts.is_blocked)
    history = HistoryService(room_log, log_store, bus)
    presence = PresenceService(log_store, bus, clock)

    async def status(who: Principal, _command: c.ServerStatus) -> c.Status:
        require_operator(who)
        users, room_count, entries = await maintenance.counts()
        uptime = round(time.monotonic() - started, 1)
        return c.Status(
            version=__version__,
            url=public_url(),
            uptime_s=uptime,
            connections=len(gateway.connections),
            users=users,
            rooms=room_count,
            entries=entries,
        )

    async def backup(who: Principal, command: c.BackupCreate) -> c.Backup:
        require_operator(who)
        return await create_backup(maintenance, data, command.path)

    started = time.monotonic()
    dispatcher = CommandDispatcher(
        operations={
            c.MessageSend: messaging.send,
            c.MessageEdit: messaging.edit,
            c.MessageDelete: messaging.delete,
            c.ReactionAdd: messaging.react,
            c.ReactionRemove: messaging.unreact,
        },
        asks=_asks(rooms, history, presence, auth, accounts)
        | _factor_asks(factors, confirmation, token_keys)
        | {c.ServerStatus: status, c.BackupCreate: backup},
        opens={
            c.SetupComplete: accounts.setup,
            c.InviteGet: accounts.see_invite,
            c.AccountRegister: accounts.register,
            c.SessionCreate: auth.log_in,
            c.SessionRefresh: auth.refresh,
            c.PasswordReset: accounts.reset_password,
            c.PasskeyChallenge: factors.challenge,
            c.SessionPasskey: factors.log_in,
        },
        room_log=room_log,
        limiter=limiter,
        clock=clock,
    )
    identities = IdentityKeys(data.keys, settings().identity_bits)
    identities.load()
    admission = HandshakeAdmission(limiter)
    sealing = Sealing(
        policy=lambda: settings().session_layer,
        identities=identities,
        knows_host=lambda host: knows_host(settings(), host),
        limits=lambda: EpochLimits(settings().session_key_s * 1_000, settings().session_key_records),
        clock=clock,
        admission=admission,
    )
    gateway = Gateway(
        hub, auth, account_store, log_store, history, dispatcher, counters, settings().max_connections,
        lambda: accounts.server_name, sealing, lambda: factor_store.ended_since(clock.now_ms() - ENDED_MS),
    )  # fmt: skip
    return Parts(
        data, database, maintenance, room_log, hub, gateway, identities, admission, dispatcher, auth, accounts, passwords, limiter,
        token_keys, counters,
    )  # fmt: skip


def knows_host(settings: Settings, host: str) -> bool:
    """Return whether a host (`name[:port]`) that a client dialled is this server, as far as one can know."""
    if not settings.hosts and not settings.public_url:
        return True
    name = urlsplit(f"//{host}").hostname or ""
    known = {*map(str.lower, settings.hosts), "localhost", "127.0.0.1", "::1", settings.host}
    return name in known or name == (urlsplit(settings.public_url).hostname or "")


def _factor_asks(factors: FactorService, confirmation: Confirmation, token_keys: TokenKeyService) -> dict[type[c.Command], Any]:
    return {
        c.SessionConfirm: confirmation.confirm,
        c.PasswordChange: confirmation.change_password,
        c.FactorList: factors.list_factors,
        c.TotpBegin: factors.begin_totp,
        c.TotpConfirm: factors.confirm_totp,
        c.TotpRemove: factors.remove_totp,
        c.PasskeyBegin: factors.begin_passkey,
        c.PasskeyAdd: factors.add_passkey,
        c.PasskeyRemove: factors.remove_passkey,
        c.RecoveryCreate: factors.create_codes,
        c.FactorClear: factors.clear,
        c.TokenKeyList: token_keys.list_keys,
        c.TokenKeyRotate: token_keys.rotate,
    }


def _asks(
    rooms: RoomService, history: HistoryService, presence: PresenceService, auth: AuthManager, accounts: AccountService
) -> dict[type[c.Command], Any]:
    return {
        c.Fetch: history.fetch,
        c.ReadMark: history.mark_read,
        c.TypingStart: presence.typing,
        c.RoomCreate: rooms.create,
        c.RoomDirect: rooms.direct,
        c.RoomUpdate: rooms.update,
        c.RoomList: rooms.list_own,
        c.RoomBrowse: rooms.browse,
        c.RoomGet: rooms.get,
        c.RoomLookup: rooms.lookup,
        c.RoomJoin: rooms.join,
        c.RoomLeave: rooms.leave,
        c.MemberList: rooms.list_members,
        c.MemberAdd: rooms.add,
        c.MemberRemove: rooms.remove,
        c.CommandList: rooms.list_commands,
        c.CommandSet: accounts.set_commands,
        c.UserGet: accounts.get_users,
        c.UserFind: accounts.find_users,
        c.UserBlock: accounts.block,
        c.UserUnblock: accounts.unblock,
        c.UserBlocks: accounts.list_blocks,
        c.UserUpdate: accounts.update,
        c.Me: accounts.me,
        c.SessionDelete: auth.log_out,
        c.DeviceList: auth.list_devices,
        c.DeviceRevoke: auth.revoke_device,
        c.InviteCreate: accounts.create_invite,
        c.InviteList: accounts.list_invites,
        c.InviteRevoke: accounts.revoke_invite,
        c.UserCreate: accounts.create_user,
        c.UserList: accounts.list_users,
        c.UserDisable: accounts.disable,
        c.UserEnable: accounts.enable,
        c.UserReset: accounts.reset_link,
        c.BotCreate: accounts.create_bot,
        c.BotRotate: accounts.rotate_bot,
        c.BotRevoke: accounts.revoke_bot,
        c.SetupLink: accounts.setup_link,
    }
