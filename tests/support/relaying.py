"""A relay on a real store, in time that a test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from securechat.domain.entries import Entry, EntryType
from securechat.domain.ports import LogTransaction
from securechat.domain.subscriptions import PURPOSE, SubscriptionRecord, SubscriptionState
from securechat.store.sealing import Secrets
from securechat.store.subscriptions import SqlSubscriptions
from securechat.webhooks.delivery import Pace
from securechat.webhooks.gate import Gate, Network
from securechat.webhooks.relay import Relay
from securechat.webhooks.signature import new_secret
from support.stores import Place, StoreUnderTest

ROOM = "rm_1"


class Relaying:
    """A store with rooms, and a relay that runs.

    Attributes:
        leads: Whether the server of this relay leads.
    """

    def __init__(self, whole: StoreUnderTest, allowed: Sequence[Network], pace: Pace) -> None:
        self.whole = whole
        self.clock = whole.clock
        self.store = SqlSubscriptions(whole.database, whole.audit)
        self.secrets = Secrets(whole.keys)
        self.leads = True
        self.pace = pace
        self._allowed = allowed
        self._last: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.relay = self.start()

    @classmethod
    async def open(cls, place: Place, allowed: Sequence[Network], pace: Pace) -> Relaying:
        """Make everything."""
        whole = await place.open()
        await whole.keys.unlock()
        return cls(whole, allowed, pace)

    def start(self) -> Relay:
        """Run a relay that knows nothing but what is stored."""
        gate = Gate(lambda: self._allowed)
        self.relay = Relay(self.store, self.whole.log, self.secrets, gate, self.clock, lambda: self.leads, pace=self.pace)
        self._task = asyncio.create_task(self.relay.run())
        return self.relay

    def kill(self) -> None:
        """End the relay as a killed process does: nothing more is stored."""
        assert self._task is not None
        self._task.cancel()
        for task in self.relay._tasks.values():
            task.cancel()

    async def close(self) -> None:
        await self.relay.stop()
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled() and (error := self._task.exception()) is not None:
                raise error
        await self.whole.database.close()

    async def append(self, *entries: Entry) -> None:
        async def work(tx: LogTransaction) -> None:
            targets = [(each.room, each.target) for each in entries if each.target is not None]
            await tx.load(sorted({each.room for each in entries}), [], targets)
            for each in entries:
                tx.append(each)

        await self.whole.log.commit(work)

    async def say(self, *texts: str, room: str = ROOM) -> list[int]:
        """Append messages and return their places; the room is made with the first one."""
        entries = []
        if room not in self._last:
            self._last[room] = 1
            entries.append(self.entry(EntryType.ROOM_CREATED, 1, room=room, kind="private", name=room, topic=""))
        for text in texts:
            self._last[room] += 1
            seq = self._last[room]
            entries.append(self.entry(EntryType.MESSAGE_SENT, seq, room=room, body=text, device="dev_1", cmid=f"c{seq}"))
        await self.append(*entries)
        return [each.seq for each in entries if each.type is EntryType.MESSAGE_SENT]

    async def delete(self, seq: int, room: str = ROOM) -> None:
        """Delete a message."""
        self._last[room] += 1
        await self.append(self.entry(EntryType.MESSAGE_DELETED, self._last[room], room=room, target=seq))

    def entry(self, what: EntryType, seq: int, *, room: str = ROOM, **more: Any) -> Entry:
        return Entry(type=what, room=room, seq=seq, at=self.clock.now_ms(), user="usr_ana", **more)

    async def subscribe(
        self, url: str, name: str = "sub_1", *, room: str = ROOM, types: tuple[str, ...] = ("message.sent",)
    ) -> str:
        """Subscribe a target to what comes after the newest entry, and return the secret."""
        if room not in self._last:
            await self.say(room=room)
        secret = new_secret()
        sealed = self.secrets.seal(secret.reveal().encode(), purpose=PURPOSE, owner=name)
        record = SubscriptionRecord(name, room, url, types, SubscriptionState.PENDING, "", 0, sealed, None, 0, "usr_ana", 1)
        assert await self.store.add(replace(record))
        assert await self.store.activate(name, self._last[room])
        self.relay.wake()
        return secret.reveal()

    async def found(self, name: str = "sub_1") -> SubscriptionRecord:
        """Return the subscription as it is stored."""
        record = await self.store.find(name)
        assert record is not None
        return record

    async def until(self, condition: Any, what: str, *, step_s: float = 0.6) -> None:
        """Return when the condition holds; time goes on meanwhile, `step_s` at each look."""
        for _ in range(2_000):
            if await condition() if asyncio.iscoroutinefunction(condition) else condition():
                return
            self.clock.forward(step_s)
            self.relay._wake.set()
            await asyncio.sleep(0.005)
        raise AssertionError(f"not in time: {what}")
