"""Random tokens: 256 bits, kept as SHA-256, with a prefix that secret scanners can find."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from securechat.domain.secret import Secret

REFRESH: Final = "sc_ref_"
BOT: Final = "sc_bot_"
LINK: Final = "sc_lnk_"


def new_token(prefix: str) -> Secret:
    """Return a fresh token of this kind."""
    return Secret(prefix + secrets.token_urlsafe(32))


def new_refresh_token(family: str = "") -> tuple[Secret, Secret]:
    """Return (a fresh refresh token, its family): all tokens of a session begin with the family, 128 random bits.

    So a token that was used long ago still tells which session it belongs to.
    """
    family = family or secrets.token_urlsafe(16)
    return Secret(f"{REFRESH}{family}.{secrets.token_urlsafe(32)}"), Secret(family)


def family_of(refresh_token: Secret) -> Secret:
    """Return the family of a refresh token, or "" for something else."""
    family, dot, _ = refresh_token.reveal().removeprefix(REFRESH).partition(".")
    return Secret(family if dot else "")


def token_hash(token: Secret) -> str:
    """Return what is stored of a token. A plain hash: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()
