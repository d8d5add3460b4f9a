"""Commands: what a signed-in client can ask the server for. Each method is one command; `docs/reference/sdk.md` has the table.

The methods of a room are in `Room`, those of somebody who is not signed in in `Entrance`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from securechat.domain import commands as c
from securechat.domain.accounts import Device, User
from securechat.domain.limits import LIMITS
from securechat.domain.secret import Secret
from securechat.errors import NotFound
from securechat.sdk.outbox import Outbox
from securechat.sdk.room import Room

R = TypeVar("R")


class Commands(ABC):
    """Typed methods over `call`.

    Every method raises `ChatError` when the server refuses, `ConnectionLost` when no answer came (the outcome is unknown) and
    `LoginRequired` when the token does not hold. What else can happen is said at each.
    """

    outbox: Outbox
    blocked: set[str]

    @abstractmethod
    async def call(self, command: c.Command) -> Any:
        """Send a command and return its reply."""

    async def ask(self, command: c.Command, reply: type[R]) -> R:
        """Do as `call`, for a reply of a known type."""
        found = await self.call(command)
        if not isinstance(found, reply):
            raise TypeError(f"{type(found).__name__} came, and not {reply.__name__}")
        return found

    # ── rooms ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def create_room(
        self,
        name: str,
        *,
        kind: Literal["public", "private"] = "private",
        topic: str = "",
        members: Iterable[str] = (),
    ) -> Room:
        """Create a room, become its owner, and return it.

        Args:
            name: 1 to 64 characters.
            kind: A public room is found and joined by everybody; into a private one its members bring people.
            topic: At most 256 characters.
            members: User ids of those who are in it from the start, at most 200.

        Raises:
            NameTaken: Another public room has this name.
            NotFound: One of the members does not exist.
            Forbidden: A bot creates no rooms.
        """
        return await self._room(c.RoomCreate(name=name, kind=kind, topic=topic, members=list(members)))

    async def direct(self, user_id: str) -> Room:
        """Open the direct room with somebody: the same one each time.

        Raises:
            NotFound: No such user.
            Forbidden: They blocked one.
        """
        return await self._room(c.RoomDirect(user=user_id))

    async def list_rooms(self) -> list[c.RoomSummary]:
        """Return one's own rooms, with unread counts as the server has them now."""
        return (await self.ask(c.RoomList(), c.Rooms)).rooms

    async def browse_rooms(self, query: str = "", *, cursor: str = "", limit: int = 50) -> c.Rooms:
        """Return public rooms whose name begins with `query`, by name.

        Args:
            query: Beginning of the name.
            cursor: `next_cursor` of the page before.
            limit: At most this many, 1 to 200.

        Returns:
            A page; its `next_cursor` is None at the end.
        """
        return await self.ask(c.RoomBrowse(query=query, cursor=cursor, limit=limit), c.Rooms)

    async def get_room(self, room_id: str) -> Room:
        """Return a room by its id: one's own, or a public one.

        Raises:
            NotFound: There is none that one may see.
        """
        return await self._room(c.RoomGet(room=room_id))

    async def lookup_room(self, name: str) -> Room:
        """Return a room by its name: one's own, or a public one. `ChatClient.room` looks among the known ones first.

        Raises:
            NotFound: There is none that one may see.
            Ambiguous: Several fit; the detail lists them with their ids.
        """
        return await self._room(c.RoomLookup(name=name))

    # ── people ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def get_users(self, user_ids: Iterable[str]) -> list[User]:
        """Return at most 200 users by id; ids that do not exist are left out."""
        return (await self.ask(c.UserGet(users=list(user_ids)), c.Users)).users

    async def find_users(self, query: str = "", *, limit: int = 20) -> list[User]:
        """Return users whom `query` fits: each of its words begins a word of their username or display name.

        The one with exactly this username comes first, then by username: at most `limit`, 1 to 200.
        """
        return (await self.ask(c.UserFind(query=query, limit=limit), c.Users)).users

    async def find_user(self, username: str) -> User:
        """Find a user by exact username, with or without `@`.

        Raises:
            NotFound: There is none.
        """
        name = username.removeprefix("@").lower()
        for user in await self.find_users(name, limit=LIMITS.page_entries):
            if user.username == name:
                return user
        raise NotFound(f"No user {username}.")

    async def block(self, user_id: str) -> None:
        """Block somebody: no direct messages from them, and clients fold their messages away.

        Raises:
            NotFound: No such user.
            InvalidInput: Oneself.
            Forbidden: A bot blocks nobody.
        """
        await self.call(c.UserBlock(user=user_id))
        self.blocked.add(user_id)

    async def unblock(self, user_id: str) -> None:
        """Take a block back; its not being there is fine.

        Raises:
            Forbidden: A bot blocks nobody.
        """
        await self.call(c.UserUnblock(user=user_id))
        self.blocked.discard(user_id)

    async def list_blocks(self) -> list[User]:
        """Return whom one has blocked."""
        return (await self.ask(c.UserBlocks(), c.Users)).users

    # ── oneself ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def me(self) -> c.Identity:
        """Return who one is, and on which device."""
        return await self.ask(c.Me(), c.Identity)

    async def update_me(self, display_name: str) -> c.Identity:
        """Change one's own display name (1 to 64 characters), and return who one is now.

        Raises:
            InvalidInput: Empty, too long, or with characters that cannot be seen.
        """
        return await self.ask(c.UserUpdate(display_name=display_name), c.Identity)

    async def list_devices(self) -> list[Device]:
        """Return one's own signed-in devices, newest first; `current` is this one."""
        return (await self.ask(c.DeviceList(), c.Devices)).devices

    async def revoke_device(self, device_id: str) -> None:
        """Sign one of one's own devices out; its connections are closed at once.

        Raises:
            NotFound: No such device of one's own.
            Forbidden: A bot has no devices to choose from.
        """
        await self.call(c.DeviceRevoke(device=device_id))

    async def end_session(self) -> None:
        """End the session of this device on the server. `ChatClient.log_out` also forgets the stored tokens."""
        await self.call(c.SessionDelete())

    async def set_commands(self, commands: Iterable[c.BotCommand]) -> None:
        """As a bot: replace the list of commands that one answers, at most 100.

        Raises:
            Forbidden: One is not a bot.
            InvalidInput: Two have the same name, or a name has other characters than a–z, 0–9, `_` and `-`.
        """
        await self.call(c.CommandSet(commands=list(commands)))

    # ── one's own security ───────────────────────────────────────────────────────────────────────────────────────────

    async def confirm(
        self, password: str = "", *, code: str = "", ticket: str = "", credential: dict[str, Any] | None = None
    ) -> None:
        """Show that it is still oneself. Everything below asks for it when one authenticated more than ten minutes ago.

        Args:
            password: One's password; or
            ticket: That of `Entrance.passkey_challenge`, with `credential`.
            code: Six digits or a recovery code, where there is a second factor.
            credential: What WebAuthn answered, in its JSON form.

        Raises:
            Forbidden: Wrong.
            SecondFactorRequired: A code is wanted besides, or is wrong.
        """
        await self.call(c.SessionConfirm(password=Secret(password), code=Secret(code), ticket=ticket, credential=credential or {}))

    async def change_password(self, current: str, password: str) -> None:
        """Change one's password (8 to 1,024 characters); all other sessions end.

        Raises:
            Forbidden: The current one is wrong.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.PasswordChange(current=Secret(current), password=Secret(password)))

    async def list_factors(self) -> c.Factors:
        """Return one's own second factors."""
        return await self.ask(c.FactorList(), c.Factors)

    async def begin_totp(self) -> c.TotpSecret:
        """Return a secret for an authenticator app; `confirm_totp` turns it on, within ten minutes.

        Raises:
            Conflict: There is one already.
            ConfirmationRequired: `confirm` first.
        """
        return await self.ask(c.TotpBegin(), c.TotpSecret)

    async def confirm_totp(self, ticket: str, code: str) -> list[str]:
        """Turn the authenticator app on, and return recovery codes, shown this once; none when there were some.

        Raises:
            InvalidInput: The code is wrong.
            Forbidden: It took too long.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.TotpConfirm(ticket=ticket, code=Secret(code)), c.RecoveryCodes)).recovery_codes

    async def remove_totp(self) -> None:
        """Turn the authenticator app off.

        Raises:
            NotFound: There is none.
            Conflict: One's role must have a second factor, and this is the last one.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.TotpRemove())

    async def begin_passkey(self) -> c.PasskeyOptions:
        """Return what WebAuthn's `create` needs; `add_passkey` takes its answer, within ten minutes.

        Raises:
            Conflict: There are too many, or the server is reached by an address and has no name.
            ConfirmationRequired: `confirm` first.
        """
        return await self.ask(c.PasskeyBegin(), c.PasskeyOptions)

    async def add_passkey(self, ticket: str, credential: dict[str, Any], *, name: str = "") -> list[str]:
        """Add a passkey (its name has at most 64 characters), and return recovery codes as `confirm_totp` does.

        Raises:
            Forbidden: It is not what was asked for, or it took too long.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.PasskeyAdd(ticket=ticket, credential=credential, name=name), c.RecoveryCodes)).recovery_codes

    async def remove_passkey(self, passkey_id: str) -> None:
        """Remove a passkey of one's own.

        Raises:
            NotFound: No such passkey.
            Conflict: One's role must have a second factor, and this is the last one.
            ConfirmationRequired: `confirm` first.
        """
        await self.call(c.PasskeyRemove(passkey=passkey_id))

    async def create_recovery_codes(self) -> list[str]:
        """Return new recovery codes, shown this once; the earlier ones end.

        Raises:
            Conflict: There is no second factor.
            ConfirmationRequired: `confirm` first.
        """
        return (await self.ask(c.RecoveryCreate(), c.RecoveryCodes)).recovery_codes

    # ── for administrators ───────────────────────────────────────────────────────────────────────────────────────────

    async def create_invite(self, *, uses: int = 1, expires_s: int = 604_800, rooms: Iterable[str] = ()) -> c.Invite:
        """Create an invitation.

        Args:
            uses: How many people can come in with it, 1 to 10,000.
            expires_s: How long it works, in seconds: one minute to 365 days.
            rooms: Ids of rooms that they will be in, at most 50.

        Returns:
            The invitation with its link.

        Raises:
            Forbidden: Only an administrator may do this.
            NotFound: One of the rooms is not there, or not one's own to see.
        """
        return await self.ask(c.InviteCreate(uses=uses, expires_s=expires_s, rooms=list(rooms)), c.Invite)

    async def list_invites(self) -> list[c.Invite]:
        """Return the invitations that still work, newest first.

        Raises:
            Forbidden: Only an administrator may do this.
        """
        return (await self.ask(c.InviteList(), c.Invites)).invites

    async def revoke_invite(self, code: str) -> None:
        """End an invitation.

        Raises:
            NotFound: None with this code works.
            Forbidden: Only an administrator may do this.
        """
        await self.call(c.InviteRevoke(code=Secret(code)))

    async def create_user(
        self,
        username: str,
        *,
        display_name: str = "",
        password: str | None = None,
        role: Literal["admin", "member"] = "member",
    ) -> c.UserCreated:
        """Create an account; without a password the answer has a link with which the person sets one.

        Args:
            username: 2 to 32 of a–z, 0–9, `.`, `_`, `-`.
            display_name: At most 64 characters; the username otherwise.
            password: 8 to 1,024 characters.
            role: What they may do on the server.

        Raises:
            NameTaken: Somebody has this username.
            Forbidden: Only an administrator may do this.
        """
        secret = None if password is None else Secret(password)
        command = c.UserCreate(username=username, display_name=display_name, password=secret, role=role)
        return await self.ask(command, c.UserCreated)

    async def list_users(self, *, cursor: str = "", limit: int = 100) -> c.UserPage:
        """Return all accounts by username, in pages of 1 to 200; `next_cursor` is None at the end.

        Raises:
            Forbidden: Only an administrator may do this.
        """
        return await self.ask(c.UserList(cursor=cursor, limit=limit), c.UserPage)

    async def disable_user(self, user_id: str) -> None:
        """Lock an account; its connections are closed at once.

        Raises:
            NotFound: No such user.
            Forbidden: One is no administrator, or they have the same rights or more.
        """
        await self.call(c.UserDisable(user=user_id))

    async def enable_user(self, user_id: str) -> None:
        """Unlock an account.

        Raises:
            NotFound: No such user.
            Forbidden: One is no administrator, or they have the same rights or more.
        """
        await self.call(c.UserEnable(user=user_id))

    async def reset_user(self, user_id: str) -> c.Link:
        """Return a link with which somebody sets a new password: once, within 24 hours.

        Raises:
            NotFound: No such user, or a bot.
            Forbidden: One is no administrator, or they have the same rights or more.
        """
        return await self.ask(c.UserReset(user=user_id), c.Link)

    async def clear_factors(self, user_id: str) -> None:
        """Remove all second factors of somebody who lost them; ends all their sessions.

        Raises:
            NotFound: No such user.
            Forbidden: One is no administrator, or they have the same rights or more.
        """
        await self.call(c.FactorClear(user=user_id))

    async def create_bot(self, username: str, *, display_name: str = "", rooms: Iterable[str] = ()) -> c.BotCreated:
        """Create a bot, and return its token, which nobody can show again.

        Args:
            username: 2 to 32 of a–z, 0–9, `.`, `_`, `-`.
            display_name: At most 64 characters; the username otherwise.
            rooms: Ids of rooms that it will be in, at most 50.

        Raises:
            NameTaken: Somebody has this username.
            NotFound: One of the rooms is not there, or not one's own to see.
            Forbidden: Only an administrator may do this.
        """
        return await self.ask(c.BotCreate(username=username, display_name=display_name, rooms=list(rooms)), c.BotCreated)

    async def rotate_bot(self, user_id: str) -> c.BotCreated:
        """Give a bot a new token, and return it; the old one ends, and a bot that was revoked may connect again.

        Raises:
            NotFound: No such bot.
            Forbidden: Only an administrator may do this.
        """
        return await self.ask(c.BotRotate(user=user_id), c.BotCreated)

    async def revoke_bot(self, user_id: str) -> None:
        """End all tokens of a bot and disable it; its connections are closed at once.

        Raises:
            NotFound: No such bot.
            Forbidden: Only an administrator may do this.
        """
        await self.call(c.BotRevoke(user=user_id))

    async def change_role(self, user_id: str, role: Literal["owner", "admin", "moderator", "member", "guest"]) -> None:
        """Give an account another role on the server; it holds at once, also where it is connected.

        Raises:
            Forbidden: They stand as high as oneself, or the role is more than one has.
            Conflict: It is a bot, or the server's last owner.
        """
        await self.call(c.UserRole(user=user_id, role=role))

    async def explain(self, action: str, *, user_id: str = "", room_id: str = "") -> c.Explanation:
        """Say whether somebody (oneself, without a user id) may do something, and which rule decides.

        Raises:
            Forbidden: About others only administrators may ask.
            NotFound: No such user or room.
            InvalidInput: There is no such action.
        """
        return await self.ask(c.PolicyExplain(action=action, user=user_id, room=room_id), c.Explanation)

    async def list_audit(
        self, *, before: int | None = None, after: int | None = None, action: str = "", limit: int = 50
    ) -> c.AuditPage:
        """Return records of the audit log, the newest first, or from `after` on the oldest first.

        Args:
            before: Only older records than this place.
            after: Only newer ones.
            action: For example `user.disable`, or `user.` for all that begin so.
            limit: 1 to 200 records. Further filters: `ask` with a `commands.AuditList`.

        Raises:
            Forbidden: Only an administrator may do this.
        """
        return await self.ask(c.AuditList(before=before, after=after, action=action, limit=limit), c.AuditPage)

    # ── other providers, apps and tokens ─────────────────────────────────────────────────────────────────────────────

    async def list_externals(self) -> list[c.ExternalAccount]:
        """Return the accounts at providers by which one signs in."""
        return (await self.ask(c.ExternalList(), c.ExternalAccounts)).externals

    async def begin_external(self, provider: str, *, origin: str = "") -> c.ProviderStart:
        """Begin to link an account at a provider: a browser goes to `url`, and comes back to `origin` or the server's own URL.

        Raises:
            ConfirmationRequired: `confirm` first.
            NotFound: There is no such provider.
            Unavailable: It does not answer.
        """
        return await self.ask(c.ExternalBegin(provider=provider, origin=origin), c.ProviderStart)

    async def add_external(self, provider: str, ticket: str, *, state: str, code: str, iss: str = "") -> list[c.ExternalAccount]:
        """Link the account with which the browser came back: `state`, `code` and `iss` stand in its address.

        Raises:
            Forbidden: It does not belong to the ticket, or took longer than ten minutes.
            Unauthorized: The provider's answer does not hold.
            Conflict: It is linked already.
        """
        command = c.ExternalAdd(provider=provider, ticket=ticket, state=state, code=Secret(code), iss=iss)
        return (await self.ask(command, c.ExternalAccounts)).externals

    async def remove_external(self, external_id: str) -> list[c.ExternalAccount]:
        """Unlink an account at a provider, and return those that are left.

        Raises:
            ConfirmationRequired: `confirm` first.
            NotFound: It is not linked to one's own.
            Conflict: It is the only way in.
        """
        return (await self.ask(c.ExternalRemove(external=external_id), c.ExternalAccounts)).externals

    async def get_consent(self, request: c.ConsentGet) -> c.Consent:
        """Return what an app asks for: fill in what stands in its address, or only `user_code` for a device.

        Raises:
            NotFound: There is no such app, or no device waits with this code.
            InvalidInput: The app asks for something else than it is registered for.
        """
        return await self.ask(request, c.Consent)

    async def give_consent(self, request: c.ConsentGive) -> str:
        """Let an app in, or not; return where the browser goes with the answer, empty for a device.

        Raises:
            ConfirmationRequired: It is a yes: `confirm` first.
            NotFound, InvalidInput: As in `get_consent`.
        """
        return (await self.ask(request, c.ConsentAnswer)).url

    async def list_grants(self) -> list[c.Grant]:
        """Return the apps that one has let in, newest first."""
        return (await self.ask(c.GrantList(), c.Grants)).grants

    async def revoke_grant(self, app_id: str) -> None:
        """Let an app out; its connections are closed at once.

        Raises:
            NotFound: One has not let it in.
        """
        await self.call(c.GrantRevoke(app=app_id))

    async def create_token(self, name: str, scopes: Iterable[str], *, expires_days: int = 90) -> c.TokenCreated:
        """Make a personal token; `secret` is shown this once.

        Args:
            name: What it is for, at most 64 characters.
            scopes: What it may do: `profile`, `rooms:read`, `rooms:write`, `messages:read`, `messages:write`.
            expires_days: 1 to 365.

        Raises:
            ConfirmationRequired: `confirm` first.
            InvalidInput: There is no such scope.
            Conflict: There are 50 already.
        """
        return await self.ask(c.TokenCreate(name=name, scopes=list(scopes), expires_days=expires_days), c.TokenCreated)

    async def list_tokens(self) -> list[c.PersonalToken]:
        """Return one's personal tokens that hold, newest first."""
        return (await self.ask(c.TokenList(), c.PersonalTokens)).tokens

    async def revoke_token(self, token_id: str) -> None:
        """End a personal token; its connections are closed at once.

        Raises:
            NotFound: No such token of one's own.
        """
        await self.call(c.TokenRevoke(token=token_id))

    async def create_app(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        redirect_uris: Iterable[str] = (),
        confidential: bool = False,
        device_flow: bool = False,
    ) -> c.AppCreated:
        """Register an app that people can let in; the secret of a confidential one is shown this once.

        Args:
            name: What people are shown, at most 64 characters.
            scopes: The most that it may ask for.
            redirect_uris: Where browsers are sent back to: https, or a scheme of the app's own; compared letter by letter.
            confidential: Whether it can keep a secret.
            device_flow: Whether it may ask without a browser.

        Raises:
            InvalidInput: A redirect address or a scope is none.
            Forbidden: Only an administrator may do this.
        """
        command = c.AppCreate(
            name=name, scopes=list(scopes), redirect_uris=list(redirect_uris), confidential=confidential, device_flow=device_flow
        )
        return await self.ask(command, c.AppCreated)

    async def list_apps(self) -> list[c.App]:
        """Return all registered apps, by name.

        Raises:
            Forbidden: Only an administrator may do this.
        """
        return (await self.ask(c.AppList(), c.Apps)).apps

    async def delete_app(self, app_id: str) -> None:
        """Remove an app; its sessions end with everybody, and its connections are closed at once.

        Raises:
            NotFound: There is no such app.
            Forbidden: Only an administrator may do this.
        """
        await self.call(c.AppDelete(app=app_id))

    async def _room(self, command: c.Command) -> Room:
        return Room(self, await self.ask(command, c.RoomSummary))
