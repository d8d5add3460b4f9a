"""What a webhook says: `{"type", "timestamp", "data"}`, where `data` is the entry as clients get it."""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec

from securechat.domain.entries import Entry


class _Message(msgspec.Struct):
    type: str
    timestamp: str
    data: Entry


_encode: Final = msgspec.json.Encoder().encode


def id_of(subscription: str, seq: int) -> str:
    """Return the id of a delivery: the same each time that the same entry is sent to the same subscription."""
    return f"{subscription}_{seq}"


def body_of(entry: Entry) -> bytes:
    """Return the body for an entry. From which device it came is nobody's business elsewhere."""
    at = dt.datetime.fromtimestamp(entry.at / 1_000, dt.UTC).isoformat(timespec="milliseconds")
    return _encode(_Message(entry.type.value, at, msgspec.structs.replace(entry, device=None, cmid=None)))
