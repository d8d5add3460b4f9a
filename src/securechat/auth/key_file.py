"""A secret key in a file of its own: 32 random bytes, for the server's user only."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from securechat.errors import Shutdown
from securechat.files import read_private, write_private

KEY_BYTES: Final = 32


def load_key(path: Path) -> bytes:
    """Return the key, made and on the disk when it was missing.

    Raises:
        Shutdown: The file is damaged, or others can read it.
    """
    if not path.exists():
        write_private(path, secrets.token_bytes(KEY_BYTES), anew=True)
    key = read_private(path)
    if len(key) != KEY_BYTES:
        raise Shutdown(f"{path} is damaged. Restore it from a backup: what it protects cannot be read without it.")
    return key
