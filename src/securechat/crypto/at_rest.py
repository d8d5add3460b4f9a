"""The envelope of what is stored: keys that wrap keys, and sealed texts.

    key-encryption key (a `KeyProvider` holds it)
    └── wraps the organisation key, 32 bytes, one per installation
        ├── wraps a data key, 32 bytes, per room and version
        │   └── HKDF → a message key per 1,024 places of the room's log → AES-256-GCM
        └── HKDF → a key per purpose for single secrets → AES-256-GCM

A sealed text is `01 ‖ version (4 bytes, big-endian) ‖ nonce (12 random bytes) ‖ ciphertext ‖ tag (16)`; `version` says which data
key. What it belongs to is authenticated with it (`aad`), so that a text that was moved, swapped or back-dated does not open.
A nonce is never chosen twice in practice: a message key seals some thousand texts, and 2^13 random nonces of 96 bits collide with
probability 2^-71.
"""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
PLACES_PER_KEY: Final = 1_024
"""Places of a room's log that share a message key: a key per message would double what a page of history costs to open."""
OVERHEAD: Final = 1 + 4 + NONCE_BYTES + TAG_BYTES
"""Bytes that a sealed text is longer than the text."""

_FORMAT: Final = 1
_MESSAGE: Final = b"sc/msg/v1"
_SECRET: Final = b"sc/secret/v1"


class Damaged(Exception):
    """A sealed text does not open: it, or what it belongs to, was changed, or it was sealed with another key."""


def new_key() -> bytes:
    """Return 32 fresh random bytes."""
    return secrets.token_bytes(KEY_BYTES)


def wrap_key(wrapping: bytes, key: bytes, aad: bytes) -> bytes:
    """Seal a key with another one.

    Args:
        wrapping: 32 bytes.
        key: What is sealed.
        aad: What the key is for; needed again to open it.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(wrapping).encrypt(nonce, key, aad)


def unwrap_key(wrapping: bytes, wrapped: bytes, aad: bytes) -> bytes:
    """Open what `wrap_key` made.

    Raises:
        Damaged: It was changed, or wrapped by another key or for another purpose.
    """
    try:
        return AESGCM(wrapping).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], aad)
    except (InvalidTag, ValueError) as error:
        raise Damaged from error


class TextCipher:
    """Seals and opens texts with one message key.

    Args:
        data_key: Of the room, 32 bytes.
        version: Of the data key.
        block: `seq // PLACES_PER_KEY`.
    """

    __slots__ = ("_cipher", "_head")

    def __init__(self, data_key: bytes, version: int, block: int) -> None:
        self._cipher = AESGCM(_expand(data_key, _MESSAGE + block.to_bytes(8, "big")))
        self._head = bytes((_FORMAT,)) + version.to_bytes(4, "big")

    def seal(self, text: bytes, aad: bytes) -> bytes:
        """Return the sealed text, `OVERHEAD` bytes longer."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return self._head + nonce + self._cipher.encrypt(nonce, text, aad)

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the text.

        Raises:
            Damaged: It does not open.
        """
        try:
            return self._cipher.decrypt(sealed[5:17], sealed[17:], aad)
        except (InvalidTag, ValueError) as error:
            raise Damaged from error


def version_of(sealed: bytes) -> int:
    """Return the version of the key that seals a text or a secret.

    Raises:
        Damaged: It is not in a form that this version knows.
    """
    if len(sealed) < OVERHEAD or sealed[0] != _FORMAT:
        raise Damaged
    return version_in(sealed)


def version_in(beginning: bytes) -> int:
    """Return the version that the beginning of a sealed text names, whatever else is wrong with it."""
    return int.from_bytes(beginning[1:5], "big")


def seal_secret(org_key: bytes, version: int, secret: bytes, *, purpose: str, aad: bytes) -> bytes:
    """Seal a single secret with the organisation key.

    Args:
        org_key: 32 bytes.
        version: Of the organisation key.
        secret: What is sealed.
        purpose: What kind of secret; each has a key of its own.
        aad: Whose secret it is.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    cipher = AESGCM(_expand(org_key, _SECRET + purpose.encode()))
    return bytes((_FORMAT,)) + version.to_bytes(4, "big") + nonce + cipher.encrypt(nonce, secret, aad)


def open_secret(org_key: bytes, sealed: bytes, *, purpose: str, aad: bytes) -> bytes:
    """Open what `seal_secret` made.

    Raises:
        Damaged: It does not open.
    """
    try:
        return AESGCM(_expand(org_key, _SECRET + purpose.encode())).decrypt(sealed[5:17], sealed[17:], aad)
    except (InvalidTag, ValueError) as error:
        raise Damaged from error


def _expand(key: bytes, info: bytes) -> bytes:
    return HKDFExpand(hashes.SHA256(), KEY_BYTES, info).derive(key)
