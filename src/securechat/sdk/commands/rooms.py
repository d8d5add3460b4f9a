"""Finding and making rooms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from securechat.domain import commands as c
from securechat.sdk.commands.asking import Asking
from securechat.sdk.room import Room


class RoomCommands(Asking):
    """Commands for rooms. Those of one room are methods of `Room`."""

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

    async def _room(self, command: c.Command) -> Room:
        return Room(self, await self.ask(command, c.RoomSummary))
