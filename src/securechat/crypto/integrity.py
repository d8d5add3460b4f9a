"""HMACValidator: HMAC-SHA256 under one key, compared in constant time."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC


class HMACValidator:
    """Tags of one key.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = HMAC(key, hashes.SHA256())

    def tag(self, *parts: bytes) -> bytes:
        """Return the tag (32 bytes) of the parts, one after the other."""
        mac = self._keyed.copy()
        for part in parts:
            mac.update(part)
        return mac.finalize()

    def holds(self, tag: bytes, *parts: bytes) -> bool:
        """Return whether the tag is that of the parts."""
        return hmac.compare_digest(tag, self.tag(*parts))
