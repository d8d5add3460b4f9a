"""Random tokens: 256 bits, kept as SHA-256, with a prefix that secret scanners can find."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

from securechat.domain.secret import Secret

REFRESH: Final = "sc_ref_"
BOT: Final = "sc_bot_"
LINK: Final = "sc_lnk_"
PERSONAL: Final = "sc_pat_"
CODE: Final = "sc_cod_"
DEVICE_CODE: Final = "sc_dvc_"
APP_SECRET: Final = "sc_app_"  # noqa: S105 - a prefix


def new_token(prefix: str) -> Secret:
    """Return a fresh token of this kind."""
    return Secret(prefix + secrets.token_urlsafe(32))


def new_refresh_token() -> tuple[Secret, Secret]:
    """Return (a fresh refresh token, its family): all tokens of a session begin with the family, 128 random bits.

    So a token that was used long ago still tells which session it belongs to.
    """
    family = secrets.token_urlsafe(16)
    return Secret(f"{REFRESH}{family}.{secrets.token_urlsafe(32)}"), Secret(family)


def next_refresh_token(key: bytes, refresh_token: Secret) -> Secret:
    """Return the one successor of a refresh token: 256 bits that nobody without the key can compute.

    The same request, sent again because its answer was lost, gets the same answer, also from a server that was started anew.
    """
    following = hmac.digest(key, b"refresh-token " + refresh_token.reveal().encode(), "sha256")
    family = family_of(refresh_token).reveal()
    return Secret(f"{REFRESH}{family}.{base64.urlsafe_b64encode(following).rstrip(b'=').decode()}")


def family_of(refresh_token: Secret) -> Secret:
    """Return the family of a refresh token, or "" for something else."""
    family, dot, _ = refresh_token.reveal().removeprefix(REFRESH).partition(".")
    return Secret(family if dot else "")


def token_hash(token: Secret) -> str:
    """Return what is stored of a token. A plain hash: 256 random bits cannot be guessed."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()
