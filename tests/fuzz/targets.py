"""What is fuzzed, by name: each target takes any bytes, and raises when something happens that may not.

The first byte of an input often chooses between the shapes of one entry point. What a target catches is what that entry point is
documented to raise; everything else is a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fuzz import commands, frames, keys, planted, sessions, sockets

Target = Callable[[bytes], None]

TARGETS: Final[dict[str, Target]] = {
    "frames": frames.receive,
    "websocket": sockets.feed,
    "client_hello": sessions.client_hello,
    "server_messages": sessions.server_messages,
    "records": sessions.records,
    "key_list": keys.key_list,
    "access_token": keys.access_token,
    "commands": commands.read,
    "planted": planted.weak,
}
