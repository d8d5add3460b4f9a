"""What an app that people let in has to look like: its redirect addresses, and what proves that a code is its own."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final
from urllib.parse import urlsplit

from securechat.domain.secret import Secret
from securechat.errors import InvalidInput

REDIRECT_CHARS: Final = 512
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_PLAIN: Final = re.compile(r"[\x21-\x7e]+")
_OWN_SCHEME: Final = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+")
"""A scheme of an app's own has a dot, as `org.example.app`: so it is never `javascript`, `data` or another's."""
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")


def clean_redirect(uri: str) -> str:
    """Return a redirect address as it is registered; what an app asks for later has to be the same, character for character.

    Raises:
        InvalidInput: Not https (or http on this machine, or a scheme of the app's own), or with a fragment, a name and password,
            or characters that clients read in different ways.
    """
    if len(uri) > REDIRECT_CHARS or not _PLAIN.fullmatch(uri) or any(char in uri for char in '\\"<>^`{|}'):
        raise InvalidInput(f"A redirect address has at most {REDIRECT_CHARS} plain characters.", field="redirect_uris")
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput("This redirect address is no URL.", field="redirect_uris") from error
    if "#" in uri or "@" in parts.netloc or ".." in parts.path.split("/"):
        raise InvalidInput("A redirect address has no fragment, no user name and no `..`.", field="redirect_uris")
    good = (
        (parts.scheme == "https" and host) or (parts.scheme == "http" and host in _LOOPBACK) or _OWN_SCHEME.fullmatch(parts.scheme)
    )
    if not good:
        raise InvalidInput(
            "A redirect address begins with https://, with http:// on this machine, or with a scheme like org.example.app:",
            field="redirect_uris",
        )
    return uri


def check_challenge(challenge: str, method: str) -> str:
    """Return a PKCE challenge (RFC 7636); S256 only, and never none.

    Raises:
        InvalidInput: It is missing, in another method, or no SHA-256 in base64url.
    """
    if method != "S256":
        raise InvalidInput("code_challenge_method is S256.", field="code_challenge_method")
    if not _CHALLENGE.fullmatch(challenge):
        raise InvalidInput("code_challenge is a SHA-256 in base64url: 43 characters.", field="code_challenge")
    return challenge


def challenge_of(verifier: Secret) -> str:
    """Return the S256 challenge of a verifier."""
    digest = hashlib.sha256(verifier.reveal().encode("ascii", "replace")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def proves(verifier: Secret, challenge: str) -> bool:
    """Return whether a verifier is well formed and belongs to the challenge."""
    return bool(_VERIFIER.fullmatch(verifier.reveal())) and hmac.compare_digest(challenge_of(verifier), challenge)
