"""Session: what a connection needs of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from securechat.auth.manager import Holder
from securechat.domain.accounts import Principal
from securechat.domain.commands import Command
from securechat.domain.entries import Entry
from securechat.domain.ports import SessionRecord
from securechat.domain.secret import Secret
from securechat.errors import SessionRefused
from securechat.gateway.arrival import Arrival
from securechat.gateway.connection_limits import Connections
from securechat.gateway.fence import Fence
from securechat.ops.metrics import Counters
from securechat.protocol import frames as f
from securechat.protocol.handshake import ServerHandshake

if TYPE_CHECKING:
    from securechat.gateway.connection import ClientConnection


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who comes in.

    Attributes:
        principal: Who.
        session: Their session, with whom they blocked.
    """

    principal: Principal
    session: SessionRecord


class Session(Protocol):
    """What a connection needs of the server."""

    counters: Counters
    server_name: Callable[[], str]
    key_root: Callable[[], str]
    connections: Connections
    draining: bool
    fence: Fence

    def note_refusal(self, who: Principal | None, address: str, refused: SessionRefused) -> None:
        """Remember that what a client sent could not be a part of its session."""

    def mark(self, connection: ClientConnection) -> None:
        """Have the connection flushed in this turn."""

    async def answer(self, handshake: ServerHandshake, address: str) -> list[bytes]:
        """Compute the answer to a ClientHello, in its turn; or raise `RateLimited` or `Unavailable`."""

    def arrival(self) -> AbstractAsyncContextManager[None]:
        """Give a turn to be let in; or raise `Unavailable` when too many come at once."""

    async def holder(self, token: Secret) -> Holder:
        """Return whose a token is; or raise `Unauthorized`."""

    def expect(self, connection: ClientConnection, user_id: str, device_id: str) -> None:
        """Note from now on what happens to a session, whose `ready` is about to be read."""

    def forget(self, connection: ClientConnection, user_id: str) -> None:
        """Do not expect the connection any more."""

    async def known(self, holder: Holder) -> Known:
        """Return who that is now; or raise `Unauthorized` when there is no session, or no more."""

    def make_room(self, principal: Principal) -> None:
        """Keep an account within its number of connections; or raise `RateLimited`."""

    async def ready(self, known: Known) -> f.Ready:
        """Return what `ready` says to somebody."""

    def attach(self, connection: ClientConnection, user_id: str, rooms: Mapping[str, int]) -> Arrival:
        """Let the connection hear its rooms, each from a `seq` on; return what changed since that was read.

        Raises:
            Unauthorized: The session ended since.
            Outdated: That has to be read again.
        """

    def online_in(self, rooms: Iterable[str]) -> dict[str, str]:
        """Return who is online in these rooms."""

    def detach(self, connection: ClientConnection, user_id: str) -> None:
        """Forget the connection."""

    async def newest(self, principal: Principal, room: str) -> int:
        """Return the newest `seq` of a room that this principal may read."""

    def missed(self, principal: Principal, room: str, after: int, last_seq: int) -> AsyncIterator[list[Entry]]:
        """Give everything after a `seq` up to another in pages; or the newest page, when that is out of reach.

        It ends when the principal is no member any more.
        """

    async def who(self, token: Secret) -> Principal:
        """Return who holds the token."""

    def charge(self, who: Principal | None, cost: float, address: str) -> None:
        """Take tokens for what is no command, of the address and of whoever it is, or raise `RateLimited`."""

    def dispatch(self, who: Principal, command: Command, address: str, done: Callable[[Any], None]) -> None:
        """Handle a command."""
