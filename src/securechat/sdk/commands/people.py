"""Others: finding them, and blocking them."""

from __future__ import annotations

from collections.abc import Iterable

from securechat.domain import commands as c
from securechat.domain.accounts import User
from securechat.domain.limits import LIMITS
from securechat.errors import NotFound
from securechat.sdk.commands.asking import Asking


class PeopleCommands(Asking):
    """Commands for other people."""

    blocked: set[str]

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
