"""SubscriptionService: where else a room's entries are sent, and what could not be delivered there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from securechat.domain import commands as c
from securechat.domain import policy
from securechat.domain.accounts import Principal
from securechat.domain.audit import by
from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import Clock, LogStore, LogTransaction, SecretBox
from securechat.domain.secret import Secret
from securechat.domain.subscriptions import (
    PURPOSE,
    ROOM_MAX,
    SUBSCRIPTION,
    DeadLetterRecord,
    SubscriptionRecord,
    SubscriptionState,
    SubscriptionStore,
    clean_types,
)
from securechat.errors import Conflict, NotFound
from securechat.services.room_log import Operation, RoomLog

HOUR_MS: Final = 3_600_000


class _Named(Protocol):
    """A command about one subscription."""

    room: str
    subscription: str


class SubscriptionService:
    """Subscriptions, for whoever owns the room, and for the operator.

    Args:
        store: Where they are.
        log_store: Where rooms are read.
        room_log: The room is told when it gets or loses one.
        secrets: Seals what signs.
        check: Returns the host of a URL if events may be sent there now, or raises `InvalidInput`.
        host_of: Returns the host of a URL that was taken.
        clock: Time.
        new_id: Makes ids.
        new_secret: Makes what signs.
        changed: Called when something is to be looked at again.
    """

    def __init__(
        self,
        store: SubscriptionStore,
        log_store: LogStore,
        room_log: RoomLog,
        secrets: SecretBox,
        check: Callable[[str], Awaitable[str]],
        host_of: Callable[[str], str],
        clock: Clock,
        new_id: Callable[[str], str],
        new_secret: Callable[[], Secret],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._log_store = log_store
        self._room_log = room_log
        self._secrets = secrets
        self._check = check
        self._host_of = host_of
        self._clock = clock
        self._new_id = new_id
        self._new_secret = new_secret
        self._changed = changed

    async def create(self, who: Principal, command: c.SubscriptionCreate) -> c.SubscriptionCreated:
        """Add one. The room is told first, then the first entry goes out: nobody is read elsewhere without having been told.

        Raises:
            InvalidInput: Nothing may be sent to this URL, or a type does not exist.
            Conflict: The room has too many.
        """
        await self._require(who, "subscription.create", command.room)
        types = clean_types(command.types)
        host = await self._check(command.url)
        secret, name, now = self._new_secret(), self._new_id(SUBSCRIPTION), self._clock.now_ms()
        sealed = self._secrets.seal(secret.reveal().encode(), purpose=PURPOSE, owner=name)
        record = SubscriptionRecord(
            name, command.room, command.url, types, SubscriptionState.PENDING, "", 0, sealed, None, 0, who.user_id, now
        )
        if not await self._store.add(record):
            raise Conflict(f"A room has at most {ROOM_MAX} subscriptions. Delete one first.")
        try:
            cursor = await self._tell(who, "subscription.create", record, subscribed=host)
        except BaseException:
            await self._store.remove(name)
            raise
        await self._store.activate(name, cursor)
        self._changed()
        return c.SubscriptionCreated(subscription=await self._shown(name), secret=secret.reveal())

    async def list_subscriptions(self, who: Principal, command: c.SubscriptionList) -> c.Subscriptions:
        """List those of a room."""
        await self._require(who, "subscription.list", command.room)
        return c.Subscriptions(subscriptions=await self._all_of(command.room))

    async def overview(self, who: Principal, _command: c.SubscriptionOverview) -> c.Subscriptions:
        """List those of all rooms."""
        policy.require(who, "subscription.overview")
        return c.Subscriptions(subscriptions=await self._all_of(""))

    async def delete(self, who: Principal, command: c.SubscriptionDelete) -> c.Done:
        """Remove one with its dead letters, and tell the room."""
        record = await self._find(who, "subscription.delete", command)
        host = self._host_of(record.url)
        if await self._store.remove(record.id):
            self._changed()
            await self._tell(who, "subscription.delete", record, unsubscribed=host)
        return c.Done()

    async def pause(self, who: Principal, command: c.SubscriptionPause) -> c.Subscriptions:
        """Send nothing until it is resumed.

        Raises:
            Conflict: It is not active.
        """
        record = await self._find(who, "subscription.pause", command)
        event = by(who, "subscription.pause", room=record.room, subscription=record.id)
        if not await self._store.pause(record.id, event):
            raise Conflict("This subscription is not active.")
        self._changed()
        return c.Subscriptions(subscriptions=[await self._shown(record.id)])

    async def resume(self, who: Principal, command: c.SubscriptionResume) -> c.Subscriptions:
        """Go on where it was.

        Raises:
            Conflict: It is active, or was never finished.
        """
        record = await self._find(who, "subscription.resume", command)
        event = by(who, "subscription.resume", room=record.room, subscription=record.id)
        if not await self._store.resume(record.id, event):
            raise Conflict("This subscription is active, or its making was interrupted: then delete it, and create another.")
        self._changed()
        return c.Subscriptions(subscriptions=[await self._shown(record.id)])

    async def rotate(self, who: Principal, command: c.SubscriptionRotate) -> c.SubscriptionCreated:
        """Make a new secret; the old one signs, too, for a while."""
        record = await self._find(who, "subscription.rotate", command)
        secret = self._new_secret()
        sealed = self._secrets.seal(secret.reveal().encode(), purpose=PURPOSE, owner=record.id)
        until = self._clock.now_ms() + command.keep_hours * HOUR_MS
        event = by(who, "subscription.rotate", room=record.room, subscription=record.id, keep_hours=command.keep_hours)
        if not await self._store.rotate(record.id, sealed, until, event):
            raise _missing()
        self._changed()
        return c.SubscriptionCreated(subscription=await self._shown(record.id), secret=secret.reveal(), old_until=until)

    async def list_letters(self, who: Principal, command: c.DeadLetterList) -> c.DeadLetters:
        """List dead letters."""
        record = await self._find(who, "dead.letter.list", command)
        found = await self._store.letters(record.id, after=command.after, limit=command.limit + 1)
        letters = [_letter(each) for each in found[: command.limit]]
        return c.DeadLetters(letters=letters, next_after=letters[-1].seq if len(found) > command.limit else None)

    async def replay(self, who: Principal, command: c.DeadLetterReplay) -> c.DeadLettersTaken:
        """Have dead letters sent again.

        Raises:
            NotFound: There is none with this `seq`.
            Conflict: The subscription is not active: nothing is sent.
        """
        record = await self._find(who, "dead.letter.replay", command)
        if record.state is not SubscriptionState.ACTIVE:
            raise Conflict("This subscription is not active: resume it first.")
        event = by(who, "dead.letter.replay", room=record.room, subscription=record.id, seq=command.seq or "all")
        count = await self._store.replay(record.id, command.seq, self._clock.now_ms(), event)
        self._changed()
        return _taken(count, command.seq)

    async def drop(self, who: Principal, command: c.DeadLetterDrop) -> c.DeadLettersTaken:
        """Remove dead letters.

        Raises:
            NotFound: There is none with this `seq`.
        """
        record = await self._find(who, "dead.letter.drop", command)
        event = by(who, "dead.letter.drop", room=record.room, subscription=record.id, seq=command.seq or "all")
        count = await self._store.drop(record.id, command.seq, event)
        self._changed()
        return _taken(count, command.seq)

    async def _require(self, who: Principal, action: str, room: str) -> None:
        policy.require_in(who, action, await self._log_store.room(room, user_id=who.user_id), room)

    async def _find(self, who: Principal, action: str, command: _Named) -> SubscriptionRecord:
        """Return a subscription of a room in which somebody may do this."""
        await self._require(who, action, command.room)
        record = await self._store.find(command.subscription)
        if record is None or record.room != command.room:
            raise _missing()
        return record

    async def _tell(
        self, who: Principal, action: str, record: SubscriptionRecord, *, subscribed: str | None = None,
        unsubscribed: str | None = None,
    ) -> int:  # fmt: skip
        """Append what the room is told, and return its `seq`."""

        def decide(transaction: LogTransaction, now: int) -> int:
            room = policy.require_in(who, action, transaction.room(record.room), record.room)
            entry = Entry(
                type=EntryType.ROOM_UPDATED, room=room.id, seq=room.last_seq + 1, at=now, user=who.user_id, subscribed=subscribed,
                unsubscribed=unsubscribed,
            )  # fmt: skip
            transaction.append(entry)
            target = subscribed or unsubscribed or ""
            transaction.record(by(who, action, room=room.id, subscription=record.id, target=target))
            return entry.seq

        seq: int = await self._room_log.perform(Operation(decide, record.room))
        return seq

    async def _all_of(self, room: str) -> list[c.Subscription]:
        found = await self._store.of_room(room)
        newest = await self._log_store.newest({record.room for record, _ in found}) if found else {}
        return [_told(record, letters, newest.get(record.room, 0)) for record, letters in found]

    async def _shown(self, subscription: str) -> c.Subscription:
        record = await self._store.find(subscription)
        if record is None:
            raise _missing()
        return next(each for each in await self._all_of(record.room) if each.id == subscription)


def _missing() -> NotFound:
    return NotFound("This room has no such subscription.")


def _taken(count: int, seq: int | None) -> c.DeadLettersTaken:
    if seq is not None and not count:
        raise NotFound("There is no such dead letter.")
    return c.DeadLettersTaken(count=count)


def _told(record: SubscriptionRecord, letters: int, newest: int) -> c.Subscription:
    return c.Subscription(
        id=record.id, room=record.room, url=record.url, types=list(record.types), state=record.state.value, reason=record.reason,
        cursor=record.cursor, behind=max(0, newest - record.cursor) if record.cursor else 0, dead_letters=letters,
        attempts=record.attempts, next_at=record.next_at, failing_since=record.failing_since, delivered_at=record.delivered_at,
        created_by=record.created_by, created_at=record.created_at,
    )  # fmt: skip


def _letter(record: DeadLetterRecord) -> c.DeadLetter:
    return c.DeadLetter(
        subscription=record.subscription, room=record.room, seq=record.seq, reason=record.reason, status=record.status,
        attempts=record.attempts, first_at=record.first_at, last_at=record.last_at, waiting=record.replay_at > 0,
    )  # fmt: skip
