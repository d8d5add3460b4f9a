"""The log of rooms, as services see it. See `securechat.domain.ports`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol, TypeVar

from securechat.domain.accounts import User
from securechat.domain.audit import AuditEvent
from securechat.domain.commands import Rooms, RoomSummary
from securechat.domain.entries import Entry, Page
from securechat.domain.ports.bus import RoomBatch
from securechat.domain.rooms import RoomRole, RoomState
from securechat.errors import Unavailable

T = TypeVar("T")


CmidKey = tuple[str, str, str]
"""(room id, device id, cmid): what a send is known by."""
TargetKey = tuple[str, int]
"""(room id, seq)."""


class LogTransaction(Protocol):
    """One group commit. `load` first, then decide without waiting, then the store writes everything at once.

    Attributes:
        apart: Set by work whose decisions are about one room each: then what holds may be stored without what does not.
    """

    apart: bool

    @property
    def behind(self) -> Collection[str]:
        """Return, after the commit, the rooms of which nothing is stored: another server was ahead. To be decided again.

        Nothing but what is `apart` leaves any behind. `appended` is without theirs then.
        """

    async def load(self, rooms: Collection[str], sent: Collection[CmidKey], targets: Collection[TargetKey]) -> None:
        """Lock and read what the decisions of this batch need. Rooms are locked in the order of their ids."""

    def room(self, room_id: str) -> RoomState | None:
        """Return the room as the entries appended so far leave it. Do not change it: `append` does."""

    def sent(self, key: CmidKey) -> Entry | None:
        """Return the entry that this cmid became, in the store or earlier in this batch."""

    def target(self, key: TargetKey) -> Entry | None:
        """Return an entry as stored: `deleted` is set when it is; `reactions` when asked through `load`."""

    @property
    def appended(self) -> list[Entry]:
        """What was appended so far, in order: always the same list."""

    def append(self, entry: Entry) -> None:
        """Add the next entry of its room. Written, with all that follows from it, when the batch commits."""

    def mark_read(self, user_id: str, room_id: str, seq: int, *, back: bool) -> None:
        """Move a read marker; without `back`, forward only. Written when the batch commits."""

    @property
    def recorded(self) -> list[AuditEvent]:
        """What was added for the audit log so far, in order: always the same list."""

    def record(self, event: AuditEvent) -> None:
        """See `AuditTransaction.record`."""


class Moved(Exception):
    """Rooms are of another lane by now. Nothing is stored: ask `LogStore.lane` again."""


class LogStore(Protocol):
    """The log of every room, and what follows from it.

    A lane is what is stored in one transaction: rooms of two lanes are never in one commit, and lanes do not wait for each other.
    """

    @property
    def lanes(self) -> int:
        """How many lanes there are."""

    def lane(self, room_id: str, /) -> int:
        """Return the lane of a room, 0 to `lanes` - 1. It changes when the room is moved."""

    @property
    def whole(self) -> bool:
        """Whether all rooms can be had, as far as is known: every database answers."""

    def refusal(self, lane: int, /) -> Unavailable | None:
        """Return what somebody is told whose commit would be refused now: the lane's database does not answer. Else None."""

    async def commit(self, work: Callable[[LogTransaction], Awaitable[T]], lane: int = 0, /) -> T:
        """Run `work` in one transaction and return its result after the commit is on the disk.

        One at a time in a lane. When `work` or the commit raises, nothing of it is stored and nothing of it stays in memory. `work`
        is run again, with another transaction, when what it decided on does not hold any more: only its last run counts.

        Args:
            work: Loads rooms of one lane, and decides.
            lane: That of the rooms.

        Raises:
            Moved: A room is of another lane.
            Unavailable: The store does not take it now. Only if the store was lost for good in the middle of it may it be stored
                all the same; a repetition with the same cmids is then answered as the first.
        """

    def hear(self, batches: Sequence[RoomBatch]) -> None:
        """Take a hint of what other servers committed: commits that decide on it need not find it out. Never waits."""

    async def page(self, room_id: str, *, before: int | None = None, after: int | None = None, limit: int) -> Page:
        """Read entries just before or after a `seq`, oldest first, as they are now. A consistent snapshot."""

    async def heads(self, user_id: str) -> Rooms:
        """Return the rooms of a user with `last_seq`, `read_seq`, `unread` and, for a direct room, the peer; what can be had."""

    async def head(self, user_id: str, room_id: str) -> RoomSummary | None:
        """Return one room as `heads` does, whether the user is a member or not."""

    async def room(self, room_id: str, *, user_id: str) -> RoomState | None:
        """Return a room's state as committed, with no member but this one, if they are one."""

    async def read_state(self, user_id: str, room_id: str) -> tuple[int, int]:
        """Return (`read_seq`, `unread`)."""

    async def browse(self, *, user_id: str, query: str, after: str, limit: int) -> Rooms:
        """Return public rooms whose folded name begins with `query` and comes after `after`, by folded name; what can be had."""

    async def lookup(self, user_id: str, name: str) -> list[str]:
        """Return the ids of the rooms that a name fits best, oldest first: more than one when nothing tells them apart.

        A name that fits exactly goes before one that fits without case, then a room that the user is in before a public one.

        Raises:
            Unavailable: There is none that can be had, and rooms that cannot be had now.
        """

    async def count_rooms(self, user_id: str) -> int:
        """Return how many rooms a user is in, without those that cannot be had now."""

    async def newest(self, room_ids: Collection[str]) -> dict[str, int]:
        """Return the newest `seq` of each of these rooms that exists and can be had. What was committed before is in it."""

    async def rooms_of(self, user_ids: Collection[str]) -> dict[str, set[str]]:
        """Return the rooms of each of these users that can be had (see `refusal`); who is in none is missing."""

    async def members(self, room_id: str, *, after: str = "", limit: int) -> list[tuple[User, RoomRole]]:
        """Return at most `limit` members of a room whose ids come after `after`, by id."""
