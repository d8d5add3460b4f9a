"""Fakes that tests hand to the services: time that stands still, a bus that remembers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from securechat.domain.accounts import Principal, Role
from securechat.domain.ports import RoomBatch, Signal


class ManualClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_795_380_000_000
        self.seconds = 1_000.0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.seconds += seconds
        self.ms += int(seconds * 1_000)


class RecordingBus:
    """A bus that keeps what it was told."""

    def __init__(self) -> None:
        self.batches: list[RoomBatch] = []
        self.signals: list[Signal] = []
        self.disconnected: list[tuple[str, tuple[str, ...], int]] = []
        self.invalidated: list[tuple[str, str]] = []

    def publish(self, batches: Sequence[RoomBatch]) -> None:
        self.batches += batches

    def signal(self, signal: Signal) -> None:
        self.signals.append(signal)

    def disconnect(self, *, user_id: str, device_ids: Collection[str] | None, code: int) -> None:
        self.disconnected.append((user_id, tuple(device_ids or ()), code))

    def invalidate(self, what: str, key: str) -> None:
        self.invalidated.append((what, key))

    def on_stale(self, what: str, forget: Callable[[str], None]) -> None:
        pass


def principal(name: str, device: int = 1, role: Role = Role.MEMBER) -> Principal:
    """Return somebody."""
    return Principal(f"usr_{name}", f"dev_{name}{device}", role, name)
