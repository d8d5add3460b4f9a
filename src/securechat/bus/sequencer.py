"""Sequencer: what several servers commit reaches the hub of this one in the order of each room, each entry once, none left out.

What comes over a network is late, double, out of order, or lost; the database is the truth. So of every room that somebody here
hears, the position is known: the newest `seq` that the hub got. What is at or below it is dropped. What lies beyond the next one is
held, and if the gap is not closed in a moment, it is read from the log. A poll of the rooms' newest `seq` finds what was lost
without a trace, and looks again soon when it did. Whoever notices a loss (a counter that skips, a bus that was down, a server that
vanished) says so by `suspect`, and then also the memberships of everybody here are compared with the store: a join into a room that
nobody heard leaves no gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from securechat.bus.audience import Audience
from securechat.bus.followed_room import FollowedRoom
from securechat.bus.memberships import CHUNK, Memberships, chunks
from securechat.domain.commands import RoomSummary
from securechat.domain.entries import CHANGES_AUDIENCE, Entry, EntryType
from securechat.domain.ports import LogStore, RoomBatch, Signal
from securechat.errors import ChatError

log = logging.getLogger(__name__)

GAP_S: Final = 0.02
"""What is missing is most likely on its way: so long it is waited for."""
POLL_S: Final = 1.0
"""Between two looks at the newest `seq` of the rooms that are heard here."""
RESYNC_S: Final = 60.0
"""Between two comparisons of memberships that nobody asked for."""
HASTE_S: Final = 0.25
"""Between two looks that somebody asked for."""
AGAIN_S: Final = 0.1
"""After a look that found what had been lost: a bus that is down loses all, and this is how late everybody gets it."""
AGAIN_SHARE: Final = 4
"""But so many times as long as the look took, at least: that may go on for hours."""
PAGE: Final = 200
ECHOES: Final = 8
"""Comparisons after one that came while snapshots were being read: who was not here yet may have missed the same."""
AT_ONCE: Final = 4
"""Rooms that are read at the same time: the commits need the database, too."""


@dataclass(slots=True)
class Figures:
    """What the sequencer did since the start."""

    repeated: int = 0
    """Entries that came again, and were dropped."""
    held: int = 0
    """Entries that came before one that was to come first."""
    healed: int = 0
    """Entries read from the log because they did not come."""


class Sequencer:
    """Between a bus and the hub. It is what the bus delivers to, and what the hub tells of its rooms (`gateway.hub.Follower`).

    `run` has to run. Times are those of the running loop.

    Args:
        audience: The hub.
        store: The truth.
        gap_s, poll_s, resync_s: See the constants.

    Attributes:
        memberships: Whether everybody here hears their rooms.
        figures: For metrics.
    """

    def __init__(
        self, audience: Audience, store: LogStore, *, gap_s: float = GAP_S, poll_s: float = POLL_S, resync_s: float = RESYNC_S
    ) -> None:
        self._audience = audience
        self._store = store
        self._gap_s = gap_s
        self._poll_s = poll_s
        self._resync_s = resync_s
        self._rooms: dict[str, FollowedRoom] = {}
        self._passing: set[str] = set()
        """Rooms of `_rooms` that nobody heard a moment ago, and that may matter to somebody who is expected."""
        self._due: dict[str, float] = {}
        """Rooms with a gap → when to read what is missing."""
        self._unsure: set[str] = set()
        """Rooms of `_due` of which nothing says that they have a gap."""
        self._suspicions = 0
        self._cleared = 0
        """How many suspicions were followed by a comparison."""
        self._echoes = 0
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self.memberships = Memberships(audience, store, self._has_reached)
        self.figures = Figures()

    @property
    def followed(self) -> int:
        """How many rooms are followed."""
        return len(self._rooms)

    # ── what the hub says ────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, room_id: str, seq: int) -> None:
        """Somebody hears a room from `seq` on, and everything before is known to them."""
        room = self._rooms.get(room_id)
        if room is None:
            self._rooms[room_id] = FollowedRoom(seq)
        elif seq < room.position:
            # Others knew more from their snapshots, and the hub never got it: for this one it is still to come, now.
            room.go_back(seq)
            self._read(room_id, 0.0)
        self._passing.discard(room_id)

    def since(self, room_id: str) -> int:
        """Return the `seq` after which everything of a room came here; 0 of a room of which nothing did."""
        room = self._rooms.get(room_id)
        return 0 if room is None else room.since

    def unfollow(self, room_id: str) -> None:
        """Nobody hears a room any more. Not forgotten at once: somebody may enter later in the block that is being delivered."""
        self._passing.add(room_id)

    def settle(self) -> None:
        """Nobody is expected any more: what nobody hears is nothing to us."""
        for room_id in self._passing:
            if not self._matters(room_id):
                self._rooms.pop(room_id, None)
        self._passing.clear()

    def _matters(self, room_id: str) -> bool:
        """Return whether somebody here hears a room, or will when what they wait for is there."""
        if self._audience.hears(room_id):
            return True
        room = self._rooms.get(room_id)
        waiting = room.held.values() if room is not None else ()
        return any(entry.type is EntryType.MEMBER_JOINED and self._audience.is_online(entry.member or "") for entry in waiting)

    # ── what the bus brings ──────────────────────────────────────────────────────────────────────────────────────────

    def wants(self, room_id: str, joined: Iterable[str]) -> bool:
        """Return whether a batch of this room, in which these users joined, matters here."""
        return room_id in self._rooms or self._audience.expecting or any(map(self._audience.is_online, joined))

    def receive(self, batches: Sequence[RoomBatch]) -> None:
        """Take what another server committed, from the bus or the log. Never waits."""
        self._store.hear(batches)
        self.deliver(batches)

    def deliver(self, batches: Sequence[RoomBatch]) -> None:
        """Hand on what is in order, and hold or drop the rest. Never waits."""
        ready: list[RoomBatch] = []
        for batch in batches:
            room = self._rooms.get(batch.room) or self._begin(batch)
            if room is None:
                continue
            entries = batch.entries
            if entries[0].seq == room.position + 1 and not room.held:
                room.position = entries[-1].seq
                ready.append(batch)
            else:
                ready += self._sort(room, batch)
        if ready:
            self._audience.deliver(ready)

    def show(self, signal: Signal) -> None:
        """See `Receiver.show`."""
        self._audience.show(signal)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """See `Receiver.disconnect`."""
        self._audience.disconnect(user_id=user_id, device_ids=device_ids, code=code)

    def suspect(self) -> None:
        """Something may have been lost: look now."""
        self._suspicions += 1
        self._echoes = ECHOES
        self._wake.set()

    async def sure(self) -> None:
        """See `Follower.sure`."""
        self.suspect()
        suspicion = self._suspicions
        while self._cleared < suspicion or self.memberships.doubted:
            await self._looked.wait()

    def _begin(self, batch: RoomBatch) -> FollowedRoom | None:
        """Follow a room that nobody heard, if it matters from this batch on."""
        if self._audience.expecting:
            self._passing.add(batch.room)
        elif any(entry.type is EntryType.MEMBER_JOINED and self._audience.is_online(entry.member or "") for entry in batch.entries):
            # What follows the join may have come before it, when the room meant nothing here.
            self._suspect_room(batch.room)
        else:
            return None
        room = self._rooms[batch.room] = FollowedRoom(batch.entries[0].seq - 1)
        return room

    def _sort(self, room: FollowedRoom, batch: RoomBatch) -> list[RoomBatch]:
        """Take in what is not simply next; return what is in order now."""
        ready, opened, repeated = room.sort(batch)
        self.figures.repeated += len(repeated)
        self.figures.held += len(batch.entries) - len(repeated)
        for entry in repeated:
            if entry.type in CHANGES_AUDIENCE and self.memberships.doubt(entry):
                self._wake.set()
        if room.lacks:
            self._read(batch.room, self._gap_s)
        return [RoomBatch(batch.room, ready, opened)] if ready else []

    def _read(self, room_id: str, after_s: float) -> None:
        """Have what a room lacks read from the log, if it does not come by then."""
        due = asyncio.get_running_loop().time() + after_s
        if due < self._due.get(room_id, float("inf")):
            self._due[room_id] = due
            self._wake.set()

    def _has_reached(self, room_id: str, seq: int) -> bool:
        """Return whether the hub got a room exactly up to a `seq`; have what it lacks read."""
        room = self._rooms.get(room_id)
        if room is None:
            room = self._rooms[room_id] = FollowedRoom(seq)
        if room.position < seq:
            room.known = max(room.known, seq)
            self._read(room_id, 0.0)
        return room.position == seq

    def _suspect_room(self, room_id: str) -> None:
        self._unsure.add(room_id)
        self._due[room_id] = 0.0
        self._wake.set()

    # ── what is read ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Close gaps, and look for what was lost, for ever."""
        loop = asyncio.get_running_loop()
        looked_at, looked_for = loop.time(), 0.0
        poll_at, resync_at = looked_at + self._poll_s, looked_at + self._resync_s
        while True:
            now = loop.time()
            if self._suspicions > self._cleared or self.memberships.doubted:
                poll_at = min(poll_at, looked_at + HASTE_S)
            wait = min([poll_at, *self._due.values()]) - now
            if wait > 0:
                self._wake.clear()
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            try:
                if self._due:
                    healed = self.figures.healed
                    await self._close_gaps(now)
                    if self.figures.healed > healed:  # What is lost is seldom alone: the bus may be down.
                        poll_at = min(poll_at, looked_at + max(AGAIN_S, AGAIN_SHARE * looked_for))
                if poll_at <= now:
                    looked_at, poll_at = now, now + self._poll_s
                    resync = self._suspicions > self._cleared or now >= resync_at
                    if resync:
                        resync_at = now + self._resync_s
                        if self._echoes and self._audience.expecting:
                            self._echoes -= 1
                            resync_at = now + self._poll_s
                    await self._look(resync=resync)
                    looked_for = loop.time() - looked_at
            except ChatError as error:
                self._suspicions += self.memberships.doubted
                poll_at = loop.time() + self._poll_s
                log.warning("what was lost cannot be read now", extra={"code": error.code, "rooms": len(self._due)})

    async def _close_gaps(self, now: float) -> None:
        """Read what is missing where it is time to."""
        due = [room_id for room_id, at in self._due.items() if at <= now]
        for some in chunks(due, AT_ONCE):
            for room_id in some:
                self._due[room_id] = now + self._poll_s  # Again then, if the store does not answer.
            results = await asyncio.gather(*(self._heal(room_id) for room_id in some), return_exceptions=True)
            for room_id, result in zip(some, results, strict=True):
                if isinstance(result, ChatError):
                    log.warning("what was lost cannot be read now", extra={"code": result.code, "room": room_id})
                    continue  # Where its database does not answer. Others may be elsewhere.
                if isinstance(result, BaseException):
                    raise result
                self._unsure.discard(room_id)
                room = self._rooms.get(room_id)
                if room is None or not room.lacks:
                    self._due.pop(room_id, None)

    async def _heal(self, room_id: str) -> None:
        """Read what a room lacks, up to the end of its log."""
        room = self._rooms.get(room_id)
        if room is not None and not room.lacks and room_id not in self._unsure:
            return  # It came.
        while room is not None and self._rooms.get(room_id) is room:
            before = room.position
            page = await self._store.page(room_id, after=before, limit=PAGE)
            opened: dict[str, RoomSummary] = {}
            while joined := self._joiners_here(page.entries) - opened.keys():  # Others may come online while one is read.
                for member in joined:
                    summary = await self._store.head(member, room_id)
                    if summary is None:
                        return  # The room is gone.
                    opened[member] = summary
            if self._rooms.get(room_id) is not room:
                return
            room.known = page.last_seq if not page.entries else max(room.known, page.last_seq)
            lacking = [entry for entry in page.entries if entry.seq > room.position]
            if not lacking:
                if not room.lacks or not page.entries:
                    return
                continue
            self.figures.healed += len(lacking)
            self.receive([RoomBatch(room_id, lacking, opened)])
            if not room.lacks:
                return

    def _joiners_here(self, entries: Iterable[Entry]) -> set[str]:
        """Return who joins in these entries and has a connection here, or is being let in: they are told which room it is."""
        joiners = {entry.member or "" for entry in entries if entry.type is EntryType.MEMBER_JOINED}
        return {member for member in joiners if self._audience.is_online(member) or self._audience.is_expected(member)}

    async def _look(self, *, resync: bool) -> None:
        """Compare with the store: where each room is, what is in doubt, and if asked for who is where."""
        suspicions = self._suspicions  # Before anything is read: what is suspected meanwhile is looked at the next time.
        try:
            await self._poll()
            if resync:
                await self.memberships.compare()
            await self.memberships.settle()
        except BaseException:
            self._suspicions += resync
            raise
        if resync:
            self._cleared = suspicions
        self._looked.set()
        self._looked.clear()

    async def _poll(self) -> None:
        expecting = self._audience.expecting
        for room_id in [room_id for room_id in self._rooms if not expecting and not self._matters(room_id)]:
            del self._rooms[room_id]
        for some in chunks(list(self._rooms), CHUNK):
            before = {room_id: room.position for room_id in some if (room := self._rooms.get(room_id)) is not None}
            for room_id, newest in (await self._store.newest(list(before))).items():
                room = self._rooms.get(room_id)
                if room is None:
                    continue
                if newest > room.position:
                    room.known = max(room.known, newest)
                    self._read(room_id, self._gap_s)
                elif newest < before[room_id]:
                    log.error("a room's log is shorter than it was", extra={"room": room_id, "was": room.position, "is": newest})
                    self._rooms[room_id] = FollowedRoom(newest)
