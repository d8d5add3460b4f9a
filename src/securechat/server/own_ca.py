"""The server's own CA: what it signs for is written into it, and its key never leaves the data folder."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from securechat.errors import Shutdown
from securechat.files import write_private
from securechat.server.certificates import require_private

CA_DAYS: Final = 3_650
LEAF_DAYS: Final = 365
"""Browsers take up to 398."""
RENEW_DAYS: Final = 30


class OwnCA:
    """A CA that vouches for this machine only.

    Args:
        folder: Where it lives: `ca.crt`, `ca.key`, `server.crt`, `server.key`; all have mode 0600.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ca_path(self) -> Path:
        """The CA's certificate, which clients trust."""
        return self.folder / "ca.crt"

    def fingerprint(self) -> str:
        """Return SHA-256 of the CA's certificate, in hex pairs."""
        digest = x509.load_pem_x509_certificate(self.ca_path.read_bytes()).fingerprint(hashes.SHA256())
        return ":".join(f"{byte:02X}" for byte in digest)

    def certificate(self, host: str, *, anew: bool = False) -> tuple[Path, Path]:
        """Return the files of a certificate for this machine and key; make them when they are missing or end soon.

        Args:
            host: A further name or address that it is for.
            anew: Make one even if the present one is good.

        Raises:
            CertificateError: Others can get at the key of the CA.
            OSError: The folder cannot be written.
            Shutdown: The key of the CA is not ours.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        leaf, leaf_key = self.folder / "server.crt", self.folder / "server.key"
        names = _names(host)
        if not self.ca_path.exists() or not (self.folder / "ca.key").exists():
            self._make_ca()
            leaf.unlink(missing_ok=True)
        require_private(self.folder / "ca.key")
        if anew or not leaf.exists() or not leaf_key.exists() or not _still_good(leaf, leaf_key, names):
            self._make_leaf(leaf, leaf_key, names)
        return leaf, leaf_key

    def _make_ca(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"SecureChat of {socket.gethostname()}"[:64])])
        certificate = (
            _builder(name, name, key.public_key(), CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.NameConstraints(permitted_subtrees=_subtrees(_names("")), excluded_subtrees=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        # One without the other is made anew; two that do not belong together would be served.
        self.ca_path.unlink(missing_ok=True)
        write_private(self.folder / "ca.key", _pem(key))
        write_private(self.ca_path, certificate.public_bytes(serialization.Encoding.PEM))

    def _make_leaf(self, leaf: Path, leaf_key: Path, names: list[x509.GeneralName]) -> None:
        ca = x509.load_pem_x509_certificate(self.ca_path.read_bytes())
        ca_key = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise Shutdown(f"{self.folder / 'ca.key'} is not the key that SecureChat made.")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SecureChat")])
        certificate = (
            _builder(name, ca.subject, key.public_key(), LEAF_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        write_private(leaf_key, _pem(key))
        write_private(leaf, certificate.public_bytes(serialization.Encoding.PEM))


def _names(host: str) -> list[x509.GeneralName]:
    dns = dict.fromkeys(["localhost", socket.gethostname().lower()])
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    try:
        address = ipaddress.ip_address(host)
        if not address.is_unspecified and address not in addresses:
            addresses.append(address)
    except ValueError:
        if host:
            dns[host.lower()] = None
    return [*(x509.DNSName(name) for name in dns if name), *(x509.IPAddress(address) for address in addresses)]


def _subtrees(names: list[x509.GeneralName]) -> list[x509.GeneralName]:
    """Return what the CA may sign for: these names, and the addresses of private networks."""
    networks = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
    dns: list[x509.GeneralName] = [name for name in names if isinstance(name, x509.DNSName)]
    return dns + [x509.IPAddress(ipaddress.ip_network(network)) for network in networks]


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


def _still_good(leaf: Path, leaf_key: Path, names: list[x509.GeneralName]) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
        key = serialization.load_pem_private_key(leaf_key.read_bytes(), None)
    except ValueError:
        return False  # Half a file of a server that was killed.
    if key.public_key() != certificate.public_key():
        return False  # It was killed between the key and the certificate.
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    have = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return left.days > RENEW_DAYS and set(names) <= set(have)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
