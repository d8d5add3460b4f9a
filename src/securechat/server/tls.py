"""TLSContext: which certificate this server shows, under which rules; exchanged while it runs, a broken one never taken."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import logging
import ssl
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from securechat.errors import Shutdown
from securechat.server.certificates import Certificate, CertificateError, check, read
from securechat.server.challenges import Challenges
from securechat.server.own_ca import OwnCA

log = logging.getLogger(__name__)

Source = Literal["files", "acme", "own-ca"]
ACME_CERTIFICATE: Final = "acme-certificate.pem"
"""Key and chain in one file, so that there is never one without the other."""
POLL_S: Final = 1.0
CARE_S: Final = 3_600.0
"""How often the own certificate is looked at, whether it ends soon."""
WARN_LEFT: Final = 0.15
"""Less than this part of its life left is worth a warning: 13 of 90 days, when renewal is due with 30 left."""
TLS12_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_RESERVED: Final = ("localhost", "local", "internal", "test", "example", "invalid", "lan", "home.arpa", "onion")
"""Ends of names that no public authority vouches for (RFC 2606, 6761, 6762, 8375, 7686)."""

Stamps = tuple[tuple[int, int, int], ...]


def utc_now() -> dt.datetime:
    """Return the time."""
    return dt.datetime.now(dt.UTC)


def is_real_domain(host: str) -> bool:
    """Whether a host is a name in the public DNS: no address, no single word, no reserved end."""
    host = host.lower().rstrip(".")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "." in host and not any(host == end or host.endswith(f".{end}") for end in _RESERVED)
    return False


def make_context(chain: bytes, key: bytes, folder: Path, *, minimum: str = "1.3") -> ssl.SSLContext:
    """Return a context with this certificate: TLS 1.3, or with `minimum` 1.2 also ECDHE with AEAD ciphers.

    No renegotiation, no compression, no early data (OpenSSL gives none unless asked), no key log: a context that is made
    like this does not look at SSLKEYLOGFILE.

    Raises:
        CertificateError: OpenSSL does not take it.
        OSError: The folder cannot be written.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if minimum == "1.2" else ssl.TLSVersion.TLSv1_3
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads files only; what was checked has to be what is loaded, so it is not read from its own place again.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".loading.") as file:  # of mode 0600
        file.write(chain.rstrip() + b"\n" + key)
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise CertificateError(f"OpenSSL refuses the certificate: {error.reason or error}.") from error
    return context


