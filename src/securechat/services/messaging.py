"""MessagingService: send, edit, delete, react. Each command becomes an `Operation` of the group commit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.audit import by
from securechat.domain.commands import MessageDelete, MessageEdit, MessageSend, ReactionAdd, ReactionRemove, Sent
from securechat.domain.entries import Entry, EntryType
from securechat.domain.limits import LIMITS
from securechat.domain.ports import LogTransaction
from securechat.domain.rooms import RoomKind, RoomState
from securechat.errors import CmidConflict, Conflict, Forbidden, InvalidInput, NotFound
from securechat.services import costs
from securechat.services.room_log import Operation

_EVERYBODY: Final = re.compile(r"(?<![\w@.])@(?:all|everyone|here|room)(?![\w.-]*\w)", re.IGNORECASE)
_ZWJ_AND_SELECTORS: Final = frozenset("\u200d\ufe0f\u20e3")


class MessagingService:
    """What happens inside a room.

    Args:
        blocks: Whom the service asks whether one user blocked another; must not wait.
        charge: Takes a token of a room (`costs.ROOM`, `costs.MENTION`), or raises `RateLimited`; must not wait.
    """

    def __init__(
        self, blocks: Callable[[str, str], bool], charge: Callable[[str, str], object] = lambda _bucket, _room: None
    ) -> None:
        self._blocks = blocks
        self._charge = charge

    def _once(self) -> Callable[[str, str], None]:
        """Return what takes a room's tokens for one operation, each kind once: a batch may be decided several times."""
        paid: set[str] = set()

        def charge(bucket: str, room: str) -> None:
            if bucket not in paid:
                self._charge(bucket, room)
                paid.add(bucket)

        return charge

    def send(self, who: Principal, command: MessageSend) -> Operation:
        """Add a message to the room's log."""
        body = check_body(command.body)
        key = (command.room, who.device_id, command.cmid)
        mentions_all = mentions_everybody(body)
        charge = self._once()

        def decide(transaction: LogTransaction, now: int) -> Sent:
            room = policy.require_in(who, "message.send", transaction.room(command.room), command.room)
            earlier = transaction.sent(key)
            if earlier is not None:
                return _same(earlier, EntryType.MESSAGE_SENT, body=body, reply_to=command.reply_to)
            if command.reply_to is not None:
                answered = transaction.target((command.room, command.reply_to))
                if answered is None or answered.type is not EntryType.MESSAGE_SENT:
                    raise InvalidInput("There is no such message to reply to.", field="reply_to")
            if room.kind is RoomKind.DIRECT:
                self._require_not_blocked(room, who)
            elif mentions_all:
                policy.require_in(who, "message.mention_all", room, command.room)
                charge(costs.MENTION, command.room)
            charge(costs.ROOM, command.room)
            entry = Entry(
                type=EntryType.MESSAGE_SENT,
                room=command.room,
                seq=room.last_seq + 1,
                at=now,
                user=who.user_id,
                device=who.device_id,
                cmid=command.cmid,
                body=body,
                reply_to=command.reply_to,
            )
            transaction.append(entry)
            return Sent(room=command.room, seq=entry.seq, at=now)

        answered = None if command.reply_to is None else (command.room, command.reply_to)
        return Operation(decide, command.room, sent=key, target=answered)

    def edit(self, who: Principal, command: MessageEdit) -> Operation:
        """Replace the text of one's own message."""
        body = check_body(command.body)
        mentions_all = mentions_everybody(body)
        charge = self._once()

        def decide(room: RoomState, target: Entry) -> dict[str, str] | Sent:
            policy.require_in(who, "message.edit", room, command.room, author=target.user)
            if mentions_all and room.kind is not RoomKind.DIRECT:
                policy.require_in(who, "message.mention_all", room, command.room)
                before = target.edited.body if target.edited is not None else target.body
                if not mentions_everybody(before or ""):
                    charge(costs.MENTION, command.room)  # It calls them as a new message does.
            return {"body": body}

        return self._change(who, command, EntryType.MESSAGE_EDITED, decide, body=body)

    def delete(self, who: Principal, command: MessageDelete) -> Operation:
        """Erase a message; deleting twice answers the first deletion."""

        def decide(room: RoomState, target: Entry) -> dict[str, str] | Sent:
            policy.require_in(who, "message.delete", room, command.room, author=target.user)
            return {}

        return self._change(who, command, EntryType.MESSAGE_DELETED, decide)

    def react(self, who: Principal, command: ReactionAdd) -> Operation:
        """Add a reaction; adding it twice answers with the room's newest `seq` and adds nothing."""
        emoji = check_emoji(command.emoji)

        def decide(room: RoomState, target: Entry) -> dict[str, str] | Sent:
            reactions = target.reactions or {}
            if who.user_id in reactions.get(emoji, ()):
                return Sent(room=room.id, seq=room.last_seq, at=target.at)
            if emoji not in reactions and len(reactions) >= LIMITS.reactions:
                raise Conflict("This message has all the different reactions that it can have.")
            return {"emoji": emoji}

        return self._change(who, command, EntryType.REACTION_ADDED, decide, emoji=emoji)

    def unreact(self, who: Principal, command: ReactionRemove) -> Operation:
        """Take one's own reaction back; it not being there is fine."""
        emoji = check_emoji(command.emoji)

        def decide(room: RoomState, target: Entry) -> dict[str, str] | Sent:
            if who.user_id not in (target.reactions or {}).get(emoji, ()):
                return Sent(room=room.id, seq=room.last_seq, at=target.at)
            return {"emoji": emoji}

        return self._change(who, command, EntryType.REACTION_REMOVED, decide, emoji=emoji)

    def _change(
        self,
        who: Principal,
        command: MessageEdit | MessageDelete | ReactionAdd | ReactionRemove,
        entry_type: EntryType,
        decide: Callable[[RoomState, Entry], dict[str, str] | Sent],
        *,
        body: str | None = None,
        emoji: str | None = None,
    ) -> Operation:
        """Make the operation of an entry that changes a message: `decide` gives its fields, or an answer without an entry."""
        key = None if command.cmid is None else (command.room, who.device_id, command.cmid)
        action = command.__struct_config__.tag
        charge = self._once()

        def run(transaction: LogTransaction, now: int) -> Sent:
            room = policy.require_in(who, str(action), transaction.room(command.room), command.room)
            earlier = None if key is None else transaction.sent(key)
            if earlier is not None:
                return _same(earlier, entry_type, body=body, emoji=emoji, target=command.seq)
            target = transaction.target((command.room, command.seq))
            if target is None or target.type is not EntryType.MESSAGE_SENT:
                raise NotFound(f"No message {command.seq} in this room.")
            if target.deleted is not None:
                if entry_type is EntryType.MESSAGE_DELETED:
                    return Sent(room=room.id, seq=target.deleted, at=target.at)
                raise Conflict("The message was deleted.")
            found = decide(room, target)
            if isinstance(found, Sent):
                return found
            if room.kind is RoomKind.DIRECT and entry_type is EntryType.MESSAGE_EDITED:
                self._require_not_blocked(room, who)
            charge(costs.ROOM, command.room)
            entry = Entry(
                type=entry_type,
                room=command.room,
                seq=room.last_seq + 1,
                at=now,
                user=who.user_id,
                device=who.device_id,
                cmid=command.cmid,
                target=command.seq,
                body=found.get("body"),
                emoji=found.get("emoji"),
            )
            transaction.append(entry)
            if entry_type is EntryType.MESSAGE_DELETED and target.user != who.user_id:
                transaction.record(by(who, "message.delete", subject=target.user, room=room.id, seq=command.seq))
            return Sent(room=command.room, seq=entry.seq, at=now)

        return Operation(run, command.room, sent=key, target=(command.room, command.seq))

    def _require_not_blocked(self, room: RoomState, who: Principal) -> None:
        for other in room.members:
            if other != who.user_id and self._blocks(other, who.user_id):
                raise Forbidden("This person does not take messages from you.")


