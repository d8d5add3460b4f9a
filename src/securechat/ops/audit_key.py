"""AuditKey: the Ed25519 key that signs checkpoints of the audit log. It signs nothing else, and nothing else signs them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from securechat.domain.audit import Checkpoint, PruneStatement, signed_bytes
from securechat.errors import Shutdown
from securechat.files import read_private, write_private

PUBLIC_SUFFIX: Final = ".pub.pem"

PublicKeys = dict[str, Ed25519PublicKey]
"""Key id → key."""


class AuditKey:
    """The private key, in a file that only its owner reads.

    Args:
        path: The file; made when it is missing.

    Attributes:
        id: The first 16 hex digits of the SHA-256 of the public key.
        created: Whether the file was made just now.

    Raises:
        Shutdown: The file is not the key, or others can read it.
    """

    def __init__(self, path: Path) -> None:
        self.created = not path.exists()
        if self.created:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(path, pem, anew=True)
        if path.is_symlink():
            raise Shutdown(f"{path} is a link. Put the key itself there.")
        try:
            key = load_pem_private_key(read_private(path), None)
        except (ValueError, TypeError) as error:
            raise Shutdown(f"{path} is not the key of the audit log.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise Shutdown(f"{path} is not the key of the audit log.")
        self._key = key
        self.public = key.public_key()
        self.id = key_id(self.public)

    def public_pem(self) -> bytes:
        """Return the public key: what an auditor keeps."""
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign_checkpoint(self, *, chain: str, n: int, hash_: str, at: int) -> Checkpoint:
        """Return the signed statement that the chain has reached this record."""
        plain = Checkpoint(chain=chain, n=n, hash=hash_, at=at, key=self.id)
        return msgspec.structs.replace(plain, signature=self._key.sign(signed_bytes(plain)).hex())

    def sign_prune(self, statement: PruneStatement) -> PruneStatement:
        """Return the statement with this key's id and signature."""
        plain = msgspec.structs.replace(statement, key=self.id, signature="")
        return msgspec.structs.replace(plain, signature=self._key.sign(signed_bytes(plain)).hex())


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a public key."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read a public key in PEM.

    Raises:
        ValueError: It is something else.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the public key of an audit log.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path} is not the public key of an audit log.")  # noqa: TRY004 - the content is wrong, not the type
    return key


def is_signed(statement: Checkpoint | PruneStatement, keys: PublicKeys) -> bool:
    """Return whether one of these keys signed the statement."""
    key = keys.get(statement.key)
    if key is None:
        return False
    try:
        key.verify(bytes.fromhex(statement.signature), signed_bytes(statement))
    except (InvalidSignature, ValueError):
        return False
    return True
