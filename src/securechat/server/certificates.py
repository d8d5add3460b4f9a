"""Certificates as files: read them, and say in one line what is wrong with them before anything uses them."""

from __future__ import annotations

import datetime as dt
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

FILE_MAX: Final = 1_048_576
"""Bytes of a certificate chain or a key: a chain has some thousand."""
RSA_BITS_MIN: Final = 2_048
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""A certificate that begins this much later than now is taken: clocks differ."""
FORBIDDEN_MODE: Final = stat.S_IRWXO | stat.S_IWGRP
"""What the mode of a key must not have. A group may read it: that is how distributions share keys."""
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)


class CertificateError(Exception):
    """A certificate cannot be used. The text is one line for a person."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that has been checked, with its chain and key.

    Attributes:
        chain: PEM, the server's own certificate first.
        key: PEM, without password. Secret.
        leaf: The server's own certificate.
    """

    chain: bytes
    key: bytes
    leaf: x509.Certificate

    def __repr__(self) -> str:
        return f"Certificate({', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """Names and addresses that it is for."""
        try:
            found = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return []
        return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]

    @property
    def self_signed(self) -> bool:
        """Whether nobody else vouches for it."""
        return self.leaf.issuer == self.leaf.subject

    @property
    def issuer(self) -> str:
        """Who signed it, as people read it."""
        return self.leaf.issuer.rfc4514_string()

    @property
    def not_before(self) -> dt.datetime:
        """When it begins."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> dt.datetime:
        """When it ends."""
        return self.leaf.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hex pairs."""
        return ":".join(f"{byte:02X}" for byte in self.leaf.fingerprint(hashes.SHA256()))

    def covers(self, host: str) -> bool:
        """Whether it is for this name or address; a wildcard stands for one label."""
        host = host.lower().rstrip(".")
        parent = host.partition(".")[2]
        return any(name.lower() in {host, f"*.{parent}" if parent else host} for name in self.names)


def read(chain_path: Path, key_path: Path, now: dt.datetime) -> Certificate:
    """Read and check a certificate and its key; both may be in one file.

    Raises:
        CertificateError: What is wrong, with the name of the file.
    """
    key_pem = _read_file(key_path, secret=True)
    chain_pem = _read_file(chain_path, secret=chain_path == key_path)
    return check(chain_pem, key_pem, now, chain_name=str(chain_path), key_name=str(key_path))


def check(
    chain: bytes, key: bytes, now: dt.datetime, *, chain_name: str = "the certificate", key_name: str = "its key"
) -> Certificate:
    """Check what was read: whole, strong enough, in its time, belonging together.

    Raises:
        CertificateError: What is wrong.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise CertificateError(f"{chain_name} holds no whole certificate in PEM.") from error
    leaf = certificates[0]
    private = _load_key(key, key_name)
    public = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for position, each in enumerate(certificates):
        _require_strong(each, chain_name, root=position > 0 and each.issuer == each.subject)
        if _spki(each) == public and position:
            raise CertificateError(f"{chain_name}: the server's own certificate has to be the first one in the file.")
    if _spki(leaf) != public:
        raise CertificateError(f"{key_name} is not the key of {chain_name}.")
    if leaf.not_valid_after_utc <= now:
        raise CertificateError(f"{chain_name} has expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC.")
    if leaf.not_valid_before_utc > now + CLOCK_SKEW:
        raise CertificateError(f"{chain_name} begins only on {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. Is the clock right?")
    _require_for_servers(leaf, chain_name)
    return Certificate(chain, key, leaf)


def require_private(path: Path, mode: int | None = None) -> None:
    """Refuse a key that others can get at.

    Raises:
        CertificateError: They can.
        OSError: It is not there.
    """
    mode = stat.S_IMODE(path.stat().st_mode if mode is None else mode)
    if mode & FORBIDDEN_MODE:
        raise CertificateError(f"{path} is a key that others can get at (mode {mode:04o}). Run: chmod 600 {path}")


def _read_file(path: Path, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if secret:
                require_private(path, os.fstat(file.fileno()).st_mode)
            data = file.read(FILE_MAX + 1)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > FILE_MAX:
        raise CertificateError(f"{path} is too large for a certificate or a key.")
    if not data.strip():
        raise CertificateError(f"{path} is empty.")
    return data


def _load_key(pem: bytes, name: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:
        raise CertificateError(f"{name} is locked with a password; a server needs a key without one.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{name} holds no whole private key in PEM.") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise CertificateError(f"{name} is of a kind that TLS 1.3 does not use; take ECDSA P-256 or RSA with 2048 bits or more.")
    return key


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _require_strong(certificate: x509.Certificate, name: str, *, root: bool) -> None:
    public = certificate.public_key()
    if isinstance(public, rsa.RSAPublicKey) and public.key_size < RSA_BITS_MIN:
        raise CertificateError(f"{name} has an RSA key of {public.key_size} bits; {RSA_BITS_MIN} is the least.")
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.key_size < 256:
        raise CertificateError(f"{name} has an ECDSA key on {public.curve.name}; P-256 is the least.")
    if isinstance(certificate.signature_hash_algorithm, _WEAK_HASHES) and not root:  # Nobody checks a root's own signature.
        raise CertificateError(f"{name} is signed with {certificate.signature_hash_algorithm.name.upper()}, which can be forged.")


def _require_for_servers(leaf: x509.Certificate, name: str) -> None:
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise CertificateError(f"{name} names no host (subjectAltName), so no browser takes it.") from error
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        raise CertificateError(f"{name} is not for servers (extendedKeyUsage).")
