"""Certificates as tests need them: good ones and every kind of bad one."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
NOW: Final = dt.datetime.now(dt.UTC)


def new_key(kind: str = "p256") -> Key:
    """Make a key: `p256`, `p192`, `ed25519` or `rsaBITS`."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65_537, int(kind[3:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP192R1() if kind == "p192" else ec.SECP256R1())


def pem(key: Key | dsa.DSAPrivateKey, password: str = "") -> bytes:
    """Write a key."""
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


class TestCA:
    """An authority that clients of a test trust."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        certificate = (
            self._builder(self._name, self._key, NOW - dt.timedelta(days=1), NOW + dt.timedelta(days=900))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / "test-ca.crt"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        *names: str,
        key: Key,
        begins: dt.timedelta = dt.timedelta(days=-1),
        ends: dt.timedelta = dt.timedelta(days=90),
        usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.SERVER_AUTH,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """Sign a certificate; times count from now."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        builder = self._builder(subject, key, NOW + begins, NOW + ends).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self._key, digest or hashes.SHA256()).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]

    def _builder(self, subject: x509.Name, key: Key, begins: dt.datetime, ends: dt.datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


class Files:
    """A certificate and its key as files, as an administrator puts them there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = TestCA(folder)
        self.cert, self.key = folder / "site.crt", folder / "site.key"

    def write(self, chain: bytes, key: bytes) -> None:
        """Replace both, the way copying does it: not at the same moment."""
        self.cert.write_bytes(chain)
        self.key.touch(0o600)
        self.key.chmod(0o600)
        self.key.write_bytes(key)

    def good(self, *names: str, kind: str = "p256") -> bytes:
        """Put a good pair there and return the chain."""
        key = new_key(kind)
        chain = self.ca.issue(*(names or ("localhost", "127.0.0.1")), key=key)
        self.write(chain, pem(key))
        return chain

    @property
    def settings(self) -> dict[str, str]:
        """What a configuration says."""
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
