"""TLS as a stranger speaks it: one handshake, and what came of it."""

from __future__ import annotations

import hashlib
import socket
import ssl
import subprocess
from dataclasses import dataclass

from cryptography import x509

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Shaken:
    """What a handshake agreed on."""

    version: str
    cipher: str
    alpn: str | None
    certificate: bytes

    @property
    def names(self) -> list[str]:
        found = x509.load_der_x509_certificate(self.certificate)
        return found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.certificate).hexdigest()


def shake(
    port: int,
    name: str = "localhost",
    *,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ciphers: str = "",
    alpn: tuple[str, ...] = ("http/1.1",),
    ca: str = "",
) -> Shaken:
    """Do one handshake; without a CA the certificate is not checked.

    Raises:
        ssl.SSLError: It was refused.
    """
    context = ssl.create_default_context(cafile=ca or None)
    if not ca:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if oldest < ssl.TLSVersion.TLSv1_2 or ciphers:
        context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
    context.minimum_version = oldest
    context.maximum_version = newest
    context.set_alpn_protocols(list(alpn))
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as raw, context.wrap_socket(raw, server_hostname=name) as tls:
        cipher, der, version = tls.cipher(), tls.getpeercert(binary_form=True), tls.version()
        assert cipher is not None
        assert der is not None
        assert version is not None
        return Shaken(version, cipher[0], tls.selected_alpn_protocol(), der)


def openssl(port: int, *options: str, say: str = "") -> str:
    """Speak with `openssl s_client`, which can do what Python's module cannot, and return all it prints."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *options]
    done = subprocess.run(command, input=say, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr
