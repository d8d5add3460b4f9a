"""The balancers of `deploy/` in front of a server: whose connection it is, and that nobody else can say so."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import httpx2 as httpx
import pytest
from proxyprotocol.result import ProxyResultIPv4
from proxyprotocol.v2 import ProxyProtocolV2

from securechat.domain import commands as c
from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore
from support.balancers import KINDS, Balancer, Files
from support.running import PASSWORD, RunningServer, wait_until

SOMEBODY = "127.0.0.9"
FORGED = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"}


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("balancers"))


@pytest.fixture(name="served", scope="module", params=KINDS)
def _served(
    request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, Balancer]]:
    kind = str(request.param)
    server = RunningServer(tmp_path_factory.mktemp(kind) / "data", settings=files.settings(kind)).start()
    try:
        server.set_up()
        with Balancer(kind, files, [server.port] * 3) as balancer:
            yield server, balancer
    finally:
        server.stop()


def log_in(url: str, files: Files, source: str) -> str:
    """Log in from an address, with forged headers, and return which one the server saw."""
    transport = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(files.ca)), local_address=source)
    with httpx.Client(transport=transport, base_url=f"{url}/api/v1", headers=FORGED, timeout=20) as http:
        session = http.post("/sessions", json={"username": "ana", "password": PASSWORD})
        assert session.status_code == 201, session.text
        token = {"Authorization": f"Bearer {session.json()['access_token']}"}
        devices: list[dict[str, Any]] = http.get("/devices", headers=token).json()["devices"]
        return str(next(each["address"] for each in devices if each.get("current")))


def test_the_server_sees_whose_connection_it_is_and_no_forged_header(served: tuple[RunningServer, Balancer], files: Files) -> None:
    _, balancer = served

    assert log_in(balancer.url, files, SOMEBODY) == SOMEBODY


def test_who_comes_past_the_balancer_is_who_they_are(served: tuple[RunningServer, Balancer], files: Files) -> None:
    server, _ = served

    assert log_in(server.tls_url, files, SOMEBODY) == SOMEBODY


async def test_messages_pass_sealed(served: tuple[RunningServer, Balancer], files: Files) -> None:
    server, balancer = served
    room = server.operator().perform(c.RoomCreate(name="through", kind="private")).id
    token = server.bot("through", room)
    client = ChatClient(balancer.url, token, ca=str(files.ca), seal="required", pins=PinStore(None))
    async with client, asyncio.timeout(20):
        through = await client.room(room)
        sent = await through.send("through the balancer")
        page = await through.page()

    assert [entry.seq for entry in page.entries if entry.body == "through the balancer"] == [sent.seq]


def test_18_only_a_trusted_proxy_announces_and_it_has_to(served: tuple[RunningServer, Balancer], files: Files) -> None:
    server, balancer = served
    if not balancer.kind.endswith("passthrough"):
        return
    with pytest.raises(httpx.TransportError):
        log_in(server.tls_url, files, "127.0.0.1")
    wait_until(lambda: "did not say whose connection it is" in server.log, "the log")

    header = ProxyProtocolV2().pack(ProxyResultIPv4((IPv4Address("6.6.6.6"), 1), (IPv4Address("127.0.0.1"), 2)))
    with socket.create_connection(("127.0.0.1", server.port), source_address=(SOMEBODY, 0)) as stranger:
        stranger.sendall(header)
        context = ssl.create_default_context(cafile=str(files.ca))
        with pytest.raises((ssl.SSLError, OSError)):  # The header is no TLS.
            context.wrap_socket(stranger, server_hostname="localhost")
