"""Recovery codes: ten, 80 random bits each, kept as hashes, each good for one log-in."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from securechat.domain.ids import ALPHABET

COUNT: Final = 10
_LENGTH: Final = 16
_TYPED: Final = str.maketrans({"O": "0", "I": "1", "L": "1", "-": None, " ": None})


def new_codes() -> list[str]:
    """Return fresh codes, for example `7K2F-9Q0C-1V5D-8G3H`."""
    return [_shown("".join(secrets.choice(ALPHABET) for _ in range(_LENGTH)).upper()) for _ in range(COUNT)]


def code_hash(user_id: str, code: str) -> str:
    """Return what is stored of a code, or "" for what cannot be one. A plain hash: 80 random bits cannot be guessed."""
    text = code.upper().translate(_TYPED)
    if len(text) != _LENGTH or not text.isascii() or not text.isalnum():
        return ""
    return hashlib.sha256(f"{user_id}:{text}".encode()).hexdigest()


def _shown(text: str) -> str:
    return "-".join(text[start : start + 4] for start in range(0, _LENGTH, 4))
