"""Identifiers: a prefix that says what it names, and 80 random bits in Crockford's base 32, lower case.

Order never comes from an id: it comes from `seq` (architecture, law 2).
"""

from __future__ import annotations

import re
import secrets
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID: Final = re.compile(r"[a-z]{2,4}_[0-9a-hjkmnp-tv-z]{16}")

# The prefixes, each with what it names.
ROOM: Final = "rm"
USER: Final = "usr"
DEVICE: Final = "dev"
EXTERNAL: Final = "ext"
APP: Final = "app"


def new_id(prefix: str) -> str:
    """Return a fresh id, for example `rm_7k2f9q0c1v5d8g3h`."""
    bits = secrets.randbits(80)
    return prefix + "_" + "".join(ALPHABET[(bits >> shift) & 31] for shift in range(0, 80, 5))


def new_code() -> str:
    """Return an invitation code that can be read aloud: 60 bits as `XXXX-XXXX-XXXX`."""
    text = "".join(secrets.choice(ALPHABET) for _ in range(12)).upper()
    return f"{text[:4]}-{text[4:8]}-{text[8:]}"


def is_id(text: str, prefix: str) -> bool:
    """Return whether `text` has the form of an id with this prefix."""
    return text.startswith(prefix + "_") and _ID.fullmatch(text) is not None
