"""What the operator asks about the certificate: how it is, and a new one now."""

from __future__ import annotations

from securechat.domain import commands as c
from securechat.domain.accounts import Principal
from securechat.errors import Conflict, Unavailable
from securechat.server.renewal import Renewal
from securechat.server.tls import TLSContext


class CertificateDesk:
    """Answers about one server's certificate.

    Args:
        tls: The certificate.

    Attributes:
        renewal: Of a server that runs and has real domains.
    """

    def __init__(self, tls: TLSContext) -> None:
        self._tls = tls
        self.renewal: Renewal | None = None

    @property
    def problem(self) -> str:
        """What somebody should do something about, one line; empty when all is well."""
        problem = self._tls.problem
        if problem and self.renewal is not None and self.renewal.attempts.reason:
            return f"{problem} {self.renewal.attempts.reason}"
        return problem

    async def get(self, _who: Principal, _command: c.CertificateGet) -> c.CertificateState:
        """Tell how the certificate is."""
        self._require_loaded()
        return self._state()

    async def renew(self, _who: Principal, _command: c.CertificateRenew) -> c.CertificateState:
        """Get a new one now.

        Raises:
            Conflict: By ACME only while the server runs.
            Unavailable: There is none, with the reason.
        """
        if self._tls.source == "acme":
            if self.renewal is None:
                raise Conflict("A certificate by ACME needs the running server: it answers the authority.")
            if reason := await self.renewal.try_once():
                raise Unavailable(reason)
        else:
            self._require_loaded()
            taken = self._tls.renew_own() if self._tls.source == "own-ca" else self._tls.reload()
            if not taken:
                raise Unavailable(self._tls.refused)
        return self._state()

    def _require_loaded(self) -> None:
        if not self._tls.loaded:
            self._tls.load()

    def _state(self) -> c.CertificateState:
        certificate = self._tls.certificate
        return c.CertificateState(
            source=self._tls.source,
            names=certificate.names,
            issuer=certificate.issuer,
            fingerprint=certificate.fingerprint,
            not_after=int(certificate.not_after.timestamp()),
            renews_at=None if self.renewal is None else int(self.renewal.due_at().timestamp()),
            problem=self.problem,
        )
