"""RedisBus: several servers as one, by way of Redis.

What was committed together goes out as one message for each channel, and then to the people here: Redis takes it into a buffer and
is in nobody's way. What Redis loses, the sequencer finds in the log.

A cluster has 16 channels, and a room or a user belongs to one of them, by a hash of the id; one node alone has one. A server is
subscribed to all: with more than a few hundred people it would need nearly all of them anyway, and whose rooms nobody hears here
are skipped without being decoded.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from securechat.bus.envelope import (
    Ask,
    Batch,
    Bye,
    Disconnect,
    Envelope,
    Forged,
    Item,
    Present,
    Sign,
    Stale,
    Unknown,
    of_batch,
    of_signal,
    open_sealed,
    seal,
    sender_of,
)
from securechat.bus.links import Links
from securechat.bus.sequencer import Sequencer
from securechat.bus.shared_limits import SharedLimits
from securechat.domain.entries import EntryType
from securechat.domain.ports import ROLES, STALE, Clock, RoomBatch, Signal

log = logging.getLogger(__name__)

CHANNELS: Final = 16
BEAT_S: Final = 1.0
"""Between two signs of life on each channel."""
GONE_S: Final = 3.5
"""Who is silent for so long is gone."""
YOUNG_MS: Final = 60_000
"""How old the first message of a sender may be."""
PAST_S: Final = 2 * YOUNG_MS / 1_000
"""How long it is known what a server said that is gone: as long as it could be taken for young, whichever clock is ahead."""
LEAVE_S: Final = 0.5
ASK_S: Final = 1.0
"""Answers to the question who is online are this far apart."""
PIECE: Final = 10_000
"""Places of people in rooms that one message tells of: a server full of people is a few hundred KB at a time."""


Presence = dict[str, dict[str, bool]]
"""By room: user → whether they are online."""


class Elsewhere(Protocol):
    """Who wants to know who is online at other servers."""

    def present(self, server: bytes, rooms: Mapping[str, Mapping[str, bool]], *, first: bool) -> None:
        """Take over what a server says of its people; `first`: nothing that it said before counts."""

    def gone(self, server: bytes) -> None:
        """A server ended, or is silent."""

    def roster(self) -> Mapping[str, Mapping[str, bool]]:
        """Return who is online here: by room, user → True."""


@dataclass(slots=True)
class Refusals:
    """Messages that were not taken, since the start."""

    forged: int = 0
    """Without a mark of our key."""
    repeated: int = 0
    """Again, or too old."""
    unknown: int = 0
    """Items that this version does not know: of a newer one."""
    mistakes: int = 0
    """That could not be taken because of a mistake of ours."""


class _Peer:
    """Another server: when it was heard last, and the number of its newest message on each channel."""

    __slots__ = ("gone_at", "heard_at", "numbers", "roster")

    def __init__(self) -> None:
        self.heard_at = self.gone_at = 0.0
        self.roster: Presence | None = None
        """Who is online there, as far as it was told, while the rest is on its way."""
        self.numbers: dict[bytes, int] = {}


class RedisBus:
    """See `MessageBus`.

    Args:
        url: See `Links`.
        key: The bus key, the same on all servers.
        sequencer: Gets everything, from here and from there, and hands it to the hub in order.
        clock: For the age of messages.
        prefix: What the names of channels begin with.

    Attributes:
        elsewhere: Who wants to know who is online at other servers.
        limits: What is shared of the limits.
    """

    def __init__(self, url: str, key: bytes, sequencer: Sequencer, clock: Clock, *, prefix: str = "securechat") -> None:
        self._key = key
        self._sequencer = sequencer
        self._clock = clock
        names = [f"{prefix}:{number}".encode() for number in range(CHANNELS)]
        self.links = Links(url, names, self._received, self._changed)
        self._channels = names if self.links.is_cluster else names[:1]
        self.sender = secrets.token_bytes(8)
        self._numbers = dict.fromkeys(names, 0)
        self._pending: dict[bytes, list[Item]] = {}
        self._peers: dict[bytes, _Peer] = {}
        self._past: dict[bytes, _Peer] = {}
        """Who is gone, as long as what they said is young: else it could be said again by whoever kept it."""
        self._stale: dict[str, Callable[[str], None]] = {}
        self._asked = False
        self._answered_at = float("-inf")
        self.refusals = Refusals()
        self.limits = SharedLimits(self.links, self._channels, key)
        self.elsewhere: Elsewhere | None = None

    @property
    def peers(self) -> int:
        """How many other servers there are."""
        return len(self._peers)

    # ── from here ────────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, batches: Sequence[RoomBatch]) -> None:
        """See `MessageBus.publish`."""
        for batch in batches:
            joined = [entry.member for entry in batch.entries if entry.type is EntryType.MEMBER_JOINED and entry.member]
            self._put(batch.room, of_batch(batch, joined))
        self._flush()  # Before own people are written to: that takes a millisecond for a hundred of them, and Redis waits for none.
        self._sequencer.deliver(batches)

    def signal(self, signal: Signal) -> None:
        """See `MessageBus.signal`."""
        self._sequencer.show(signal)
        self._put(signal.user or signal.room, of_signal(signal))

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """See `MessageBus.disconnect`."""
        self._sequencer.disconnect(user_id=user_id, device_ids=device_ids, code=code)
        self._put(user_id, Disconnect(user_id, None if device_ids is None else list(device_ids), code))

    def invalidate(self, what: str, key: str) -> None:
        """See `MessageBus.invalidate`."""
        self._put(key, Stale(what, key))

    def on_stale(self, what: str, forget: Callable[[str], None]) -> None:
        """See `MessageBus.on_stale`."""
        self._stale[what] = forget

    def show_presence(self, rooms: Mapping[str, Mapping[str, bool]]) -> None:
        """Tell the other servers who came and went here."""
        self._add(self._channels[0], Present({room: dict(people) for room, people in rooms.items()}, first=False))

    def _put(self, key: str, item: Item) -> None:
        self._add(self._channels[zlib.crc32(key.encode()) % len(self._channels)], item)

    def _add(self, channel: bytes, item: Item) -> None:
        if not self._pending:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pending.setdefault(channel, []).append(item)

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for channel, items in pending.items():
            self._send(channel, items)

    def _send(self, channel: bytes, items: Sequence[Item]) -> None:
        # The number is used up also when the message is dropped: so the others know that they did not get it.
        self._numbers[channel] = number = self._numbers[channel] + 1
        self.links.put(channel, seal(self._key, channel, self.sender, number, self._clock.now_ms(), items))

    # ── from there ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _received(self, channel: bytes, message: bytes) -> None:
        if sender_of(message) == self.sender:
            return
        try:
            self._open(channel, message)
        except Exception:
            # A mistake of ours: the next message may be fine, and what was lost with this one is in the log.
            self.refusals.mistakes += 1
            if self.refusals.mistakes == 1:
                log.exception("a message on the bus could not be taken; more are only counted")
            self._sequencer.suspect()

    def _open(self, channel: bytes, message: bytes) -> None:
        try:
            envelope = open_sealed(self._key, channel, message)
        except Forged:
            self.refusals.forged += 1
            if self.refusals.forged == 1:
                log.warning("a message on the bus was not made with our key; more are only counted")
            return
        peer = self._peer_of(channel, envelope)
        if peer is None:
            self.refusals.repeated += 1
            return
        batches: list[RoomBatch] = []
        for item in envelope.items:
            try:
                if type(item) is not Batch:
                    self._take(envelope.sender, item)
                elif self._sequencer.wants(item.room, item.joined):
                    batches.append(item.open())
            except Unknown:
                self.refusals.unknown += 1
                self._sequencer.suspect()
        if batches:
            self._sequencer.receive(batches)

    def _peer_of(self, channel: bytes, envelope: Envelope) -> _Peer | None:
        """Return who sent it, if it is to be taken."""
        sender = envelope.sender
        peer = self._peers.get(sender) or self._past.get(sender) or _Peer()
        last = peer.numbers.get(channel)
        if (sender not in self._peers or last is None) and abs(self._clock.now_ms() - envelope.at) > YOUNG_MS:
            if not self.refusals.repeated:
                log.warning("a message on the bus is not of this minute: compare the clocks of the servers; more are only counted")
            return None
        if last is not None and envelope.number <= last:
            return None
        if sender not in self._peers:
            self._past.pop(sender, None)
            self._peers[sender] = peer
            log.info("another server is there", extra={"servers": len(self._peers) + 1})
            self._ask()
        if envelope.number > (last or 0) + 1:  # Who is heard for the first time may have spoken before, while we were here.
            peer.roster = None
            self._lost()
        peer.numbers[channel] = envelope.number
        peer.heard_at = self._clock.monotonic()
        return peer

    def _take(self, sender: bytes, item: Item) -> None:
        match item:
            case Sign():
                self._sequencer.show(item.open())
            case Disconnect():
                self._sequencer.disconnect(user_id=item.user, device_ids=item.devices, code=item.code)
            case Stale():
                self._forget(item.what, item.key)
            case Present():
                self._present(sender, item)
            case Ask():
                self._asked = True
                self._answer()
            case Bye():
                self._gone(sender)

    def _present(self, sender: bytes, item: Present) -> None:
        if self.elsewhere is None:
            return
        peer = self._peers[sender]
        rooms, first = item.rooms, item.first
        if peer.roster is not None and not first:
            for room_id, people in rooms.items():
                peer.roster.setdefault(room_id, {}).update(people)
            rooms, first = peer.roster, True
        peer.roster = rooms if item.more and first else None  # Without its beginning, the rest waits for the next answer.
        if not item.more:
            self.elsewhere.present(sender, rooms, first=first)

    # ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _lost(self) -> None:
        """Something did not come: whatever it was, look for it."""
        self._sequencer.suspect()
        self._forget_all()
        self._ask()

    def _forget_all(self) -> None:
        for what in STALE:
            self._forget(what)

    def _forget(self, what: str, key: str = "") -> None:
        if what in self._stale:
            self._stale[what](key)

    def _changed(self) -> None:
        """A node came back, or went."""
        self._lost()
        self._asked = True

    def _gone(self, sender: bytes) -> None:
        peer = self._past[sender] = self._peers.pop(sender)
        peer.gone_at = self._clock.monotonic()
        self._sequencer.suspect()  # It may have ended between a commit and its message.
        if self.elsewhere is not None:
            self.elsewhere.gone(sender)

    def _ask(self) -> None:
        channel = self._channels[0]
        if not any(type(item) is Ask for item in self._pending.get(channel, ())):
            self._add(channel, Ask())

    def _answer(self) -> None:
        """Tell who is online here, if somebody asked, and not too often."""
        now = self._clock.monotonic()
        if not self._asked or now - self._answered_at < ASK_S or self.elsewhere is None:
            return
        self._asked = False
        self._answered_at = now
        roster = self.elsewhere.roster()
        # Everything about presence is on one channel: so it comes in the order in which it was said.
        self._flush()
        pieces = _pieces(roster)
        for number, rooms in enumerate(pieces):
            self._send(self._channels[0], [Present(rooms, first=number == 0, more=number < len(pieces) - 1)])

    async def run(self) -> None:
        """Be connected, and show that we live, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.links.run(), name="bus links")
            group.create_task(self._beat(), name="bus beat")

    async def _beat(self) -> None:
        while True:
            now = self._clock.monotonic()
            for sender in [sender for sender, peer in self._peers.items() if now - peer.heard_at > GONE_S]:
                log.warning("another server is silent", extra={"servers": len(self._peers)})
                self._gone(sender)
                self._forget_all()  # It may have changed any of it, and ended before it said so.
            for sender in [sender for sender, peer in self._past.items() if now - peer.gone_at > PAST_S]:
                del self._past[sender]
            if self.links.problem:
                self._sequencer.suspect()
                self._forget(ROLES)  # Rights are looked up all the time then; the rest when Redis is back.
            self._answer()
            for channel in self._channels:
                self._send(channel, ())
            await asyncio.sleep(BEAT_S)

    async def leave(self, within_s: float = LEAVE_S) -> None:
        """Say goodbye, and return when everything went out, or after this time."""
        self._flush()
        self._send(self._channels[0], [Bye()])
        await self.links.sent(within_s)


def _pieces(roster: Mapping[str, Mapping[str, bool]]) -> list[Presence]:
    """Cut who is online in which room into pieces; one at least."""
    found: list[Presence] = [{}]
    left = PIECE
    for room_id, people in roster.items():
        everybody = list(people.items())
        while everybody:
            if not left:
                found.append({})
                left = PIECE
            found[-1][room_id] = dict(everybody[:left])
            everybody, left = everybody[left:], left - len(found[-1][room_id])
    return found
