"""Remembers every (key, nonce) with which anything is sealed in this process: none may come twice (I13)."""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.crypto import at_rest, encryption


class Nonces:
    """What was used."""

    def __init__(self) -> None:
        self._used: set[tuple[bytes, bytes]] = set()
        self.repeated = 0

    def add(self, key: bytes, nonce: bytes) -> None:
        """Note one."""
        if (key, nonce) in self._used:
            self.repeated += 1
        self._used.add((key, nonce))

    def clear(self) -> None:
        """Begin anew."""
        self._used.clear()
        self.repeated = 0


NONCES: Final = Nonces()


class _Recording:
    """The cipher, and a witness."""

    def __init__(self, key: bytes) -> None:
        self._key = bytes(key)
        self._cipher = AESGCM(key)
        self.decrypt = self._cipher.decrypt

    def encrypt(self, nonce: bytes, data: Any, associated_data: Any) -> bytes:
        NONCES.add(self._key, bytes(nonce))
        return self._cipher.encrypt(nonce, data, associated_data)


def install() -> None:
    """Watch the ciphers of sessions and of what is stored."""
    for module in (encryption, at_rest):
        module.AESGCM = _Recording  # type: ignore[attr-defined]
