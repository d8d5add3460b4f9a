"""A secret key in a file of its own: 32 random bytes, for the server's user only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from securechat.errors import Shutdown

KEY_BYTES: Final = 32


def load_key(path: Path) -> bytes:
    """Return the key, made and on the disk when it was missing.

    Raises:
        Shutdown: The file is damaged.
    """
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise Shutdown(f"{path} is damaged. Restore it from a backup: what it protects cannot be read without it.")
    return key
