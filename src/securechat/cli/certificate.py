"""`securechat cert show` and `cert renew`: by the running server, else by a look at the files."""

from __future__ import annotations

import time
from pathlib import Path

from securechat.cli.operator import Operator, data_root
from securechat.cli.output import note, say, say_json, when
from securechat.domain import commands as c
from securechat.errors import Shutdown
from securechat.program import program
from securechat.server.certificates import CertificateError, read
from securechat.server.config import ConfigManager, Settings
from securechat.server.datadir import DataDir
from securechat.server.own_ca import OwnCA
from securechat.server.tls import TLSContext, utc_now

DAY_S = 86_400


def show(config: Path | None, data: str | None, *, as_json: bool) -> None:
    """Print how the certificate is.

    Raises:
        Shutdown: There is none, or it cannot be used.
    """
    folder = _folder(data)
    if folder.admin_socket.exists():
        _print(Operator(folder.root).perform(c.CertificateGet()), folder, as_json=as_json)
        return
    settings = _settings(config, data)
    if not settings.tls_cert and not OwnCA(folder.tls).ca_path.exists():
        raise Shutdown(f"There is no certificate in {folder.tls} yet. Start the server once: {program()} serve")
    tls = context(settings, folder)
    tls.load()
    certificate = tls.certificate
    state = c.CertificateState(
        source=tls.source,
        names=certificate.names,
        issuer=certificate.issuer,
        fingerprint=certificate.fingerprint,
        not_after=int(certificate.not_after.timestamp()),
        problem=tls.problem,
    )
    _print(state, folder, as_json=as_json)


def renew(config: Path | None, data: str | None, *, as_json: bool) -> None:
    """Get a new one and print how it is.

    Raises:
        Shutdown: That needs the running server.
    """
    folder = _folder(data)
    settings = _settings(config, data)
    if folder.admin_socket.exists():
        if settings.tls_domains:
            note("Asking the ACME authority; this takes up to a few minutes ...")
        _print(Operator(folder.root).perform(c.CertificateRenew()), folder, as_json=as_json)
        return
    if settings.tls_domains:
        raise Shutdown(f"A certificate by ACME needs the running server, which answers the authority: {program()} serve")
    if settings.tls_cert:
        raise Shutdown(f"The certificate comes from {settings.tls_cert}: renew it there; the server takes the new file by itself.")
    OwnCA(folder.tls).certificate(settings.host, anew=True)
    show(config, data, as_json=as_json)


def require_good_files(settings: Settings) -> None:
    """Check the certificate's files, when the settings name some.

    Raises:
        Shutdown: What is wrong with them.
    """
    if settings.tls_cert:
        try:
            read(Path(settings.tls_cert), Path(settings.tls_key), utc_now())
        except CertificateError as error:
            raise Shutdown(f"tls_cert: {error}") from error


def context(settings: Settings, folder: DataDir) -> TLSContext:
    """Return the certificate that these settings mean, not loaded yet."""
    return TLSContext(
        folder.tls,
        cert=settings.tls_cert,
        key=settings.tls_key,
        domains=settings.tls_domains,
        host=settings.host,
        minimum=settings.tls_minimum,
    )


def _settings(config: Path | None, data: str | None) -> Settings:
    return ConfigManager(config, {"data_dir": data}).settings


def _folder(data: str | None) -> DataDir:
    return DataDir(data_root(data))


_SOURCES = {"files": "files of yours", "acme": "ACME", "own-ca": "the own CA"}


def _print(state: c.CertificateState, folder: DataDir, *, as_json: bool) -> None:
    if as_json:
        say_json(state)
        return
    days = int((state.not_after - time.time()) // DAY_S)
    say(f"certificate  from {_SOURCES[state.source]}, for {', '.join(state.names)}")
    say(f"signed by    {state.issuer}")
    say(f"SHA-256      {state.fingerprint}")
    say(f"good until   {when(state.not_after * 1000)}   ({days} days)")
    if state.renews_at is not None:
        say(f"renewed      {when(state.renews_at * 1000)} or soon after")
    if state.source == "own-ca" or not folder.tls.joinpath("acme-certificate.pem").exists():
        ca = OwnCA(folder.tls)
        if ca.ca_path.exists():
            say(f"own CA       {ca.ca_path.resolve()}")
            say(f"  SHA-256    {ca.fingerprint()}")
    if state.problem:
        say(f"problem      {state.problem}")
