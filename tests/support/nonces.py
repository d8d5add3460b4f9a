"""Remembers every (key, nonce) with which anything is sealed in a process: none may come twice (I13)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat.crypto import at_rest, encryption

MARK_BYTES: Final = 16
"""Of the digest that stands for a key with a nonce."""


class Nonces:
    """What was used.

    Args:
        path: A file that gets a mark of each, at once: whoever ends without a word has written all but the last one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._used: set[bytes] = set()
        self.repeated = 0
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, key: bytes, nonce: bytes) -> None:
        """Note one."""
        mark = hashlib.blake2b(nonce, key=key, digest_size=MARK_BYTES).digest()
        if self._file is not None:
            os.write(self._file, mark)
            return
        self._note(mark)

    def read(self, path: Path) -> None:
        """Note what another process wrote to its file; what it could not write whole is left out."""
        marks = path.read_bytes()
        for start in range(0, len(marks) - MARK_BYTES + 1, MARK_BYTES):
            self._note(marks[start : start + MARK_BYTES])

    def clear(self) -> None:
        """Begin anew."""
        self._used.clear()
        self.repeated = 0

    def __len__(self) -> int:
        return len(self._used)

    def _note(self, mark: bytes) -> None:
        if mark in self._used:
            self.repeated += 1
        self._used.add(mark)

    def install(self) -> None:
        """Watch the ciphers of sessions and of what is stored, from now on in this process."""
        for module in (encryption, at_rest):
            module.AESGCM = partial(_Recording, self)  # type: ignore[attr-defined]


class _Recording:
    """The cipher, and a witness."""

    def __init__(self, nonces: Nonces, key: bytes) -> None:
        self._nonces = nonces
        self._key = bytes(key)
        self._cipher = AESGCM(key)
        self.decrypt = self._cipher.decrypt

    def encrypt(self, nonce: bytes, data: Any, associated_data: Any) -> bytes:
        self._nonces.add(self._key, bytes(nonce))
        return self._cipher.encrypt(nonce, data, associated_data)


NONCES: Final = Nonces()
"""Of this process, where nobody needs another one."""


def all_of(paths: Iterable[Path]) -> Nonces:
    """Read the files of several processes."""
    found = Nonces()
    for path in paths:
        found.read(path)
    return found
