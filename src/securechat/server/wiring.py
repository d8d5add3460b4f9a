"""build(settings) → Parts: the only place where classes meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from securechat import __version__
from securechat.auth.accounts import AccountService
from securechat.auth.jwt_handler import JWTHandler
from securechat.auth.manager import AuthManager
from securechat.auth.passwords import Passwords
from securechat.auth.rate_limiter import RateLimiter
from securechat.bus.local import LocalBus
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, Principal
from securechat.domain.ids import new_id
from securechat.domain.policy import require_operator
from securechat.gateway.connection_limits import Caps, Pending
from securechat.gateway.hub import Hub
from securechat.gateway.listener import Gateway
from securechat.ops.metrics import Counters
from securechat.server.backup import create_backup
from securechat.server.clock import SystemClock
from securechat.server.config import Settings
from securechat.server.datadir import DataDir
from securechat.services.dispatcher import CommandDispatcher
from securechat.services.explain import ExplainService
from securechat.services.history import HistoryService
from securechat.services.messaging import MessagingService
from securechat.services.presence import PresenceService
from securechat.services.room_log import RoomLog
from securechat.services.rooms import RoomService
from securechat.store.accounts import SqliteAccounts
from securechat.store.log import SqliteLog
from securechat.store.maintenance import SqliteMaintenance
from securechat.store.migrate import migrate
from securechat.store.sqlite import SqliteDatabase


@dataclass(slots=True)
class Parts:
    """What a server is made of."""

    data: DataDir
    database: SqliteDatabase
    maintenance: SqliteMaintenance
    room_log: RoomLog
    hub: Hub
    gateway: Gateway
    dispatcher: CommandDispatcher
    auth: AuthManager
    accounts: AccountService
    passwords: Passwords
    limiter: RateLimiter
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
    auth = AuthManager(account_store, bus, JWTHandler(data.keys / "access-token.pem"), passwords, limiter, clock, new_id)
    rooms = RoomService(room_log, log_store, account_store, new_id, hub.is_online)

    async def add_to_rooms(user_id: str, room_ids: Sequence[str]) -> None:
        for room_id in room_ids:
            await rooms.add(OPERATOR, c.MemberAdd(room=room_id, user=user_id))

    accounts = AccountService(
        account_store, log_store, auth, bus, clock, new_id, limiter, public_url,
        lambda: settings().registration == "open", add_to_rooms,
    )  # fmt: skip
    await accounts.load()
    messaging = MessagingService(accounts.is_blocked, lambda bucket, room: limiter.take(bucket, room, clock.monotonic()))
    history = HistoryService(room_log, log_store, bus)
    explainer = ExplainService(log_store, account_store)
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
        | {c.ServerStatus: status, c.BackupCreate: backup, c.PolicyExplain: explainer.explain},
        opens={
            c.SetupComplete: accounts.setup,
            c.InviteGet: accounts.see_invite,
            c.AccountRegister: accounts.register,
            c.SessionCreate: auth.log_in,
            c.SessionRefresh: auth.refresh,
            c.PasswordReset: accounts.reset_password,
        },
        room_log=room_log,
        limiter=limiter,
        clock=clock,
    )
    gateway = Gateway(
        hub,
        auth,
        account_store,
        log_store,
        history,
        dispatcher,
        counters,
        limiter,
        Pending(caps_of(settings())),
        lambda: accounts.server_name,
    )
    return Parts(data, database, maintenance, room_log, hub, gateway, dispatcher, auth, accounts, passwords, limiter, counters)


def caps_of(settings: Settings) -> Caps:
    """Return the limits of connections."""
    return Caps(
        connections=settings.max_connections,
        address=settings.max_connections_address,
        account=settings.max_connections_account,
        pending=settings.max_pending,
        pending_address=settings.max_pending_address,
    )


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
        c.MemberRole: rooms.change_role,
        c.RoomPermit: rooms.permit,
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
        c.UserRole: accounts.change_role,
        c.UserDisable: accounts.disable,
        c.UserEnable: accounts.enable,
        c.UserReset: accounts.reset_link,
        c.BotCreate: accounts.create_bot,
        c.BotRotate: accounts.rotate_bot,
        c.BotRevoke: accounts.revoke_bot,
        c.SetupLink: accounts.setup_link,
    }
