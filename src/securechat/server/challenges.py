"""What a certificate authority finds here when it checks that a name is ours (RFC 8555 §8.3, RFC 8737)."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ALPN: Final = "acme-tls/1"
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTET_STRING_32: Final = b"\x04\x20"
"""DER: an OCTET STRING of 32 bytes follows."""

MakeContext = Callable[[bytes, bytes], ssl.SSLContext]
"""(chain, key) in PEM → a context of this server's policy."""


class Challenges:
    """The answers of the moment; there are some only while an order runs. Written by one thread, read by the loop.

    Attributes:
        tokens: HTTP-01: token → key authorisation.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._front: ssl.SSLContext | None = None

    @property
    def context(self) -> ssl.SSLContext | None:
        """TLS-ALPN-01: a context that knows the names being checked; None when there are none."""
        return self._front

    def add_certificate(self, name: str, authorization: str, make: MakeContext) -> None:
        """Answer TLS-ALPN-01 for a name with this key authorisation."""
        chain, key = challenge_certificate(name, authorization)
        context = make(chain, key)
        context.set_alpn_protocols([ALPN])
        context.sni_callback = self._choose
        self._contexts = self._contexts | {name: context}
        self._front = context

    def clear(self) -> None:
        """Answer nothing any more."""
        self.tokens, self._contexts, self._front = {}, {}, None

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        context = self._contexts.get((name or "").lower())
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = context
        return None


def challenge_certificate(name: str, authorization: str) -> tuple[bytes, bytes]:
    """Return (certificate, key) in PEM that prove control of a name: self-signed, with the digest in a critical extension."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme challenge")])
    now = dt.datetime.now(dt.UTC)
    digest = hashlib.sha256(authorization.encode()).digest()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, _OCTET_STRING_32 + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(serialization.Encoding.PEM), pem
