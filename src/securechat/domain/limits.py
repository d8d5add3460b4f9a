"""The numbers that clients are told in `hello`. One table; nothing else in the code repeats them."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What fits. Sizes in bytes of UTF-8 unless the name says otherwise."""

    body_bytes: int = 16_384
    """A message body."""
    name_chars: int = 64
    """A room name, username, display name or device name, after NFKC."""
    topic_chars: int = 256
    page_entries: int = 200
    """Most entries in one page of history."""
    resume_entries: int = 1_000
    """A client further behind than this in a room gets the newest page and `resumed: false` for it."""
    websocket_message_bytes: int = 67_584
    """A WebSocket message from a client (66 KiB)."""
    frames_per_message: int = 256
    """Frames in one WebSocket message from a client."""
    in_flight: int = 128
    """Commands of one connection that wait for their answer; past it, reading from the connection pauses."""
    queue_bytes: int = 1_048_576
    """What may wait for a slow connection before it is closed with 4008."""
    queue_blocks: int = 512
    unread: int = 1_000
    """Unread counts stop here."""
    members: int = 10_000
    """Members of one room."""
    rooms: int = 1_000
    """Rooms of one user."""
    reactions: int = 50
    """Different emoji on one message."""


LIMITS = Limits()
