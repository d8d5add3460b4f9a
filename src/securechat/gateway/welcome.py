"""Letting a connection in: what is between a token and `ready`, and what the client is told then."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from securechat.auth.manager import Holder
from securechat.domain.accounts import Principal
from securechat.domain.limits import LIMITS
from securechat.errors import Unavailable
from securechat.gateway.arrival import Arrival, Outdated
from securechat.gateway.session import Session
from securechat.protocol import frames as f

if TYPE_CHECKING:
    from securechat.gateway.connection import ClientConnection

SNAPSHOTS: Final = 5
"""How often the rooms are read for one connection: again when what was heard meanwhile makes the snapshot too old."""

Behind = list[tuple[str, int, int]]
"""(room, after, up to): what a client has not seen of its rooms."""


def within_reach(after: int, last_seq: int) -> bool:
    """Return whether a client that holds everything up to `after` gets all that is newer, or only the newest page."""
    return 0 <= last_seq - after <= LIMITS.resume_entries


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a client is told when it is let in.

    Attributes:
        principal: Who it is, with the role of now.
        ready: The first frame.
        changes: What changed since `ready` was read: the frames behind it.
        behind: What follows those.
    """

    principal: Principal
    ready: f.Ready
    changes: list[f.SignalFrame]
    behind: Behind


async def let_in(session: Session, connection: ClientConnection, auth: f.Auth) -> Welcome | None:
    """Attach a connection to the rooms of whoever holds the token; None when it went meanwhile.

    What is delivered to it from then on comes after what `Welcome` tells.

    Raises:
        Unauthorized: Nobody holds the token any more.
        RateLimited: They come too often, or have too many connections.
        Unavailable: Too many come at once, or the rooms change faster than they can be read.
    """
    async with session.arrival():
        if connection.ending:
            return None  # Who went while it waited costs nothing.
        holder = await session.holder(auth.token)
        # Before the session is read: what ends it from here on finds the connection among those that are expected.
        session.expect(connection, holder.user_id, holder.device_id)
        try:
            attached = await _attach(session, connection, holder)
        finally:
            session.forget(connection, holder.user_id)
    return None if attached is None else _welcome(auth, *attached)


async def _attach(session: Session, connection: ClientConnection, holder: Holder) -> tuple[Principal, f.Ready, Arrival] | None:
    for number in range(SNAPSHOTS):
        known = await session.known(holder)
        if not number:
            session.make_room(known.principal)
        ready = await session.ready(known)
        if connection.ending:
            return None
        with suppress(Outdated):
            arrival = session.attach(connection, holder.user_id, {room.id: room.last_seq for room in ready.rooms})
            return known.principal, ready, arrival
    raise Unavailable(retry_after_ms=1_000)


def _welcome(auth: f.Auth, principal: Principal, ready: f.Ready, arrival: Arrival) -> Welcome:
    if arrival.role is not None:
        ready.user = msgspec.structs.replace(ready.user, role=arrival.role)
    behind: Behind = []
    for room in ready.rooms:
        after = auth.resume.get(room.id)
        if after is not None:
            room.resumed = within_reach(after, room.last_seq)
            behind.append((room.id, after, room.last_seq))
    ready.id = auth.id
    ready.resumed = all(room.resumed is not False for room in ready.rooms)
    gone = [f.SignalFrame(type="room.closed", room=room) for room in arrival.gone]
    opened = [f.SignalFrame(type="room.opened", summary=summary) for summary in arrival.opened]
    return Welcome(
        # The role of now: it may have changed since the token was looked at.
        principal=msgspec.structs.replace(principal, role=ready.user.role),
        ready=ready,
        changes=gone + opened,
        behind=behind + arrival.missed,
    )