def _same(
    earlier: Entry,
    entry_type: EntryType,
    *,
    body: str | None = None,
    emoji: str | None = None,
    target: int | None = None,
    reply_to: int | None = None,
) -> Sent:
    """Answer a repetition with its first answer.

    Raises:
        CmidConflict: The cmid stands for another content. An erased text cannot be compared, so any text is taken for it.
    """
    same_text = earlier.body == body or earlier.deleted is not None
    same_rest = (earlier.type, earlier.target, earlier.emoji, earlier.reply_to) == (entry_type, target, emoji, reply_to)
    if not (same_text and same_rest):
        raise CmidConflict(f"cmid was used before, for entry {earlier.seq}, with other content; that entry stands.", field="cmid")
    return Sent(room=earlier.room, seq=earlier.seq, at=earlier.at)


def check_body(body: str) -> str:
    """Return the text of a message.

    Raises:
        InvalidInput: More bytes than the limit; blank, or with NUL, which no store keeps.
    """
    if not body.isascii() and len(body.encode()) > LIMITS.body_bytes:
        raise InvalidInput(f"body must have at most {LIMITS.body_bytes} bytes.", field="body")
    if "\x00" in body or body.isspace():
        raise InvalidInput("A message has some text, and no NUL character.", field="body")
    return body


def mentions_everybody(body: str) -> bool:
    """Return whether a message calls everybody in the room: `@all`, `@everyone`, `@here` or `@room` as a word."""
    return "@" in body and _EVERYBODY.search(body) is not None


def check_emoji(emoji: str) -> str:
    """Return a reaction: symbols of emoji sequences only, so that a reaction cannot carry text.

    Raises:
        InvalidInput: Anything else.
    """
    good = all(
        unicodedata.category(char) in {"So", "Sk", "Sm", "Mn", "Cs"}
        or char in _ZWJ_AND_SELECTORS
        or _is_tag(char)
        or char in "0123456789#*"
        for char in emoji
    )
    if not good or emoji.isascii():
        raise InvalidInput("A reaction is an emoji.", field="emoji")
    return emoji


def _is_tag(char: str) -> bool:
    """Return whether this is a tag character, as in the flag of Scotland."""
    return 0xE0020 <= ord(char) <= 0xE007F
