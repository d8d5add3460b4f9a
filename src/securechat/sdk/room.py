"""Room: what can be done in a room. Each method is one command; `docs/reference/sdk.md` has the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

from securechat.domain import commands as c
from securechat.domain.entries import Entry, Page
from securechat.domain.limits import LIMITS
from securechat.sdk.outbox import Outbox, new_cmid

R = TypeVar("R")


class Asker(Protocol):
    """What a room needs of its client."""

    outbox: Outbox

    async def call(self, command: c.Command) -> Any:
        """See `ChatClient.call`."""

    async def ask(self, command: c.Command, reply: type[R]) -> R:
        """See `Commands.ask`."""


class Room:
    """A room, as the client knows it.

    Every method that asks the server raises `ChatError` when it refuses (`NotFound` for a room that one cannot see, `Forbidden`
    for a public one that one has not joined), `ConnectionLost` when no answer came and `LoginRequired` when the token does not
    hold. What else can happen is said at each.

    Attributes:
        summary: What the server told last: kind, topic, number of members, role, how far one has read, unread messages.
    """

    def __init__(self, client: Asker, summary: c.RoomSummary) -> None:
        self._client = client
        self.summary = summary

    def __repr__(self) -> str:
        """Show the name."""
        return f"<Room {self.name or self.id}>"

    @property
    def id(self) -> str:
        """Room id."""
        return self.summary.id

    @property
    def name(self) -> str:
        """Its name; for a direct room, the other person's."""
        return self.summary.name or (self.summary.peer.username if self.summary.peer else "")

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, body: str, *, cmid: str = "", reply_to: int | None = None) -> c.Sent:
        """Send a message and wait until the server has stored it.

        Args:
            body: Its text: 1 to 16,384 bytes, not only blanks.
            cmid: One's own id of this send, 1 to 64 printable ASCII characters: the same one twice is one message.
            reply_to: `seq` of the message that this one answers.

        Returns:
            Its `seq`, and when it was stored.

        Raises:
            ChatError: The server refused it: `TooLarge`, `InvalidInput`, `CmidConflict`, or `Forbidden` in a direct room with
                somebody who blocked one.
            ConnectionLost: The client was closed, or too much waits.
        """
        return await self.post(body, cmid=cmid, reply_to=reply_to)

    def post(self, body: str, *, cmid: str = "", reply_to: int | None = None) -> asyncio.Future[c.Sent]:
        """Queue a message, in order, and return a future of its answer; bounds and errors are those of `send`.

        Raises:
            ConnectionLost: 10,000 messages wait already.
        """
        return self._client.outbox.put(c.MessageSend(room=self.id, cmid=cmid or new_cmid(), body=body, reply_to=reply_to))

    async def edit(self, seq: int, body: str) -> c.Sent:
        """Replace the text of one's own message: 1 to 16,384 bytes. Return the `seq` of the change.

        Raises:
            NotFound: `seq` is no message of this room.
            Forbidden: It is somebody else's.
            Conflict: It was deleted.
        """
        return await self._client.ask(c.MessageEdit(room=self.id, seq=seq, body=body, cmid=new_cmid()), c.Sent)

    async def delete(self, seq: int) -> c.Sent:
        """Delete a message and return the `seq` of the deletion; deleting twice answers the first one.

        Raises:
            NotFound: `seq` is no message of this room.
            Forbidden: It is somebody else's, and one neither owns the room nor administers the server.
        """
        return await self._client.ask(c.MessageDelete(room=self.id, seq=seq, cmid=new_cmid()), c.Sent)

    async def react(self, seq: int, emoji: str) -> c.Sent:
        """React to a message with one emoji of at most 32 characters; doing it twice adds nothing.

        Raises:
            InvalidInput: It is not an emoji.
            NotFound: `seq` is no message of this room.
            Conflict: The message was deleted, or has 50 different reactions.
        """
        return await self._client.ask(c.ReactionAdd(room=self.id, seq=seq, emoji=emoji, cmid=new_cmid()), c.Sent)

    async def unreact(self, seq: int, emoji: str) -> c.Sent:
        """Take one's own reaction back; its not being there is fine.

        Raises:
            NotFound: `seq` is no message of this room.
            Conflict: The message was deleted.
        """
        return await self._client.ask(c.ReactionRemove(room=self.id, seq=seq, emoji=emoji, cmid=new_cmid()), c.Sent)

    async def page(
        self, *, before: int | None = None, after: int | None = None, around: int | None = None, limit: int = 50
    ) -> Page:
        """Return one page of the log: a stretch without a gap, oldest first; the newest one without any of the three.

        Args:
            before: Entries before this `seq`.
            after: Entries after this `seq`; 0 for the first page.
            around: Entries on both sides of this `seq`, itself included.
            limit: At most this many, 1 to 200; large entries make pages shorter, and only an empty one is the end.

        Raises:
            InvalidInput: More than one of the three, or a limit out of bounds.
        """
        return await self._client.ask(c.Fetch(room=self.id, before=before, after=after, around=around, limit=limit), Page)

    async def history(self, *, before: int | None = None, limit: int | None = None) -> AsyncIterator[Entry]:
        """Give entries from the newest (or from `before`) back, at most `limit`; pages are invisible."""
        left = limit
        while left is None or left > 0:
            page = await self.page(before=before, limit=min(LIMITS.page_entries, left or LIMITS.page_entries))
            if not page.entries:
                return
            for entry in reversed(page.entries):
                yield entry
            before = page.entries[0].seq
            left = None if left is None else left - len(page.entries)

    async def mark_read(self, seq: int, *, back: bool = False) -> c.ReadState:
        """Say how far one has read, on all devices; the marker moves back only with `back`, and never past the newest entry.

        Returns:
            Where the marker is now, and how many messages of others come after it (at most 1,000).
        """
        return await self._client.ask(c.ReadMark(room=self.id, seq=seq, back=back), c.ReadState)

    async def typing(self) -> None:
        """Show the others that one is writing, for 6 s; once in 2 s is enough."""
        await self._client.call(c.TypingStart(room=self.id))

    # ── the room and its members ─────────────────────────────────────────────────────────────────────────────────────

    async def update(self, *, name: str | None = None, topic: str | None = None) -> c.RoomSummary:
        """Change the name (1 to 64 characters) or the topic (at most 256; empty for none), and return the room as it is now.

        Raises:
            Forbidden: One neither owns the room nor administers the server.
            NameTaken: Another public room has this name.
            Conflict: A direct room has neither.
        """
        self.summary = await self._client.ask(c.RoomUpdate(room=self.id, name=name, topic=topic), c.RoomSummary)
        return self.summary

    async def join(self) -> c.RoomSummary:
        """Join this public room, and return it as it is now; being in it already is fine.

        Raises:
            NotFound: It is not public.
            Conflict: The room has 10,000 members, or one is in 1,000 rooms.
        """
        self.summary = await self._client.ask(c.RoomJoin(room=self.id), c.RoomSummary)
        return self.summary

    async def leave(self) -> None:
        """Leave the room.

        Raises:
            Conflict: It is a direct room.
        """
        await self._client.call(c.RoomLeave(room=self.id))

    async def members(self) -> list[c.Member]:
        """Return all members by name, each with the role in the room and `online` or `offline`."""
        page = await self._client.ask(c.MemberList(room=self.id), c.Members)
        found = page.members
        while page.next_cursor is not None:
            page = await self._client.ask(c.MemberList(room=self.id, cursor=page.next_cursor), c.Members)
            found += page.members
        return sorted(found, key=lambda each: (each.user.display_name.casefold(), each.user.username))

    async def add(self, user_id: str) -> None:
        """Bring somebody in; their being in it already is fine.

        Raises:
            NotFound: No such user.
            Conflict: It is a direct room, the room is full, or they are in 1,000 rooms.
        """
        await self._client.call(c.MemberAdd(room=self.id, user=user_id))

    async def remove(self, user_id: str) -> None:
        """Remove somebody.

        Raises:
            NotFound: They are not a member.
            Forbidden: One neither owns the room nor administers the server.
            Conflict: It is a direct room.
        """
        await self._client.call(c.MemberRemove(room=self.id, user=user_id))

    async def set_role(self, user_id: str, role: Literal["owner", "moderator", "member", "guest"]) -> None:
        """Give a member another role in this room; it holds at once.

        Raises:
            NotFound: They are not a member.
            Forbidden: They stand as high as oneself, or the role is more than one has.
            Conflict: The room would have no owner.
        """
        await self._client.call(c.MemberRole(room=self.id, user=user_id, role=role))

    async def permit(self, action: str, role: Literal["owner", "moderator", "member", "guest"] | None) -> None:
        """Say which role an action needs here at least; None: the default holds again.

        Raises:
            InvalidInput: A room does not decide about this action.
            Forbidden: Only an owner of the room may.
        """
        self.summary = await self._client.ask(c.RoomPermit(room=self.id, action=action, role=role), c.RoomSummary)

    async def commands(self) -> list[c.BotCommand]:
        """Return what the bots of this room answer to, by name."""
        return (await self._client.ask(c.CommandList(room=self.id), c.BotCommands)).commands

    # ── where else its entries are sent ──────────────────────────────────────────────────────────────────────────────

    async def subscribe(self, url: str, *, types: Sequence[str] = ()) -> c.SubscriptionCreated:
        """Have the entries of this room sent to a URL (outgoing webhook); the room is told.

        Args:
            url: `https://…`, at most 2,048 characters.
            types: Of the entries that are sent; none: all.

        Returns:
            The subscription, and the secret with which `securechat.webhooks.verify` knows its deliveries: only this answer has it.

        Raises:
            InvalidInput: Nothing may be sent there, or there is no such type.
            Forbidden: Only an owner of the room may; so for all that follow.
            Conflict: The room has 10, or is a direct room.
        """
        return await self._client.ask(c.SubscriptionCreate(room=self.id, url=url, types=list(types)), c.SubscriptionCreated)

    async def subscriptions(self) -> list[c.Subscription]:
        """Return the subscriptions of this room, oldest first, each with how far its target has it."""
        return (await self._client.ask(c.SubscriptionList(room=self.id), c.Subscriptions)).subscriptions

    async def unsubscribe(self, subscription: str) -> None:
        """End a subscription; its dead letters go with it, and the room is told.

        Raises:
            NotFound: The room has no such subscription; so for all that follow.
        """
        await self._client.call(c.SubscriptionDelete(room=self.id, subscription=subscription))

    async def pause_subscription(self, subscription: str) -> None:
        """Send nothing until it is resumed.

        Raises:
            Conflict: It is not active.
        """
        await self._client.call(c.SubscriptionPause(room=self.id, subscription=subscription))

    async def resume_subscription(self, subscription: str) -> None:
        """Go on where it was, after a pause or when the server has disabled it.

        Raises:
            Conflict: It is active.
        """
        await self._client.call(c.SubscriptionResume(room=self.id, subscription=subscription))

    async def rotate_subscription(self, subscription: str, *, keep_hours: int = 24) -> c.SubscriptionCreated:
        """Make a new secret, which only this answer has; the old one signs, too, for 0 to 168 hours."""
        command = c.SubscriptionRotate(room=self.id, subscription=subscription, keep_hours=keep_hours)
        return await self._client.ask(command, c.SubscriptionCreated)

    async def dead_letters(self, subscription: str, *, after: int = 0, limit: int = 50) -> c.DeadLetters:
        """Return a page of what could not be delivered, by `seq`, 1 to 200; its `next_after` is None at the end."""
        command = c.DeadLetterList(room=self.id, subscription=subscription, after=after, limit=limit)
        return await self._client.ask(command, c.DeadLetters)

    async def replay_dead_letters(self, subscription: str, seq: int | None = None) -> int:
        """Have one dead letter, or all, sent again, each entry as it is now, and return how many.

        Raises:
            Conflict: The subscription is not active.
        """
        command = c.DeadLetterReplay(room=self.id, subscription=subscription, seq=seq)
        return (await self._client.ask(command, c.DeadLettersTaken)).count

    async def drop_dead_letters(self, subscription: str, seq: int | None = None) -> int:
        """Remove one dead letter, or all, and return how many: they will not be delivered."""
        command = c.DeadLetterDrop(room=self.id, subscription=subscription, seq=seq)
        return (await self._client.ask(command, c.DeadLettersTaken)).count
