"""Attacks on OAuth and on signing in with other providers, 55 to 57, and 43 for their routes. What is tried, and that it is refused."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, RSAKey

from securechat.auth.oidc import ALGORITHMS, REFRESH_S, REST_S, OidcProvider, ProviderConfig
from securechat.auth.outgoing import ANSWER_MAX, Outgoing, is_allowed
from securechat.domain.apps import clean_redirect
from securechat.domain.breaker import BreakerState
from securechat.domain.secret import Secret, mask_hook
from securechat.errors import InvalidInput, Unauthorized, Unavailable
from securechat.server.config import ConfigManager
from support.fakes import ManualClock
from support.oauth import REDIRECT, App, change, s256
from support.running import PASSWORD, RunningServer
from support.sockets import heard_until_closed, refusal, socket_of


class World:
    """A server, an owner, and two apps."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.session = server.set_up()
        self.token = self.session["access_token"]
        self.app = App(server, self.token)
        self.other = App(server, self.token)


@pytest.fixture(scope="module")
def world(shared_server: RunningServer) -> Iterator[World]:
    found = World(shared_server)
    assert found.app.tokens()["token_type"] == "Bearer", "the honest way works, so what follows is refused for its reason"
    yield found
    assert found.app.tokens()["token_type"] == "Bearer"


# ── 55: SecureChat as provider ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "more",
    [
        {"code_challenge": None}, {"code_challenge": ""}, {"code_challenge_method": "plain"}, {"code_challenge_method": None},
        {"code_challenge": "a" * 42}, {"code_challenge": "a" * 44}, {"code_challenge": "é" * 43}, {"response_type": "token"},
        {"response_type": "code token"}, {"response_type": "id_token"}, {"response_type": None}, {"state": None}, {"state": ""},
        {"scope": "admin"}, {"scope": "rooms:write"}, {"scope": "profile admin"},
    ],
    ids=str,
)  # fmt: skip
def test_055_a_request_without_proof_or_state_or_for_too_much_gets_no_code(world: World, more: dict[str, Any]) -> None:
    body = world.app.request(**more)

    assert "url" not in world.server.post("/consents:get", body, world.token, status=400)
    assert "url" not in world.server.post("/consents", body | {"approve": True}, world.token, status=400)


@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example/back", REDIRECT + "&y=2", REDIRECT + "/", REDIRECT[:-1], "https://app.example/back?x=1#f",
        "https://app.example//back?x=1", "https://app.example/back/../back?x=1", "https://app.example%2fback?x=1",
        "https://app.example:443/back?x=1", "https://app.example.evil.example/back?x=1", "https://evil.example/back?x=1",
        "https://app.example@evil.example/back?x=1", "https://a:b@app.example/back?x=1", "//app.example/back?x=1",
        "http://app.example/back?x=1", "HTTPS://app.example/back?x=1", "https://APP.example/back?x=1",
        "https://app.example\\@evil.example/back?x=1", "javascript:alert(1)", "data:text/html,x", "", "http://127.0.0.1:9/x",
        "https://app.example/%62ack?x=1", " " + REDIRECT, REDIRECT + " ",
    ],
)  # fmt: skip
def test_055_nobody_is_sent_to_an_address_that_is_not_registered(world: World, uri: str) -> None:
    for approve in (True, False):
        answer = world.server.post("/consents", world.app.request(redirect_uri=uri) | {"approve": approve}, world.token, status=400)
        assert "url" not in answer


@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example/", "https://app.example/#x", "https://user@app.example/", "javascript:alert(1)", "data:text/html,x",
        "ftp://app.example/", "https://", "/relative", "https://app.example/a b", "https://app.example/\n", "https:\\\\evil.example",
        "http://127.0.0.1.evil.example/", "http://localhost.evil.example/", "https://app.example/../x", "file:///etc/passwd", "",
        "https://app.example:port/", "https://éxample.org/",
    ],
)  # fmt: skip
def test_055_crooked_redirect_addresses_are_not_registered(uri: str) -> None:
    with pytest.raises(InvalidInput):
        clean_redirect(uri)


def test_055_an_address_on_this_machine_is_bound_to_its_port(world: World) -> None:
    app = App(world.server, world.token, redirect_uris=["http://127.0.0.1:9000/cb"])
    for uri in ("http://127.0.0.1:9001/cb", "http://127.0.0.1/cb", "http://localhost:9000/cb"):
        app.consent(status=400, redirect_uri=uri)

    assert app.consent(redirect_uri="http://127.0.0.1:9000/cb")["code"]


