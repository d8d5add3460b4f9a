"""KeyManager: from a shared secret to the keys of an epoch, and from each epoch to the next (spec/session-layer.md 4)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from securechat.crypto.integrity import HMACValidator
from securechat.crypto.wire import u16, vec8

_START: Final = hashlib.sha256(b"SecureChat SCSL/1 epoch 0").digest()


@dataclass(frozen=True, slots=True, repr=False)
class DirectionKeys:
    """What seals one direction of one epoch: `key` 32 bytes, `iv` 12, `mac` 32."""

    key: bytes
    iv: bytes
    mac: bytes


@dataclass(frozen=True, slots=True, repr=False)
class EpochKeys:
    """All keys of an epoch.

    Attributes:
        transcript: TH, the hash of what both sides said.
        client: Client to server.
        server: Server to client.
        client_fin: Proves that the client has the keys.
        server_fin: Proves that the server has them.
        exporter: 32 bytes for others to bind themselves to this epoch.
        chain: Salt of the next epoch, 32 bytes.
    """

    transcript: bytes
    client: DirectionKeys
    server: DirectionKeys
    client_fin: HMACValidator
    server_fin: HMACValidator
    exporter: bytes
    chain: bytes


def expand_label(secret: bytes, name: str, transcript: bytes, size: int) -> bytes:
    """Return HKDF-Expand with TLS 1.3's label (RFC 8446 7.1) and our prefix."""
    info = u16(size) + vec8(b"scsl1 " + name.encode()) + vec8(transcript)
    return HKDFExpand(hashes.SHA256(), size, info).derive(secret)


class KeyManager:
    """The key schedule of one session. Secrets are dropped as soon as the next keys exist."""

    __slots__ = ("_chain", "epoch")

    def __init__(self) -> None:
        self._chain = _START
        self.epoch = -1

    def advance(self, secret: bytes, transcript: bytes) -> EpochKeys:
        """Return the keys of the next epoch; the first one is 0.

        Args:
            secret: Z, 32 bytes.
            transcript: TH of that epoch, 32 bytes.
        """
        root = hmac.digest(self._chain, secret, "sha256")  # HKDF-Extract (RFC 5869 2.2)

        def label(name: str, size: int = 32) -> bytes:
            return expand_label(root, name, transcript, size)

        def direction(name: str) -> DirectionKeys:
            return DirectionKeys(label(f"{name} key"), label(f"{name} iv", 12), label(f"{name} mac"))

        keys = EpochKeys(
            transcript, direction("c2s"), direction("s2c"), HMACValidator(label("c fin")), HMACValidator(label("s fin")),
            label("exporter"), label("chain"),
        )  # fmt: skip
        self._chain = keys.chain
        self.epoch += 1
        return keys
