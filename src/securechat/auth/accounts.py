"""AccountService: the first account, invitations, registration, people, bots, blocks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from securechat.auth.manager import UNAUTHORIZED_CLOSE, AuthManager
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.tokens import LINK, new_token, token_hash
from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import Principal, Role, User, clean_name, clean_password, clean_username, fits
from securechat.domain.audit import AuditEvent, Detail, by, mark_of
from securechat.domain.commands.rooms import MEMBERS_PAGE
from securechat.domain.ids import USER, new_code
from securechat.domain.ports import BLOCKS, SETTINGS, AccountStore, Clock, LinkRecord, LogStore, MessageBus, Signal
from securechat.domain.secret import Secret
from securechat.errors import ChatError, Conflict, InvalidInput, LinkInvalid, NotFound, RegistrationClosed

log = logging.getLogger(__name__)

SETUP_MS: Final = 3_600_000
RESET_MS: Final = 86_400_000
SERVER_NAME: Final = "server_name"
DEFAULT_NAME: Final = "SecureChat"
FRESH_S: Final = 0.1
RETRY_S: Final = 1.0
"""After a time when they could not be read."""
FRESH_ALL_S: Final = 10.0
"""Pauses after something was read again that another server changed: of some users, and before all are read once more."""


class AccountService:
    """People and bots.

    Args:
        accounts: The store.
        rooms: Where the names of an invitation's rooms are read.
        auth: Sessions and tokens.
        bus: Who is told that a user changed.
        clock: Time.
        new_id: Makes ids.
        limiter: Slows strangers down.
        public_url: Base of links, read at each use: it may change while the server runs.
        open_registration: Whether strangers may register without an invitation.
        add_to_rooms: Brings a new user into rooms.
        pins: Ids of this server's identity keys in hex, for links to carry; none when sessions are not sealed.

    Attributes:
        server_name: What the people call this server.
    """

    def __init__(
        self,
        accounts: AccountStore,
        rooms: LogStore,
        auth: AuthManager,
        bus: MessageBus,
        clock: Clock,
        new_id: Callable[[str], str],
        limiter: RateLimiter,
        public_url: Callable[[], str],
        open_registration: Callable[[], bool],
        add_to_rooms: Callable[[str, Sequence[str]], Awaitable[None]],
        pins: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._accounts = accounts
        self._rooms = rooms
        self._auth = auth
        self._bus = bus
        self._clock = clock
        self._new_id = new_id
        self._limiter = limiter
        self._public_url = public_url
        self._open_registration = open_registration
        self._add_to_rooms = add_to_rooms
        self._pins = pins
        self._blocks: dict[str, frozenset[str]] = {}
        self._blocking = asyncio.Lock()
        self._stale = asyncio.Event()
        self._stale_keys: set[str] = set()
        bus.on_stale(BLOCKS, self._forget)
        bus.on_stale(SETTINGS, lambda _key: self._forget(""))
        self.server_name = DEFAULT_NAME

    # ── coming in ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def setup_link(self, who: Principal, _command: c.SetupLink) -> c.Link:
        """Make the link for the first account; earlier ones end.

        Raises:
            Conflict: There is an account already.
        """
        if await self._accounts.count_users():
            raise Conflict("The server is set up; people come in by invitation.")
        return await self._link("setup", None, SETUP_MS, by(who, "setup.link"))

    async def setup(self, command: c.SetupComplete, address: str) -> c.Session:
        """Create the first account: the owner.

        Raises:
            LinkInvalid: The link was used, is too old or was never given out.
        """
        self._limiter.take("register.address", address, self._clock.monotonic())
        username, display_name = new_names(command.username, command.display_name)
        clean_password(command.password)
        server_name = clean_name(command.server_name, "server_name") if command.server_name.strip() else ""
        works = await self._accounts.use_link(token_hash(command.token), "setup", self._clock.now_ms()) is not None
        if await self._accounts.count_users():
            raise LinkInvalid("This server is set up already: sign in, or ask for an invitation.")
        if not works:
            raise LinkInvalid("This setup link does not work (any more). Its operator makes another: securechat setup-link")
        event = AuditEvent(action="setup.complete", address=address)
        user = await self._create(username, display_name, Role.OWNER, command.password, event)
        if server_name:
            await self._accounts.set_setting(SERVER_NAME, server_name)
            self.server_name = server_name
            self._bus.invalidate(SETTINGS, SERVER_NAME)
        return await self._auth.open_session(user, command.device_name, address)

    async def see_invite(self, command: c.InviteGet, address: str) -> c.Invitation:
        """Tell a stranger what an invitation is for."""
        self._limiter.take("register.address", address, self._clock.monotonic())
        found = await self._accounts.invite(_code(command.code).reveal(), self._clock.now_ms())
        if found is None:
            raise LinkInvalid("This invitation does not work (any more). Ask for a new one.")
        invite, created_by = found
        inviter = await self._accounts.account(user_id=created_by)
        names = [await self._rooms.room(room_id, user_id="") for room_id in invite.rooms]
        return c.Invitation(
            server_name=self.server_name,
            invited_by=inviter.user.display_name if inviter else "",
            rooms=[room.name for room in names if room is not None],
        )

    async def register(self, command: c.AccountRegister, address: str) -> c.Session:
        """Create an account with an invitation, or without one where registration is open.

        Raises:
            RegistrationClosed: No invitation was given.
            LinkInvalid: The invitation does not work.
            NameTaken: The username is taken; the invitation keeps its use.
        """
        self._limiter.take("register.address", address, self._clock.monotonic())
        username, display_name = new_names(command.username, command.display_name)
        clean_password(command.password)

        async def create(details: dict[str, Detail]) -> User:
            event = AuditEvent(action="account.register", address=address, details=details)
            return await self._create(username, display_name, Role.MEMBER, command.password, event)

        user = await self.admit(command.code, create)
        return await self._auth.open_session(user, command.device_name, address)

    async def admit(self, code: Secret, create: Callable[[dict[str, Detail]], Awaitable[User]], *, free: bool = False) -> User:
        """Let a new person in: take a use of the invitation, create the account, and bring it into the invitation's rooms.

        Args:
            code: The invitation; empty for none.
            create: Creates the account; gets the details for the audit log. When it raises, the invitation keeps its use.
            free: Whether no invitation is needed even where registration is closed.

        Raises:
            RegistrationClosed: No invitation was given, and one is needed.
            LinkInvalid: The invitation does not work.
        """
        code = _code(code)
        if not code and not free and not self._open_registration():
            raise RegistrationClosed
        rooms: list[str] = []
        if code:
            now = self._clock.now_ms()
            found = await self._accounts.invite(code.reveal(), now)
            if found is None or not await self._accounts.use_invite(code.reveal(), now):
                raise LinkInvalid("This invitation does not work (any more). Ask for a new one.")
            rooms = found[0].rooms
        try:
            user = await create({"invite": mark_of(code.reveal())} if code else {})
        except BaseException:
            if code:
                await self._accounts.unuse_invite(code.reveal())
            raise
        for room_id in rooms:
            try:
                await self._add_to_rooms(user.id, [room_id])
            except ChatError as error:  # The account exists: a room that is full or gone is no reason to send the person away.
                log.warning("an invitation's room could not be entered", extra={"room_id": room_id, "code": error.code})
        return user

    async def reset_password(self, command: c.PasswordReset, address: str) -> c.Done:
        """Set a new password with a link; all sessions end."""
        self._limiter.take("register.address", address, self._clock.monotonic())
        password_hash = await self._auth.hash_password(command.password)
        link = await self._accounts.use_link(token_hash(command.token), "reset", self._clock.now_ms())
        if link is None or link.user_id is None:
            raise LinkInvalid("This link does not work (any more). Ask the operator for a new one.")
        event = AuditEvent(action="password.reset", actor=link.user_id, address=address)
        try:
            await self._accounts.recording(event).update_user(link.user_id, password_hash=password_hash)
        except ChatError:
            await self._accounts.create_link(token_hash(command.token), link)  # It was used for nothing.
            raise
        await self._auth.end_sessions(link.user_id)
        return c.Done()

    # ── invitations ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def create_invite(self, who: Principal, command: c.InviteCreate) -> c.Invite:
        """Create an invitation."""
        await self._require_may_add(who, command.rooms)
        invite = c.Invite(
            code=new_code(),
            uses_left=command.uses,
            expires_at=self._clock.now_ms() + command.expires_s * 1_000,
            rooms=command.rooms,
        )
        event = by(
            who,
            "invite.create",
            invite=mark_of(invite.code),
            uses=command.uses,
            expires_s=command.expires_s,
            rooms=len(command.rooms),
        )
        await self._accounts.recording(event).create_invite(invite, who.user_id)
        return self._with_url(invite)

    async def list_invites(self, _who: Principal, _command: c.InviteList) -> c.Invites:
        """List invitations that work."""
        return c.Invites(invites=[self._with_url(invite) for invite in await self._accounts.invites(self._clock.now_ms())])

    async def revoke_invite(self, who: Principal, command: c.InviteRevoke) -> c.Done:
        """End an invitation."""
        code = _code(command.code)
        event = by(who, "invite.revoke", invite=mark_of(code.reveal()))
        if not await self._accounts.recording(event).revoke_invite(code.reveal()):
            raise NotFound("No such invitation.")
        return c.Done()

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def me(self, who: Principal, _command: c.Me) -> c.Identity:
        """Say who is asking."""
        return c.Identity(user=await self._user(who.user_id), device=who.device_id)

    async def update(self, who: Principal, command: c.UserUpdate) -> c.Identity:
        """Change one's own display name, and tell everybody."""
        await self._accounts.update_user(who.user_id, display_name=clean_name(command.display_name, "display_name"))
        user = await self._user(who.user_id)
        for summary in (await self._rooms.heads(who.user_id)).rooms:
            self._bus.signal(Signal(user, room=summary.id, ephemeral=False))
        return c.Identity(user=user, device=who.device_id)

    async def get_users(self, who: Principal, command: c.UserGet) -> c.Users:
        """Get users by id."""
        found = await self._accounts.users(command.users)
        if who.role is Role.GUEST:
            known = await self._known_to(who)
            found = [user for user in found if user.id in known]
        return c.Users(users=found)

    async def find_users(self, who: Principal, command: c.UserFind) -> c.Users:
        """Find users by the beginnings of words of their names."""
        query = command.query.removeprefix("@").casefold()
        if who.role is Role.GUEST:
            people = sorted((await self._known_to(who)).values(), key=lambda user: (user.username != query, user.username))
            near = [user for user in people if fits(user, query)]
            return c.Users(users=[user for user in near if not user.disabled][: command.limit])
        found = await self._accounts.find_users(query=query, limit=command.limit)
        return c.Users(users=[user for user in found if not user.disabled])

    async def block(self, who: Principal, command: c.UserBlock) -> c.Done:
        """Block somebody."""
        if command.user == who.user_id:
            raise InvalidInput("One cannot block oneself.", field="user")
        await self._user(command.user)
        await self._set_block(who.user_id, command.user, on=True)
        return c.Done()

    async def unblock(self, who: Principal, command: c.UserUnblock) -> c.Done:
        """Take a block back."""
        await self._set_block(who.user_id, command.user, on=False)
        return c.Done()

    async def list_blocks(self, who: Principal, _command: c.UserBlocks) -> c.Users:
        """List whom one has blocked."""
        return c.Users(users=await self._accounts.users(await self._accounts.blocks(who.user_id)))

    async def load_blocks(self, user_id: str) -> None:
        """Read a user's blocks, so that `is_blocked` answers without waiting."""
        self._blocks[user_id] = frozenset(await self._accounts.blocks(user_id))

    # ── administration ───────────────────────────────────────────────────────────────────────────────────────────────

    async def create_user(self, who: Principal, command: c.UserCreate) -> c.UserCreated:
        """Create an account; without a password, with a link to set one."""
        policy.require(who, "user.create", grant=policy.RANK[Role(command.role)])
        username, display_name = new_names(command.username, command.display_name)
        event = by(who, "user.create", role=command.role, link=not command.password)
        user = await self._create(username, display_name, Role(command.role), command.password, event)
        url = "" if command.password else (await self._link("reset", user.id, RESET_MS)).url
        return c.UserCreated(user=user, url=url)

    async def list_users(self, _who: Principal, command: c.UserList) -> c.UserPage:
        """List accounts."""
        users = await self._accounts.find_users(after=command.cursor, limit=command.limit + 1)
        more = len(users) > command.limit
        users = users[: command.limit]
        return c.UserPage(users=users, next_cursor=users[-1].username if more else None)

    async def change_role(self, who: Principal, command: c.UserRole) -> c.Users:
        """Give an account another role on the server, also where it is connected now.

        Raises:
            Forbidden: They stand as high as oneself, or the role is more than one has.
            Conflict: It is the last owner, or a bot.
        """
        user, role = await self._user(command.user), Role(command.role)
        target = -1 if user.id == who.user_id else policy.RANK[user.role]
        policy.require(who, "user.role", target=target, grant=policy.RANK[role])
        if user.role is Role.BOT:
            raise Conflict("A bot stays a bot.")
        accounts = self._accounts.recording(by(who, "user.role", subject=user.id, role=role.value))
        if not await accounts.set_role(user.id, role):
            raise Conflict("A server keeps an owner: make somebody else owner first.")
        user = await self._user(user.id)
        await self._auth.disconnect_unenrolled(user.id)  # Before the signal: no connection acts with the new role then.
        self._bus.signal(Signal(user, user=user.id, ephemeral=False))
        for summary in (await self._rooms.heads(user.id)).rooms:
            self._bus.signal(Signal(user, room=summary.id, ephemeral=False, except_user=user.id))
        return c.Users(users=[user])

    async def disable(self, who: Principal, command: c.UserDisable) -> c.Done:
        """Lock an account and close its connections."""
        user = await self._user(command.user)
        policy.require(who, "user.disable", target=policy.RANK[user.role])
        accounts = self._accounts.recording(by(who, "user.disable", subject=user.id))
        await self._lock(accounts, user.id)
        return c.Done()

    async def enable(self, who: Principal, command: c.UserEnable) -> c.Done:
        """Unlock an account. Sessions of before end, if they could not when it was locked."""
        policy.require(who, "user.enable", target=policy.RANK[(await self._user(command.user)).role])
        await self._auth.end_sessions(command.user)
        await self._accounts.recording(by(who, "user.enable", subject=command.user)).update_user(command.user, enable=True)
        return c.Done()

    async def reset_link(self, who: Principal, command: c.UserReset) -> c.Link:
        """Make a link to set a new password."""
        user = await self._user(command.user)
        policy.require(who, "user.reset", target=policy.RANK[user.role])
        if user.role is Role.BOT:
            raise NotFound("No such user.")
        return await self._link("reset", user.id, RESET_MS, by(who, "user.reset", subject=user.id))

    async def create_bot(self, who: Principal, command: c.BotCreate) -> c.BotCreated:
        """Create a bot and its token."""
        await self._require_may_add(who, command.rooms)
        username, display_name = new_names(command.username, command.display_name)
        bot = await self._create(username, display_name, Role.BOT, None, by(who, "bot.create", rooms=len(command.rooms)))
        await self._add_to_rooms(bot.id, command.rooms)
        token = await self._auth.issue_bot_token(bot, by(who, "bot.token", subject=bot.id))
        return c.BotCreated(user=bot, token=token.reveal(), pin=",".join(self._pins()))

    async def rotate_bot(self, who: Principal, command: c.BotRotate) -> c.BotCreated:
        """Give a bot a new token."""
        bot = await self._user(command.user)
        token = await self._auth.issue_bot_token(bot, by(who, "bot.rotate", subject=bot.id))
        await self._accounts.update_user(bot.id, enable=True)
        return c.BotCreated(user=bot, token=token.reveal(), pin=",".join(self._pins()))

    async def revoke_bot(self, who: Principal, command: c.BotRevoke) -> c.Done:
        """End a bot."""
        bot = await self._user(command.user)
        if bot.role is not Role.BOT:
            raise NotFound("No such bot.")
        accounts = self._accounts.recording(by(who, "bot.revoke", subject=bot.id))
        await self._lock(accounts, bot.id)
        return c.Done()

    async def _lock(self, accounts: AccountStore, user_id: str) -> None:
        """Lock an account, close its connections, and end its sessions, even where those cannot be reached now."""
        await accounts.update_user(user_id, disabled_at=self._clock.now_ms())
        self._bus.disconnect(user_id=user_id, device_ids=None, code=UNAUTHORIZED_CLOSE)
        await self._auth.end_sessions(user_id)

    async def set_commands(self, who: Principal, command: c.CommandSet) -> c.Done:
        """Replace what a bot answers to."""
        names = [each.name for each in command.commands]
        if len(set(names)) != len(names):
            raise InvalidInput("Two commands have the same name.", field="commands")
        await self._accounts.set_commands(who.user_id, command.commands)
        return c.Done()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def is_blocked(self, user_id: str, other: str) -> bool:
        """Return whether `user_id` blocked `other`."""
        return other in self._blocks.get(user_id, ())

    async def load(self) -> None:
        """Read at start what is asked for without waiting: the server's name and every block. `keep_fresh` hears of changes."""
        self.server_name = await self._accounts.setting(SERVER_NAME) or DEFAULT_NAME
        self._blocks = {user_id: frozenset(blocked) for user_id, blocked in (await self._accounts.every_block()).items()}

    async def keep_fresh(self) -> None:
        """Read again what other servers changed, or what a command that failed may have changed, for ever.

        What cannot be read now stays as it was, and is read later.
        """
        loop = asyncio.get_running_loop()
        all_from = loop.time()
        while True:
            await self._stale.wait()
            keys, self._stale_keys = self._stale_keys, set()
            self._stale.clear()
            if "" in keys and loop.time() < all_from:
                keys.discard("")  # Single users do not wait for it.
                loop.call_at(all_from, self._forget, "")
            try:
                async with self._blocking:
                    if "" in keys:
                        await self.load()
                    else:
                        for user_id in keys:
                            await self.load_blocks(user_id)
            except BaseException as error:
                for key in keys:
                    self._forget(key)
                if not isinstance(error, ChatError):
                    raise
                log.warning("blocks cannot be read again now", extra={"code": error.code})
                await asyncio.sleep(RETRY_S)
                continue
            if "" in keys:
                all_from = loop.time() + FRESH_ALL_S
            await asyncio.sleep(FRESH_S)

    def _forget(self, key: str) -> None:
        self._stale_keys.add(key)
        self._stale.set()

    async def _set_block(self, user_id: str, blocked: str, *, on: bool) -> None:
        async with self._blocking:  # Else what was read before a change could be kept after it.
            try:
                await self._accounts.set_block(user_id, blocked, on=on)
                await self.load_blocks(user_id)
            except BaseException:
                self._forget(user_id)  # It may be stored all the same.
                raise
            finally:
                self._bus.invalidate(BLOCKS, user_id)

    async def _create(self, username: str, display_name: str, role: Role, password: Secret | None, event: AuditEvent) -> User:
        """Create an account and remember it; without an actor in the event, it was the new one's own doing."""
        password_hash = await self._auth.hash_password(password) if password else None
        user = User(id=self._new_id(USER), username=username, display_name=display_name, role=role)
        event = msgspec.structs.replace(event, actor=event.actor or user.id, subject=user.id if event.actor else "")
        await self._accounts.recording(event).create_user(user, password_hash, self._clock.now_ms())
        return user

    async def _require_may_add(self, who: Principal, rooms: Sequence[str]) -> None:
        """An administrator brings others only into rooms that are theirs to see."""
        for room_id in rooms:
            policy.require_in(who, "member.add", await self._rooms.room(room_id, user_id=who.user_id), room_id)

    async def _known_to(self, who: Principal) -> dict[str, User]:
        """Return whom a guest knows: themselves, and whoever is in a room with them."""
        known = {user.id: user for user in await self._accounts.users([who.user_id])}
        for summary in (await self._rooms.heads(who.user_id)).rooms:
            after: str | None = ""
            while after is not None:
                page = await self._rooms.members(summary.id, after=after, limit=MEMBERS_PAGE)
                known |= {user.id: user for user, _ in page}
                after = page[-1][0].id if len(page) == MEMBERS_PAGE else None
                await asyncio.sleep(0)  # A room can be large: the others have their turn after each page.
        return known

    async def _user(self, user_id: str) -> User:
        account = await self._accounts.account(user_id=user_id) if user_id else None
        if account is None:
            raise NotFound(f"No user {user_id}.")
        return account.user

    async def _link(self, kind: str, user_id: str | None, lifetime_ms: int, event: AuditEvent | None = None) -> c.Link:
        token = new_token(LINK)
        expires_at = self._clock.now_ms() + lifetime_ms
        accounts = self._accounts if event is None else self._accounts.recording(event)
        await accounts.create_link(token_hash(token), LinkRecord(kind, user_id, expires_at))
        return c.Link(url=f"{self._public_url()}/{kind}{self._fragment(f't={token.reveal()}')}", expires_at=expires_at)

    def _with_url(self, invite: c.Invite) -> c.Invite:
        invite.url = f"{self._public_url()}/i/{invite.code}{self._fragment()}"
        return invite

    def _fragment(self, *secrets: str) -> str:
        """Return what no server sees of a link: the keys to know this one by, and secrets. Commas, since `&` is a shell's."""
        found = ",".join([*(f"pin={pin}" for pin in self._pins()), *secrets])
        return f"#{found}" if found else ""


def new_names(username: str, display_name: str) -> tuple[str, str]:
    """Return the two names of a new account; without a display name, the username is both."""
    name = clean_username(username)
    return name, clean_name(display_name, "display_name") if display_name.strip() else name


def _code(text: Secret) -> Secret:
    return Secret(text.reveal().strip().upper())