@pytest.mark.parametrize(
    "more",
    [
        {"code_verifier": None}, {"code_verifier": ""}, {"code_verifier": "wrong" * 10}, {"code_verifier": "short"},
        {"redirect_uri": None}, {"redirect_uri": "https://app.example/back"}, {"client_id": None}, {"client_id": "app_x"},
        {"client_secret": "guessed"}, {"grant_type": "password"}, {"grant_type": "implicit"}, {"grant_type": None},
        {"grant_type": "client_credentials"}, {"code": "sc_cod_x"}, {"code": None},
        {"grant_type": "urn:ietf:params:oauth:grant-type:device_code"}, {"grant_type": "refresh_token"},
    ],
    ids=str,
)  # fmt: skip
def test_055_a_code_without_what_belongs_to_it_is_worth_nothing(world: World, more: dict[str, Any]) -> None:
    status, found = world.app.ask(
        {name: value for name, value in (world.app.form(world.app.code()) | more).items() if value is not None}
    )

    assert status == 400
    assert "access_token" not in found
    assert found["error"] in {"invalid_grant", "invalid_client", "invalid_request", "unsupported_grant_type"}


def test_055_the_challenge_as_verifier_is_no_proof(world: World) -> None:
    code = world.app.code()

    assert world.app.ask(world.app.form(code, code_verifier=s256(world.app.verifier)))[1]["error"] == "invalid_grant"


def test_055_a_code_of_another_app_is_refused_and_still_works_for_its_own(world: World) -> None:
    code = world.app.code()

    assert world.other.ask(world.other.form(code, code_verifier=world.app.verifier))[1]["error"] == "invalid_grant"
    assert world.app.ask(world.app.form(code))[0] == 200


async def test_055_a_code_used_twice_ends_what_came_of_it(world: World) -> None:
    code = world.app.code()
    _, tokens = world.app.ask(world.app.form(code))
    socket, _ = await socket_of(world.server, tokens["access_token"])

    assert world.app.ask(world.app.form(code))[1]["error"] == "invalid_grant"
    await heard_until_closed(socket)
    assert socket.close_code == 4401
    world.server.request("GET", "/me", token=tokens["access_token"], status=401)
    refresh = {"grant_type": "refresh_token", "client_id": world.app.id, "refresh_token": tokens["refresh_token"]}
    assert world.app.ask(refresh)[1]["error"] == "invalid_grant"
    page = world.server.request("GET", "/admin/audit?action=code.reuse", token=world.token)
    assert page["records"][0]["subject"] == world.session["user"]["id"]


def test_055_a_code_ends_after_a_minute(world: World) -> None:
    code = world.app.code()
    change(world.server, "UPDATE codes SET expires_at = expires_at - 60000")

    assert world.app.ask(world.app.form(code))[1]["error"] == "invalid_grant"


def test_055_a_confidential_app_shows_its_secret_each_time(world: World) -> None:
    app = App(world.server, world.token, confidential=True)
    for secret in (None, "", "wrong", world.token):
        assert app.ask(app.form(app.code(), client_secret=secret))[1]["error"] == "invalid_client"
    form = {"grant_type": "authorization_code", "code": app.code(), "redirect_uri": REDIRECT, "code_verifier": app.verifier}
    assert app.ask(form, auth=(app.id, "wrong"))[0] == 401
    assert app.ask(form | {"client_secret": app.secret}, auth=(app.id, app.secret))[0] == 400
    status, tokens = app.ask(form, auth=(app.id, app.secret))
    assert status == 200
    refresh = {"grant_type": "refresh_token", "client_id": app.id, "refresh_token": tokens["refresh_token"]}
    assert app.ask(refresh)[1]["error"] == "invalid_client"
    assert app.ask(refresh | {"client_secret": app.secret})[0] == 200


