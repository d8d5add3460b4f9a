"""What earlier versions sealed with a key file of its own (`keys/secrets.key`) is taken over into the one box for secrets."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.domain.ports import SecretBox
from securechat.errors import Shutdown
from securechat.store.database import Database

log = logging.getLogger(__name__)

OLD_KEY: Final = "secrets.key"
KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12


async def take_over(database: Database, box: SecretBox, path: Path) -> int:
    """Seal the secrets of authenticator apps anew, and remove the old key; return how many there were.

    It may end anywhere and be done again: what the old key does not open was taken over already.

    Args:
        database: The open database.
        box: What seals from now on.
        path: The old key file; nothing is done where there is none.

    Raises:
        Shutdown: The old key is damaged, or a database does not answer. It is not removed.
    """
    key = await asyncio.to_thread(_read, path)
    if not key:
        return 0
    old = AESGCM(key)
    count = 0
    rows, whole = await database.users.read_all("SELECT user_id, sealed_secret FROM totp")
    if not whole:
        raise Shutdown(f"Not all databases answer: {path} is needed for what is in them.")
    for user_id, sealed in rows:
        secret = _opened(old, bytes(sealed), f"totp:{user_id}")
        if secret is not None:
            fresh = box.seal(secret, purpose="totp", owner=user_id)
            async with database.users.transaction(user_id) as own:
                sql = "UPDATE totp SET sealed_secret = ? WHERE user_id = ? AND sealed_secret = ?"
                await own.execute(sql, (fresh, user_id, sealed))
            count += 1
    await asyncio.to_thread(path.unlink)
    log.info("secrets sealed anew with the storage keys", extra={"count": count})
    return count


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        return b""
    if len(key) != KEY_BYTES:
        raise Shutdown(f"{path} is damaged. Restore it from a backup: what it protects cannot be read without it.")
    return key


def _opened(old: AESGCM, sealed: bytes, purpose: str) -> bytes | None:
    if sealed[:1] != _VERSION:
        return None
    try:
        return old.decrypt(sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :], purpose.encode())
    except (InvalidTag, ValueError):
        return None
