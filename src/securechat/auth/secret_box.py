"""FileBox: secrets sealed with AES-256-GCM under a key file of the data folder."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.auth.key_file import load_key

_VERSION: Final = b"\x01"
_NONCE: Final = 12


class FileBox:
    """See `LocalBox`. Sealed = version, nonce (12 random bytes), ciphertext and tag; the purpose is bound to it.

    Args:
        path: The key file (32 bytes, mode 0600); made when it is missing.

    Raises:
        Shutdown: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._aead = AESGCM(load_key(path))

    def seal(self, purpose: str, data: bytes) -> bytes:
        """See `LocalBox.seal`."""
        nonce = secrets.token_bytes(_NONCE)
        return _VERSION + nonce + self._aead.encrypt(nonce, data, purpose.encode())

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """See `LocalBox.open`."""
        if sealed[:1] != _VERSION or len(sealed) < 1 + _NONCE + 16:
            raise ValueError("not sealed by this box")
        try:
            return self._aead.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], purpose.encode())
        except InvalidTag as error:
            raise ValueError("sealed for another purpose, by another key, or changed") from error
