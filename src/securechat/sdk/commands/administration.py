"""What administrators do: invitations, accounts, bots, roles, the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from securechat.domain import commands as c
from securechat.domain.secret import Secret
from securechat.sdk.commands.asking import Asking


class AdministrationCommands(Asking):
    """Commands for administrators."""

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
