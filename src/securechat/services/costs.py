"""What a command costs, and from which buckets: one table for every door."""

from __future__ import annotations

from typing import Final

from securechat.domain import commands as c
from securechat.domain.accounts import Principal

MESSAGE: Final = "message"
"""By account: what becomes an entry."""
COMMAND: Final = "command"
"""By account: everything else, pings and frames that could not be understood."""
ROOM: Final = "room"
"""By room: what becomes an entry, whoever of its members sends it."""
MENTION: Final = "mention_all"
"""By room: messages that call everybody."""
ADDRESS: Final = "address"
"""By source of an address: every frame and every request."""

COSTS: Final[dict[type[c.Command], float]] = {
    c.RoomCreate: 10,
    c.RoomDirect: 5,
    c.RoomJoin: 5,
    c.RoomLeave: 5,
    c.RoomBrowse: 2,
    c.MemberList: 2,
    c.UserFind: 2,
    c.UserUpdate: 10,
    c.CommandSet: 10,
    c.InviteCreate: 5,
    c.UserCreate: 10,
    c.UserRole: 10,
    c.BotCreate: 10,
}
"""Tokens, where it is not one: commands that write much, tell many or read a lot."""

Buckets = list[tuple[str, str]]


def buckets_of(who: Principal, *, is_entry: bool) -> Buckets:
    """Return the buckets that a command is paid from, besides the address.

    That of the room is taken when it is known that who asks may write there: nobody outside empties it, or learns from it.
    """
    if not is_entry:
        return [(COMMAND, who.user_id)]
    return [(MESSAGE, who.user_id)]