def test_055_tokens_of_apps_and_of_people_are_not_exchanged_for_each_other(world: World) -> None:
    tokens = world.app.tokens()
    world.server.post("/sessions/refresh", {"refresh_token": tokens["refresh_token"]}, status=401)
    mine = world.server.post("/sessions", {"username": "ana", "password": PASSWORD})
    for app, token in ((world.app, mine["refresh_token"]), (world.other, tokens["refresh_token"])):
        form = {"grant_type": "refresh_token", "client_id": app.id, "refresh_token": token}
        assert app.ask(form)[1]["error"] == "invalid_grant"

    form = {"grant_type": "refresh_token", "client_id": world.app.id, "refresh_token": tokens["refresh_token"]}
    status, following = world.app.ask(form)
    assert (status, following["scope"]) == (200, "messages:read messages:write profile rooms:read"), (
        "and none of it ended the session"
    )
    world.server.post("/sessions/refresh", {"refresh_token": mine["refresh_token"]})
    change(world.server, "UPDATE devices SET refreshed_at = refreshed_at - 60000 WHERE app IS NOT NULL")
    assert world.app.ask(form)[1]["error"] == "invalid_grant", "a refresh token used twice"
    world.server.request("GET", "/me", token=following["access_token"], status=401)


async def test_055_scopes_hold_at_both_doors(world: World) -> None:
    app = App(world.server, world.token, scopes=["profile"])
    token = app.tokens()["access_token"]
    assert world.server.request("GET", "/me", token=token)["user"]["username"] == "ana"
    for method, path, body in (
        ("GET", "/rooms", None), ("GET", "/devices", None), ("POST", "/rooms", {"name": "x"}), ("GET", "/factors", None),
        ("PUT", "/password", {"current": PASSWORD, "password": "another horse"}), ("POST", "/tokens", {"name": "x", "scopes": ["profile"]}),
        ("GET", "/admin/users", None), ("POST", "/consents:get", app.request()), ("POST", "/consents", app.request() | {"approve": True}),
        ("POST", "/sessions/current/confirm", {"password": PASSWORD}), ("GET", "/grants", None), ("GET", "/externals", None),
        ("PATCH", "/me", {"display_name": "x"}),
    ):  # fmt: skip
        assert world.server.request(method, path, body, token, status=403)["code"] == "forbidden", path
    assert (await refusal(world.server, token))[0]["code"] == "forbidden"


async def test_055_ending_an_app_a_grant_or_a_token_closes_its_connections(world: World) -> None:
    server = world.server
    doomed = App(server, world.token)
    personal = server.post("/tokens", {"name": "script", "scopes": ["rooms:read", "messages:read"]}, world.token)
    ends: list[tuple[str, str]] = [
        (doomed.tokens()["access_token"], f"/admin/apps/{doomed.id}"),
        (world.other.tokens()["access_token"], f"/grants/{world.other.id}"),
        (personal["secret"], f"/tokens/{personal['token']['id']}"),
    ]
    for token, path in ends:
        socket, _ = await socket_of(server, token)
        server.request("DELETE", path, token=world.token)
        await heard_until_closed(socket)
        assert socket.close_code == 4401, path
        server.request("GET", "/rooms", token=token, status=401)
    tokens = world.app.tokens()
    revoke = {"token": tokens["refresh_token"], "client_id": world.other.id}
    assert world.app.ask(revoke, "/oauth/revoke") == (200, {}), "another app's token: the same answer"
    server.request("GET", "/me", token=tokens["access_token"], status=200)
    assert world.app.ask(revoke | {"client_id": world.app.id}, "/oauth/revoke") == (200, {})
    server.request("GET", "/me", token=tokens["access_token"], status=401)


