"""Certificates without sockets: what is taken, when it is renewed, who is told to stay with HTTPS."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import ipaddress
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from securechat.auth.key_file import load_key
from securechat.auth.token_keys import TokenKeys
from securechat.crypto.key_provider import FileKeys
from securechat.errors import Shutdown, Unavailable
from securechat.files import write_private
from securechat.ops.audit_key import AuditKey
from securechat.rest.redirect import ToHttps
from securechat.server import own_ca
from securechat.server.certificates import CertificateError, check
from securechat.server.challenges import challenge_certificate
from securechat.server.identity import IdentityKeys
from securechat.server.own_ca import OwnCA
from securechat.server.renewal import AcmeError, Renewal, in_daemon_thread, renewal_time
from securechat.server.tls import TLSContext, is_real_domain
from support.certificates import NOW, Files, new_key, pem

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    files = Files(tmp_path_factory.mktemp("pair"))
    return files.good("chat.example.org", "*.team.example.org", "192.0.2.7"), files.key.read_bytes()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> dt.datetime:
        return self.now


# ── what is taken ────────────────────────────────────────────────────────────────────────────────────────────────────


@given(part=st.floats(0, 0.999), which=st.sampled_from(["chain", "key"]))
def test_no_part_of_a_file_is_taken_for_the_whole(pair: tuple[bytes, bytes], part: float, which: str) -> None:
    chain, key = pair
    end = b"-----"
    whole = (chain if which == "chain" else key).rstrip()
    cut = whole[: int(len(whole) * part)]
    if cut.endswith(end) and cut.count(end) == whole.count(end):
        return
    with pytest.raises(CertificateError):
        check(cut if which == "chain" else chain, key if which == "chain" else cut, NOW)


@given(garbage=st.binary(max_size=2_000))
def test_garbage_is_refused_in_words_and_never_a_crash(pair: tuple[bytes, bytes], garbage: bytes) -> None:
    with pytest.raises(CertificateError):
        check(garbage, pair[1], NOW)
    with pytest.raises(CertificateError):
        check(pair[0], garbage, NOW)


def test_a_clock_that_is_a_little_behind_takes_a_fresh_certificate(tmp_path: Path) -> None:
    files, key = Files(tmp_path), new_key()
    chain = files.ca.issue("localhost", key=key, begins=dt.timedelta(minutes=4))

    assert check(chain, pem(key), NOW).names == ["localhost"]
    with pytest.raises(CertificateError, match="begins only"):
        check(chain, pem(key), NOW - dt.timedelta(minutes=10))


def test_a_wildcard_stands_for_one_label(pair: tuple[bytes, bytes]) -> None:
    certificate = check(*pair, NOW)

    covered = ["chat.example.org", "CHAT.example.org.", "a.team.example.org", "192.0.2.7"]
    assert [
        host for host in [*covered, "a.b.team.example.org", "team.example.org", "example.org", ""] if certificate.covers(host)
    ] == covered
    assert "PRIVATE" not in repr(certificate)


def test_a_private_file_is_whole_and_private_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_private(path, b"one")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("securechat.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"two")

    assert path.read_bytes() == b"one"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# ── the own CA ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_are_private_and_the_certificate_is_kept(tmp_path: Path) -> None:
    tls = TLSContext(tmp_path / "tls")
    tls.load()
    first = tls.certificate.fingerprint
    tls.load()

    assert tls.certificate.fingerprint == first
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "tls").iterdir()} == {0o600}
    assert len(tls.ca.fingerprint()) == 95


def test_a_new_address_gets_a_new_certificate_of_the_same_ca(tmp_path: Path) -> None:
    here, there = TLSContext(tmp_path / "tls"), TLSContext(tmp_path / "tls", host="192.168.1.5")
    here.load()
    ca = here.ca.fingerprint()
    there.load()

    assert there.ca.fingerprint() == ca
    assert there.certificate.fingerprint != here.certificate.fingerprint
    assert "192.168.1.5" in there.certificate.names


def test_the_own_ca_vouches_for_this_machine_and_private_networks_only(tmp_path: Path) -> None:
    OwnCA(tmp_path).certificate("")
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    found = ca.extensions.get_extension_for_class(x509.NameConstraints)
    permitted = found.value.permitted_subtrees or []
    networks = [each.value for each in permitted if isinstance(each, x509.IPAddress)]

    assert found.critical
    assert "localhost" in [each.value for each in permitted if isinstance(each, x509.DNSName)]
    assert all(isinstance(each, ipaddress.IPv4Network | ipaddress.IPv6Network) and each.is_private for each in networks)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_half_a_certificate_of_the_own_ca_is_made_anew(tmp_path: Path) -> None:
    TLSContext(tmp_path).load()
    whole = (tmp_path / "server.crt").read_bytes()
    (tmp_path / "server.crt").write_bytes(whole[:100])
    tls = TLSContext(tmp_path)
    tls.load()

    assert tls.problem == ""
    assert (tmp_path / "server.crt").read_bytes() != whole


@pytest.mark.parametrize("written", [1, 2])
def test_a_server_that_was_killed_between_key_and_certificate_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    tls = TLSContext(tmp_path)
    tls.load()
    ca = tls.ca.fingerprint()
    files: list[str] = []

    def killed(path: Path, data: bytes) -> None:
        files.append(path.name)
        if len(files) == written:
            raise KeyboardInterrupt
        write_private(path, data)

    monkeypatch.setattr(own_ca, "write_private", killed)
    with pytest.raises(KeyboardInterrupt):
        tls.ca.certificate("", anew=True)
    monkeypatch.undo()
    again = TLSContext(tmp_path)
    again.load()

    assert (again.problem, again.ca.fingerprint()) == ("", ca)


def test_a_ca_that_was_half_made_anew_is_made_anew_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TLSContext(tmp_path).load()
    (tmp_path / "ca.key").unlink()

    def killed(path: Path, data: bytes) -> None:
        if path.name == "ca.crt":
            raise KeyboardInterrupt
        write_private(path, data)

    monkeypatch.setattr(own_ca, "write_private", killed)
    with pytest.raises(KeyboardInterrupt):
        TLSContext(tmp_path).load()
    monkeypatch.undo()
    tls = TLSContext(tmp_path)
    tls.load()
    issuer = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())

    x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes()).verify_directly_issued_by(issuer)


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: load_key(folder / "some.key"),
        lambda folder: AuditKey(folder / "some.key"),
        lambda folder: TokenKeys(folder / "some.key", overlap_s=1, now=1),
        lambda folder: FileKeys(folder).create(),
        lambda folder: IdentityKeys(folder).load(),
    ],
)
def test_a_key_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]) -> None:
    real = os.fsync

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, Unavailable)):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "fsync", real)
    make(tmp_path)
    make(tmp_path)


def test_the_context_has_no_key_log_and_no_old_tricks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    tls = TLSContext(tmp_path)
    tls.load()
    context = tls.context

    assert not context.keylog_filename
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.options & (ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION) == ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    assert all(each["aead"] for each in context.get_ciphers())


# ── watching files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_is_being_copied_is_left_alone_until_it_rests(tmp_path: Path) -> None:
    files = Files(tmp_path / "site")
    files.good()
    tls = TLSContext(tmp_path, cert=str(files.cert), key=str(files.key))
    tls.load()
    old = tls.certificate.fingerprint
    tls.look()
    chain = files.good()
    files.cert.write_bytes(chain[:50])
    tls.look()
    files.cert.write_bytes(chain)
    tls.look()
    assert (tls.certificate.fingerprint, tls.refused) == (old, "")

    tls.look()

    assert tls.certificate.fingerprint != old
    assert tls.problem == ""


def test_an_unchanged_broken_file_is_refused_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = Files(tmp_path / "site")
    files.good()
    tls = TLSContext(tmp_path, cert=str(files.cert), key=str(files.key))
    tls.load()
    files.cert.write_text("nothing")
    for _ in range(5):
        tls.look()

    assert [record.message for record in caplog.records].count("certificate refused, the old one stays") == 1
    assert "no whole certificate" in tls.problem


def test_a_certificate_that_ends_soon_is_a_problem_before_it_is_one(tmp_path: Path) -> None:
    clock = Clock()
    files = Files(tmp_path / "site")
    files.good()
    tls = TLSContext(tmp_path, cert=str(files.cert), key=str(files.key), now=clock)
    tls.load()
    clock.now = NOW + 70 * DAY
    assert tls.problem == ""
    clock.now = NOW + 80 * DAY
    assert "ends on" in tls.problem
    clock.now = NOW + 91 * DAY
    assert "has expired" in tls.problem


# ── HTTPS only ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_real_domain_is_a_name_in_the_public_dns() -> None:
    real = ["chat.example.org", "example.com", "a.b.c.de", "Chat.Example.ORG."]
    others = [
        "localhost",
        "chat.localhost",
        "127.0.0.1",
        "::1",
        "[::1]",
        "192.168.1.5",
        "server",
        "nas.local",
        "x.home.arpa",
        "a.test",
        "",
        "8.8.8.8",
    ]
    assert [host for host in [*real, *others] if is_real_domain(host)] == real


def test_a_self_signed_certificate_never_binds_browsers_to_https(tmp_path: Path) -> None:
    chain, key = challenge_certificate("chat.example.org", "x")  # signed by itself
    files = Files(tmp_path / "site")
    files.write(chain, key)
    tls = TLSContext(tmp_path, cert=str(files.cert), key=str(files.key))
    tls.load()

    assert tls.certificate.covers("chat.example.org")
    assert not tls.strict_for("chat.example.org")


async def _ask(app: ToHttps, target: str, host: str, method: str = "GET", query: str = "") -> tuple[int, str, str]:
    said: list[dict[str, Any]] = []
    scope = {
        "type": "http", "method": method, "path": target, "raw_path": target.encode(), "query_string": query.encode(),
        "headers": [(b"host", host.encode())], "scheme": "http",
    }  # fmt: skip

    async def send(message: Any) -> None:
        said.append(message)

    async def receive() -> Any:
        return {}

    await app(scope, receive, send)
    headers = dict(said[0]["headers"])
    return said[0]["status"], headers.get(b"location", b"").decode(), said[1]["body"].decode()


async def test_the_redirect_leads_to_our_own_names_only() -> None:
    app = ToHttps(["chat.example.org", "www.example.org"], lambda name: f"https://{name}", lambda: {"tok_1": "tok_1.thumb"})
    chat = "https://chat.example.org"

    assert await _ask(app, "/r/ops", "www.example.org:80", query="a=1") == (
        308,
        "https://www.example.org/r/ops?a=1",
        "Use HTTPS.\n",
    )
    for target, host, location in (
        ("/", "evil.example", f"{chat}/"), ("//evil.example/", "chat.example.org", f"{chat}//evil.example/"),
        ("/", "chat.example.org@evil.example", f"{chat}/"), ("/x\r\nset-cookie: a=b", "chat.example.org", f"{chat}/"),
        ("http://evil.example/", "chat.example.org", f"{chat}/"), ("@evil.example", "chat.example.org", f"{chat}/"),
        ("/", "", f"{chat}/"), ("/", "localhost", f"{chat}/"),
    ):  # fmt: skip
        assert (await _ask(app, target, host))[1] == location
    assert (await _ask(app, "/.well-known/acme-challenge/tok_1", "chat.example.org"))[::2] == (200, "tok_1.thumb")
    assert (await _ask(app, "/.well-known/acme-challenge/tok_1/", "chat.example.org"))[0] == 404
    assert (await _ask(app, "/api/v1/sessions", "chat.example.org", "POST"))[0] == 403


# ── renewal ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Authority:
    """Gives certificates, or refuses."""

    def __init__(self, folder: Path) -> None:
        self.files = Files(folder)
        self.asked = 0
        self.refusal: AcmeError | None = None
        self.names = ["chat.example.org"]

    async def __call__(self) -> bytes:
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        key = new_key()
        return pem(key) + self.files.ca.issue(*self.names, key=key, begins=dt.timedelta(), ends=90 * DAY)


def renewal(tmp_path: Path, chance: float = 0.5) -> tuple[Renewal, Authority, TLSContext, Clock]:
    clock, authority = Clock(), Authority(tmp_path / "authority")
    (tmp_path / "tls").mkdir(exist_ok=True)
    tls = TLSContext(tmp_path / "tls", domains=["chat.example.org"], now=clock)
    tls.load()
    return Renewal(tls, authority, clock, lambda: chance), authority, tls, clock


async def test_the_first_certificate_is_ordered_at_once_and_renewed_at_two_thirds_of_its_life(tmp_path: Path) -> None:
    found, authority, tls, clock = renewal(tmp_path)
    assert tls.stand_in
    assert found.due_at() <= clock.now

    assert await found.try_once() == ""

    assert tls.certificate.names == ["chat.example.org"]
    assert tls.acme_path.stat().st_mode & 0o777 == 0o600
    assert dt.timedelta(days=58.4) < found.due_at() - clock.now < dt.timedelta(days=60.1)
    assert tls.problem == ""
    before = tls.certificate.fingerprint
    clock.now = found.due_at()
    await found.try_once()
    assert tls.certificate.fingerprint != before
    assert authority.asked == 2


def test_not_everybody_comes_at_once(pair: tuple[bytes, bytes]) -> None:
    certificate = check(*pair, NOW)
    times = {renewal_time(certificate, number / 10) for number in range(11)}

    assert len(times) == 11
    assert max(times) - min(times) == (certificate.not_after - certificate.not_before) / 60


async def test_patience_grows_with_each_failure_and_outlives_a_restart(tmp_path: Path) -> None:
    found, authority, tls, clock = renewal(tmp_path)
    authority.refusal = AcmeError("not yours")
    waits = []
    for _ in range(12):
        assert await found.try_once() == "not yours"
        waits.append((found.due_at() - clock.now).total_seconds() / 60)
        clock.now = found.due_at()

    assert [round(wait) for wait in waits] == [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440, 1440, 1440]
    again = Renewal(tls, authority, clock, lambda: 0.5)
    assert again.attempts.failures == 12
    assert again.attempts.reason == "not yours"
    authority.refusal = None
    assert await again.try_once() == ""
    assert Renewal(tls, authority, clock, lambda: 0.5).attempts.failures == 0


async def test_an_authority_that_was_asked_too_often_is_left_alone_for_hours(tmp_path: Path) -> None:
    found, authority, _, clock = renewal(tmp_path, chance=0)
    authority.refusal = AcmeError("slow down", rate_limited=True)
    await found.try_once()

    assert found.due_at() - clock.now > dt.timedelta(hours=2)


async def test_a_failed_renewal_leaves_the_old_certificate(tmp_path: Path) -> None:
    found, authority, tls, _ = renewal(tmp_path)
    await found.try_once()
    good = tls.certificate.fingerprint
    authority.names = ["other.example.org"]

    reason = await found.try_once()

    assert "is not for chat.example.org" in reason
    assert tls.certificate.fingerprint == good
    assert tls.problem == ""
    kept = TLSContext(tls.folder, domains=["chat.example.org"])
    kept.load()
    assert kept.certificate.fingerprint == good  # on the disk, too


async def test_what_is_due_is_done_without_being_asked_and_once_at_a_time(tmp_path: Path) -> None:
    found, authority, tls, _ = renewal(tmp_path)
    task = asyncio.create_task(found.run())
    async with asyncio.timeout(5):
        while tls.stand_in:
            await asyncio.sleep(0)
    task.cancel()

    assert authority.asked == 1


async def test_work_in_a_thread_gives_its_result_or_its_error() -> None:
    def fail() -> None:
        raise AcmeError("no")

    assert await in_daemon_thread(lambda: 3) == 3
    with pytest.raises(AcmeError, match="no"):
        await in_daemon_thread(fail)


def test_without_the_folder_the_server_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(Shutdown, match="cannot be written"):
        TLSContext(tmp_path / "file/tls").load()
