"""TOTP (RFC 6238): SHA-1, six digits, 30 s, as every authenticator app understands; one step early or late is forgiven."""

from __future__ import annotations

import hmac
from typing import Final

import pyotp
import segno

STEP_S: Final = 30
WINDOW: Final = 1
"""Steps before and after that are accepted."""


def new_secret() -> str:
    """Return a fresh secret: 160 bits in base 32."""
    return pyotp.random_base32(32)


def uri_of(secret: str, username: str, server_name: str) -> str:
    """Return what a QR code for authenticator apps holds."""
    return pyotp.TOTP(secret).provisioning_uri(name=username, issuer_name=server_name)


def qr_of(uri: str) -> list[str]:
    """Return the QR code of a text, one text of `0` and `1` per row, without the quiet zone."""
    return ["".join("1" if bit else "0" for bit in row) for row in segno.make(uri, error="m", micro=False).matrix]


def step_of(secret: str, code: str, now: float) -> int | None:
    """Return the step at which this code is shown, among those accepted now, or None.

    Args:
        secret: In base 32.
        code: As typed: spaces do not matter.
        now: Seconds since 1970.
    """
    typed = "".join(code.split())
    if len(typed) != 6 or not typed.isascii() or not typed.isdecimal():
        return None
    totp = pyotp.TOTP(secret)
    current = int(now) // STEP_S
    found = None
    for step in range(current - WINDOW, current + WINDOW + 1):
        if hmac.compare_digest(totp.generate_otp(step), typed):
            found = step
    return found