class TLSContext:
    """The certificate of this server and its context.

    Args:
        folder: The data folder's part for certificates.
        cert: Certificate chain in PEM; empty: by ACME for `domains`, else of the own CA.
        key: Its key.
        domains: Names for which ACME gets a certificate.
        host: A further name of the own CA's certificate.
        minimum: `1.3` or `1.2`.
        now: The clock.

    Attributes:
        challenges: What an authority finds that checks our names.
        refused: Why the newest certificate was not taken, one line; empty when it was.
    """

    def __init__(
        self,
        folder: Path,
        *,
        cert: str = "",
        key: str = "",
        domains: Sequence[str] = (),
        host: str = "",
        minimum: str = "1.3",
        now: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.folder = folder
        self.ca = OwnCA(folder)
        self.source: Source = "files" if cert else "acme" if domains else "own-ca"
        self.domains = list(domains)
        self.challenges = Challenges()
        self.refused = ""
        self._files = (Path(cert), Path(key))
        self._host = host
        self._minimum = minimum
        self._now = now
        self._context: ssl.SSLContext | None = None
        self._certificate: Certificate | None = None
        self._stand_in = False
        self._loaded: Stamps = ()
        self._seen: Stamps = ()

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection."""
        if self._context is None:
            raise RuntimeError("load() comes first")
        return self._context

    @property
    def challenge(self) -> ssl.SSLContext | None:
        """The context for an authority that checks a name, while one does."""
        return self.challenges.context

    @property
    def loaded(self) -> bool:
        """Whether there is one already."""
        return self._certificate is not None

    @property
    def certificate(self) -> Certificate:
        """The certificate that is shown."""
        if self._certificate is None:
            raise RuntimeError("load() comes first")
        return self._certificate

    @property
    def acme_path(self) -> Path:
        """Where the certificate that ACME got is kept."""
        return self.folder / ACME_CERTIFICATE

    @property
    def stand_in(self) -> bool:
        """Whether the own CA's certificate is shown because the one by ACME is not there yet."""
        return self._stand_in

    @property
    def problem(self) -> str:
        """What somebody should do something about, one line; empty when all is well."""
        if self.refused:
            return self.refused
        if self._stand_in:
            return f"There is no certificate for {', '.join(self.domains)} yet; browsers warn."
        certificate = self.certificate
        left = certificate.not_after - self._now()
        if left <= dt.timedelta(0):
            return f"The certificate has expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC."
        if left < (certificate.not_after - certificate.not_before) * WARN_LEFT and self.source != "own-ca":
            return f"The certificate ends on {certificate.not_after:%Y-%m-%d}, in {left.days} days."
        return ""

    def expiry(self) -> float:
        """Return when the certificate ends, in Unix time."""
        return self.certificate.not_after.timestamp()

    def make(self, chain: bytes, key: bytes) -> ssl.SSLContext:
        """Return a context of this server's policy with another certificate."""
        return make_context(chain, key, self.folder, minimum=self._minimum)

    def require_good(self, pem: bytes) -> None:
        """Check what an authority sent, key and chain, before it replaces what works.

        Raises:
            CertificateError: What is wrong with it.
        """
        certificate = check(pem, pem, self._now(), chain_name="The new certificate", key_name="The new key")
        self._require_all_names(certificate, "The new certificate")
        self.make(certificate.chain, certificate.key)

    def load(self) -> None:
        """Take the certificate at the start.

        Raises:
            Shutdown: There is none that can be used.
        """
        try:
            self._take()
        except CertificateError as error:
            raise Shutdown(f"The certificate cannot be used: {error}") from error
        except OSError as error:
            raise Shutdown(f"The folder {self.folder} cannot be written: {error.strerror}.") from error

    def reload(self) -> bool:
        """Take the certificate anew; the old one stays when it cannot be used. Returns whether it was taken."""
        try:
            self._take()
        except (CertificateError, OSError, Shutdown) as error:
            self._refuse(error)
            return False
        self.refused = ""
        certificate = self.certificate
        extra = {"source": self.source, "names": ", ".join(certificate.names), "not_after": certificate.not_after.isoformat()}
        log.info("certificate taken", extra=extra)
        return True

    def look(self) -> None:
        """Take changed files, once they have stayed as they are from one look to the next: copying takes a moment."""
        now = self._stamps()
        settled = now == self._seen
        self._seen = now
        if settled and now != self._loaded:
            self._loaded = now
            self.reload()

    async def watch(self) -> None:
        """Look at the files for ever, and make a new certificate of the own CA before the present one ends."""
        loop = asyncio.get_running_loop()
        care_at = loop.time() + CARE_S
        while True:
            await asyncio.sleep(POLL_S)
            if self.source != "own-ca":
                self.look()
            if loop.time() >= care_at:
                care_at = loop.time() + CARE_S
                if self.source == "own-ca" or self._stand_in:
                    self._care()

    def renew_own(self) -> bool:
        """Make a new certificate of the own CA now. Returns whether it was taken."""
        try:
            self.ca.certificate(self._host, anew=True)
        except (CertificateError, OSError, Shutdown) as error:
            self._refuse(error)
            return False
        return self.reload()

    def _care(self) -> None:
        """Make a new certificate of the own CA when the present one ends soon. What does not work is told, and tried again."""
        try:
            changed = self._own().fingerprint != self.certificate.fingerprint
        except (CertificateError, OSError, Shutdown) as error:
            self._refuse(error)
            return
        if changed:
            self.reload()
        else:
            self.refused = ""

    def _refuse(self, error: BaseException) -> None:
        self.refused = str(error)
        log.error("certificate refused, the old one stays", extra={"reason": str(error)})

    def strict_for(self, host: str) -> bool:
        """Whether browsers may be told to use nothing but HTTPS for this host (HSTS).

        Only for a real domain with a certificate that others vouch for: never for localhost, addresses and the own CA, whose
        users would lock themselves out.
        """
        if self.source == "own-ca" or self._stand_in or not is_real_domain(host):
            return False
        certificate = self.certificate
        return not certificate.self_signed and certificate.covers(host)

    def _take(self) -> None:
        """Read, check, and only then exchange all at once."""
        self._loaded = self._seen = self._stamps()
        stand_in = False
        if self.source == "files":
            certificate = read(*self._files, self._now())
        elif self.source == "acme":
            found = self._by_acme()
            stand_in = found is None
            certificate = found or self._own()
        else:
            certificate = self._own()
        context = self.make(certificate.chain, certificate.key)
        self._context, self._certificate, self._stand_in = context, certificate, stand_in

    def _by_acme(self) -> Certificate | None:
        """Return what ACME got before; None when it is missing, and nothing better is in use."""
        try:
            certificate = read(self.acme_path, self.acme_path, self._now())
            self._require_all_names(certificate, str(self.acme_path))
        except CertificateError:
            if self._certificate is not None and not self._stand_in:
                raise
            return None
        return certificate

    def _require_all_names(self, certificate: Certificate, shown: str) -> None:
        missing = [name for name in self.domains if not certificate.covers(name)]
        if missing:
            raise CertificateError(f"{shown} is not for {', '.join(missing)}.")

    def _own(self) -> Certificate:
        chain, key = self.ca.certificate(self._host)
        return read(chain, key, self._now())

    def _stamps(self) -> Stamps:
        paths = self._files if self.source == "files" else (self.acme_path,) if self.source == "acme" else ()
        return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)
