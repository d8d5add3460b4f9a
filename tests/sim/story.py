"""Whose client it is, how it is, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim.chance import clocks
from support.history import Phase, Record


class Diary:
    """What clients asked for and were told, in order."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.acknowledged = 0

    def add(self, client: str, op: str, phase: Phase = "ok", **fields: Any) -> None:
        """Append a record, now."""
        if op == "send" and phase == "ok":
            self.acknowledged += 1
        self.records.append(Record(t_mono=round(clocks.now, 6), client=client, op=op, phase=phase, **fields))


@dataclass(frozen=True)
class Account:
    """Whose client it is.

    Attributes:
        name: Of the user.
        user: Id.
        device: Id; empty where nobody asks.
        token: For `auth`.
    """

    name: str
    user: str
    device: str
    token: str


@dataclass
class Traits:
    """How a client is.

    Attributes:
        packed: MessagePack instead of JSON.
        sealed: The sealed sub-protocol.
        patience: Seconds before it connects again, at most.
    """

    packed: bool = False
    sealed: bool = False
    patience: float = 0.5


@dataclass
class Told:
    """A frame that names a room and is no entry: on which connection of its client, and when it left the server."""

    kind: str
    room: str
    written: float
    conn: int


@dataclass
class Seen:
    """What the diary has no place for.

    Attributes:
        told: Signals, each with its room and the time it left the server.
        events: (time it left the server, room, seq).
        raw: Every message in the clear, for who must not hear of a room.
    """

    told: list[Told] = field(default_factory=list)
    events: list[tuple[float, str, int]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