def test_055_what_lasts_needs_a_confirmation(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    app = App(server, token)
    change(server, "UPDATE devices SET confirmed_at = confirmed_at - 3600000")

    assert server.post("/consents", app.request() | {"approve": True}, token, status=403)["code"] == "confirmation_required"
    assert server.post("/tokens", {"name": "x", "scopes": ["profile"]}, token, status=403)["code"] == "confirmation_required"
    assert app.consent(approve=False)["error"] == "access_denied"


def test_055_a_token_of_ones_own_ends_in_time_and_with_the_password(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    first, second = (server.post("/tokens", {"name": "x", "scopes": ["profile"]}, token)["secret"] for _ in range(2))
    change(server, "UPDATE devices SET expires_at = 1 WHERE id = (SELECT min(id) FROM devices WHERE app = '')")
    alive = [
        each for each in (first, second) if server.request("GET", "/tokens", token=token)["tokens"] and _status(server, each) == 200
    ]
    assert len(alive) == 1
    server.request("PUT", "/password", {"current": PASSWORD, "password": "another horse"}, token)
    assert _status(server, alive[0]) == 401


def _status(server: RunningServer, token: str) -> int:
    with httpx.Client(trust_env=False, timeout=20) as http:
        return http.get(f"{server.url}/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code


def test_055_a_device_waits_for_a_yes_and_gets_it_once(world: World) -> None:
    server = world.server
    app = App(server, world.token, device_flow=True)
    assert world.app.ask({"client_id": world.app.id}, "/oauth/device")[1]["error"] == "unauthorized_client"
    for decision in (True, False):
        _, begun = app.ask({"client_id": app.id, "scope": "profile"}, "/oauth/device")
        poll = {
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": app.id, "device_code": begun["device_code"],
        }  # fmt: skip
        assert app.ask(poll)[1]["error"] == "authorization_pending"
        assert app.ask(poll)[1]["error"] == "slow_down"
        assert app.ask(poll | {"client_id": world.other.id})[1]["error"] == "invalid_grant"
        typed = begun["user_code"].lower().replace("-", " ")
        assert server.post("/consents:get", {"user_code": typed}, world.token)["name"] == "Poll bot"
        server.post("/consents", {"user_code": typed, "approve": decision}, world.token)
        server.post("/consents", {"user_code": typed, "approve": True}, world.token, status=404)
        status, found = app.ask(poll)
        assert (status, found.get("scope"), found.get("error")) == (
            (200, "profile", None) if decision else (400, None, "access_denied")
        )
        if decision:
            assert app.ask(poll)[1]["error"] == "invalid_grant"
            server.request("GET", "/me", token=found["access_token"], status=401)
    _, begun = app.ask({"client_id": app.id}, "/oauth/device")
    change(server, "UPDATE codes SET expires_at = 1 WHERE user_code <> ''")
    server.post("/consents:get", {"user_code": begun["user_code"]}, world.token, status=404)
    assert app.ask(poll | {"device_code": begun["device_code"]})[1]["error"] == "expired_token"


def test_055_codes_of_devices_are_not_guessed(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    server.stop()
    settings = json.loads(server.config.read_text())
    server.config.write_text(json.dumps(settings | {"rates": settings["rates"] | {"consent.code": {"burst": 5, "per_s": 0.01}}}))
    server.start()
    answers = [server_status(server, {"user_code": f"BCDF-GHJ{letter}"}, token) for letter in "BCDFGHJKLM"]

    assert answers == [404] * 5 + [429] * 5


def server_status(server: RunningServer, body: dict[str, Any], token: str) -> int:
    with httpx.Client(trust_env=False, timeout=20) as http:
        return http.post(f"{server.url}/api/v1/consents:get", json=body, headers={"Authorization": f"Bearer {token}"}).status_code


# ── 57: the token endpoint reads strictly ────────────────────────────────────────────────────────────────────────────


def test_057_arrays_and_repeated_or_crooked_parameters_are_refused(world: World) -> None:
    app = world.app

    def encoded(fields: dict[str, Any]) -> str:
        return str(httpx.QueryParams(fields))

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    good = app.form(app.code())
    code = good.pop("code")
    bodies = [
        f"code[$ne]=x&{encoded(good)}", f"code[]={code}&{encoded(good)}", f"code={code}&code={code}&{encoded(good)}",
        f"code={code}&client_id=x&{encoded(good)}", f"code=%ff%fe&{encoded(good)}", f"code={code}%00&{encoded(good)}",
        f"code[0]={code}&{encoded(good)}", "&" * 100, "=" * 10, "a=" + "x" * 20_000, "&".join(f"a{n}=1" for n in range(100)), "",
    ]  # fmt: skip
    for body in bodies:
        status, found = app.ask(None, content=body.encode(), headers=form)
        assert status in {400, 413}, body[:80]
        assert found["error"] in {"invalid_request", "invalid_grant", "invalid_client"}, body[:80]
    full = good | {"code": code}
    for content, kind in (
        (json.dumps(full), "application/json"), (json.dumps({**full, "code": {"$ne": "x"}}), "application/json"),
        (json.dumps([full]), "application/json"), (encoded(full), "text/plain"), (encoded(full), "multipart/form-data"),
        (encoded(full), ""),
    ):  # fmt: skip
        assert app.ask(None, content=content.encode(), headers={"Content-Type": kind})[0] == 400, kind
    assert app.ask(None, f"/oauth/token?{encoded(full)}", content=b"", headers=form)[0] == 400
    assert app.ask(None, "/oauth/token?x=1", content=encoded(full).encode(), headers=form)[0] == 400
    for header in ("Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode(), f"Bearer {world.token}", "Basic"):
        assert app.ask(full, headers={"Authorization": header})[0] in {400, 401}, header

    status, _ = app.ask(None, content=encoded(full).encode(), headers=form)
    assert status == 200, "none of that used the code up"


# ── 43: no foreign page writes with what the browser brings along ────────────────────────────────────────────────────


def test_043_foreign_pages_open_no_session_by_a_provider_and_answer_no_consent(world: World) -> None:
    server = world.server
    foreign = {"Origin": "https://evil.example", "X-SecureChat-Session": "cookie"}
    with httpx.Client(trust_env=False, timeout=20) as http:
        http.post(
            f"{server.url}/api/v1/sessions",
            json={"username": "ana", "password": PASSWORD},
            headers={"X-SecureChat-Session": "cookie"},
        )
        for path in ("/sessions/provider", "/accounts/provider"):
            body = {"ticket": "x", "username": "x"} if "accounts" in path else {"ticket": "x"}
            assert http.post(f"{server.url}/api/v1{path}", json=body, headers=foreign).status_code == 403, path
        written: list[tuple[str, dict[str, Any]]] = [
            ("/consents", world.app.request() | {"approve": True}), ("/tokens", {"name": "x", "scopes": ["profile"]}),
            ("/externals/p/begin", {}),
        ]  # fmt: skip
        for path, body in written:
            for headers in (
                {},
                {"Origin": "https://evil.example"},
                {"Content-Type": "text/plain"},
                {"X-HTTP-Method-Override": "PUT"},
            ):
                answer = http.post(f"{server.url}/api/v1{path}", content=json.dumps(body).encode(), headers=headers)
                assert answer.status_code == 401, (path, headers)  # The cookie opens nothing but its own refresh.


# ── 55 and 56: SecureChat as a client of providers ───────────────────────────────────────────────────────────────────

ISSUER = "https://login.example"
NONCE, CLIENT = "the-nonce", "securechat"


class FakeOutgoing(Outgoing):
    """A provider that says whatever the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.key = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})
        self.keys: list[Any] = [self.key]
        self.more: dict[str, Any] = {}
        self.answer: tuple[int, dict[str, Any]] = (200, {})
        self.asked: list[str] = []
        self.down = False

    async def get(self, url: str) -> dict[str, Any]:
        self.asked.append(url)
        if self.down:
            raise Unavailable
        if url.endswith("/jwks"):
            return {"keys": [key.as_dict(private=False) for key in self.keys]}
        return {
            "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/auth", "token_endpoint": f"{ISSUER}/token",
            "jwks_uri": f"{ISSUER}/jwks", "authorization_response_iss_parameter_supported": True,
        } | self.more  # fmt: skip

    async def post(self, url: str, form: Any, *, user: str = "", password: Secret | None = None) -> tuple[int, dict[str, Any]]:
        self.asked.append(url)
        return self.answer

    def says(self, header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> None:
        now = int(time.time())
        found = {"iss": ISSUER, "aud": CLIENT, "sub": "s-1", "nonce": NONCE, "iat": now, "exp": now + 300} | claims
        payload = json.dumps({name: value for name, value in found.items() if value is not ...})
        head = {"alg": "RS256", "kid": "k1"} | (header or {})
        self.answer = (
            200,
            {"id_token": jws.serialize_compact(head, payload, key or self.key, algorithms=[*ALGORITHMS, "HS256"])},
        )


class Client:
    """The client, and its provider."""

    def __init__(self) -> None:
        self.outgoing = FakeOutgoing()
        self.clock = ManualClock()
        self.clock.forward(time.time() - self.clock.now_ms() / 1_000)
        config = ProviderConfig(id="p", name="P", issuer=ISSUER, client_id=CLIENT)
        self.provider = OidcProvider(config, self.clock, self.outgoing)

    async def redeem(self, *, nonce: str = NONCE, issuer: str = ISSUER) -> str:
        found = await self.provider.redeem("https://chat.example/oidc/p", Secret("c"), Secret("v" * 43), nonce, issuer)
        return f"{found.issuer} {found.subject}"


@pytest.fixture
def client() -> Client:
    return Client()


async def test_055_an_honest_provider_is_believed(client: Client) -> None:
    client.outgoing.says(email="x@example.org")
    assert await client.redeem() == f"{ISSUER} s-1"
    client.outgoing.says(aud=[CLIENT, "other"], azp=CLIENT)
    assert await client.redeem() == f"{ISSUER} s-1"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"}, {"aud": ["other"]}, {"aud": [CLIENT, "other"]}, {"aud": [CLIENT, "other"], "azp": "other"}, {"aud": ...},
        {"azp": "other"}, {"iss": "https://evil.example"}, {"iss": ISSUER + "/"}, {"iss": ...}, {"nonce": "other"}, {"nonce": ...},
        {"nonce": None}, {"exp": 1}, {"exp": ...}, {"exp": "9999999999"}, {"exp": True}, {"iat": 9_999_999_999}, {"iat": ...},
        {"sub": ...}, {"sub": ""}, {"sub": 7}, {"sub": "x" * 256}, {"sub": "é"}, {"sub": None},
    ],
    ids=str,
)  # fmt: skip
async def test_055_an_id_token_that_is_not_for_us_now_is_refused(client: Client, claims: dict[str, Any]) -> None:
    client.outgoing.says(**claims)
    with pytest.raises(Unauthorized):
        await client.redeem()


async def test_055_an_id_token_that_the_provider_did_not_sign_is_refused(client: Client) -> None:
    shared = json.dumps(client.outgoing.key.as_dict(private=False)).encode()
    forged: list[tuple[dict[str, Any], Any]] = [
        ({"kid": "k1"}, RSAKey.generate_key(2048)), ({"alg": "ES256", "kid": "k1"}, ECKey.generate_key("P-256")),
        ({"alg": "HS256", "kid": "k1"}, OctKey.import_key(shared)),
    ]  # fmt: skip
    for header, key in forged:
        client.outgoing.says(header, key)
        with pytest.raises(Unauthorized):
            await client.redeem()
    client.outgoing.says()
    good = client.outgoing.answer[1]["id_token"]
    head, payload, signature = good.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').rstrip(b"=").decode()
    for token in (
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        good + ".x",
        "",
        None,
        7,
        {"$ne": 1},
        good + "A" * 20_000,
        f"{head}..{signature}",
    ):
        client.outgoing.answer = (200, {"id_token": token})
        with pytest.raises(Unauthorized):
            await client.redeem()
    client.outgoing.answer = (400, {"error": "invalid_grant"})
    with pytest.raises(Unauthorized):
        await client.redeem()


async def test_055_mixed_up_issuers_are_refused(client: Client) -> None:
    client.outgoing.says()
    for issuer in ("https://evil.example", "", ISSUER + "/"):
        with pytest.raises(Unauthorized):
            await client.redeem(issuer=issuer)
    silent = Client()
    silent.outgoing.more = {"authorization_response_iss_parameter_supported": False}
    silent.outgoing.says()
    assert await silent.redeem(issuer="")
    with pytest.raises(Unauthorized):
        await silent.redeem(issuer="https://evil.example")


@pytest.mark.parametrize(
    "more",
    [
        {"issuer": "https://evil.example"}, {"token_endpoint": "http://login.example/token"}, {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"}, {"token_endpoint": "https://user:pw@login.example/"},
        {"jwks_uri": 7}, {"token_endpoint": None}, {"jwks_uri": "http://169.254.169.254/"},
    ],
    ids=str,
)  # fmt: skip
async def test_055_metadata_that_leads_elsewhere_is_refused(client: Client, more: dict[str, Any]) -> None:
    client.outgoing.more = more
    with pytest.raises(Unavailable):
        await client.provider.authorization_url("https://chat.example/oidc/p", "s", NONCE, "c")


async def test_055_unknown_keys_are_asked_for_once_a_minute(client: Client) -> None:
    client.outgoing.says()
    await client.redeem()
    stranger = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig"})
    client.clock.forward(REFRESH_S)
    for number in range(20):
        client.outgoing.says({"kid": f"x{number}"}, stranger)
        with pytest.raises(Unauthorized):
            await client.redeem()
    assert client.outgoing.asked.count(f"{ISSUER}/jwks") == 2
    client.outgoing.keys.append(stranger)
    client.outgoing.says({"kid": "k2"}, stranger)
    client.clock.forward(REFRESH_S)
    assert await client.redeem(), "a key that is new is found"


async def test_055_a_provider_that_is_down_is_left_alone_for_a_moment(client: Client) -> None:
    client.outgoing.down = True
    for _ in range(10):
        with pytest.raises(Unavailable):
            await client.redeem()
    assert len(client.outgoing.asked) == 1
    assert (client.provider.breaker.state, client.provider.breaker.reason.partition(":")[0]) == (BreakerState.OPEN, "unreachable")
    for _ in range(10):  # Each probe that fails makes the pause longer.
        client.clock.forward(REST_S)
        with pytest.raises(Unavailable):
            await client.redeem()
        with pytest.raises(Unavailable) as refused:
            await client.redeem()
    assert len(client.outgoing.asked) == 11
    assert refused.value.retry_after_ms == REST_S * 1_000 + 1
    client.outgoing.down = False
    client.clock.forward(REST_S)
    client.outgoing.says()
    assert await client.redeem()
    assert client.provider.breaker.closed


async def test_055_a_provider_whose_answers_are_not_its_own_is_left_alone_too(client: Client) -> None:
    client.outgoing.more = {"issuer": "https://other.example"}
    for _ in range(3):
        with pytest.raises(Unavailable):
            await client.redeem()
    assert len(client.outgoing.asked) == 1
    assert client.provider.breaker.reason == "broken: issuer"


def test_055_only_https_and_only_this_machine_without_it() -> None:
    assert is_allowed("https://login.example/x", insecure=False)
    assert is_allowed("http://127.0.0.1:9/x", insecure=True)
    for url in (
        "http://127.0.0.1/x",
        "http://login.example/",
        "ftp://login.example/",
        "https://u@login.example/",
        "//login.example/",
        "",
    ):
        assert not is_allowed(url, insecure=False), url
    for url in ("http://login.example/", "http://127.0.0.1.evil.example/", "http://10.0.0.1/"):
        assert not is_allowed(url, insecure=True), url


class Wicked:
    """A web server that redirects, floods or lies about its encoding."""

    def __init__(self) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/redirect":
                    self.send_response(302)
                    self.send_header("Location", "/ok")
                    self.end_headers()
                    return
                self.send_response(200)
                if self.path == "/packed":
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(b'{"a": 1}' if self.path != "/flood" else b'"' + b"x" * (ANSWER_MAX * 2))

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


async def test_055_answers_of_providers_are_bounded() -> None:
    wicked = Wicked()
    outgoing = Outgoing(insecure=True)
    assert await outgoing.get(f"{wicked.url}/ok") == {"a": 1}
    for path in ("/redirect", "/flood", "/packed"):
        with pytest.raises(Unavailable):
            await outgoing.get(wicked.url + path)
    with pytest.raises(Unavailable):
        await Outgoing().get(f"{wicked.url}/ok")
    wicked.server.shutdown()
    wicked.server.server_close()


def test_055_the_form_of_a_configured_provider_is_checked(tmp_path: Path) -> None:
    def mistake(**more: Any) -> str:
        return ProviderConfig(**{"id": "p", "name": "P", "issuer": ISSUER, "client_id": "c"} | more).mistake()

    assert not mistake()
    assert not mistake(issuer="http://localhost:9", insecure=True)
    for more in (
        {"issuer": "http://login.example"}, {"issuer": "http://login.example", "insecure": True}, {"issuer": "https://x/?a=1"},
        {"scopes": ["profile"]}, {"client_secret_file": str(tmp_path / "none")}, {"ca": str(tmp_path / "none")},
    ):  # fmt: skip
        assert mistake(**more), more


def test_055_the_secret_of_a_client_is_shown_to_nobody() -> None:
    environ = {
        "SECURECHAT_OIDC": json.dumps(
            [{"id": "p", "name": "P", "issuer": ISSUER, "client_id": "c", "client_secret": "hunter2hunter2"}]
        )
    }
    settings = ConfigManager(None, {}, environ).settings

    assert settings.oidc[0].secret().reveal() == "hunter2hunter2"
    assert "hunter2" not in f"{settings} {settings!r} {msgspec.json.encode(settings, enc_hook=mask_hook)!r}"
