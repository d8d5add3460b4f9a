"""Attacks on the encrypted door: weak protocols, tricks of old TLS, and certificates that must not be used (attack 115)."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from securechat.gateway.acceptor import HANDSHAKE_S
from support.certificates import Files, new_key, pem
from support.ports import free_port
from support.running import SECURECHAT, RunningServer, clean_environment, wait_until
from support.tls_client import openssl, shake

AEAD = ("GCM", "CHACHA20")


@pytest.fixture(scope="module")
def tls12(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that was told to take TLS 1.2."""
    running = RunningServer(tmp_path_factory.mktemp("old") / "data", settings={"tls_minimum": "1.2"}).start()
    yield running
    running.stop()


# ── protocols and ciphers ────────────────────────────────────────────────────────────────────────────────────────────


def test_tls_01_version_1_3_is_spoken_with_aead(shared_server: RunningServer) -> None:
    found = shake(shared_server.port, ca=shared_server.ca)

    assert found.version == "TLSv1.3"
    assert any(word in found.cipher for word in AEAD)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # asking for old versions is the point
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2])
def test_tls_02_older_versions_are_refused(shared_server: RunningServer, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shake(shared_server.port, oldest=version, newest=version)


def test_tls_03_version_1_2_comes_back_by_one_option_with_ecdhe_and_aead(tls12: RunningServer) -> None:
    found = shake(tls12.port, newest=ssl.TLSVersion.TLSv1_2)

    assert found.version == "TLSv1.2"
    assert found.cipher.startswith("ECDHE")
    assert any(word in found.cipher for word in AEAD)
    assert shake(tls12.port).version == "TLSv1.3"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_04_even_then_nothing_older(tls12: RunningServer, version: ssl.TLSVersion) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shake(tls12.port, oldest=version, newest=version)


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE+SHA", "ECDHE+SHA384+AES:!AESGCM", "DHE+AESGCM", "aNULL", "PSK"])
def test_tls_05_no_cipher_without_forward_secrecy_or_aead_in_1_2(tls12: RunningServer, ciphers: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        shake(tls12.port, newest=ssl.TLSVersion.TLSv1_2, ciphers=ciphers)


def test_tls_06_renegotiation_is_refused(tls12: RunningServer) -> None:
    said = openssl(tls12.port, "-tls1_2", "-legacy_renegotiation", say="R\nGET /healthz HTTP/1.1\r\n\r\n")

    assert "RENEGOTIATING" in said
    assert "alive" not in said
    assert "no renegotiation" in said


def test_tls_07_compression_is_never_agreed_on(tls12: RunningServer, shared_server: RunningServer) -> None:
    assert "Compression: NONE" in openssl(tls12.port, "-tls1_2", "-comp")
    assert "Compression: NONE" in openssl(shared_server.port, "-comp")


def test_tls_08_early_data_is_neither_offered_nor_taken(shared_server: RunningServer, tmp_path: Path) -> None:
    session, early = tmp_path / "session.pem", tmp_path / "early"
    early.write_text("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    openssl(shared_server.port, "-ign_eof", "-sess_out", str(session), say=request)
    shown = subprocess.run(
        ["openssl", "sess_id", "-in", str(session), "-noout", "-text"], capture_output=True, text=True, check=True
    )
    said = openssl(shared_server.port, "-ign_eof", "-sess_in", str(session), "-early_data", str(early), say=request)

    assert "Max Early Data: 0" in shown.stdout
    assert "Early data was accepted" not in said
    assert "Early data was" in said
    assert said.count('{"alive":true}') == 1  # what was asked properly, and not what came early


def test_tls_09_a_key_log_is_not_written_because_the_environment_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys.log"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    server = RunningServer(tmp_path / "data").start()
    monkeypatch.delenv("SSLKEYLOGFILE")
    try:
        assert shake(server.port).version == "TLSv1.3"
    finally:
        server.stop()

    assert not keys.exists()


def test_tls_10_http_without_tls_gets_no_answer_on_the_encrypted_port(shared_server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", shared_server.port), 10) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while found := raw.recv(4_096):
                answer += found

    assert b"HTTP" not in answer


async def test_tls_11_half_handshakes_are_cut_and_others_are_served_meanwhile(shared_server: RunningServer) -> None:
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    half = hello.read()[:100]
    # Fifty of them are of one source; the others are ended at once.
    pairs = [await asyncio.open_connection("127.0.0.1", shared_server.port, local_addr=("127.0.0.9", 0)) for _ in range(200)]
    for index, (_, writer) in enumerate(pairs):
        writer.write(half if index % 2 else b"")

    began = time.monotonic()
    assert (await asyncio.to_thread(shake, shared_server.port)).version == "TLSv1.3"
    served_after = time.monotonic() - began
    async with asyncio.timeout(HANDSHAKE_S + 10):
        for reader, writer in pairs:
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()

    assert served_after < 2


def test_tls_14_whoever_knocks_with_nonsense_leaves_no_line_in_the_log(server: RunningServer) -> None:
    wait_until(lambda: "server ready" in server.log, "the first line")
    before = server.log
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    whole = hello.read()
    knocks = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x00" * 300, os.urandom(300), whole[:60], whole[:5] + os.urandom(len(whole) - 5),
        b"\x16\x03\x01\xff\xff", b"\x15\x03\x03\x00\x02\x02\x28", b"\x80\x2e\x01\x00\x02" + b"\x00" * 60, whole + b"\x14\x03\x03\x00\x01\x02",
        whole + b"\x17\x03\x03\x00\x20" + os.urandom(32),
    ]  # fmt: skip
    for _ in range(5):
        for knock in knocks:
            with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
                raw.sendall(knock)
                raw.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while raw.recv(4_096):
                        pass
    openssl(server.port, "-tls1_2")
    openssl(server.port, "-tls1_3", "-groups", "ffdhe2048")
    openssl(server.port, "-tls1_3", "-sigalgs", "RSA-PSS+SHA256")

    assert shake(server.port).version == "TLSv1.3"
    assert server.log == before


def test_tls_12_hsts_is_not_said_for_localhost_addresses_and_the_own_ca(shared_server: RunningServer) -> None:
    for name in ("localhost", "127.0.0.1", "chat.example.org", "vm"):
        request = f"GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
        said = openssl(shared_server.port, "-ign_eof", "-quiet", say=request).lower()
        assert "200 ok" in said
        assert "strict-transport-security" not in said


# ── attack 115: files that must not be used ──────────────────────────────────────────────────────────────────────────

Spoil = Callable[[Files], None]


def _missing_key(files: Files) -> None:
    files.good()
    files.key.unlink()


def _expired(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue("localhost", key=key, begins=dt.timedelta(days=-90), ends=dt.timedelta(seconds=-1)), pem(key))


def _not_yet(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue("localhost", key=key, begins=dt.timedelta(days=2)), pem(key))


def _short_rsa(files: Files) -> None:
    key = new_key("rsa1024")
    files.write(files.ca.issue("localhost", key=key), pem(key))


def _small_curve(files: Files) -> None:
    key = new_key("p192")
    files.write(files.ca.issue("localhost", key=key), pem(key))


def _mismatch(files: Files) -> None:
    files.good()
    files.key.write_bytes(pem(new_key()))


def _world_readable(files: Files) -> None:
    files.good()
    files.key.chmod(0o644)


def _group_writable(files: Files) -> None:
    files.good()
    files.key.chmod(0o660)


def _half_certificate(files: Files) -> None:
    chain = files.good()
    files.cert.write_bytes(chain[: len(chain) // 2])


def _half_key(files: Files) -> None:
    files.good()
    found = files.key.read_bytes()
    files.key.write_bytes(found[: len(found) // 2])


def _empty(files: Files) -> None:
    files.good()
    files.cert.write_bytes(b"")


def _locked(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue("localhost", key=key), pem(key, "secret"))


def _swapped(files: Files) -> None:
    files.good()
    chain, key = files.cert.read_bytes(), files.key.read_bytes()
    files.write(key, chain)


def _authority_first(files: Files) -> None:
    chain = files.good()
    files.cert.write_bytes(files.ca.path.read_bytes() + chain)


def _sha1(files: Files) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-sha1", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=old", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", str(files.key), "-out", str(files.cert)], capture_output=True, check=True,
    )  # fmt: skip
    files.key.chmod(0o600)


def _for_clients(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue("localhost", key=key, usage=ExtendedKeyUsageOID.CLIENT_AUTH), pem(key))


def _nameless(files: Files) -> None:
    key = new_key()
    files.write(files.ca.issue(key=key), pem(key))


def _endless(files: Files) -> None:
    files.good()
    files.cert.write_bytes(b"-" * 2_000_000)


@pytest.mark.parametrize(
    ("number", "spoil", "line"),
    [
        ("115a", _missing_key, "is not a file"),
        ("115b", _expired, "has expired on"),
        ("115c", _not_yet, "begins only on"),
        ("115d", _short_rsa, "RSA key of 1024 bits; 2048 is the least"),
        ("115e", _small_curve, "P-256 is the least"),
        ("115f", _mismatch, "is not the key of"),
        ("115g", _world_readable, "(mode 0644). Run: chmod 600"),
        ("115h", _group_writable, "(mode 0660). Run: chmod 600"),
        ("115i", _half_certificate, "holds no whole certificate"),
        ("115j", _half_key, "holds no whole private key"),
        ("115k", _empty, "is empty"),
        ("115l", _locked, "locked with a password"),
        ("115m", _swapped, "cannot be used"),
        ("115n", _authority_first, "has to be the first one"),
        ("115o", _sha1, "SHA1"),
        ("115p", _for_clients, "is not for servers"),
        ("115q", _nameless, "names no host"),
        ("115r", _endless, "too large"),
    ],
)
def test_115_the_server_does_not_start_with_it_and_says_why_in_one_line(
    tmp_path: Path, number: str, spoil: Spoil, line: str
) -> None:
    files = Files(tmp_path / "site")
    spoil(files)

    done = _serve(tmp_path, files.settings)

    assert done.returncode == 2, number
    assert done.stdout == ""
    said = [each for each in done.stderr.splitlines() if not each.startswith("{")]
    assert said[0].startswith("error: ")
    assert line in done.stderr
    assert len(said) <= 2
    assert "Traceback" not in done.stderr
    assert "PRIVATE" not in done.stderr


def test_115s_the_key_of_the_own_ca_is_guarded_too(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    server.stop()
    (tmp_path / "data/tls/ca.key").chmod(0o640)
    assert server.start().stop() == 0  # a group may read it
    (tmp_path / "data/tls/ca.key").chmod(0o604)

    done = _serve(tmp_path, {}, tmp_path / "data")

    assert done.returncode == 2
    assert "ca.key is a key that others can get at (mode 0604)" in done.stderr


def _run_once(tmp_path: Path) -> Path:
    server = RunningServer(tmp_path / "data", settings={"at_rest": "on"}).start()
    assert server.stop() == 0
    return server.data / "keys"


def test_115u_no_key_that_others_can_read_is_used(tmp_path: Path) -> None:
    keys = _run_once(tmp_path)
    secret = sorted(path for path in keys.iterdir() if path.name != "identity.json" and not path.name.endswith(".pub.pem"))
    assert {path.name.split("-")[0].split(".")[0] for path in secret} == {"access", "audit", "identity", "kek", "refresh"}
    for path in secret:
        was = path.stat().st_mode & 0o777
        path.chmod(0o640)
        done = _serve(tmp_path, {"at_rest": "on"}, tmp_path / "data")
        path.chmod(was)
        said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
        assert done.returncode == 2, path.name
        assert len(said) == 1, done.stderr
        assert f"{path.name} can be read by others" in said[0]


def test_115v_no_key_that_is_missing_weak_or_of_another_kind_is_used(tmp_path: Path) -> None:
    keys = _run_once(tmp_path)
    (identity,) = keys.glob("identity-*.pem")
    spoiled: dict[Path, list[bytes | None]] = {
        identity: [pem(new_key("rsa1024")), None],
        keys / "access-tokens.json": [b'{"keys":[]}'],
        keys / "refresh-tokens.key": [b"short"],
        keys / "kek-1.key": [b"c2hvcnQ=", None],
    }
    for path, contents in spoiled.items():
        good = path.read_bytes()
        for content in contents:
            if content is None:
                path.unlink()
            else:
                path.chmod(0o600)
                path.write_bytes(content)
            done = _serve(tmp_path, {"at_rest": "on"}, tmp_path / "data")
            said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
            assert done.returncode == 2, (path.name, content)
            assert len(said) == 1, done.stderr
            assert "Traceback" not in done.stderr
            path.unlink(missing_ok=True)
            path.write_bytes(good)
            path.chmod(0o600)

    assert RunningServer(tmp_path / "data").start().stop() == 0, "and with everything back it starts"


def test_115t_every_mistake_of_the_settings_is_told_at_once_with_its_key(tmp_path: Path) -> None:
    done = _serve(
        tmp_path,
        {
            "tls_domains": ["*.example.org", "Chat.example.org", "10.0.0.1"], "tls_minimum": "1.1", "tls_cert": "/none",
            "acme_directory": "http://plain.example", "acme_challenge": "http-01", "public_url": "https://other.example.org",
            "hsts_days": 10_000, "acme_ca": "/none/either",
        },
    )  # fmt: skip

    assert done.returncode == 2
    found = [line.strip().partition(":")[0] for line in done.stderr.splitlines() if line.startswith("  ")]
    assert sorted(set(found)) == [
        "acme_agree", "acme_ca", "acme_directory", "hsts_days", "public_url", "redirect_port", "tls_cert", "tls_domains",
        "tls_key", "tls_minimum",
    ]  # fmt: skip
    assert found.count("tls_domains") == 4


def _serve(
    tmp_path: Path, settings: dict[str, object] | dict[str, str], data: Path | None = None
) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    command = [SECURECHAT, "serve", "--data", str(data or tmp_path / "fresh"), "--config", str(config)]
    command += ["--port", str(free_port()), "--http-port", "0"]
    return subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=30, check=False)


def test_tls_13_keys_that_the_server_makes_are_its_owners_only(shared_server: RunningServer) -> None:
    folder = shared_server.data / "tls"
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.glob("*.key")} == {
        "ca.key": "0o600",
        "server.key": "0o600",
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.glob(".*"))
