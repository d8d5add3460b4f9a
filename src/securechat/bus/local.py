"""LocalBus: one process, one hub, no wait."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from securechat.domain.ports import RoomBatch, Signal


class Receiver(Protocol):
    """What a hub offers to a bus."""

    def deliver(self, batches: Sequence[RoomBatch]) -> None:
        """Fan committed entries out."""

    def show(self, signal: Signal) -> None:
        """Fan a signal out."""

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """Close connections."""


class LocalBus:
    """A `MessageBus` for one process."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []

    def attach(self, receiver: Receiver) -> None:
        """Deliver to this hub from now on."""
        self._receivers.append(receiver)

    def publish(self, batches: Sequence[RoomBatch]) -> None:
        """See `MessageBus.publish`."""
        for receiver in self._receivers:
            receiver.deliver(batches)

    def signal(self, signal: Signal) -> None:
        """See `MessageBus.signal`."""
        for receiver in self._receivers:
            receiver.show(signal)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        """See `MessageBus.disconnect`."""
        for receiver in self._receivers:
            receiver.disconnect(user_id=user_id, device_ids=device_ids, code=code)

    def invalidate(self, what: str, key: str) -> None:
        """See `MessageBus.invalidate`. There is no other server."""

    def on_stale(self, what: str, forget: Callable[[str], None]) -> None:
        """See `MessageBus.on_stale`. It is never called."""
