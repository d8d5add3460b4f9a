"""Frames of the gateway, in JSON and MessagePack, from clients and from servers."""

from __future__ import annotations

from securechat.errors import ProtocolViolation
from securechat.protocol.codec import encode_json, encode_msgpack
from securechat.protocol.handler import BadFrame, client_side, server_side

ID_MAX = 64
DETAIL_MAX = 1_000


def receive(data: bytes) -> None:
    """First byte: 1 for text, 2 for what a server sends; the rest is one WebSocket message."""
    flags, message = data[:1], data[1:]
    text = bool(flags and flags[0] & 1)
    from_server = bool(flags and flags[0] & 2)
    handler = client_side() if from_server else server_side()
    try:
        found = handler.receive(message, text=text)
    except ProtocolViolation:
        return
    encode = encode_json if text else encode_msgpack
    for frame in found:
        if isinstance(frame, BadFrame):
            assert len(frame.id) <= ID_MAX
            assert len(frame.error.detail) <= DETAIL_MAX
            continue
        # What was understood can be written, and is understood as the same.
        again = (client_side() if from_server else server_side()).receive(encode([frame]), text=text)
        assert len(again) == 1
        assert type(again[0]) is type(frame)
        assert encode(again[0]) == encode(frame)
