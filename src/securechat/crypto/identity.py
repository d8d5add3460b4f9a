"""IdentityKey: the RSA key by which a server is known. It only signs: the secret of a session comes from ephemeral keys."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

HANDSHAKE: Final = b"SecureChat SCSL/1 server handshake"
REKEY: Final = b"SecureChat SCSL/1 server rekey"
KEY_LIST: Final = b"SecureChat SCSL/1 key list"
SIZES: Final = (2048, 3072)
EXPONENT: Final = 65_537
_PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
_PREFIX: Final = b"\x20" * 64


def key_id_of(spki: bytes) -> bytes:
    """Return the id of a public key: SHA-256 of its DER SubjectPublicKeyInfo."""
    return hashlib.sha256(spki).digest()


class IdentityKey:
    """A server's identity, or the offline root key that signs the list of identities.

    Args:
        private: RSA with 2048 or 3072 bits and the exponent 65537.

    Attributes:
        spki: DER SubjectPublicKeyInfo.
        key_id: Its SHA-256: what clients pin.

    Raises:
        ValueError: Another size or exponent.
    """

    __slots__ = ("_private", "key_id", "spki")

    def __init__(self, private: rsa.RSAPrivateKey) -> None:
        if private.key_size not in SIZES or private.public_key().public_numbers().e != EXPONENT:
            raise ValueError("an identity key is RSA with 2048 or 3072 bits and the exponent 65537")
        self._private = private
        self.spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.key_id = key_id_of(self.spki)

    @classmethod
    def generate(cls, bits: int = 2048) -> IdentityKey:
        """Make a new key."""
        return cls(rsa.generate_private_key(public_exponent=EXPONENT, key_size=bits))

    @classmethod
    def load(cls, pem: bytes, password: bytes | None = None) -> IdentityKey:
        """Read a key in PEM.

        Raises:
            ValueError: Not an RSA key, or the wrong password.
        """
        try:
            private = load_pem_private_key(pem, password)
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(str(error)) from error
        if not isinstance(private, rsa.RSAPrivateKey):
            raise ValueError("not an RSA key")  # noqa: TRY004 - the file's content is wrong, not the program
        return cls(private)

    @property
    def bits(self) -> int:
        """Size of the modulus."""
        return self._private.key_size

    def pem(self, password: bytes = b"") -> bytes:
        """Return the private key in PKCS#8 PEM, encrypted if there is a password."""
        protection = BestAvailableEncryption(password) if password else NoEncryption()
        return self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)

    def sign(self, context: bytes, digest: bytes) -> bytes:
        """Sign a digest (32 bytes) for one purpose: RSASSA-PSS with SHA-256 and a salt of 32 bytes."""
        return self._private.sign(_PREFIX + context + b"\x00" + digest, _PSS, hashes.SHA256())


def verify(spki: bytes, context: bytes, digest: bytes, signature: bytes) -> bool:
    """Return whether a key that may be an identity made this signature for this purpose."""
    try:
        public = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(public, rsa.RSAPublicKey) or public.key_size not in SIZES or public.public_numbers().e != EXPONENT:
        return False
    if public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        return False  # The same key in another encoding would have another id.
    try:
        public.verify(signature, _PREFIX + context + b"\x00" + digest, _PSS, hashes.SHA256())
    except InvalidSignature:
        return False
    return True
