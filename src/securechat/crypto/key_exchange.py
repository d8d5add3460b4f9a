"""Suites, and the ephemeral keys of one handshake or rekey."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securechat.crypto.wire import PROTOCOL
from securechat.errors import SessionRefused

_P25519: Final = 2**255 - 19
_UNCOMPRESSED: Final = 4


class Suite(IntEnum):
    """How the secret is made. Both: HKDF-SHA256, AES-256-GCM, HMAC-SHA256, RSA-PSS-SHA256."""

    P256 = 0x0001
    X25519 = 0x0002

    @property
    def share_bytes(self) -> int:
        """Size of a public share."""
        return 65 if self is Suite.P256 else 32


PREFERRED: Final = (Suite.X25519, Suite.P256)
"""The order in which a server chooses."""


class EphemeralKey:
    """A key for one exchange. It is used once and dropped.

    Args:
        suite: Its group.
        private: None makes a new one; vectors give theirs.
    """

    __slots__ = ("_private", "share", "suite")

    def __init__(self, suite: Suite, private: ec.EllipticCurvePrivateKey | X25519PrivateKey | None = None) -> None:
        self.suite = suite
        self._private: ec.EllipticCurvePrivateKey | X25519PrivateKey | None
        if suite is Suite.P256:
            self._private = private or ec.generate_private_key(ec.SECP256R1())
            self.share = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        else:
            self._private = private or X25519PrivateKey.generate()
            self.share = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def exchange(self, peer: bytes) -> bytes:
        """Return the shared secret Z (32 bytes) and forget the key.

        Raises:
            SessionRefused: The peer's share is no point of the group, or leads to a secret that others know.
        """
        private, self._private = self._private, None
        if private is None:
            raise RuntimeError("an ephemeral key was used twice")
        try:
            if isinstance(private, X25519PrivateKey):
                if len(peer) != Suite.X25519.share_bytes or int.from_bytes(peer, "little") >= _P25519:
                    raise SessionRefused(PROTOCOL, "share")
                return private.exchange(X25519PublicKey.from_public_bytes(peer))
            if len(peer) != Suite.P256.share_bytes or peer[0] != _UNCOMPRESSED:
                raise SessionRefused(PROTOCOL, "share")
            return private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), peer))
        except ValueError:  # Not on the curve, or an all-zero result.
            raise SessionRefused(PROTOCOL, "share") from None
