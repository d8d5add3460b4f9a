"""Random tokens: 256 bits, kept as SHA-256, with a prefix that secret scanners can find."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

REFRESH: Final = "sc_ref_"
BOT: Final = "sc_bot_"
LINK: Final = "sc_lnk_"


def new_token(prefix: str) -> str:
    """Return a fresh token of this kind."""
    return prefix + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """Return what is stored of a token. A plain hash: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.encode()).hexdigest()
