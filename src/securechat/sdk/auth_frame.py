"""The first frame of a connection: the token, and as many rooms to resume as fit into it."""

from __future__ import annotations

from typing import Final

from securechat.domain.secret import Secret
from securechat.protocol.codec import encode_msgpack
from securechat.protocol.frames import Auth
from securechat.sdk.following import Places

AUTH_ROOMS: Final = 1_000
_MAP_HEAD: Final = 16
"""What `resume` costs in `auth` before its first room."""


def auth_that_fits(token: str, seen: Places, room: int) -> tuple[Auth, Places]:
    """Return `auth` with as many rooms to resume as fit into a message of `room` bytes, and the others."""
    auth = Auth(id="auth", token=Secret(token))
    left = room - len(encode_msgpack([auth])) - _MAP_HEAD
    rest: Places = {}
    for name, seq in seen.items():
        size = len(encode_msgpack({name: seq}))
        if rest or size > left or len(auth.resume) == AUTH_ROOMS:
            rest[name] = seq
        else:
            auth.resume[name] = seq
            left -= size
    return auth, rest
