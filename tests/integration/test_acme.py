"""Certificates by ACME, from a real authority (Pebble) to a real server."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from securechat.domain import commands as c
from securechat.errors import Unavailable
from support.pebble import Pebble
from support.ports import free_port
from support.running import SECURECHAT, RunningServer, clean_environment, wait_until
from support.tls_client import shake

NAMES = ["chat.example.org", "www.example.org"]
Start = Callable[..., tuple[RunningServer, Pebble]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start an authority and a server that uses it."""
    running: list[Any] = []

    def make(*, authority: dict[str, str] | None = None, **settings: Any) -> tuple[RunningServer, Pebble]:
        ports = free_port(), free_port()
        pebble = Pebble(tmp_path / "pebble", ports[0], settings.get("redirect_port", free_port()))
        running.append(pebble)
        pebble.start(**(authority or {}))
        server = RunningServer(tmp_path / "data", settings={"tls_domains": NAMES} | pebble.settings | settings, ports=ports)
        running.append(server)
        return server.start(), pebble

    yield make
    for each in reversed(running):
        each.stop()


def certificate(server: RunningServer) -> c.CertificateState:
    state = server.operator().perform(c.CertificateGet())
    assert isinstance(state, c.CertificateState)
    return state


def wait_for_certificate(server: RunningServer) -> c.CertificateState:
    wait_until(lambda: "Pebble" in certificate(server).issuer, "a certificate by ACME", 60)
    return certificate(server)


async def test_a_real_domain_gets_its_certificate_by_tls_alpn_and_browsers_believe_it(start: Start, tmp_path: Path) -> None:
    server, pebble = start()
    state = wait_for_certificate(server)
    root = pebble.root(tmp_path)
    for name in NAMES:
        assert sorted(shake(server.port, name, ca=root).names) == NAMES

    assert state.problem == ""
    assert sorted(state.names) == NAMES
    life = state.not_after - time.time()
    assert state.renews_at is not None
    assert 0.6 < (state.renews_at - time.time()) / life < 0.68
    private = ["acme-account.json", "acme-certificate.pem", "ca.key", "server.key"]
    assert [
        path.name for path in sorted((server.data / "tls").iterdir()) if path.stat().st_mode & 0o177 == 0 and path.name in private
    ] == private
    assert f"https://{NAMES[0]}:{server.port}" in server.banner
    assert "PRIVATE" not in server.log
    assert '"level":"ERROR"' not in server.log

    async with httpx.AsyncClient(verify=False, trust_env=False) as http:
        for host, strict in ((NAMES[0], "max-age=31536000"), ("localhost", None), ("127.0.0.1", None), ("other.example.org", None)):
            answer = await http.get(f"https://localhost:{server.port}/healthz", headers={"Host": host})
            assert answer.headers.get("strict-transport-security") == strict, host

    # Renewed while somebody is connected, who does not notice.
    server.stop()
    server.start()
    before = certificate(server)
    assert before.fingerprint == state.fingerprint  # kept over a restart, nothing is asked again
    async with (
        connect(
            f"ws://localhost:{server.http_port}/gateway", subprotocols=[Subprotocol("securechat.v1.clear")], proxy=None
        ) as plain,
        connect(
            f"wss://localhost:{server.port}/gateway", subprotocols=[Subprotocol("securechat.v1.clear")], proxy=None, ssl=_trusting()
        ) as socket_,
    ):
        await plain.recv()
        await socket_.recv()
        after = server.operator().perform(c.CertificateRenew())
        await socket_.send(json.dumps([{"op": "ping", "id": "p"}]))
        assert json.loads(await socket_.recv())[0]["op"] in {"pong", "error"}

    assert after.fingerprint != before.fingerprint
    assert after.problem == ""
    assert shake(server.port, NAMES[0], ca=root).digest.upper() == after.fingerprint.replace(":", "")


def test_a_real_domain_gets_its_certificate_over_port_80_and_everybody_else_there_is_sent_to_https(
    start: Start, tmp_path: Path
) -> None:
    port = free_port()
    server, pebble = start(acme_challenge="http-01", redirect_port=port)
    wait_for_certificate(server)

    assert sorted(shake(server.port, NAMES[1], ca=pebble.root(tmp_path)).names) == NAMES
    with httpx.Client(trust_env=False, follow_redirects=False) as http:
        sent = http.get(f"http://127.0.0.1:{port}/r/ops?x=1", headers={"Host": NAMES[1]})
        assert (sent.status_code, sent.headers["location"]) == (308, f"https://{NAMES[1]}:{server.port}/r/ops?x=1")
        elsewhere = http.get(f"http://127.0.0.1:{port}/", headers={"Host": "evil.example"})
        assert elsewhere.headers["location"] == f"https://{NAMES[0]}:{server.port}/"
        assert http.post(f"http://127.0.0.1:{port}/api/v1/sessions", json={}).status_code == 403
        assert http.get(f"http://127.0.0.1:{port}/.well-known/acme-challenge/../../etc/passwd").status_code in {308, 404}
        assert http.get(f"http://127.0.0.1:{port}/.well-known/acme-challenge/none").status_code == 404
        # The first look on this machine stays; a name that came from outside does not get past it.
        assert http.get(f"{server.url}/healthz").status_code == 200
        outside = http.get(f"http://127.0.0.1:{server.http_port}/healthz", headers={"Host": NAMES[0]})
        assert outside.status_code == 308


def test_an_authority_that_refuses_leaves_the_server_running_with_a_warning_and_patience(start: Start) -> None:
    # Nobody answers at the port where this authority looks.
    server, _ = start(acme_challenge="http-01", redirect_port=free_port())
    wait_for_certificate(server)
    state = certificate(server)
    server.stop()
    (server.data / "tls/acme-certificate.pem").unlink()
    config = json.loads(server.config.read_text())
    server.config.write_text(json.dumps(config | {"redirect_port": free_port()}))
    server.start()
    wait_until(lambda: "could not check" in certificate(server).problem, "the reason", 60)

    refused = certificate(server)
    assert refused.source == "acme"
    assert "SecureChat of" in refused.issuer  # the own CA stands in
    assert "browsers warn" in refused.problem
    assert refused.renews_at is not None
    assert 7 * 60 < refused.renews_at - time.time() < 13 * 60
    with httpx.Client(trust_env=False) as http:
        answer = http.get(f"{server.url}/readyz")
        assert answer.status_code == 200
        assert answer.json()["degraded"] == ["tls"]
        assert "example" not in answer.text
    with pytest.raises(Unavailable, match="could not check"):
        server.operator().perform(c.CertificateRenew())
    assert state.fingerprint != refused.fingerprint

    # A server that starts again and again does not ask again and again.
    server.stop()
    asked = server.log.count("no new certificate")
    server.start()
    assert "could not check" in certificate(server).problem
    server.stop()
    assert asked == 2
    assert server.log.count("no new certificate") == asked


def test_the_settings_of_the_how_to_are_taken_as_they_stand(start: Start, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/real-domain.md").read_text()
    (block,) = re.findall(r"<!-- settings -->\s+```json\n(.*?)```", page, re.DOTALL)
    settings = json.loads(block)
    assert settings.pop("port") == 443
    assert settings.pop("http_port") == 0
    written = tmp_path / "securechat.json"
    written.write_text(block)
    checked = subprocess.run(
        [SECURECHAT, "config", "check", "--config", str(written)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    server, _ = start(**(settings | {"host": "127.0.0.1"}))

    assert checked.stdout == "The configuration is fine.\n"
    assert sorted(wait_for_certificate(server).names) == sorted(settings["tls_domains"])


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
